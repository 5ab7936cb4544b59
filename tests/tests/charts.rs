//! Charts in a real cluster: the one of KUBECONFIG, with the image of LLMDBENCH_TEST_IMAGE, without which this is
//! skipped, and helm on PATH. `cargo xtask test --cluster` has all of them; the charts of `tests/cluster/charts` stand in for the real ones.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, root};
use base64::prelude::{BASE64_STANDARD, Engine};
use cluster::{Access, Cluster, ObjectRef, Owner, Selection};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use tokio::runtime::Runtime;

/// A namespace of its own, prepared for a run, and a way to look at it.
struct Stack {
    bench: Bench,
    namespace: String,
    cluster: Cluster,
    runtime: Runtime,
}

const TOKEN: &str = "hf_secret_of_the_user";

impl Stack {
    /// None: there is no cluster.
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn new(name: &str, method: &str, settings: &Value, files: &[(&str, &Value)]) -> Option<Self> {
        if std::env::var_os("LLMDBENCH_TEST_IMAGE").is_none() {
            eprintln!(
                "skipped: LLMDBENCH_TEST_IMAGE is not set; `cargo xtask test --cluster` does"
            );
            return None;
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cluster = runtime.block_on(Cluster::connect(&Access::found())).unwrap();
        let namespace = unique(name);
        let bench = Bench::new().env("LLMDBENCH_HF_TOKEN", TOKEN);
        let experiment = json!({
            "name": name,
            "deploy": {"method": method, "model": "org/model", "settings": settings},
            "vllm": {"common": {
                "namespace": namespace, "pvc_name": "workload-pvc", "pvc_storage_class": "standard",
            }},
            "fmperf": {"namespace": namespace, "pvc_size": "1Gi"},
        });
        bench.write("e.yaml", experiment.to_string());
        for (file, contents) in files {
            bench.write(file, contents.to_string());
        }
        bench.run(&["standup", "e.yaml", "-s", "5"]).expect(0);
        Some(Self { bench, namespace, cluster, runtime })
    }

    /// Everything with the label of the run.
    fn left(&self) -> Vec<String> {
        let inventory: Value = self.bench.json("w/setup/objects.json");
        let run = Owner::Run(inventory["run"].as_str().unwrap().to_owned());
        let found = self.runtime.block_on(self.cluster.find(&run, &[])).unwrap();
        found.iter().map(|found| format!("{} {}", found.object.kind, found.object.name)).collect()
    }

    /// Puts an object of somebody else into the namespace.
    fn strangers(&self, object: Value) -> ObjectRef {
        let mut made = Vec::new();
        let mut done = |applied: cluster::Applied| made.push(applied.object);
        let applied =
            self.cluster.apply(vec![object], &self.namespace, &Owner::Stranger, &mut done);
        self.runtime.block_on(applied).unwrap();
        made.remove(0)
    }

    fn get(&self, api_version: &str, kind: &str, name: &str) -> Option<Value> {
        let selection = Selection::named(api_version, kind, &self.namespace, name);
        self.runtime.block_on(self.cluster.get(&selection)).unwrap().pop()
    }

    fn remove(&self, objects: &[ObjectRef]) {
        let patience = std::time::Duration::from_secs(60);
        let mut progress = |_: &ObjectRef| {};
        let removed = self.cluster.delete(objects, &Owner::Stranger, patience, &mut progress);
        assert!(self.runtime.block_on(removed).unwrap().left.is_empty());
    }

    /// The texts of all commands with their outcomes.
    fn commands(&self) -> String {
        let files = self.bench.files();
        let logs = files.iter().filter(|path| path.to_string_lossy().ends_with("_command.log"));
        logs.map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }

    fn has_no_secrets(&self, secret: &str) {
        for path in self.bench.files() {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains(secret), "{}", path.display());
        }
    }
}

/// The program's image, in the parts of which charts make its name.
fn image() -> Value {
    let image = std::env::var("LLMDBENCH_TEST_IMAGE").unwrap();
    let (name, tag) = image.rsplit_once(':').unwrap();
    let (registry, repository) = name.rsplit_once('/').unwrap();
    json!({"registry": registry, "repository": repository, "tag": tag})
}

fn chart(name: &str) -> String {
    root().join("tests/cluster/charts").join(name).display().to_string()
}

/// The name of a namespace and of its release. Some objects of a release are in no namespace, so each test, and each who
/// runs it, has its own.
fn unique(name: &str) -> String {
    format!("charts-{name}-{}", std::process::id())
}

/// llm-d by the chart that stands in for it.
fn llm_d(name: &str, more: &Value) -> Value {
    let image = image();
    let mut settings = json!({
        "chart_archive": chart("llm-d"), "release": unique(name), "gateway": "none", "definitions": [],
        "affinity": "", "gpu_nr": 0, "wait_timeout": 120, "prefill_replicas": 0,
        "values": {"modelservice": {"vllm": {"image": image}}, "leftovers": true},
    });
    for (key, value) in more.as_object().unwrap() {
        settings[key] = value.clone();
    }
    settings
}

#[test]
fn llm_d_is_stood_up_by_its_chart_tested_and_taken_down() {
    let group = format!("charts-{}.llmdbench.io", std::process::id());
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things", "singular": "thing"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    let settings = llm_d("llm-d", &json!({"definitions": ["crds.yaml"], "prefill_replicas": 1}));
    let files = [("crds.yaml", &definition)];
    let Some(stack) = Stack::new("llm-d", "deployer", &settings, &files) else { return };
    let (bench, own) = (&stack.bench, &stack.namespace);
    let foreign = stack.strangers(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-somebody-else"},
    }));

    let ended = bench.run(&["standup", "e.yaml", "-s", "2,7,8"]).expect(0);
    let ended = ended.says(&format!("CustomResourceDefinition things.{group} created"));
    let ended = ended.says(&format!("release {own}/{own} installed by helm"));
    ended
        .says("smoketest: http://llm-d-inference-gateway.charts-llm-d-")
        .says("answers as org/model");
    // Definitions that are there are left as they are.
    bench
        .run(&["standup", "e.yaml", "-s", "2"])
        .expect(0)
        .says("1 objects of")
        .says("there already");
    let status = bench.run(&["status"]).expect(0);
    assert!(status.stdout.contains(&format!("standing: release {own}/{own}\n")));
    let left = stack.left();
    for object in [
        "Deployment llm-d-inference-gateway",
        "Deployment org-model-decode",
        "Service llm-d-inference-gateway",
        &format!("ClusterRole {own}-modelservice-manager"),
        "ConfigMap of-a-hook",
        "ConfigMap to-be-kept",
        &format!("Secret sh.helm.release.v1.{own}.v1"),
    ] {
        assert!(left.iter().any(|found| found == object), "no {object} in {left:#?}");
    }
    let values = bench.read("w/setup/yamls/07_deployer_values.yaml");
    assert!(values.contains("modelName: org/model"), "{values}");
    let commands = stack.commands();
    assert!(commands.contains(&format!("helm upgrade --install {own} /")), "{commands}");
    assert!(commands.contains("--values setup/yamls/07_deployer_values.yaml"), "{commands}");
    assert!(commands.contains("--labels llmdbench.io/run=llm-d-"), "{commands}");

    // Another run is refused the release, and the same one may install it again.
    let other = bench.run(&["standup", "e.yaml", "-s", "7", "--workdir", "other"]).expect(3);
    let text = format!("release {own}/{own} is there already and belongs to the run `llm-d-");
    other.says(&text);
    bench.run(&["standup", "e.yaml", "-s", "7"]).expect(0);

    stack.has_no_secrets(TOKEN);
    // Without helm nothing is taken away behind its back.
    let without = [("LLMDBENCH_CONTROL_HCMD", "/there/is/no/helm")];
    bench.run_with(&without, &["teardown"]).expect(6).says("helm is missing");
    assert!(stack.left().iter().any(|found| found == "Deployment org-model-decode"));
    let ended = bench.run(&["teardown"]).expect(0);
    ended.says(&format!("teardown: release {own}/{own}"));
    assert!(stack.commands().contains(&format!("helm uninstall {own}")), "{}", stack.commands());
    assert_eq!(stack.left(), Vec::<String>::new());
    assert!(stack.get("v1", "ConfigMap", "of-somebody-else").is_some());
    // What is there for everybody stays.
    let kind = "CustomResourceDefinition";
    let defined = stack.get("apiextensions.k8s.io/v1", kind, &format!("things.{group}"));
    stack.remove(&[foreign, ObjectRef::of(&defined.unwrap()).unwrap()]);
    bench.run(&["teardown"]).expect(0).says("nothing stands");
    bench.run(&["teardown", "-d"]).expect(0).says("teardown: Namespace");
}

/// llm-d by the charts that stand in for those of today.
fn modelservice(more: &Value) -> Value {
    let image = std::env::var("LLMDBENCH_TEST_IMAGE").unwrap();
    let small =
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}});
    let mut settings = json!({
        "router_chart_archive": chart("llm-d-router-standalone"),
        "server_chart_archive": chart("llm-d-modelservice"),
        "image": image, "router_image": image, "inference_pool": false, "affinity": "",
        "gpu_nr": 0, "pvc_name": "workload-pvc", "wait_timeout": 120,
        "router_values": {"router": {"epp": {"resources": small}}},
        "pod_spec": {"terminationGracePeriodSeconds": 1},
        "container_spec": {"startupProbe": {"periodSeconds": 1}, "resources": {
            "requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": null, "memory": "256Mi"},
        }},
    });
    for (key, value) in more.as_object().unwrap() {
        settings[key] = value.clone();
    }
    settings
}

#[test]
fn a_router_and_model_servers_are_stood_up_by_their_charts_tested_and_taken_down() {
    let settings = modelservice(&json!({"replicas": 2}));
    let Some(stack) = Stack::new("modelservice", "modelservice", &settings, &[]) else { return };
    let bench = &stack.bench;
    let ended = bench.run(&["standup", "e.yaml", "-s", "7,8"]).expect(0);
    let ended = ended.says("-router installed by helm").says("-ms installed by helm");
    // By its name, of the model's label.
    ended.says("smoketest: http://org-mode-").says("-router-epp.charts-modelservice-");
    let target: Value = bench.json("w/target.json");
    let service = target["within"]["name"].as_str().unwrap();
    let model = service.strip_suffix("-router-epp").unwrap();
    let left = stack.left();
    for object in [format!("Deployment {model}-decode"), format!("Deployment {service}")] {
        assert!(left.contains(&object), "no {object} in {left:#?}");
    }
    for (release, text) in [("router", "matchLabels"), ("ms", "fullnameOverride")] {
        let values = bench.read(&format!("w/setup/yamls/07_{model}-{release}_values.yaml"));
        assert!(values.contains(text), "{values}");
    }
    let inventory: Value = bench.json("w/setup/objects.json");
    assert_eq!(inventory["releases"].as_array().unwrap().len(), 2, "{inventory:#}");
    // One whose note was lost is found by its label.
    let mut lost = inventory.clone();
    lost["releases"].as_array_mut().unwrap().remove(0);
    bench.write("w/setup/objects.json", lost.to_string());
    let ended = bench.run(&["teardown"]).expect(0);
    for release in ["ms", "router"] {
        let text = format!("teardown: release {}/{model}-{release}", stack.namespace);
        assert!(ended.stderr.contains(&text), "{}", ended.stderr);
    }
    assert_eq!(stack.left(), Vec::<String>::new());
    bench.run(&["teardown", "-d"]).expect(0);
}

#[test]
fn a_release_of_somebody_else_is_refused_and_stays() {
    let settings = llm_d("foreign", &json!({}));
    let Some(stack) = Stack::new("foreign", "deployer", &settings, &[]) else { return };
    let own = &stack.namespace;
    // What helm keeps of a release.
    let record = stack.strangers(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {"name": format!("sh.helm.release.v1.{own}.v1"), "labels": {
            "owner": "helm", "name": own, "status": "deployed", "version": "1",
        }},
    }));
    let ended = stack.bench.run(&["standup", "e.yaml", "-s", "7"]).expect(3);
    ended.says(&format!("{own} is there already and belongs to somebody else"));
    stack.bench.run(&["teardown"]).expect(0);
    assert!(stack.get("v1", "Secret", &format!("sh.helm.release.v1.{own}.v1")).is_some());
    stack.remove(&[record]);
    stack.bench.run(&["teardown", "-d"]).expect(0);
}

#[test]
fn an_interrupted_installation_ends_helm_and_is_taken_down() {
    let settings = llm_d("stop", &json!({}));
    let Some(stack) = Stack::new("stop", "deployer", &settings, &[]) else { return };
    // A helm that never comes to an end.
    let script =
        "#!/bin/sh\n[ \"$1\" = version ] && echo v3.19.0 && exit\necho $$ > pid\nsleep 1000\n";
    stack.bench.write("helm", script);
    let path = stack.bench.path("helm");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bench = &stack.bench;
    let variables = [("LLMDBENCH_CONTROL_HCMD", path.to_str().unwrap())];
    let mut running = bench.start_with(&variables, &["standup", "e.yaml", "-s", "7"]);
    running.wait_for("07_invoke_llm-d-deployer");
    while !bench.path("w/pid").exists() || bench.read("w/pid").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.signal(Signal::SIGINT);
    running.wait().expect(130).says("interrupted");
    let pid = bench.read("w/pid").trim().parse().unwrap();
    assert!(!acceptance::lives(pid));
    bench.run(&["teardown", "-d"]).expect(0);
    assert_eq!(stack.left(), Vec::<String>::new());
}

#[test]
fn helm_reaches_the_cluster_of_a_token_which_stands_in_no_argument_and_no_file() {
    let settings = llm_d("token", &json!({}));
    let Some(stack) = Stack::new("token", "deployer", &settings, &[]) else { return };
    let namespace = &stack.namespace;
    let account = unique("token");
    let mut made: Vec<ObjectRef> = Vec::new();
    for object in [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": account},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": account, "annotations": {"kubernetes.io/service-account.name": account}},
        }),
    ] {
        made.push(stack.strangers(object));
    }
    let secret = loop {
        let secret = stack.get("v1", "Secret", &account).unwrap();
        if secret["data"]["token"].is_string() {
            break secret;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    let decoded = |key: &str| {
        let bytes = BASE64_STANDARD.decode(secret["data"][key].as_str().unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let token = decoded("token");
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.crt");
    std::fs::write(&authority, decoded("ca.crt")).unwrap();
    let variables = [
        ("LLMDBENCH_CLUSTER_URL", stack.cluster.server()),
        ("LLMDBENCH_CLUSTER_TOKEN", &token),
        ("SSL_CERT_FILE", authority.to_str().unwrap()),
        ("KUBECONFIG", "/dev/null"),
    ];
    let run = |args: &[&str]| stack.bench.run_with(&variables, args);
    run(&["standup", "e.yaml", "-s", "7,8"]).expect(0).says("answers as org/model");
    run(&["teardown"]).expect(0).says("teardown: release");
    assert_eq!(stack.left(), Vec::<String>::new());
    stack.has_no_secrets(&token);
    stack.remove(&made);
    stack.bench.run(&["teardown", "-d"]).expect(0);
}

#[test]
fn methods_are_swapped_by_name_alone_and_each_is_benched_from_inside() {
    let nothing = json!({});
    let Some(stack) = Stack::new("swap", "standalone", &nothing, &[]) else { return };
    let mut experiment: Value = stack.bench.json("e.yaml");
    let image = std::env::var("LLMDBENCH_TEST_IMAGE").unwrap();
    let standalone = json!({
        "image": image, "affinity": "", "gpu_nr": 0, "cpu_nr": 1, "wait_timeout": 120,
        "pod_spec": {"terminationGracePeriodSeconds": 1},
        "container_spec": {
            "readinessProbe": {"initialDelaySeconds": 0, "periodSeconds": 1},
            "livenessProbe": {"initialDelaySeconds": 60},
            "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": null},
                "limits": {"cpu": null, "memory": "256Mi", "ephemeral-storage": null},
            },
        },
    });
    experiment["deploy"].as_object_mut().unwrap().remove("settings");
    experiment["deploy"]["settings_by_method"] = json!({
        "standalone": standalone,
        "deployer": llm_d("swap", &json!({})),
        "modelservice": modelservice(&json!({})),
    });
    experiment["harness"] = json!({"settings": {"stages": [{"rate": 10, "for": "2s"}]}});
    experiment["workload"] = json!({"settings": {"input_tokens": 16, "output_tokens": 4}});
    experiment["load"] = json!({"image": image, "cpu": "50m", "memory": "256Mi"});
    experiment["vllm"]["common"]["pvc_model_cache_size"] = "1Gi".into();
    experiment["vllm"]["common"]["pvc_download_image"] = image.into();
    experiment["vllm"]["common"]["hf_endpoint"] = "http://10.231.0.2:5000".into();
    stack.bench.write("e.yaml", experiment.to_string());
    for method in ["standalone", "deployer", "modelservice"] {
        let ended = stack.bench.run(&["bench", "e.yaml", "-t", method, "--workdir", method]);
        assert!([0, 7].contains(&ended.code), "{method}: {}", ended.output());
        let ended = ended.says("smoketest: http://").says("1 agent in");
        assert!(!ended.stderr.contains("forwards"), "{}", ended.stderr);
        let records =
            acceptance::Log::read(&stack.bench.path(&format!("{method}/results/records.jsonl")));
        assert_eq!(records.records.len(), 20, "{method}");
        assert!(records.records.iter().all(|record| record.error.is_none()), "{method}");
        let inventory: Value = stack.bench.json(&format!("{method}/setup/objects.json"));
        let run = Owner::Run(inventory["run"].as_str().unwrap().to_owned());
        let left = stack.runtime.block_on(stack.cluster.find(&run, &[])).unwrap();
        assert!(left.is_empty(), "{method}: {left:?}");
    }
    stack.bench.run(&["bench", "e.yaml", "-t", "deployr", "-n"]).expect(2);
    stack.bench.run(&["teardown", "-d"]).expect(0);
}
