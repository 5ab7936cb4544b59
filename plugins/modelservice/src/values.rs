//! The values of the two charts, made of the settings, and the names that go with them.

use crate::settings::Settings;
use llmdbench_plugin::Error;
use llmdbench_plugin::kubernetes::{merge, name};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Where the router's proxy takes requests, behind port 80 of its Service.
const PROXY_PORT: u16 = 8081;
/// Where vLLM listens behind a sidecar.
const BEHIND_SIDECAR: u16 = 8200;
/// Fields of a container that the chart of the servers has values for; all others it takes as they are.
const CONTAINER: &[&str] =
    &["name", "image", "command", "args", "env", "ports", "resources", "volumeMounts"];
/// The same of a pod.
const POD: &[&str] = &[
    "nodeSelector",
    "initContainers",
    "tolerations",
    "volumes",
    "terminationGracePeriodSeconds",
    "enableServiceLinks",
];

/// What the objects of a model are called.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The model's name in names of objects and as a label: "meta-lla-0123abcd-instruct", as
    /// llm-d-benchmark makes it of the namespace and the model's id.
    pub(crate) model: String,
    /// The release of the router.
    pub(crate) router: String,
    /// The release of the servers.
    pub(crate) servers: String,
}

impl Names {
    pub(crate) fn new(namespace: &str, model: &str) -> Self {
        let id = model.replace(['/', '.'], "-");
        let digest = Sha256::digest(format!("{namespace}/{id}"));
        let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let first: String = id.chars().take(8).collect();
        let last: String = id.chars().skip(id.chars().count().saturating_sub(8)).collect();
        // A Service's name begins with a letter.
        let start = if id.starts_with(|c: char| c.is_ascii_alphabetic()) { "" } else { "m" };
        let model = name(&[start, &first, &hash, &last]);
        let router = format!("{model}-router");
        let servers = format!("{model}-ms");
        Self { model, router, servers }
    }

    /// The Service and the Deployment of the router.
    pub(crate) fn picker(&self) -> String {
        format!("{}-epp", self.router)
    }

    /// The Deployment of the servers.
    pub(crate) fn decode(&self) -> String {
        format!("{}-decode", self.model)
    }

    /// The labels by which the router finds its servers.
    fn labels(&self) -> Value {
        json!({"llm-d.ai/inference-serving": "true", "llm-d.ai/model": self.model})
    }
}

/// The values of the router's chart.
pub(crate) fn router(settings: &Settings, names: &Names) -> Value {
    let mut values = json!({
        "router": {
            "modelServers": {
                "type": "vllm",
                "protocol": "http",
                "targetPorts": [{"number": settings.inference_port}],
                "matchLabels": names.labels(),
            },
            "extraServicePorts": [
                {"name": "http", "port": 80, "protocol": "TCP", "targetPort": PROXY_PORT}
            ],
            "inferencePool": {"create": settings.inference_pool, "failureMode": "FailOpen"},
            "epp": {
                "replicas": 1,
                "image": image(&settings.router_image),
                "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "16Gi"}},
            },
            "monitoring": {"prometheus": {"enabled": false}},
        },
    });
    merge(&mut values, &Value::Object(settings.router_values.clone()));
    values
}

/// The values of the servers' chart.
///
/// # Errors
/// When a setting makes no sense.
pub(crate) fn servers(settings: &Settings, names: &Names, model: &str) -> Result<Value, Error> {
    let mut labels = names.labels();
    for (key, value) in &settings.labels {
        labels[key] = json!(value);
    }
    let mut artifacts = json!({
        "name": model,
        "uri": format!("pvc://{}/models/{model}", settings.pvc_name),
        "labels": labels,
    });
    if settings.model_source == "hf" {
        artifacts["uri"] = json!(format!("hf://{model}"));
        artifacts["size"] = json!(settings.model_size);
        artifacts["authSecretName"] = json!(settings.hf_token_name);
    }
    let mut values = json!({
        "fullnameOverride": names.model,
        "modelArtifacts": artifacts,
        "accelerator": accelerator(settings),
        "routing": {
            "servicePort": settings.inference_port,
            "proxy": {"enabled": !settings.sidecar_image.is_empty()},
        },
        "decode": decode(settings)?,
        // Prefill and decode are one until a later version splits them.
        "prefill": {"create": false},
    });
    if !settings.sidecar_image.is_empty() {
        let proxy = json!({"image": settings.sidecar_image, "targetPort": BEHIND_SIDECAR});
        merge(&mut values["routing"]["proxy"], &proxy);
    }
    if settings.service_account != "default" {
        values["serviceAccountOverride"] = json!(settings.service_account);
    }
    merge(&mut values, &Value::Object(settings.server_values.clone()));
    Ok(values)
}

fn accelerator(settings: &Settings) -> Value {
    if settings.gpu_nr == 0 {
        return json!({"type": "cpu"});
    }
    json!({"type": "nvidia", "resources": {"nvidia": settings.accelerator_resource}})
}

fn decode(settings: &Settings) -> Result<Value, Error> {
    let mut pod = json!({
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}],
    });
    if !settings.image_pull_secrets.is_empty() {
        let secrets = settings.image_pull_secrets.iter();
        pod["imagePullSecrets"] = secrets.map(|name| json!({"name": name})).collect();
    }
    merge(&mut pod, &Value::Object(settings.pod_spec.clone()));
    let mut decode = json!({
        "create": true,
        "replicas": settings.replicas,
        "parallelism": {"tensor": settings.gpu_nr.max(1)},
        "containers": [container(settings)],
    });
    if !settings.affinity.is_empty() {
        let (key, value) = settings.affinity.split_once(':').ok_or_else(|| {
            Error::invalid_settings(format!("{:?} is no node label", settings.affinity))
                .at("/affinity")
                .hint("write it as KEY:VALUE, or leave it empty for any node")
        })?;
        if settings.pod_spec.contains_key("affinity") {
            return Err(Error::invalid_settings("the chart takes one affinity of a pod")
                .at("/pod_spec/affinity")
                .hint("leave `affinity` empty, or say it all there"));
        }
        decode["acceleratorTypes"] = json!({"labelKey": key, "labelValues": [value]});
    }
    sort_in(&mut decode, pod, POD);
    Ok(decode)
}

fn container(settings: &Settings) -> Value {
    let port =
        if settings.sidecar_image.is_empty() { settings.inference_port } else { BEHIND_SIDECAR };
    let mut arguments = vec![
        "--max-model-len".to_owned(),
        settings.max_model_len.to_string(),
        "--gpu-memory-utilization".to_owned(),
        settings.gpu_mem_util.clone(),
    ];
    arguments.extend(settings.extra_args.iter().cloned());
    let mut variables = settings.env.clone();
    if settings.platform == "openshift" {
        // Later images of vLLM look up the name of their user, which OpenShift makes up.
        variables.entry("USER".to_owned()).or_insert_with(|| "llm-d".to_owned());
    }
    let variables: Vec<Value> =
        variables.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let resources = json!({"cpu": settings.cpu_nr.to_string(), "memory": settings.cpu_mem});
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": port},
            "periodSeconds": period,
            "failureThreshold": failures,
        })
    };
    let mut fields = json!({
        "name": "vllm",
        "image": settings.image,
        "args": arguments,
        "env": variables,
        "ports": [{"containerPort": port, "name": "metrics", "protocol": "TCP"}],
        "resources": {"limits": resources, "requests": resources},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        // The chart has none of its own; loading a large model may take an hour.
        "startupProbe": probe("/v1/models", 10, 360),
        "readinessProbe": probe("/v1/models", 5, 3),
        "livenessProbe": probe("/health", 10, 3),
    });
    merge(&mut fields, &Value::Object(settings.container_spec.clone()));
    let mut container = json!({"modelCommand": "vllmServe", "mountModelVolume": true});
    sort_in(&mut container, fields, CONTAINER);
    container
}

/// Puts fields of Kubernetes where the chart wants them: those that it has values for beside them,
/// the others into `extraConfig`.
fn sort_in(values: &mut Value, fields: Value, own: &[&str]) {
    let Value::Object(fields) = fields else { return };
    let mut extra = Map::new();
    for (key, value) in fields {
        if own.contains(&key.as_str()) {
            values[key] = value;
        } else {
            extra.insert(key, value);
        }
    }
    if !extra.is_empty() {
        values["extraConfig"] = Value::Object(extra);
    }
}

/// "ghcr.io/llm-d/picker:v1" as the chart takes it.
fn image(image: &str) -> Value {
    let (path, tag) = split_tag(image);
    let (registry, repository) = path.rsplit_once('/').unwrap_or(("docker.io", path));
    json!({"registry": registry, "repository": repository, "tag": tag})
}

/// An image without its tag, and the tag; the one of a registry's port is none.
pub(crate) fn split_tag(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
pub(crate) mod tests;
