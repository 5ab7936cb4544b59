//! The values of the chart, made of the settings.

use crate::settings::Settings;
use llmdbench_plugin::Error;
use llmdbench_plugin::kubernetes::{merge, node_affinity};
use serde_json::{Map, Value, json};

/// Variables of the endpoint picker, in the original's order; the names of the settings are the
/// same in lower case. The two addresses are templates of the chart.
const PICKER: [&str; 20] = [
    "ENABLE_KVCACHE_AWARE_SCORER",
    "KVCACHE_AWARE_SCORER_WEIGHT",
    "KVCACHE_INDEXER_REDIS_ADDR",
    "ENABLE_PREFIX_AWARE_SCORER",
    "PREFIX_AWARE_SCORER_WEIGHT",
    "ENABLE_LOAD_AWARE_SCORER",
    "LOAD_AWARE_SCORER_WEIGHT",
    "ENABLE_SESSION_AWARE_SCORER",
    "SESSION_AWARE_SCORER_WEIGHT",
    "PD_ENABLED",
    "PD_PROMPT_LEN_THRESHOLD",
    "PREFILL_ENABLE_KVCACHE_AWARE_SCORER",
    "PREFILL_KVCACHE_AWARE_SCORER_WEIGHT",
    "PREFILL_KVCACHE_INDEXER_REDIS_ADDR",
    "PREFILL_ENABLE_LOAD_AWARE_SCORER",
    "PREFILL_LOAD_AWARE_SCORER_WEIGHT",
    "PREFILL_ENABLE_PREFIX_AWARE_SCORER",
    "PREFILL_PREFIX_AWARE_SCORER_WEIGHT",
    "PREFILL_ENABLE_SESSION_AWARE_SCORER",
    "PREFILL_SESSION_AWARE_SCORER_WEIGHT",
];

const REDIS: &str =
    r#"{{ if .Values.redis.enabled }}{{ include "redis.master.service.fullurl" . }}{{ end }}"#;

/// The values for a model.
///
/// # Errors
/// When a setting makes no sense.
pub(crate) fn of(settings: &Settings, model: &str) -> Result<Value, Error> {
    let resources = json!({&settings.accelerator_resource: settings.gpu_nr});
    let affinity = match node_affinity(&settings.affinity)? {
        Some(affinity) => json!({"affinity": affinity}),
        None => json!({}),
    };
    let mut values = json!({
        "sampleApplication": {
            "enabled": true,
            "model": {
                "modelArtifactURI": format!("pvc://{}/models/{model}", settings.pvc_name),
                "modelName": model,
                "auth": {"hfToken": {"name": settings.hf_token_name, "key": "HF_TOKEN"}},
            },
            "resources": {"limits": resources, "requests": resources},
            "inferencePoolPort": settings.inference_port,
            "prefill": role(settings.prefill_replicas, &settings.prefill_extra_args),
            "decode": role(settings.decode_replicas, &settings.decode_extra_args),
        },
        "modelservice": {
            "replicas": settings.modelservice_replicas,
            "image": image("llm-d/llm-d-model-service", "0.0.10"),
            "epp": {
                "image": image("llm-d/llm-d-inference-scheduler", "0.0.4"),
                "metrics": {"enabled": true},
                "defaultEnvVars": picker(settings)?,
            },
            "prefill": affinity,
            "decode": affinity,
            "vllm": {"image": image("llm-d/llm-d", "0.0.8"), "metrics": {"enabled": true}},
            "routingProxy": {"image": image("llm-d/llm-d-routing-sidecar", "0.0.6")},
        },
    });
    // What the chart's own installer passed on the command line.
    let is_openshift = settings.platform == "openshift";
    if is_openshift {
        values["ingress"] = json!({"enabled": false});
    } else {
        values["gateway"] = json!({"kGatewayParameters": {"proxyUID": 0}});
    }
    if !settings.gateway_class_name.is_empty() {
        values["gateway"]["gatewayClassName"] = json!(settings.gateway_class_name);
    }
    if !settings.base_config_map_ref_name.is_empty() {
        values["sampleApplication"]["baseConfigMapRefName"] =
            json!(settings.base_config_map_ref_name);
    }
    merge(&mut values, &Value::Object(settings.values.clone()));
    Ok(values)
}

fn role(replicas: u32, extra: &str) -> Value {
    let mut role = json!({"replicas": replicas});
    let extra: Vec<&str> = extra.split_whitespace().collect();
    if !extra.is_empty() {
        role["extraArgs"] = json!(extra);
    }
    role
}

fn image(repository: &str, tag: &str) -> Value {
    json!({"registry": "ghcr.io", "repository": repository, "tag": tag})
}

fn picker(settings: &Settings) -> Result<Value, Error> {
    let mut left: Map<String, Value> = settings.picker.clone();
    let mut variables = Vec::with_capacity(PICKER.len());
    for name in PICKER {
        let value = if name.ends_with("REDIS_ADDR") {
            REDIS.to_owned()
        } else {
            let setting = format!("epp_{}", name.to_lowercase());
            match left.remove(&setting) {
                Some(Value::String(text)) => text,
                Some(other) => other.to_string(),
                None => {
                    return Err(
                        Error::invalid_settings("the setting is missing").at(format!("/{setting}"))
                    );
                }
            }
        };
        variables.push(json!({"name": name, "value": value}));
    }
    match left.keys().next() {
        Some(unknown) => {
            Err(Error::invalid_settings("there is no such setting").at(format!("/{unknown}")))
        }
        None => Ok(Value::Array(variables)),
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
pub(crate) mod tests;
