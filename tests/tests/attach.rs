//! What agents of a cluster left in a run folder, merged when they are gone, and not thrown away before; no cluster is
//! needed for that, and none is there.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, Log, Server};
use serde_json::{Value, json};
use std::fs;

/// A run folder as a controller leaves it that could not merge: two agents measured the same load, of the second of which
/// there are `lines` lines of the journal.
fn left(lines: Option<usize>, lost: Option<&str>) -> Bench {
    let server = Server::start(&[]);
    let bench = Bench::new().env("KUBECONFIG", "/nowhere");
    let ended = bench.load(&server, &["--rate", "20", "--requests", "40"]);
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    let journal = bench.read("w/results/records.jsonl");
    let part: Vec<&str> = journal.lines().take(lines.unwrap_or(usize::MAX)).collect();
    bench.write("w/results/agents/0/records.jsonl", &journal);
    bench.write("w/results/agents/1/records.jsonl", part.join("\n") + "\n");
    let ended = json!({"state": "ended", "outcome": {"ends": []}});
    bench.write("w/results/agents/0/collected.json", ended.to_string());
    for file in ["run.json", "server_metrics.jsonl"] {
        let from = bench.path("w/results").join(file);
        fs::rename(from, bench.path("w/results/agents/0").join(file)).unwrap();
    }
    fs::remove_file(bench.path("w/results/records.jsonl")).unwrap();
    fs::remove_dir_all(bench.path("w/analysis")).unwrap();
    let agent = |shard: u32, lost: Option<&str>| {
        json!({"shard": shard, "pod": format!("load-{shard}"), "node": "n", "image": "i", "clock_offset_ms": 0.0,
            "clock_error_ms": 1.0, "reconnected": 0, "lost": lost})
    };
    let record = json!({
        "job": "load", "namespace": "ns", "shards": 2, "is_collected": true, "is_unmerged": true,
        "agents": [agent(0, None), agent(1, lost)],
        "target": bench.json("w/target.json"), "settings": {},
    });
    bench.write("w/results/agents.json", record.to_string());
    bench
}

#[test]
fn what_could_not_be_merged_is_merged_when_it_can_be() {
    let bench = left(None, None);
    let whole = bench.path("w/results/records.jsonl");
    fs::create_dir(&whole).unwrap();
    for _ in 0..2 {
        drop(
            bench.run(&["run", "--attach"]).expect(1).says("cannot merge").says("nothing is lost"),
        );
        let status = bench.run(&["status"]).expect(0);
        assert!(status.stdout.contains("made by agents that are gone"), "{}", status.stdout);
    }
    fs::remove_dir(&whole).unwrap();
    let ended = bench.run(&["run", "--attach"]);
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    assert_eq!(Log::read(&whole).records.len(), 80);
    let summary = bench.summary();
    assert_eq!(summary["partial"], false);
    assert!(bench.path("w/results/server_metrics.jsonl").exists());
    let run: Value = bench.json("w/results/run.json");
    assert_eq!(run["agents"].as_array().unwrap().len(), 2);
    bench.run(&["run", "--attach"]).expect(2).says("no agents of");
}

#[test]
fn a_load_of_which_an_agent_was_lost_is_invalid_and_says_which_share_is_missing() {
    let bench = left(Some(20), Some("its pod load-1 was deleted"));
    let ended = bench.run(&["run", "--attach"]).expect(4);
    let ended = ended.says("agent 1 of 2 was lost: its pod load-1 was deleted");
    assert!(ended.stdout.contains("result: invalid"), "{}", ended.stdout);
    let summary = bench.summary();
    assert_eq!(summary["partial"], true);
    assert_eq!(summary["health"]["verdict"], "invalid");
    let reasons = summary["health"]["reasons"].as_array().unwrap();
    let lost = reasons.iter().find(|reason| reason["rule"] == "not_as_planned").unwrap();
    assert_eq!((&lost["value"], &lost["limit"]), (&json!(0.5), &json!(0.0)));
    assert!(lost["text"].as_str().unwrap().contains("50 %"), "{lost}");
}

#[test]
fn what_agents_have_is_not_taken_down_before_it_is_collected_unless_that_is_asked_for() {
    let bench = left(Some(20), None);
    let standing = json!({"api_version": "batch/v1", "kind": "Job", "namespace": "ns", "name": "load",
        "is_prepared": false});
    let objects = json!({"run": "r", "server": "https://h", "objects": [standing]});
    bench.write("w/setup/objects.json", objects.to_string());
    let mut record = bench.json("w/results/agents.json");
    record["is_collected"] = false.into();
    bench.write("w/results/agents.json", record.to_string());
    drop(bench.run(&["teardown", "-n"]).expect(0).says("what agent 1 of 2 measured"));
    for order in [&["teardown"][..], &["teardown", "-d"]] {
        let refused = bench.run(order).expect(6).says("what agent 1 of 2 measured");
        let refused = refused.says("it would be lost with the Job load in ns");
        refused.says("`llmdbench run --attach --workdir w` collects it").says("--discard-results");
    }
    // There is no cluster, so that nothing is taken down, and nothing given up.
    let ended = bench.run(&["teardown", "--discard-results"]).expect(6);
    assert!(!ended.stderr.contains("given up"), "{}", ended.stderr);
    drop(bench.run(&["teardown"]).expect(6));
    // What is lost already stands in nobody's way.
    record["agents"][1]["lost"] = "its pod load-1 was deleted".into();
    bench.write("w/results/agents.json", record.to_string());
    let ended = bench.run(&["teardown"]).expect(6);
    assert!(!ended.stderr.contains("--attach"), "{}", ended.stderr);
}
