//! Accounts of a real cluster: what becomes of one that may do nothing, that those of a namespace are enough, and that
//! in a pod its account is used, with the rights that docs/kubernetes.md says are enough.
//!
//! It needs the cluster of KUBECONFIG, and the image of LLMDBENCH_TEST_IMAGE, without which all is skipped.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Stand, root, until};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The objects that docs/kubernetes.md has a cluster's keeper make for the program in a pod.
fn documented(namespace: &str) -> Vec<Value> {
    let page = std::fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let rest = page.split_once("```yaml\n").unwrap().1;
    let text = rest.split_once("```").unwrap().0.replace("bench-here", namespace);
    Yaml::load_from_str(&text).unwrap().iter().map(plain).collect()
}

fn plain(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Mapping(entries) => entries
            .iter()
            .map(|(key, value)| (key.as_str().unwrap().to_owned(), plain(value)))
            .collect(),
        Yaml::Sequence(items) => items.iter().map(plain).collect(),
        Yaml::Value(Scalar::String(text)) => json!(text),
        other => panic!("{other:?}"),
    }
}

/// What a pod has said as soon as it has said this, or has ended.
fn log_of(stand: &Stand, pod: &str, text: &str) -> String {
    let since = Instant::now();
    loop {
        let log = stand.log(pod);
        if log.contains(text) {
            return log;
        }
        assert!(since.elapsed() < Duration::from_secs(150), "no `{text}` in\n{log}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A stand whose namespace somebody has made.
fn stand(name: &str) -> Option<Stand> {
    let stand = Stand::new(name)?;
    stand.put(vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": stand.namespace}}),
    ]);
    // The namespace's account comes a moment after it.
    until("an account", || !stand.get("v1", "ServiceAccount").is_empty());
    Some(stand)
}

#[test]
fn in_a_pod_its_account_is_used_and_told_which_right_it_lacks() {
    let Some(stand) = stand("inside") else { return };
    let command = "llmdbench standup --method standalone --model org/model -s 5";
    stand.put(vec![stand.pod("controller", command)]);
    let user = format!("User \"system:serviceaccount:{}:default\" cannot get", stand.namespace);
    let log = log_of(&stand, "controller", "error: ");
    assert!(log.contains(&user), "{log}");
}

#[test]
fn in_a_pod_all_of_it_is_done_with_the_rights_that_are_documented() {
    let Some(stand) = stand("pod") else { return };
    stand.put(documented(&stand.namespace));
    stand.experiment(
        &json!({}),
        &json!({
            "harness": {"settings": {"stages": [{"rate": 20, "requests": 60}]}},
            "workload": {"settings": {"input_tokens": 32, "output_tokens": 8}},
        }),
    );
    stand.put(vec![json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "experiment"},
        "data": {"e.yaml": stand.bench.read("e.yaml")},
    })]);
    // Nothing but the account leads to the cluster: there is no kubeconfig in the image.
    let steps = if stand.has_hub() { "3-8" } else { "5-8" };
    let command = format!(
        "env | grep -c KUBECONFIG; cd /tmp
         llmdbench standup /e/e.yaml --workdir w -s {steps}; echo standup $?
         llmdbench run /e/e.yaml --workdir w -j 2; echo run $?
         cat w/analysis/data/summary.json w/environment/context.ctx w/environment/cluster.json
         cat w/results/agents/events.json
         llmdbench teardown --workdir w -d; echo teardown $?"
    );
    let mut pod = stand.pod("controller", &command);
    let spec = &mut pod["spec"];
    spec["serviceAccountName"] = json!("llmdbench");
    spec["containers"][0]["volumeMounts"] = json!([{"name": "experiment", "mountPath": "/e"}]);
    spec["volumes"] = json!([{"name": "experiment", "configMap": {"name": "experiment"}}]);
    stand.put(vec![pod]);
    let log = log_of(&stand, "controller", "\nteardown ");
    assert!(log.starts_with("0\n"), "{log}");
    assert!(log.contains("\nstandup 0\n") && log.contains("\nteardown 0\n"), "{log}");
    // A machine with much else to do may be too slow for a verdict that is good.
    assert!(log.contains("\nrun 0\n") || log.contains("\nrun 7\n"), "{log}");
    assert!(log.contains("\"sent\": 60") && log.contains("\"failed\": 0"), "{log}");
    assert!(log.contains("2 agents in") && log.contains("SuccessfulCreate"), "{log}");
    // Nodes belong to nobody's namespace: that they may not be seen is named, and hinders nothing.
    assert!(log.contains("cannot get resource \\\"nodes\\\""), "{log}");
    let kinds = ["Deployment", "Job", "Service", "PersistentVolumeClaim", "Secret"];
    let versions = ["apps/v1", "batch/v1", "v1", "v1", "v1"];
    for (kind, version) in kinds.iter().zip(versions) {
        assert_eq!(stand.get(version, kind), Vec::<Value>::new(), "{kind}");
    }
    assert!(stand.has_namespace());
    // Others are none of its business.
    for (verb, group, resource) in [
        ("create", "", "pods"),
        ("delete", "", "pods"),
        ("create", "", "namespaces"),
        ("delete", "", "namespaces"),
        ("get", "", "nodes"),
        ("escalate", "rbac.authorization.k8s.io", "roles"),
        ("bind", "rbac.authorization.k8s.io", "roles"),
        ("impersonate", "", "serviceaccounts"),
    ] {
        assert!(!stand.may("llmdbench", verb, group, resource), "{verb} {resource}");
    }
}

#[test]
fn an_account_without_rights_is_told_which_it_lacks() {
    let Some(stand) = Stand::new("rights") else { return };
    let Some(login) = stand.login("nobody") else { return };
    let token = login[1].1.clone();
    let mut nobody = stand.again().env("LLMDBENCH_HF_TOKEN", "hf_good");
    for (name, value) in &login {
        nobody = nobody.env(name, value);
    }
    nobody.experiment(&json!({}), &json!({}));
    let ended = nobody.standup("5,6").expect(3);
    let user = format!("User \"system:serviceaccount:{}:nobody\"", stand.namespace);
    let ended = ended.says(&user).says("cannot get resource \"namespaces\"");
    let ended = ended.says("kubectl auth can-i --list");
    assert!(ended.took < Duration::from_secs(60), "{:?}", ended.took);
    for file in nobody.bench.files() {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        assert!(!text.contains(&token), "{}", file.display());
    }
    nobody.bench.run(&["teardown", "-d"]).expect(0);
}

#[test]
fn rights_in_the_namespace_alone_are_enough_where_somebody_has_made_it() {
    let Some(stand) = Stand::new("local") else { return };
    let Some(login) = stand.login("local-admin") else { return };
    let subject =
        json!({"kind": "ServiceAccount", "name": "local-admin", "namespace": stand.namespace});
    stand.put(vec![json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "local-admin"}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
    })]);
    let mut local = stand.again().env("LLMDBENCH_HF_TOKEN", "hf_good");
    for (name, value) in &login {
        local = local.env(name, value);
    }
    local.experiment(&json!({}), &json!({}));
    local.standup("5,6,8").expect(0).says("there already, and not of llmdbench: used as it is");
    // What may not be seen is named.
    let missing = local.bench.json("w/environment/cluster.json")["missing"].to_string();
    assert!(missing.contains("cannot get resource \\\"nodes\\\""), "{missing}");
    let run = local.run();
    local.bench.run(&["teardown", "-d"]).expect(0);
    assert_eq!(local.of_run(&run), []);
    assert!(local.has_namespace() && local.get("v1", "PersistentVolumeClaim").is_empty());
}
