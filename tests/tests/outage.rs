//! A cluster whose API server goes away while load is made inside it, and in which an API is not available. It stands
//! alone, since nothing else works meanwhile, and needs the cluster of `tests/cluster`, whose parts it can stop.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Log, Stand, root};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

fn cluster(order: &str) {
    let script = root().join("tests/cluster/cluster");
    let ended = Command::new(script).args([order, "apiserver"]).output().unwrap();
    assert!(ended.status.success(), "{order}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// The API server is away; it is started again, whatever happens.
struct Outage;

impl Outage {
    /// Begins as soon as the first agent's records come into this folder.
    fn once_load_is_made(stand: &Stand, results: &str) -> Self {
        let journal = stand.bench.path(&format!("{results}/agents/0/records.jsonl"));
        let since = Instant::now();
        while !std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"id\"")) {
            assert!(since.elapsed() < Duration::from_secs(90), "no record comes");
            std::thread::sleep(Duration::from_millis(50));
        }
        cluster("stop");
        Self
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        cluster("start");
    }
}

#[test]
fn no_record_is_lost_while_the_api_server_is_away() {
    let Some(stand) = Stand::new("outage").and_then(Stand::with_parts) else { return };
    let stand = stand.env("LLMDBENCH_HF_TOKEN", "hf_good");
    stand.experiment(
        &json!({}),
        &json!({
            "harness": {"settings": {"stages": [{"rate": 20, "for": "12s"}, {"rate": 30, "for": "8s"}]}},
            "workload": {"settings": {"input_tokens": 32, "output_tokens": 8}},
        }),
    );
    stand.standup("5-8").expect(0);
    let running = stand.bench.start(&["run", "e.yaml", "-j", "2"]);
    let outage = Outage::once_load_is_made(&stand, "w/results");
    std::thread::sleep(Duration::from_secs(20));
    drop(outage);
    let ended = running.wait();
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    let log = Log::read(&stand.bench.path("w/results/records.jsonl"));
    assert_eq!(log.records.len(), 12 * 20 + 8 * 30);
    assert_eq!(stand.bench.summary()["partial"], false);
    let agents: Value = stand.bench.json("w/results/agents.json");
    let broke = |agent: &Value| agent["reconnected"].as_u64().unwrap() > 0;
    assert!(agents["agents"].as_array().unwrap().iter().all(broke), "{agents}");

    // Who is interrupted meanwhile is heard as soon as somebody answers again.
    let running = stand.bench.start(&["run", "e.yaml", "--rate", "20", "--duration", "120s"]);
    let outage = Outage::once_load_is_made(&stand, "w/results/2");
    running.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_secs(2));
    drop(outage);
    drop(running.wait().expect(130).says("what was measured is kept"));
    let log = Log::read(&stand.bench.path("w/results/2/records.jsonl"));
    assert!((1..120 * 20).contains(&log.records.len()), "{}", log.records.len());

    // Somebody's API that is not available keeps nothing of the run, but nobody can say whose objects it has.
    let run = stand.run();
    let broken = stand.break_api();
    let warning = format!("the API {} is not available", broken.name());
    stand.bench.run(&["teardown"]).expect(0).says("teardown: Deployment").says(&warning);
    assert_eq!(stand.of_run(&run), []);
    let ended = stand.bench.run(&["teardown", "-d"]).expect(0);
    ended.says("stays, for what others have there could not be seen").says(&warning);
    assert!(stand.has_namespace() && stand.get("v1", "PersistentVolumeClaim").is_empty());
    drop(broken);
    stand.bench.run(&["teardown", "-d"]).expect(0).says("teardown: Namespace");
    assert!(!stand.has_namespace());
}
