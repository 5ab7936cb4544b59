//! Standup, smoke test and teardown in a real cluster: the one of KUBECONFIG, with the image of LLMDBENCH_TEST_IMAGE in
//! place of vLLM. Without the latter this is skipped.
//!
//! `cargo xtask test --cluster` has both.

use acceptance::Stand;
use serde_json::json;

#[test]
fn a_stack_is_stood_up_in_parts_tested_and_taken_down() {
    let Some(stand) = Stand::new("stack") else { return };
    let stand = stand.env("LLMDBENCH_HF_TOKEN", "hf_good");
    stand.experiment(&json!({"gpu_nr": u8::from(stand.has_gpus())}), &json!({}));
    stand.standup("5").expect(0);
    // Another process goes on in the same folder.
    let ended = stand.standup("6,8").expect(0).says("smoketest: http://vllm-standalone-model.");
    ended.says("answers as org/model");
    let prepared =
        ["Namespace", "ServiceAccount", "Role", "RoleBinding", "Secret", "PersistentVolumeClaim"];
    assert_eq!(stand.kinds(), [&prepared[..], &["Deployment", "Service"]].concat());
    let bench = &stand.bench;
    bench.run(&["smoketest"]).expect(0).says("answers as org/model");
    bench.run(&["status"]).expect(0);
    let ended = bench.run(&["teardown"]).expect(0).says("teardown: Deployment");
    assert!(!ended.stderr.contains("teardown: Namespace"), "{}", ended.stderr);
    assert_eq!(stand.kinds(), prepared);
    bench.run(&["teardown"]).expect(0).says("nothing stands");
    bench.run(&["teardown", "-d"]).expect(0).says("teardown: Namespace");
    assert!(stand.kinds().is_empty());
    bench.run(&["teardown", "-d"]).expect(0).says("nothing stands");
}
