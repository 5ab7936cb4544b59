//! The Kubernetes objects of one model.

use crate::settings::Settings;
use llmdbench_plugin::kubernetes::{file_part, merge, name, node_affinity};
use llmdbench_plugin::model::Attributes;
use llmdbench_plugin::{Context, Error};
use serde_json::{Value, json};

/// What makes up a stack of vLLM servers.
#[derive(Debug)]
pub(crate) struct Stack {
    settings: Settings,
    /// Full id.
    model: String,
    /// The model's name in names of files.
    file_part: String,
    namespace: String,
    deployment: String,
    service: String,
    affinity: Option<Value>,
}

impl Stack {
    /// A stack as the settings say.
    ///
    /// # Errors
    /// When a setting makes no sense.
    pub(crate) fn new(settings: Settings, context: &Context) -> Result<Self, Error> {
        let affinity = node_affinity(&settings.affinity)?;
        let attributes = Attributes::of(&context.model);
        let label = attributes.label();
        Ok(Self {
            deployment: name(&[
                "vllm-standalone",
                &attributes.parameters,
                "vllm",
                &label,
                &attributes.kind_of_tuning,
            ]),
            service: name(&["vllm-standalone", &label]),
            file_part: file_part(&context.model_alias),
            model: context.model.clone(),
            namespace: context.namespace.clone().unwrap_or_default(),
            affinity,
            settings,
        })
    }

    /// The model's full id, by which it is served.
    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    pub(crate) fn image(&self) -> &str {
        &self.settings.image
    }

    pub(crate) fn deployment_name(&self) -> &str {
        &self.deployment
    }

    pub(crate) fn service_name(&self) -> &str {
        &self.service
    }

    /// Where the Service answers, inside the cluster.
    pub(crate) fn url(&self) -> String {
        format!("http://{}.{}.svc.cluster.local:80", self.service, self.namespace)
    }

    /// Every object with the name of its file.
    pub(crate) fn objects(&self) -> Vec<(String, Value)> {
        let file = |kind: &str| format!("{kind}_{}.yaml", self.file_part);
        let mut objects =
            vec![(file("a_deployment"), self.deployment()), (file("b_service"), self.service())];
        objects.extend(self.routes().into_iter().map(|route| match route["kind"] == "Route" {
            true => (file("d_route"), route),
            false => (file("c_httproute"), route),
        }));
        objects
    }

    /// What leads to the Service from outside of the cluster.
    pub(crate) fn routes(&self) -> Vec<Value> {
        let settings = &self.settings;
        let http_route = settings.httproute.then(|| self.http_route());
        let is_openshift = settings.platform == "openshift";
        let route = (settings.route && is_openshift).then(|| self.route());
        http_route.into_iter().chain(route).collect()
    }

    fn deployment(&self) -> Value {
        let settings = &self.settings;
        let mut labels = json!({"app": self.deployment});
        for (key, value) in &settings.labels {
            labels[key] = json!(value);
        }
        let mut container = json!({
            "name": self.deployment,
            "image": settings.image,
            "imagePullPolicy": "Always",
            "command": ["/bin/sh", "-c"],
            "args": [self.command()],
            "env": self.variables(),
            "ports": [{"containerPort": settings.inference_port}],
            "livenessProbe": self.probe(10),
            "readinessProbe": self.probe(5),
            "resources": {"limits": self.resources("20Gi"), "requests": self.resources("10Gi")},
            "volumeMounts": [
                {"name": "cache-volume", "mountPath": settings.pvc_mountpoint},
                {"name": "shm", "mountPath": "/dev/shm"},
            ],
        });
        merge(&mut container, &Value::Object(settings.container_spec.clone()));
        let mut pod = json!({
            "containers": [container],
            "volumes": [
                {"name": "cache-volume", "persistentVolumeClaim": {"claimName": settings.pvc_name}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
            ],
        });
        if settings.service_account != "default" {
            pod["serviceAccountName"] = json!(settings.service_account);
        }
        if let Some(affinity) = &self.affinity {
            pod["affinity"] = affinity.clone();
        }
        if !settings.image_pull_secrets.is_empty() {
            let secrets = settings.image_pull_secrets.iter();
            pod["imagePullSecrets"] = secrets.map(|name| json!({"name": name})).collect();
        }
        merge(&mut pod, &Value::Object(settings.pod_spec.clone()));
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(&self.deployment, labels.clone()),
            "spec": {
                "replicas": settings.replicas,
                "selector": {"matchLabels": {"app": self.deployment}},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        })
    }

    /// The server's command line. Models lie in the hub's cache on the volume, where the download
    /// of step 04 put them.
    fn command(&self) -> String {
        let settings = &self.settings;
        let mut command = format!(
            "vllm serve {} --port {} --max-model-len {}",
            self.model, settings.inference_port, settings.max_model_len
        );
        if settings.disable_log_requests {
            command.push_str(" --disable-log-requests");
        }
        command.push_str(&format!(
            " --gpu-memory-utilization {} --tensor-parallel-size {}",
            settings.gpu_mem_util,
            settings.gpu_nr.max(1)
        ));
        let extra = settings.extra_args.iter().map(|argument| quoted(argument));
        for words in std::iter::once(settings.args.trim().to_owned()).chain(extra) {
            if !words.is_empty() {
                command.push(' ');
                command.push_str(&words);
            }
        }
        command
    }

    fn variables(&self) -> Value {
        let secret =
            json!({"secretKeyRef": {"name": self.settings.hf_token_name, "key": "HF_TOKEN"}});
        let mut variables = vec![
            json!({"name": "HF_HOME", "value": self.settings.pvc_mountpoint}),
            json!({"name": "HUGGING_FACE_HUB_TOKEN", "valueFrom": secret}),
            json!({"name": "VLLM_ALLOW_LONG_MAX_MODEL_LEN", "value": "1"}),
        ];
        let own = self.settings.env.iter();
        variables.extend(own.map(|(name, value)| json!({"name": name, "value": value})));
        Value::Array(variables)
    }

    fn probe(&self, period: u32) -> Value {
        json!({
            "httpGet": {"path": "/health", "port": self.settings.inference_port},
            "initialDelaySeconds": 120,
            "periodSeconds": period,
        })
    }

    fn resources(&self, ephemeral: &str) -> Value {
        let settings = &self.settings;
        let mut resources = json!({
            "cpu": settings.cpu_nr.to_string(),
            "memory": settings.cpu_mem,
            "ephemeral-storage": ephemeral,
        });
        if settings.gpu_nr > 0 {
            resources[&settings.accelerator_resource] = json!(settings.gpu_nr.to_string());
        }
        resources
    }

    fn service(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(&self.service, json!({"app": self.deployment})),
            "spec": {
                "type": "ClusterIP",
                "selector": {"app": self.deployment},
                "ports": [{"port": 80, "targetPort": self.settings.inference_port, "protocol": "TCP"}],
            },
        })
    }

    fn http_route(&self) -> Value {
        let mut spec = json!({
            "parentRefs": [{"name": "openshift-gateway", "namespace": "openshift-gateway"}],
            "rules": [{"backendRefs": [{"name": self.service, "port": 80}]}],
        });
        if let Some(domain) = self.settings.cluster_url.strip_prefix("https://api.") {
            let domain = domain.split(':').next().unwrap_or(domain);
            let host = name(&[&self.file_part]);
            spec["hostnames"] = json!([format!("{host}.{}.apps.{domain}", self.namespace)]);
        }
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1",
            "kind": "HTTPRoute",
            "metadata": self.metadata(&self.service, json!({"app": self.deployment})),
            "spec": spec,
        })
    }

    fn route(&self) -> Value {
        let name = name(&[&self.service, "route"]);
        json!({
            "apiVersion": "route.openshift.io/v1",
            "kind": "Route",
            "metadata": self.metadata(&name, json!({"app": self.deployment})),
            "spec": {
                "to": {"kind": "Service", "name": self.service},
                "port": {"targetPort": self.settings.inference_port},
            },
        })
    }

    fn metadata(&self, name: &str, labels: Value) -> Value {
        json!({"name": name, "namespace": self.namespace, "labels": labels})
    }
}

/// An argument as one word of the shell, whatever is in it: JSON, blanks.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
#[path = "objects_tests.rs"]
pub(crate) mod tests;
