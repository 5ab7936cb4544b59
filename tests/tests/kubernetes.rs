//! Standup, smoke test and teardown in a real cluster: the one of KUBECONFIG, with the image of LLMDBENCH_TEST_IMAGE in
//! place of vLLM. Without the latter this is skipped.
//!
//! `cargo xtask test --cluster` has both.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::Bench;
use serde_json::Value;

/// A stack in a namespace of its own. None: there is no cluster.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn bench(name: &str) -> Option<Bench> {
    let Ok(image) = std::env::var("LLMDBENCH_TEST_IMAGE") else {
        eprintln!("skipped: LLMDBENCH_TEST_IMAGE is not set; `cargo xtask test --cluster` does");
        return None;
    };
    let namespace = format!("llmdbench-{name}-{}", std::process::id());
    let bench = Bench::new().env("LLMDBENCH_HF_TOKEN", "hf_secret_of_the_user");
    bench.write(
        "e.yaml",
        format!(
            r#"
name: {name}
deploy:
  method: standalone
  model: org/model
  settings:
    image: {image}
    wait_timeout: 120
    affinity: ""
    cpu_nr: 1
    gpu_nr: 1
    container_spec:
      readinessProbe: {{initialDelaySeconds: 0, periodSeconds: 1}}
      livenessProbe: {{initialDelaySeconds: 30}}
      resources: {{requests: {{cpu: 10m, memory: 64Mi}}, limits: {{memory: 256Mi}}}}
vllm:
  common:
    namespace: {namespace}
    pvc_name: workload-pvc
    pvc_storage_class: standard
fmperf:
  namespace: {namespace}
  pvc_size: 1Gi
"#
        ),
    );
    Some(bench)
}

/// "Deployment", "Service": what the inventory has.
fn kinds(bench: &Bench) -> Vec<String> {
    let inventory: Value = bench.json("w/setup/objects.json");
    let objects = inventory["objects"].as_array().unwrap().iter();
    objects.map(|object| object["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_stack_is_stood_up_in_parts_tested_and_taken_down() {
    let Some(bench) = bench("stack") else { return };
    bench.run(&["standup", "e.yaml", "-s", "5"]).expect(0);
    // Another process goes on in the same folder.
    let ended = bench.run(&["standup", "e.yaml", "-s", "6,8"]).expect(0);
    let ended = ended.says("smoketest: http://vllm-standalone-model.llmdbench-stack-");
    ended.says("answers as org/model");
    let prepared =
        ["Namespace", "ServiceAccount", "Role", "RoleBinding", "Secret", "PersistentVolumeClaim"];
    assert_eq!(kinds(&bench), [&prepared[..], &["Deployment", "Service"]].concat());
    bench.run(&["smoketest"]).expect(0).says("answers as org/model");
    bench.run(&["status"]).expect(0);
    for path in bench.files() {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        assert!(!text.contains("hf_secret_of_the_user"), "{}", path.display());
    }
    let ended = bench.run(&["teardown"]).expect(0);
    let ended = ended.says("teardown: Deployment");
    assert!(!ended.stderr.contains("teardown: Namespace"), "{}", ended.stderr);
    assert_eq!(kinds(&bench), prepared);
    bench.run(&["teardown"]).expect(0).says("nothing stands");
    bench.run(&["teardown", "-d"]).expect(0).says("teardown: Namespace");
    assert!(kinds(&bench).is_empty());
    bench.run(&["teardown", "-d"]).expect(0).says("nothing stands");
}
