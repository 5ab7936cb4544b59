{{- /* Objects of the sample application are named after the model. */ -}}
{{- define "model" -}}
{{- regexReplaceAll "[^a-z0-9_.-]" (lower .Values.sampleApplication.model.modelName) "-" | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* The controller's own rule for the label of a model. */ -}}
{{- define "labels" -}}
llm-d.ai/inferenceServing: "true"
llm-d.ai/model: {{ regexReplaceAll "[^a-z0-9-]+" (lower .Values.sampleApplication.model.modelName) "-" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "image" -}}
{{ with .Values.modelservice.vllm.image }}{{ .registry }}/{{ .repository }}:{{ .tag }}{{ end }}
{{- end -}}

{{- define "restricted" -}}
allowPrivilegeEscalation: false
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /* A Deployment that only is there. */ -}}
{{- define "idle" -}}
{{- $ := index . 0 -}}{{- $name := index . 1 -}}{{- $replicas := index . 2 -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
spec:
  replicas: {{ $replicas }}
  selector: {matchLabels: {app: {{ $name }}}}
  template:
    metadata: {labels: {app: {{ $name }}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: idle
        image: {{ include "image" $ }}
        command: [/bin/sh, -c, "sleep 1000000"]
        resources: {requests: {cpu: 5m, memory: 8Mi}, limits: {memory: 32Mi}}
        securityContext: {{- include "restricted" $ | nindent 10 }}
{{- end -}}
