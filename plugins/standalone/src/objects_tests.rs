//! Tests of the objects, against what the original applied.

use super::*;
use llmdbench_plugin::kubernetes::yaml;
use saphyr::{LoadableYamlNode, Yaml};
use std::collections::BTreeMap;

/// What the host fills in when nothing is set.
pub(crate) fn settings(changes: Value) -> Settings {
    let mut all = json!({
        "service_account": "default", "affinity": "nvidia.com/gpu.product:NVIDIA-H100-80GB-HBM3",
        "replicas": 1, "gpu_nr": 1, "gpu_mem_util": "0.95", "accelerator_resource": "nvidia.com/gpu",
        "cpu_nr": 4, "cpu_mem": "40Gi", "max_model_len": 16384, "pvc_name": "model-pvc",
        "pvc_mountpoint": "/models", "hf_token_name": "llm-d-hf-token", "inference_port": 8000,
        "image": "vllm/vllm-openai:latest", "route": true, "httproute": false,
        "cluster_url": "auto", "platform": "kubernetes", "wait_timeout": 900,
        "disable_log_requests": true,
    });
    // Not merged: a null in the changes is meant for the object.
    for (key, value) in changes.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn stack(model: &str, alias: &str, changes: Value) -> Stack {
    let context = Context {
        run_id: "r".into(),
        model: model.into(),
        model_alias: alias.into(),
        namespace: Some("llmdbench".into()),
        seed: 1,
        labels: Vec::new(),
        target: None,
        cluster: None,
    };
    Stack::new(settings(changes), &context).unwrap()
}

fn llama(changes: Value) -> BTreeMap<String, Value> {
    stack("meta-llama/Llama-3.1-8B-Instruct", "llama-8b", changes).objects().into_iter().collect()
}

#[test]
fn the_defaults_are_the_originals() {
    let objects = llama(json!({}));
    let names: Vec<&str> = objects.keys().map(String::as_str).collect();
    assert_eq!(names, ["a_deployment_llama-8b.yaml", "b_service_llama-8b.yaml"]);
    let name = "vllm-standalone-8b-vllm-llama-3-8b-instruct";
    let resources = |ephemeral: &str| json!({"cpu": "4", "memory": "40Gi", "ephemeral-storage": ephemeral, "nvidia.com/gpu": "1"});
    let probe = |period: u32| json!({"httpGet": {"path": "/health", "port": 8000}, "initialDelaySeconds": 120, "periodSeconds": period});
    let expected = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "llmdbench", "labels": {"app": name}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{
                            "key": "nvidia.com/gpu.product", "operator": "In",
                            "values": ["NVIDIA-H100-80GB-HBM3"]
                        }]}]
                    }}},
                    "containers": [{
                        "name": name, "image": "vllm/vllm-openai:latest", "imagePullPolicy": "Always",
                        "command": ["/bin/sh", "-c"],
                        "args": ["vllm serve meta-llama/Llama-3.1-8B-Instruct --port 8000 --max-model-len 16384 --disable-log-requests --gpu-memory-utilization 0.95 --tensor-parallel-size 1"],
                        "env": [
                            {"name": "HF_HOME", "value": "/models"},
                            {"name": "HUGGING_FACE_HUB_TOKEN", "valueFrom": {"secretKeyRef": {"name": "llm-d-hf-token", "key": "HF_TOKEN"}}},
                            {"name": "VLLM_ALLOW_LONG_MAX_MODEL_LEN", "value": "1"},
                        ],
                        "ports": [{"containerPort": 8000}],
                        "livenessProbe": probe(10), "readinessProbe": probe(5),
                        "resources": {"limits": resources("20Gi"), "requests": resources("10Gi")},
                        "volumeMounts": [
                            {"name": "cache-volume", "mountPath": "/models"},
                            {"name": "shm", "mountPath": "/dev/shm"},
                        ],
                    }],
                    "volumes": [
                        {"name": "cache-volume", "persistentVolumeClaim": {"claimName": "model-pvc"}},
                        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
                    ],
                },
            },
        },
    });
    assert_eq!(objects["a_deployment_llama-8b.yaml"], expected);
    let service = &objects["b_service_llama-8b.yaml"];
    assert_eq!(service["metadata"]["name"], "vllm-standalone-llama-3-8b");
    assert_eq!(service["spec"]["selector"], json!({"app": name}));
    let ports = json!([{"port": 80, "targetPort": 8000, "protocol": "TCP"}]);
    assert_eq!(service["spec"]["ports"], ports);
}

#[test]
fn what_is_set_is_in_the_objects() {
    let objects = llama(json!({
        "replicas": 2, "gpu_nr": 4, "cpu_nr": 8, "cpu_mem": "100Gi", "max_model_len": 10000,
        "args": "--enforce-eager --seed 1", "env": {"A": "1"},
        "extra_args": ["--dtype=half", "--override", "{\"a\": \"it's\"}"],
        "labels": {"team": "x"}, "image_pull_secrets": ["pull"], "affinity": "",
        "disable_log_requests": false, "pod_spec": {"nodeName": "n"}, "service_account": "servers",
        "container_spec": {"imagePullPolicy": "IfNotPresent", "livenessProbe": null},
    }));
    let spec = &objects["a_deployment_llama-8b.yaml"]["spec"];
    assert_eq!(spec["replicas"], 2);
    let pod = &spec["template"]["spec"];
    assert!(pod.get("affinity").is_none());
    assert_eq!((&pod["nodeName"], &pod["serviceAccountName"]), (&json!("n"), &json!("servers")));
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]));
    let container = &pod["containers"][0];
    assert_eq!(
        container["args"],
        json!([
            "vllm serve meta-llama/Llama-3.1-8B-Instruct --port 8000 --max-model-len 10000 --gpu-memory-utilization 0.95 --tensor-parallel-size 4 --enforce-eager --seed 1 --dtype=half --override '{\"a\": \"it'\\''s\"}'"
        ])
    );
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert!(container.get("livenessProbe").is_none());
    assert_eq!(container["resources"]["limits"]["nvidia.com/gpu"], "4");
    assert_eq!(spec["template"]["metadata"]["labels"]["team"], "x");
}

#[test]
fn routes_lead_to_the_service() {
    let objects = llama(json!({
        "platform": "openshift", "httproute": true, "cluster_url": "https://api.lab.example.org:6443",
    }));
    let route = &objects["d_route_llama-8b.yaml"];
    assert_eq!(route["metadata"]["name"], "vllm-standalone-llama-3-8b-route");
    assert_eq!(route["spec"]["to"]["name"], "vllm-standalone-llama-3-8b");
    let http = &objects["c_httproute_llama-8b.yaml"];
    assert_eq!(http["spec"]["hostnames"], json!(["llama-8b.llmdbench.apps.lab.example.org"]));
    let backend = json!([{"name": "vllm-standalone-llama-3-8b", "port": 80}]);
    assert_eq!(http["spec"]["rules"][0]["backendRefs"], backend);
    assert!(
        !llama(json!({"platform": "openshift", "route": false}))
            .contains_key("d_route_llama-8b.yaml")
    );
}

#[test]
fn every_model_gets_names_that_kubernetes_takes_and_its_yaml_reads_back() {
    for id in [
        "meta-llama/Llama-3.2-3B-Instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.1-70B-Instruct",
        "RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic",
        "facebook/opt-125m",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "mistralai/Mistral-7B-Instruct-v0.2",
        "google/gemma-2-2b",
        "01-ai/-Yi--34B-",
        "a/b/7B:8",
        "org/Ünusual_Name.with-EVERYTHING-in-it-and-far-too-long-to-be-a-name-of-any-object-7B",
        "x",
    ] {
        let stack = stack(id, id, json!({}));
        for (file, object) in stack.objects() {
            assert!(!file.contains('/'), "{file}");
            let name = object["metadata"]["name"].as_str().unwrap();
            let is_label = name.len() <= 63
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.ends_with(|c: char| c.is_ascii_alphanumeric())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            assert!(is_label, "{id}: {name}");
            let text = yaml(&object);
            let read = Yaml::load_from_str(&text).unwrap();
            assert_eq!(read[0]["metadata"]["name"].as_str(), Some(name), "{text}");
            assert_eq!(read[0]["apiVersion"].as_str(), object["apiVersion"].as_str());
        }
    }
}

#[test]
fn an_affinity_that_is_no_label_is_refused() {
    let context = stack("m", "m", json!({}));
    assert_eq!(context.url(), "http://vllm-standalone-m.llmdbench.svc.cluster.local:80");
    let error = Stack::new(
        settings(json!({"affinity": "gpu"})),
        &Context {
            run_id: String::new(),
            model: "m".into(),
            model_alias: "m".into(),
            namespace: None,
            seed: 1,
            labels: Vec::new(),
            target: None,
            cluster: None,
        },
    )
    .unwrap_err();
    assert_eq!(error.at.as_deref(), Some("/affinity"));
}
