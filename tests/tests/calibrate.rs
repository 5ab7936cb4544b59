//! What the program measures of itself, and what it says of plans and results because of it.

use acceptance::{Bench, Server};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The file of the calibration in a folder.
fn kept(bench: &Bench) -> Option<Value> {
    let is_kept =
        |path: &std::path::PathBuf| path.parent().is_some_and(|p| p.ends_with("calibration"));
    let path = bench.files().into_iter().find(is_kept)?;
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

#[test]
fn a_calibration_has_error_headroom_and_scatter_and_runs_are_set_beside_it() {
    let bench = Bench::new();
    let ended =
        bench.run(&["--output", "json", "calibrate", "--for", "2s", "--runs", "2"]).expect(0);
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(kept(&bench), Some(found.clone()));
    assert_eq!(found["format"], "llmdbench.calibration");
    for metric in ["ttft", "itl"] {
        let error = |name: &str| found["error"][metric][name].as_f64().unwrap();
        // Two clocks never agree to the nanosecond.
        assert!(0.0 < error("e50") && error("e50") <= error("e99"), "{found}");
        assert!(error("e50") < 20.0, "{found}");
    }
    assert!(found["lateness_p99"].as_f64().unwrap() > 0.0, "{found}");
    let floor = found["floor"].as_object().unwrap();
    assert!(floor.contains_key("ttft.p50") && floor.contains_key("request_throughput"), "{found}");
    let scatter = |name: &str| floor[name].as_f64().unwrap();
    assert!(scatter("ttft.p50") > 0.0 && scatter("request_throughput") >= 0.0, "{found}");
    assert_eq!((&found["runs"], found.get("between")), (&json!(2), None), "{found}");
    let headroom = &found["headroom"];
    let [requests, tokens] =
        ["requests_per_s", "tokens_per_s"].map(|name| headroom[name].as_f64().unwrap());
    if requests > 0.0 {
        // The lowest rate is 50 a second, and an answer has 32 tokens.
        assert!(requests > 25.0 && (20.0..40.0).contains(&(tokens / requests)), "{found}");
    } else {
        // A machine with much else to do has none; then it is said what fired.
        assert!(headroom["limit"].as_str().is_some_and(|rule| !rule.is_empty()), "{found}");
    }

    // Whatever this machine can do: now it can do 20 requests a second.
    let mut small = found;
    small["headroom"] = json!({"requests_per_s": 20.0, "tokens_per_s": 1e6, "limit": "thread_cpu"});
    let keep = |found: &Value| {
        let host = found["machine"]["host"].as_str().unwrap();
        bench.write(&format!("data/calibration/{host}.json"), found.to_string());
    };
    keep(&small);
    let server = Server::start(&["--ttft", "20ms", "--itl", "5ms"]);
    let load = |rate: &str| {
        let options = ["--rate", rate, "--duration", "2s", "--output-tokens", "4"];
        let ended = bench.load(&server, &options);
        assert!([0, 7].contains(&ended.code), "{}", ended.output());
        ended
    };
    load("40")
        .says("the plan is out of reach of this machine: stage rate-40 asks for 40 requests/s");
    let summary = bench.summary();
    assert_eq!(summary["calibration"], small);
    let rules = summary["health"]["reasons"].as_array().unwrap();
    let headroom = rules.iter().find(|reason| reason["rule"] == "headroom").unwrap();
    assert_eq!(headroom["verdict"], "note");
    assert!(load("15").says("note: stage rate-15").stdout.contains("resolution: TTFT by "));
    assert!(!load("5").stderr.contains("what this machine can do"));

    // Of another kernel it does not hold.
    small["machine"]["kernel"] = json!("2.4");
    keep(&small);
    let ended = load("40").says("is not used: the kernel was 2.4 and is ");
    assert!(!ended.stderr.contains("out of reach"), "{}", ended.stderr);
}

#[test]
fn a_calibration_that_is_interrupted_keeps_nothing_and_leaves_no_server() {
    let bench = Bench::new();
    let mut running = bench.start(&["calibrate", "--for", "20s"]);
    running.wait_for("errors of times: 50 requests/s");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    running.signal(Signal::SIGINT);
    running.wait().expect(130);
    assert_eq!(kept(&bench), None);
    for child in children.split_whitespace() {
        assert!(!acceptance::lives(child.parse().unwrap()), "{child}");
    }
}

#[test]
fn nobody_is_told_to_calibrate_this_machine_for_load_that_agents_made() {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "5ms", "--itl", "1ms"]);
    bench.load(&server, &["--concurrency", "1", "--requests", "3"]).expect(0);
    let note = || {
        let notes = bench.summary()["notes"].to_string();
        let own = notes.contains("`llmdbench calibrate` measures");
        (own, notes.contains("made by agents in pods, and those are not calibrated"))
    };
    assert_eq!(note(), (true, false));
    // What a run inside a cluster leaves beside its records.
    bench.write("w/results/agents.json", r#"{"job": "j", "namespace": "n", "shards": 1}"#);
    bench.run(&["analyze", "w"]).expect(0);
    assert_eq!(note(), (false, true));
}
