//! Standup, smoke test and teardown in a real cluster: the one of KUBECONFIG, with the image of LLMDBENCH_TEST_IMAGE in
//! place of vLLM. Without the latter this is skipped.
//!
//! `cargo xtask test --cluster` has both.

use acceptance::Stand;
use serde_json::json;

/// The pod was asked first, and then the Service by this way.
#[track_caller]
fn asked(stand: &Stand, way: &str) {
    let asked = stand.asked("w");
    let [(pod, port), (service, via)] = &asked[..] else { panic!("{asked:?}") };
    assert!(pod.starts_with("pod ") && port.starts_with("a forwarded port to pod "), "{asked:?}");
    assert!(service.starts_with("http://") && via.contains(way), "{asked:?}");
}

#[test]
fn a_stack_is_stood_up_in_parts_tested_and_taken_down() {
    let Some(stand) = Stand::new("stack") else { return };
    let stand = stand.env("LLMDBENCH_HF_TOKEN", "hf_good");
    stand.experiment(&json!({"gpu_nr": u8::from(stand.has_gpus())}), &json!({}));
    stand.standup("5").expect(0);
    // Another process goes on in the same folder.
    let service = format!(
        "smoketest: http://vllm-standalone-model.{}.svc.cluster.local answers as org/model, asked by pod {}/smoketest-",
        stand.namespace, stand.namespace,
    );
    stand.standup("6,8").expect(0).says(&service);
    asked(&stand, "inside the cluster");
    let prepared =
        ["Namespace", "ServiceAccount", "Role", "RoleBinding", "Secret", "PersistentVolumeClaim"];
    assert_eq!(stand.kinds(), [&prepared[..], &["Deployment", "Service"]].concat());
    let bench = &stand.bench;
    assert!(stand.get("batch/v1", "Job").is_empty());
    bench.run(&["smoketest"]).expect(0).says(&service);
    // Where load is made from here, nothing is asked from inside, and that is said.
    let here = [("LLMDBENCH_LOAD_FROM", "here")];
    let through = format!("through a forwarded port to pod {}/vllm-", stand.namespace);
    bench.run_with(&here, &["smoketest"]).expect(0).says(&through);
    asked(&stand, "a forwarded port to pod ");
    // What keeps the pod from coming up is told as of agents, and nothing of it stays.
    let useless = json!({"containers": [
        {"name": "agent", "image": stand.image(), "command": ["/bin/sh", "-c", "echo of no use; exit 9"]},
    ]})
    .to_string();
    let useless = [("LLMDBENCH_LOAD_POD_SPEC", useless.as_str())];
    let ended = bench.run_with(&useless, &["smoketest"]).expect(3);
    ended.says("cannot come up").says("LLMDBENCH_LOAD_FROM=here");
    assert!(stand.get("batch/v1", "Job").is_empty());
    let is_log = |path: &std::path::PathBuf| path.to_string_lossy().contains("/logs/smoketest-");
    let log = bench.files().into_iter().find(is_log).expect("what the pod said");
    assert_eq!(std::fs::read_to_string(log).expect("a text"), "of no use\n");
    bench.run(&["status"]).expect(0);
    let ended = bench.run(&["teardown"]).expect(0).says("teardown: Deployment");
    assert!(!ended.stderr.contains("teardown: Namespace"), "{}", ended.stderr);
    assert_eq!(stand.kinds(), prepared);
    bench.run(&["teardown"]).expect(0).says("nothing stands");
    bench.run(&["teardown", "-d"]).expect(0).says("teardown: Namespace");
    assert!(stand.kinds().is_empty());
    bench.run(&["teardown", "-d"]).expect(0).says("nothing stands");
}
