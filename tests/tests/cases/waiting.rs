//! C23: requests that wait in the client for a limit in flight.

use acceptance::{Bench, Server, ms};
use serde_json::Value;

/// Ten requests a second, one at a time, against a server that needs half a second for each.
fn capped(limit: &str) -> (Bench, Value) {
    let bench = Bench::new();
    bench.write(
        "e.yaml",
        format!(
            "deploy: {{model: m}}\n\
             harness: {{settings: {{stages: [{{rate: 10, {limit}: 1, requests: 8}}]}}}}\n\
             workload: {{settings: {{output_tokens: 2}}}}\n"
        ),
    );
    let server = Server::start(&["--ttft", "250ms", "--itl", "250ms"]);
    bench.run(&["run", "e.yaml", "--endpoint", &server.url]).expect(0);
    let summary = bench.summary();
    (bench, summary)
}

fn check(limit: &str) {
    let (bench, summary) = capped(limit);
    let records = bench.log().records;
    assert_eq!(records.len(), 8);
    let begin = records[0].due.unwrap();
    for (i, record) in (0_u64..).zip(&records) {
        assert_eq!(record.due, Some(begin + i * 100_000_000), "request {i} is due at 0.1 i");
        let sent = ms(begin, record.sent.unwrap());
        let right = 500.0 * i as f64;
        assert!((right..right + 250.0).contains(&sent), "request {i} was sent at {sent} ms");
        let latency = ms(record.sent.unwrap(), record.finished);
        assert!((497.0..600.0).contains(&latency), "request {i} took {latency} ms");
    }
    let stage = &summary["stages"][0];
    let mean = |metric: &str| stage["metrics"][metric]["mean"].as_f64().unwrap();
    let near = |name: &str, got: f64, right: f64, more: f64| {
        assert!((right - 5.0..right + more).contains(&got), "{name} is {got}, not {right}");
    };
    near("latency", mean("latency"), 500.0, 60.0);
    near("scheduled latency", mean("scheduled_latency"), 1900.0, 200.0);
    near(
        "largest scheduled latency",
        stage["metrics"]["scheduled_latency"]["max"].as_f64().unwrap(),
        3300.0,
        300.0,
    );
    near("lateness", mean("lateness"), 1400.0, 200.0);
    near("median lateness", stage["metrics"]["lateness"]["p50"].as_f64().unwrap(), 1200.0, 200.0);
    assert_eq!(stage["loop"], "capped");
    let offered = stage["offered_rate"].as_f64().unwrap();
    let achieved = stage["achieved_rate"].as_f64().unwrap();
    assert!((offered - 10.0).abs() < 1.5, "offered {offered}");
    assert!((1.7..2.1).contains(&achieved), "achieved {achieved}");
    assert_eq!(summary["health"]["verdict"], "suspect");
    let reasons = summary["health"]["reasons"].to_string();
    assert!(reasons.contains("limit in flight"), "{reasons}");
    assert!(reasons.contains("not a slow client"), "{reasons}");
}

#[test]
fn c23_sessions_that_wait_for_a_place_keep_their_due_time() {
    check("concurrency");
}

#[test]
fn c23_requests_that_wait_for_a_place_keep_their_due_time() {
    check("max_in_flight");
}

#[test]
fn c23_without_a_limit_nothing_waits() {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "250ms", "--itl", "250ms"]);
    bench
        .load(
            &server,
            &["--rate", "10", "--requests", "8", "--output-tokens", "2", "--input-tokens", "8"],
        )
        .expect(0);
    let stage = bench.summary()["stages"][0].clone();
    assert_eq!(stage["loop"], "open");
    let lateness = stage["metrics"]["lateness"]["max"].as_f64().unwrap();
    assert!((0.0..100.0).contains(&lateness), "{lateness}");
    let records = bench.log().records;
    assert!(records.iter().all(|record| record.sent.unwrap() >= record.due.unwrap()));
}
