//! Charts in a real cluster: the one of KUBECONFIG, with the image of LLMDBENCH_TEST_IMAGE, without which this is
//! skipped, and helm on PATH. `cargo xtask test --cluster` has all of them; the charts of `tests/cluster/charts` stand in
//! for the real ones.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, Stand, root, until};
use cluster::ObjectRef;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const TOKEN: &str = "hf_secret_of_the_user";

/// A prepared stand whose stack this method stands up. Its namespace is the name of its release as well: some objects of
/// a release are in no namespace, so each test, and each who runs it, has a name of its own.
fn stand(name: &str, method: &str, settings: fn(&Stand) -> Value) -> Option<Stand> {
    let stand = Stand::new(name)?.env("LLMDBENCH_HF_TOKEN", TOKEN);
    stand.experiment(
        &json!({}),
        &json!({
            "harness": {"settings": {"stages": [{"rate": 20, "for": "2s"}]}},
            "workload": {"settings": {"input_tokens": 32, "output_tokens": 8}},
        }),
    );
    let mut whole = stand.bench.json("e.yaml");
    whole["deploy"]["method"] = json!(method);
    whole["deploy"]["settings"] = settings(&stand);
    stand.bench.write("e.yaml", whole.to_string());
    stand.bench.write("crds.yaml", definition(&stand).to_string());
    stand.standup("5").expect(0);
    Some(stand)
}

/// Everything with the label of the run.
fn left(stand: &Stand) -> Vec<String> {
    let objects = stand.of_run(&stand.run());
    objects.iter().map(|object| format!("{} {}", object.kind, object.name)).collect()
}

/// An object of this kind and name, in the namespace or in none.
fn get(stand: &Stand, api_version: &str, kind: &str, name: &str) -> Option<ObjectRef> {
    let all = stand.get(api_version, kind);
    let one = all.iter().find(|object| object["metadata"]["name"] == name);
    one.map(|object| ObjectRef::of(object).unwrap())
}

/// The texts of all commands with their outcomes.
fn commands(bench: &Bench) -> String {
    let files = bench.files();
    let logs = files.iter().filter(|path| path.to_string_lossy().ends_with("_command.log"));
    logs.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

fn has_no_secrets(bench: &Bench, secret: &str) {
    for path in bench.files() {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        assert!(!text.contains(secret), "{}", path.display());
    }
}

/// The program's image, in the parts of which charts make its name.
fn image(stand: &Stand) -> Value {
    let (name, tag) = stand.image().rsplit_once(':').unwrap();
    let (registry, repository) = name.rsplit_once('/').unwrap();
    json!({"registry": registry, "repository": repository, "tag": tag})
}

/// The group of a definition that only this test makes.
fn group(stand: &Stand) -> String {
    format!("{}.llmdbench.io", stand.namespace)
}

fn definition(stand: &Stand) -> Value {
    let group = group(stand);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("things.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things", "singular": "thing"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    })
}

fn chart(name: &str) -> String {
    root().join("tests/cluster/charts").join(name).display().to_string()
}

/// Takes away what the program leaves for everybody.
#[track_caller]
fn remove_definition(stand: &Stand) {
    let (kind, name) = ("CustomResourceDefinition", format!("things.{}", group(stand)));
    stand.remove(&[get(stand, "apiextensions.k8s.io/v1", kind, &name).unwrap()]);
}

/// The servers alone, as the other tests have them.
fn small(stand: &Stand) -> Value {
    stand.bench.json("e.yaml")["deploy"]["settings"].clone()
}

/// llm-d by the chart that stands in for it.
fn llm_d(stand: &Stand) -> Value {
    json!({
        "chart_archive": chart("llm-d"), "release": stand.namespace, "gateway": "none",
        "definitions": ["crds.yaml"], "affinity": "", "gpu_nr": 0, "wait_timeout": 120,
        "values": {"modelservice": {"vllm": {"image": image(stand)}}, "leftovers": true},
    })
}

/// llm-d by the charts that stand in for those of today.
fn modelservice(stand: &Stand) -> Value {
    let small =
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}});
    json!({
        "router_chart_archive": chart("llm-d-router-standalone"),
        "server_chart_archive": chart("llm-d-modelservice"),
        "image": stand.image(), "router_image": stand.image(), "inference_pool": false,
        "affinity": "", "gpu_nr": 0, "replicas": 2, "wait_timeout": 120,
        "router_values": {"router": {"epp": {"resources": small}}},
        "pod_spec": {"terminationGracePeriodSeconds": 1},
        "container_spec": {"startupProbe": {"periodSeconds": 1}, "resources": {
            "requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": null, "memory": "256Mi"},
        }},
    })
}

#[test]
fn llm_d_is_stood_up_by_its_chart_tested_and_taken_down() {
    let Some(stand) = stand("llm-d", "deployer", llm_d) else { return };
    let (bench, own, group) = (&stand.bench, &stand.namespace, group(&stand));
    stand.put(vec![json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-somebody-else"},
    })]);

    let ended = bench.run(&["standup", "e.yaml", "-s", "2,7,8"]).expect(0);
    let ended = ended.says(&format!("CustomResourceDefinition things.{group} created"));
    let ended = ended.says(&format!("release {own}/{own} installed by helm"));
    ended
        .says("smoketest: http://llm-d-inference-gateway.llmdbench-llm-d-")
        .says("answers as org/model");
    was_asked(&stand, "w", &["org-model-decode-", "org-model-prefill-"]);
    // What the chart made is seen and kept, too.
    let pods = bench.json("w/setup/pods.json").to_string();
    assert!(pods.contains("-decode-") && pods.contains("sha256:"), "{pods}");
    assert!(bench.read("w/setup/events.json").contains("-decode-"));
    // Definitions that are there are left as they are.
    bench
        .run(&["standup", "e.yaml", "-s", "2"])
        .expect(0)
        .says("1 object of")
        .says("there already");
    let status = bench.run(&["status"]).expect(0);
    assert!(status.stdout.contains(&format!("standing: release {own}/{own}\n")));
    let standing = left(&stand);
    for object in [
        "Deployment llm-d-inference-gateway",
        "Deployment org-model-decode",
        "Service llm-d-inference-gateway",
        &format!("ClusterRole {own}-modelservice-manager"),
        "ConfigMap of-a-hook",
        "ConfigMap to-be-kept",
        &format!("Secret sh.helm.release.v1.{own}.v1"),
    ] {
        assert!(standing.iter().any(|found| found == object), "no {object} in {standing:#?}");
    }
    let values = bench.read("w/setup/yamls/07_deployer_values.yaml");
    assert!(values.contains("modelName: org/model"), "{values}");
    let commands = commands(bench);
    assert!(commands.contains(&format!("helm upgrade --install {own} /")), "{commands}");
    assert!(commands.contains("--values setup/yamls/07_deployer_values.yaml"), "{commands}");
    assert!(commands.contains("--labels llmdbench.io/run=llm-d-"), "{commands}");

    // Another run is refused the release, and the same one may install it again.
    let other = bench.run(&["standup", "e.yaml", "-s", "7", "--workdir", "other"]).expect(3);
    let text = format!("release {own}/{own} is there already and belongs to the run `llm-d-");
    other.says(&text);
    bench.run(&["standup", "e.yaml", "-s", "7"]).expect(0);

    has_no_secrets(bench, TOKEN);
    // Without helm nothing is taken away behind its back.
    let without = [("LLMDBENCH_CONTROL_HCMD", "/there/is/no/helm")];
    bench.run_with(&without, &["teardown"]).expect(6).says("helm is missing");
    assert!(left(&stand).iter().any(|found| found == "Deployment org-model-decode"));
    let ended = bench.run(&["teardown"]).expect(0);
    ended.says(&format!("teardown: release {own}/{own}"));
    assert!(self::commands(bench).contains(&format!("helm uninstall {own}")));
    assert_eq!(left(&stand), Vec::<String>::new());
    assert!(get(&stand, "v1", "ConfigMap", "of-somebody-else").is_some());
    // What is there for everybody stays.
    remove_definition(&stand);
    bench.run(&["teardown"]).expect(0).says("nothing stands");
    bench.run(&["teardown", "-d"]).expect(0).says("teardown: Namespace");
}

#[test]
fn of_a_chart_whose_pods_a_quota_forbids_it_is_said_soon() {
    let Some(stand) = stand("quota", "deployer", llm_d) else { return };
    let quota = |pods: &str| json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "of-the-admin"}, "spec": {"hard": {"pods": pods}}});
    stand.put(vec![quota("0")]);
    // Who admits pods hears of a quota a moment later.
    until("the quota in force", || {
        stand.get("v1", "ResourceQuota")[0]["status"]["hard"]["pods"] == "0"
    });
    let ended = stand.standup("7").expect(3);
    let ended = ended.says("exceeded quota: of-the-admin").says("quota is used up");
    assert!(ended.took < Duration::from_secs(60), "{:?}", ended.took);
    stand.bench.run(&["teardown"]).expect(0);
    assert_eq!(left(&stand), Vec::<String>::new());
}

#[test]
fn a_router_and_model_servers_are_stood_up_by_their_charts_tested_and_taken_down() {
    let Some(stand) = stand("router", "modelservice", modelservice) else { return };
    let bench = &stand.bench;
    let ended = bench.run(&["standup", "e.yaml", "-s", "7,8"]).expect(0);
    let ended = ended.says("-router installed by helm").says("-ms installed by helm");
    // By its name, of the model's label.
    ended.says("smoketest: http://org-mode-").says("-router-epp.llmdbench-router-");
    let target: Value = bench.json("w/target.json");
    let service = target["within"]["name"].as_str().unwrap();
    let model = service.strip_suffix("-router-epp").unwrap();
    let decode = format!("{model}-decode-");
    was_asked(&stand, "w", &[&decode, &decode]);
    let standing = left(&stand);
    for object in [format!("Deployment {model}-decode"), format!("Deployment {service}")] {
        assert!(standing.contains(&object), "no {object} in {standing:#?}");
    }
    for (release, text) in [("router", "matchLabels"), ("ms", "fullnameOverride")] {
        let values = bench.read(&format!("w/setup/yamls/07_{model}-{release}_values.yaml"));
        assert!(values.contains(text), "{values}");
    }
    // One whose note was lost is found by its label.
    let mut inventory: Value = bench.json("w/setup/objects.json");
    let releases = inventory["releases"].as_array_mut().unwrap();
    assert_eq!(releases.len(), 2);
    releases.remove(0);
    bench.write("w/setup/objects.json", inventory.to_string());
    let ended = bench.run(&["teardown"]).expect(0);
    for release in ["ms", "router"] {
        let text = format!("teardown: release {}/{model}-{release}", stand.namespace);
        assert!(ended.stderr.contains(&text), "{}", ended.stderr);
    }
    assert_eq!(left(&stand), Vec::<String>::new());
}

/// The pods that serve the model were asked, and then the gateway or router by its name, from inside.
#[track_caller]
fn was_asked(stand: &Stand, folder: &str, pods: &[&str]) {
    let asked = stand.asked(folder);
    let ((gateway, by), servers) = asked.split_last().unwrap();
    let own = &stand.namespace;
    assert!(gateway.starts_with("http://"), "{asked:?}");
    assert!(gateway.ends_with(&format!(".{own}.svc.cluster.local")), "{asked:?}");
    assert!(by.starts_with(&format!("pod {own}/smoketest-")), "{asked:?}");
    assert!(by.ends_with(" inside the cluster"), "{asked:?}");
    assert_eq!(servers.len(), pods.len(), "{asked:?}");
    for ((pod, via), start) in servers.iter().zip(pods) {
        assert!(pod.starts_with(&format!("pod {own}/{start}")), "{asked:?}");
        assert_eq!(*via, format!("a forwarded port to {pod}"));
    }
}

/// Each of so many pods that serve the model had its metrics read while load ran.
#[track_caller]
fn was_watched(stand: &Stand, folder: &str, servers: usize) {
    let run: Value = stand.bench.json(&format!("{folder}/results/run.json"));
    let pages = run["target"]["metrics"].as_array().unwrap();
    assert_eq!(pages.len(), servers, "{folder}: {pages:?}");
    let read = stand.bench.read(&format!("{folder}/results/server_metrics.jsonl"));
    for page in pages {
        let url = page["url"].as_str().unwrap();
        assert!(read.contains(url), "{folder}: nothing of {url}");
    }
    assert!(read.contains("vllm:num_requests_running"), "{folder}: {read}");
}

/// Looks at a run of a bench whose folder this is: everything was answered, and nothing is left.
#[track_caller]
fn has_run(stand: &Stand, folder: &str) {
    let summary: Value = stand.bench.json(&format!("{folder}/analysis/data/summary.json"));
    assert_eq!(summary["total"]["succeeded"], 40, "{folder}");
    let inventory: Value = stand.bench.json(&format!("{folder}/setup/objects.json"));
    let run = inventory["run"].as_str().unwrap();
    assert_eq!(stand.of_run(run), Vec::new(), "{folder}");
}

#[test]
fn several_models_are_benched_from_inside_one_after_the_other_and_leave_nothing() {
    let Some(stand) = stand("several", "deployer", llm_d).and_then(Stand::with_hub) else { return };
    let models = "org/model,org/other";
    let ended = stand.bench.run(&["bench", "e.yaml", "-m", models, "--workdir", "b"]);
    // Whatever a busy machine makes of the verdict.
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    has_run(&stand, "b/deployer-org___model");
    has_run(&stand, "b/deployer-org___other");
    remove_definition(&stand);
}

#[test]
fn methods_are_swapped_by_name_alone_and_each_is_benched_from_inside() {
    let Some(stand) = stand("swap", "standalone", small).and_then(Stand::with_hub) else { return };
    let mut whole = stand.bench.json("e.yaml");
    let standalone = whole["deploy"]["settings"].take();
    whole["deploy"].as_object_mut().unwrap().remove("settings");
    whole["deploy"]["settings_by_method"] = json!({
        "standalone": standalone, "deployer": llm_d(&stand), "modelservice": modelservice(&stand),
    });
    stand.bench.write("e.yaml", whole.to_string());
    let all = "standalone,deployer,modelservice";
    let ended = stand.bench.run(&["bench", "e.yaml", "-t", all, "--workdir", "b"]);
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    assert!(!ended.stderr.contains("forwards"), "{}", ended.stderr);
    // The sizes of `small`, `llm_d` and `modelservice`: a server; one for each role; two.
    for (method, servers) in all.split(',').zip([1, 2, 2]) {
        let folder = format!("b/{method}-org___model");
        has_run(&stand, &folder);
        was_watched(&stand, &folder, servers);
    }
    remove_definition(&stand);
    stand.bench.run(&["bench", "e.yaml", "-t", "deployr", "-n"]).expect(2);
}

#[test]
fn the_scenarios_of_the_original_are_carried_out_in_small() {
    let Some(stand) = stand("original", "standalone", small).and_then(Stand::with_hub) else {
        return;
    };
    let mut whole = stand.bench.json("e.yaml");
    let standalone = whole["deploy"]["settings"].take();
    // Method, model and replicas are the scenario's; sizes, nodes and volumes those of this cluster.
    whole["deploy"] = json!({
        "platform": "kubernetes",
        "settings_by_method": {"standalone": standalone, "deployer": llm_d(&stand)},
    });
    stand.bench.write("e.yaml", whole.to_string());
    // The original's deployer ignores the number of replicas that is common to all methods: it has one of each role.
    for (scenario, model, servers) in [
        ("kubernetes_H200_deployer_llama-8b", "Llama-3.1-8B-Instruct", 2),
        ("ocp_H100MIG_deployer_llama-3b", "Llama-3.2-3B-Instruct", 2),
        ("ocp_H100MIG_deployer_llama-8b", "Llama-3.1-8B-Instruct", 2),
        ("ocp_H100_deployer_llama-70b", "Llama-3.1-70B-Instruct", 2),
        ("ocp_H100_standalone_llama-70b", "Llama-3.1-70B-Instruct", 2),
        ("ocp_L40_standalone_llama-8b", "Llama-3.1-8B-Instruct", 1),
    ] {
        let ended = stand.bench.run(&["bench", "e.yaml", "-c", scenario, "--workdir", scenario]);
        assert!([0, 7].contains(&ended.code), "{scenario}: {}", ended.output());
        has_run(&stand, scenario);
        let target = stand.bench.json(&format!("{scenario}/target.json"));
        assert!(target["model"].as_str().unwrap().ends_with(model), "{scenario}: {target}");
        // The pods first, with `deployer` those of both roles; then the Service or gateway.
        let asked = stand.asked(scenario);
        assert_eq!(asked.len(), servers + 1, "{scenario}: {asked:?}");
        assert!(asked[servers].1.ends_with(" inside the cluster"), "{scenario}: {asked:?}");
    }
    remove_definition(&stand);
}

#[test]
fn a_release_of_somebody_else_is_refused_and_stays() {
    let Some(stand) = stand("foreign", "deployer", llm_d) else { return };
    let own = &stand.namespace;
    // What helm keeps of a release.
    let record = format!("sh.helm.release.v1.{own}.v1");
    stand.put(vec![json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {"name": record, "labels": {
            "owner": "helm", "name": own, "status": "deployed", "version": "1",
        }},
    })]);
    let ended = stand.standup("7").expect(3);
    ended.says(&format!("{own} is there already and belongs to somebody else"));
    stand.bench.run(&["teardown"]).expect(0);
    assert!(get(&stand, "v1", "Secret", &record).is_some());
}

#[test]
fn an_interrupted_installation_ends_helm_and_is_taken_down() {
    let Some(stand) = stand("stop", "deployer", llm_d) else { return };
    let bench = &stand.bench;
    // A helm that never comes to an end.
    let script =
        "#!/bin/sh\n[ \"$1\" = version ] && echo v3.19.0 && exit\necho $$ > pid\nsleep 1000\n";
    bench.write("helm", script);
    let path = bench.path("helm");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let variables = [("LLMDBENCH_CONTROL_HCMD", path.to_str().unwrap())];
    let mut running = bench.start_with(&variables, &["standup", "e.yaml", "-s", "7"]);
    running.wait_for("07_invoke_llm-d-deployer");
    let pid = bench.path("w/pid");
    until("helm at work", || std::fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty()));
    running.signal(Signal::SIGINT);
    running.wait().expect(130).says("interrupted");
    let pid = bench.read("w/pid").trim().parse().unwrap();
    assert!(!acceptance::lives(pid));
    bench.run(&["teardown", "-d"]).expect(0);
    assert_eq!(left(&stand), Vec::<String>::new());
}

#[test]
fn helm_reaches_the_cluster_of_a_token_which_stands_in_no_argument_and_no_file() {
    let Some(stand) = stand("token", "deployer", llm_d) else { return };
    let Some(login) = stand.login("of-a-token") else { return };
    let (bench, name) = (&stand.bench, &stand.namespace);
    let rights = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "of-a-token", "namespace": name}],
    });
    stand.put(vec![rights.clone()]);
    let mut variables = vec![("KUBECONFIG", "/dev/null")];
    variables.extend(login.iter().map(|(name, value)| (*name, value.as_str())));
    let run = |args: &[&str]| bench.run_with(&variables, args);
    run(&["standup", "e.yaml", "-s", "7,8"]).expect(0).says("answers as org/model");
    run(&["teardown"]).expect(0).says("teardown: release");
    stand.remove(&[ObjectRef::of(&rights).unwrap()]);
    assert_eq!(left(&stand), Vec::<String>::new());
    has_no_secrets(bench, variables[2].1);
}
