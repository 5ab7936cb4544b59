//! Tests of names and values.

use super::*;
use llmdbench_plugin::kubernetes::yaml;

pub(crate) const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";

/// What the host fills in when nothing is set.
pub(crate) fn settings(changes: Value) -> Settings {
    let mut all = json!({
        "service_account": "default", "affinity": "", "replicas": 1, "gpu_nr": 1,
        "gpu_mem_util": "0.95", "accelerator_resource": "nvidia.com/gpu", "cpu_nr": 4,
        "cpu_mem": "40Gi", "max_model_len": 16384, "pvc_name": "model-pvc",
        "hf_token_name": "llm-d-hf-token", "inference_port": 8000, "platform": "kubernetes",
        "wait_timeout": 900,
    });
    let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    for (name, property) in schema["properties"].as_object().unwrap() {
        if let Some(default) = property.get("default") {
            all[name] = default.clone();
        }
    }
    // Not merged: a null in the changes is meant for the object.
    for (key, value) in changes.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

pub(crate) fn names() -> Names {
    Names::new("llmdbench", MODEL)
}

fn servers_of(changes: Value) -> Value {
    servers(&settings(changes), &names(), MODEL).unwrap()
}

#[test]
fn names_are_those_of_the_namespace_and_the_model() {
    let names = names();
    // sha256("llmdbench/meta-llama-Llama-3-1-8B-Instruct").
    assert_eq!(names.model, "meta-lla-f1a1d196-instruct");
    assert_eq!(names.picker(), format!("{}-router-epp", names.model));
    assert_ne!(Names::new("other", MODEL).model, names.model);
    assert_eq!(Names::new("ns", "a/b").model.split('-').next(), Some("a"));
    assert!(Names::new("ns", "01-ai/Yi-34B").model.starts_with("m-01-ai-yi-"));
    // The chart of the router cuts what is longer.
    let longest = Names::new("ns", &"0".repeat(90));
    assert!(longest.router.len() <= 40, "{}", longest.router);
}

#[test]
fn the_values_of_the_router_are_these() {
    insta::assert_snapshot!(yaml(&router(&settings(json!({})), &names())), @r#"
    router:
      modelServers:
        type: vllm
        protocol: http
        targetPorts:
        - number: 8000
        matchLabels:
          llm-d.ai/inference-serving: "true"
          llm-d.ai/model: meta-lla-f1a1d196-instruct
      extraServicePorts:
      - name: http
        port: 80
        protocol: TCP
        targetPort: 8081
      inferencePool:
        create: true
        failureMode: FailOpen
      epp:
        replicas: 1
        image:
          registry: ghcr.io/llm-d
          repository: llm-d-router-endpoint-picker
          tag: v0.10.0
        resources:
          requests:
            cpu: "4"
            memory: "8Gi"
          limits:
            memory: "16Gi"
      monitoring:
        prometheus:
          enabled: false
    "#);
}

#[test]
fn the_values_of_the_servers_are_these() {
    insta::assert_snapshot!(yaml(&servers_of(json!({}))), @r#"
    fullnameOverride: meta-lla-f1a1d196-instruct
    modelArtifacts:
      name: meta-llama/Llama-3.1-8B-Instruct
      uri: pvc://model-pvc/models/meta-llama/Llama-3.1-8B-Instruct
      labels:
        llm-d.ai/inference-serving: "true"
        llm-d.ai/model: meta-lla-f1a1d196-instruct
    accelerator:
      type: nvidia
      resources:
        nvidia: nvidia.com/gpu
    routing:
      servicePort: 8000
      proxy:
        enabled: false
    decode:
      create: true
      replicas: 1
      parallelism:
        tensor: 1
      containers:
      - modelCommand: vllmServe
        mountModelVolume: true
        name: vllm
        image: docker.io/vllm/vllm-openai:v0.26.0
        args:
        - "--max-model-len"
        - "16384"
        - "--gpu-memory-utilization"
        - "0.95"
        env: []
        ports:
        - containerPort: 8000
          name: metrics
          protocol: TCP
        resources:
          limits:
            cpu: "4"
            memory: "40Gi"
          requests:
            cpu: "4"
            memory: "40Gi"
        volumeMounts:
        - name: shm
          mountPath: /dev/shm
        extraConfig:
          startupProbe:
            httpGet:
              path: /v1/models
              port: 8000
            periodSeconds: 10
            failureThreshold: 360
          readinessProbe:
            httpGet:
              path: /v1/models
              port: 8000
            periodSeconds: 5
            failureThreshold: 3
          livenessProbe:
            httpGet:
              path: /health
              port: 8000
            periodSeconds: 10
            failureThreshold: 3
      volumes:
      - name: shm
        emptyDir:
          medium: Memory
          sizeLimit: "8Gi"
    prefill:
      create: false
    "#);
}

#[test]
fn what_is_set_is_in_the_values() {
    let values = servers_of(json!({
        "affinity": "nvidia.com/gpu.product:H100", "gpu_nr": 4, "accelerator_resource": "amd.com/gpu",
        "replicas": 3, "cpu_nr": 8, "cpu_mem": "64Gi", "max_model_len": 1000, "model_source": "hf",
        "model_size": "100Gi", "extra_args": ["--enforce-eager", "{\"a\": 1}"], "env": {"A": "b"},
        "labels": {"team": "x"}, "image_pull_secrets": ["pull"], "platform": "openshift",
        "pod_spec": {"priorityClassName": "high", "tolerations": [{"operator": "Exists"}]},
        "container_spec": {"livenessProbe": null, "resources": {"requests": {"cpu": "1"}},
            "securityContext": {"runAsUser": 1}},
        "service_account": "servers", "server_values": {"schedulerName": "mine"},
    }));
    let artifacts = &values["modelArtifacts"];
    assert_eq!(artifacts["uri"], format!("hf://{MODEL}"));
    assert_eq!(
        (&artifacts["size"], &artifacts["authSecretName"]),
        (&json!("100Gi"), &json!("llm-d-hf-token"))
    );
    assert_eq!(artifacts["labels"]["team"], "x");
    let nvidia = json!({"type": "nvidia", "resources": {"nvidia": "amd.com/gpu"}});
    assert_eq!(values["accelerator"], nvidia);
    let decode = &values["decode"];
    assert_eq!((&decode["replicas"], &decode["parallelism"]["tensor"]), (&json!(3), &json!(4)));
    let types = json!({"labelKey": "nvidia.com/gpu.product", "labelValues": ["H100"]});
    assert_eq!(decode["acceleratorTypes"], types);
    assert_eq!(decode["tolerations"], json!([{"operator": "Exists"}]));
    let extra = json!({"imagePullSecrets": [{"name": "pull"}], "priorityClassName": "high"});
    assert_eq!(decode["extraConfig"], extra);
    let container = &decode["containers"][0];
    let arguments = [
        "--max-model-len",
        "1000",
        "--gpu-memory-utilization",
        "0.95",
        "--enforce-eager",
        "{\"a\": 1}",
    ];
    assert_eq!(container["args"], json!(arguments));
    let variables = json!([{"name": "A", "value": "b"}, {"name": "USER", "value": "llm-d"}]);
    assert_eq!(container["env"], variables);
    assert_eq!(container["resources"]["requests"], json!({"cpu": "1", "memory": "64Gi"}));
    assert_eq!(container["extraConfig"]["securityContext"], json!({"runAsUser": 1}));
    assert!(container["extraConfig"].get("livenessProbe").is_none());
    assert_eq!(
        (&values["serviceAccountOverride"], &values["schedulerName"]),
        (&json!("servers"), &json!("mine"))
    );
    assert_eq!(servers_of(json!({"gpu_nr": 0}))["accelerator"], json!({"type": "cpu"}));
}

#[test]
fn behind_a_sidecar_servers_have_another_port() {
    let values = servers_of(json!({"sidecar_image": "ghcr.io/llm-d/sidecar:v0.9.0"}));
    let proxy =
        json!({"enabled": true, "image": "ghcr.io/llm-d/sidecar:v0.9.0", "targetPort": 8200});
    assert_eq!(values["routing"], json!({"servicePort": 8000, "proxy": proxy}));
    assert_eq!(values["decode"]["containers"][0]["ports"][0]["containerPort"], 8200);
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let check = |changes: Value, at: &str| {
        let error = servers(&settings(changes), &names(), MODEL).unwrap_err();
        assert_eq!(error.at.as_deref(), Some(at));
    };
    check(json!({"affinity": "gpu"}), "/affinity");
    check(json!({"affinity": "a:b", "pod_spec": {"affinity": {}}}), "/pod_spec/affinity");
}
