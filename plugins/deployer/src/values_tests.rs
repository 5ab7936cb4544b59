//! Tests of the values, against what the original rendered.

use super::*;
use llmdbench_plugin::kubernetes::yaml;
use saphyr::{LoadableYamlNode, Yaml};

const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";

/// What the host fills in when nothing is set.
pub(crate) fn settings(changes: Value) -> Settings {
    let mut all = json!({
        "affinity": "nvidia.com/gpu.product:NVIDIA-H100-80GB-HBM3", "gpu_nr": 1,
        "accelerator_resource": "nvidia.com/gpu", "pvc_name": "model-pvc",
        "hf_token_name": "llm-d-hf-token", "inference_port": 8000, "values_file": "fromenv",
        "release": "llm-d", "prefill_replicas": 1, "decode_replicas": 1, "modelservice_replicas": 1,
        "route": true, "platform": "openshift", "wait_timeout": 900, "chart": "llm-d",
        "chart_version": "1.0.17", "chart_repo": "https://llm-d.ai/llm-d-deployer",
        "gateway": "kgateway", "definitions": ["https://a", "https://b", "https://c"],
        "epp_pd_enabled": "false", "epp_pd_prompt_len_threshold": 10,
    });
    for role in ["", "prefill_"] {
        for scorer in ["kvcache", "load", "prefix", "session"] {
            all[format!("epp_{role}enable_{scorer}_aware_scorer")] = json!("false");
            all[format!("epp_{role}{scorer}_aware_scorer_weight")] = json!("1");
        }
    }
    let own = json!({
        "epp_enable_prefix_aware_scorer": "true", "epp_prefix_aware_scorer_weight": "2.0",
        "epp_enable_load_aware_scorer": "true",
    });
    merge(&mut all, &own);
    merge(&mut all, &changes);
    serde_json::from_value(all).unwrap()
}

fn variable<'a>(values: &'a Value, name: &str) -> &'a str {
    let all = values["modelservice"]["epp"]["defaultEnvVars"].as_array().unwrap();
    all.iter().find(|v| v["name"] == name).unwrap()["value"].as_str().unwrap()
}

#[test]
fn the_defaults_are_the_originals() {
    let values = of(&settings(json!({})), MODEL).unwrap();
    let image = |repository: &str, tag: &str| json!({"registry": "ghcr.io", "repository": repository, "tag": tag});
    assert_eq!(
        values["sampleApplication"],
        json!({
            "enabled": true,
            "model": {
                "modelArtifactURI": format!("pvc://model-pvc/models/{MODEL}"),
                "modelName": MODEL,
                "auth": {"hfToken": {"name": "llm-d-hf-token", "key": "HF_TOKEN"}},
            },
            "resources": {"limits": {"nvidia.com/gpu": 1}, "requests": {"nvidia.com/gpu": 1}},
            "inferencePoolPort": 8000,
            "prefill": {"replicas": 1},
            "decode": {"replicas": 1},
        })
    );
    let service = &values["modelservice"];
    assert_eq!(service["replicas"], 1);
    assert_eq!(service["image"], image("llm-d/llm-d-model-service", "0.0.10"));
    assert_eq!(service["epp"]["image"], image("llm-d/llm-d-inference-scheduler", "0.0.4"));
    assert_eq!(service["vllm"]["image"], image("llm-d/llm-d", "0.0.8"));
    assert_eq!(service["routingProxy"]["image"], image("llm-d/llm-d-routing-sidecar", "0.0.6"));
    let affinity = json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In",
                                   "values": ["NVIDIA-H100-80GB-HBM3"]}]}
        ]}
    }}});
    assert_eq!((&service["prefill"], &service["decode"]), (&affinity, &affinity));
    assert_eq!(service["epp"]["defaultEnvVars"].as_array().unwrap().len(), 20);
    for (name, value) in [
        ("ENABLE_PREFIX_AWARE_SCORER", "true"),
        ("PREFIX_AWARE_SCORER_WEIGHT", "2.0"),
        ("PREFILL_ENABLE_LOAD_AWARE_SCORER", "false"),
        ("PD_PROMPT_LEN_THRESHOLD", "10"),
        ("KVCACHE_INDEXER_REDIS_ADDR", REDIS),
    ] {
        assert_eq!(variable(&values, name), value, "{name}");
    }
}

#[test]
fn what_is_set_is_in_the_values() {
    let values = of(
        &settings(json!({
            "platform": "kubernetes", "affinity": "", "pvc_name": "models", "decode_replicas": 3,
            "decode_extra_args": "--enforce-eager --dtype half", "gateway_class_name": "istio",
            "base_config_map_ref_name": "basic-sim-preset", "gpu_nr": 2,
            "values": {"redis": {"enabled": false}, "sampleApplication": {"inferencePoolPort": 1}},
        })),
        "a/b",
    )
    .unwrap();
    let sample = &values["sampleApplication"];
    assert_eq!(sample["model"]["modelArtifactURI"], "pvc://models/models/a/b");
    let decode = json!({"replicas": 3, "extraArgs": ["--enforce-eager", "--dtype", "half"]});
    assert_eq!(sample["decode"], decode);
    assert_eq!(sample["inferencePoolPort"], 1);
    assert_eq!(sample["baseConfigMapRefName"], "basic-sim-preset");
    assert_eq!(sample["resources"]["limits"]["nvidia.com/gpu"], 2);
    assert_eq!(values["modelservice"]["prefill"], json!({}));
    let gateway = json!({"kGatewayParameters": {"proxyUID": 0}, "gatewayClassName": "istio"});
    assert_eq!(values["gateway"], gateway);
    assert!(values.get("ingress").is_none());
    assert_eq!(values["redis"]["enabled"], false);
}

#[test]
fn the_yaml_reads_back_with_texts_as_texts() {
    let text = yaml(&of(&settings(json!({})), MODEL).unwrap());
    let read = Yaml::load_from_str(&text).unwrap();
    let tag = &read[0]["modelservice"]["image"]["tag"];
    assert_eq!(tag.as_str(), Some("0.0.10"), "{text}");
    let first = &read[0]["modelservice"]["epp"]["defaultEnvVars"][0];
    assert_eq!(first["value"].as_str(), Some("false"), "{text}");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let check = |changes: Value, at: &str| {
        let error = of(&settings(changes), MODEL).unwrap_err();
        assert_eq!(error.at.as_deref(), Some(at));
    };
    check(json!({"affinity": "gpu"}), "/affinity");
    check(json!({"epp_pd_enabled": null}), "/epp_pd_enabled");
    check(json!({"epp_other": "1"}), "/epp_other");
}
