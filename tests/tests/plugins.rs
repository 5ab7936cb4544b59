//! Plugins of other people: used where they are good, refused where they are not, stopped where
//! they misbehave.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, Ended, Server, plugin};
use records::EndReason;
use serde_json::{Value, json};
use std::time::Duration;

fn quick() -> Server {
    Server::start(&["--ttft", "2ms", "--itl", "1ms"])
}

#[test]
fn a_workload_is_used_without_any_further_flag() {
    let server = quick();
    let bench = Bench::new();
    let greetings = plugin("example-plugins", "rust-workload");
    bench
        .run(&[
            "run",
            "--plugin",
            &greetings,
            "--endpoint",
            &server.url,
            "--model",
            "m",
            "--concurrency",
            "2",
            "--requests",
            "50",
        ])
        .expect(0);
    let records = bench.log().records;
    assert_eq!(records.len(), 10, "the workload ends after ten");
    assert!(records.iter().all(|r| r.error.is_none() && r.asked_output_tokens == Some(16)));
    let workload = plugin_of(&bench.json("w/results/run.json"), "workload");
    assert_eq!(workload["name"], "greetings");
    assert_eq!(workload["digest"].as_str().unwrap().len(), 64);
}

#[test]
fn a_harness_is_used_without_any_further_flag() {
    let server = quick();
    let bench = Bench::new();
    let staircase = plugin("example-plugins", "rust-harness");
    bench
        .run(&["run", "--plugin", &staircase, "--endpoint", &server.url, "--model", "m"])
        .expect(0);
    let log = bench.log();
    let stages: Vec<_> =
        log.header.stages.iter().map(|s| (&*s.name, s.concurrency, &*s.labels["users"])).collect();
    let right = [("users-1", Some(1), "1"), ("users-2", Some(2), "2"), ("users-4", Some(4), "4")];
    assert_eq!(stages, right);
    for stage in 0..3 {
        assert_eq!(log.records.iter().filter(|r| r.stage == stage).count(), 20);
    }
}

#[test]
fn a_harness_and_a_workload_are_used_together_and_checked_against_their_schemas() {
    let server = quick();
    let bench = Bench::new();
    let (harness, workload) =
        (plugin("example-plugins", "rust-harness"), plugin("example-plugins", "rust-workload"));
    let both = ["--plugin", &harness, "--plugin", &workload];
    let settings = |text: &str| {
        bench.write("e.yaml", format!("deploy: {{endpoint: '{}', model: m}}\n{text}", server.url));
        bench.run(&[&["run", "e.yaml"][..], &both].concat())
    };
    settings("harness: {settings: {up_to: 1, requests: 3}}\nworkload: {settings: {requests: 6}}\n")
        .expect(0);
    assert_eq!(bench.log().records.len(), 3);
    let ended = settings("harness: {settings: {max_concurrency: 2}}\n").expect(2);
    assert!(ended.stderr.contains("e.yaml:2:"), "{}", ended.stderr);
    assert!(ended.stderr.contains("`up_to`"), "{}", ended.stderr);
    // What only the plugin itself can know.
    let ended = settings("harness: {settings: {up_to: 3}}\n").expect(2);
    for part in ["plugin staircase", "3 is no power of two", "settings.up_to", "take 1, 2, 4"] {
        assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
    }
}

fn plugin_of(run: &Value, kind: &str) -> Value {
    let all = run["plugins"].as_array().unwrap();
    all.iter().find(|used| used["kind"] == kind).unwrap().clone()
}

/// Uses bytes as a plugin.
fn refused(bytes: &[u8], parts: &[&str]) {
    let bench = Bench::new();
    bench.write("x.wasm", bytes);
    for command in [
        &["run", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--requests", "1"][..],
        &["plugin", "inspect", "x.wasm"],
    ] {
        let ended = bench.run(&[&["--plugin", "x.wasm"], command].concat()).expect(2);
        assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
        for part in [&["x.wasm"], parts].concat() {
            assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
        }
        assert!(!bench.path("w").exists(), "nothing was begun");
    }
}

#[test]
fn files_that_are_no_plugin_are_refused_with_one_error_each() {
    let good = std::fs::read(plugin("example-plugins", "rust-workload")).unwrap();
    refused(b"name: no plugin\n", &["text file", "hint"]);
    refused(b"\0asm\x01\0\0\0", &["core WebAssembly module", "hint"]);
    refused(b"\0asm\x0d\0\x01\0", &["no plugin", "manifest"]);
    refused(&good[..good.len() / 2], &["cut off"]);
    refused(&good[..good.len() - 1], &["cut off"]);
    refused(b"", &[]);
    let mut other = good.clone();
    let places: Vec<usize> =
        (0..good.len() - 6).filter(|&at| good[at..].starts_with(b"@0.1.0")).collect();
    assert!(!places.is_empty());
    for at in places {
        other[at..at + 6].copy_from_slice(b"@0.2.0");
    }
    refused(&other, &["version 0.2 of the contract", "speaks 0.1", "hint"]);
}

#[test]
fn a_plugin_of_another_kind_is_refused_with_its_kind() {
    let bench = Bench::new();
    let greetings = plugin("example-plugins", "rust-workload");
    let plan = ["plan", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--requests", "1"];
    let ended = bench
        .run(&[&plan[..], &["--plugin", &greetings, "--harness", "greetings"]].concat())
        .expect(2);
    assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
    for part in ["`greetings` is no harness", "workload"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    let ended = bench.run(&[&plan[..], &["--harness", &greetings]].concat()).expect(2);
    assert!(ended.stderr.contains("is no harness"), "{}", ended.stderr);
    let ended = bench.run(&[&plan[..], &["--plugin", "no/such.wasm"]].concat()).expect(2);
    assert!(ended.stderr.contains("no/such.wasm"), "{}", ended.stderr);
}

/// Runs a workload that misbehaves in this way once it has made 456 sessions, of which at most 256
/// wait to be sent.
fn misbehaving(how: &str) -> (Bench, Ended) {
    let server = quick();
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        format!(
            "deploy: {{endpoint: '{}', model: m}}\n\
             harness: {{plugin: stages, settings: {{stages: [{{rate: 100, for: 60s}}]}}}}\n\
             workload: {{settings: {{how: {how}, after: 8}}}}\n",
            server.url
        ),
    );
    let ended = bench.run(&["run", "e.yaml", "--plugin", &plugin("guests", "misbehave")]);
    (bench, ended)
}

fn check_misbehaviour(how: &str, part: &str) {
    let (bench, ended) = misbehaving(how);
    assert_eq!(ended.code, 4, "{how}: {}", ended.output());
    assert!(ended.took < Duration::from_secs(45), "{how} took {:?}", ended.took);
    for part in ["misbehave", part] {
        assert!(ended.stderr.contains(part), "{how}: no `{part}` in {}", ended.stderr);
    }
    // The guest may take 256 MiB; a machine of many cores needs a hundred more to compile plugins.
    assert!(ended.peak_mib < 450.0, "{how} took {} MiB", ended.peak_mib);
    let log = bench.log();
    assert_eq!(log.end, Some(EndReason::PluginFailed), "{how}");
    let good = log.records.iter().filter(|record| record.error.is_none()).count();
    assert!(good >= 100, "{how}: {good} records");
    let analyzed = bench.run(&["analyze", "w"]);
    assert_eq!(analyzed.code, 4, "{how}: {}", analyzed.output());
    let summary = bench.summary();
    assert_eq!(summary["partial"], json!(true));
    assert_eq!(summary["total"]["succeeded"], json!(good), "{how}");
    assert!(summary["notes"].to_string().contains("a plugin failed"), "{}", summary["notes"]);
}

#[test]
fn a_workload_that_loops_for_ever_is_stopped() {
    check_misbehaviour(
        "loop",
        "misbehave 0.1.0 (workload): `next-batch` did not return within 10 s",
    );
}

#[test]
fn a_workload_that_allocates_without_end_is_stopped() {
    check_misbehaviour("allocate", "memory");
}

#[test]
fn a_workload_that_panics_is_told_with_its_words_and_where() {
    check_misbehaviour("panic", "the workload lost its marbles");
}

#[test]
fn a_workload_that_returns_a_million_sessions_is_stopped() {
    check_misbehaviour("flood", "misbehave 0.1.0 (workload): returned 100000 sessions");
}

#[test]
fn a_workload_that_answers_with_an_error_is_told_with_its_setting_and_hint() {
    check_misbehaviour("refuse", "I would rather not");
}

#[test]
fn a_plugin_that_misbehaves_at_its_first_call_begins_no_run() {
    let server = quick();
    for how in ["panic", "flood", "allocate"] {
        let bench = Bench::new();
        let kinds = [
            (
                "workload",
                "harness: {plugin: stages, settings: {stages: [{requests: 1, concurrency: 1}]}}\n",
            ),
            ("harness", "workload: {plugin: synthetic}\n"),
        ];
        for (kind, other) in kinds {
            bench.write(
                "e.yaml",
                format!(
                    "deploy: {{endpoint: '{}', model: m}}\n{other}{kind}: {{settings: {{how: {how}}}}}\n",
                    server.url
                ),
            );
            let ended = bench.run(&["run", "e.yaml", "--plugin", &plugin("guests", "misbehave")]);
            let ended = ended.expect(2);
            assert_eq!(ended.errors().len(), 1, "{how}: {}", ended.stderr);
            let name = format!("misbehave 0.1.0 ({kind})");
            assert!(ended.stderr.contains(&name), "{how}: {}", ended.stderr);
            assert!(!bench.path("w/results").exists(), "{how} as {kind}");
        }
    }
}

#[test]
fn a_bench_is_torn_down_when_a_plugin_fails() {
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        "deploy: {method: local, model: m, settings: {simulator: {ttft: 2ms, itl: 1ms}}}\n\
         harness: {plugin: stages, settings: {stages: [{rate: 100, for: 60s}]}}\n\
         workload: {settings: {how: panic, after: 8}}\n",
    );
    let ended = bench.run(&["bench", "e.yaml", "--plugin", &plugin("guests", "misbehave")]);
    let ended = ended.expect(4);
    assert!(ended.stderr.contains("teardown: server"), "{}", ended.stderr);
    assert_eq!(bench.standing(), Vec::<i32>::new());
    assert!(bench.path("w/analysis/report.html").is_file(), "what was measured is analysed");
}

#[test]
fn a_permission_that_was_not_granted_is_refused_with_the_words_that_grant_it() {
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        "deploy: {method: local, model: m}\n\
         harness: {settings: {stages: [{rate: 1, for: 1s}]}}\n",
    );
    let local = plugin("plugins", "local");
    // The built-in one needs no grant; the same component from a file does.
    bench.run(&["plan", "e.yaml"]).expect(0);
    let ended = bench.run(&["plan", "e.yaml", "--plugin", &local]).expect(2);
    assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
    for part in ["local", "process=", "--grant"] {
        assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
    }
    let granted = |grants: &[&str]| {
        let plan = ["plan", "e.yaml", "--plugin", &local];
        bench.run(&[&plan[..], grants].concat())
    };
    granted(&["--grant", "process=*"]).expect(2).says("secret=*");
    granted(&["--grant", "process=*", "--grant", "secret=*"]).expect(0);
    // A grant of one program is none of another.
    granted(&["--grant", "process=ollama", "--grant", "secret=*"]).expect(2).says("LLMDBENCH_SELF");
    granted(&["--grant", "teleport=home"]).expect(2).says("teleport=home");
}

#[test]
fn a_file_grants_what_one_build_of_a_plugin_may_do() {
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        "deploy: {method: local, model: m}\n\
         harness: {settings: {stages: [{rate: 1, for: 1s}]}}\n",
    );
    let local = plugin("plugins", "local");
    let granted = |digest: &str, grant: &str| {
        let text = format!("plugins:\n  local:\n    {digest}\n    grant: {grant}\n");
        bench.write("llmdbench.plugins.yaml", text);
        bench.run(&["plan", "e.yaml", "--plugin", &local])
    };
    let facts = bench.run(&["--output", "json", "plugin", "inspect", &local]).expect(0).stdout;
    let facts: Value = serde_json::from_str(&facts).unwrap();
    let digest = facts["sha256"].as_str().unwrap();
    let right = format!("digest: sha256:{digest}");
    let all = "{process: ['*'], secret: ['*']}";
    granted(&right, all).expect(0);
    granted("", all).expect(0);
    let ended = granted(&format!("digest: sha256:{}", "0".repeat(64)), all).expect(2);
    assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
    for part in ["`local`", "not the build", "llmdbench.plugins.yaml", digest] {
        assert!(ended.stderr.contains(part), "no `{part}` in {}", ended.stderr);
    }
    // The file grants no more than it says, and an option adds what is missing.
    granted(&right, "{process: ['*']}").expect(2).says("secret=*");
    bench.run(&["plan", "e.yaml", "--plugin", &local, "--grant", "secret=*"]).expect(0);
    granted(&right, "{process: [ollama], secret: ['*']}").expect(2).says("LLMDBENCH_SELF");
    granted(&right, "{proces: ['*']}").expect(2).says("llmdbench.plugins.yaml:4:");
}
