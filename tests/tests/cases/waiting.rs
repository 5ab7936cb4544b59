//! C23: requests that wait in the client for a limit in flight.

use acceptance::{Bench, Ended, Server, ms};

/// Ten requests a second, one at a time, against a server that needs half a second for each.
fn capped(limit: &str) -> (Bench, Ended) {
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
    let ended = bench.run(&["run", "e.yaml", "--endpoint", &server.url]).expect(0);
    (bench, ended)
}

/// How late things may be on a busy machine, in milliseconds. What has waited for others may be
/// late by what they were, too.
const LATE: f64 = 15.0;

/// Whether nothing was late, the load generator neither; nothing may ever be early.
fn is_in_time(bench: &Bench, ended: &Ended) -> bool {
    let records = bench.log().records;
    assert_eq!(records.len(), 8);
    let begin = records[0].due.unwrap();
    let mut in_time = ended.code == 0;
    for (i, record) in (0_u64..).zip(&records) {
        assert_eq!(record.due, Some(begin + i * 100_000_000), "request {i} is due at 0.1 i");
        let mut check = |what: &str, got: f64, right: f64, waited: u64| {
            assert!(got >= right, "request {i}: {what} is {got} ms, before {right} ms");
            in_time &= got < right + LATE * (waited + 1) as f64;
        };
        check("sent", ms(begin, record.sent.unwrap()), 500.0 * i as f64, i);
        check("latency", ms(record.sent.unwrap(), record.finished), 500.0, 0);
    }
    let metrics = &bench.summary()["stages"][0]["metrics"];
    // Means over the eight; the last one has waited for seven.
    for (metric, of, right, waited) in [
        ("latency", "mean", 500.0, 0.0),
        ("scheduled_latency", "mean", 1900.0, 3.5),
        ("scheduled_latency", "max", 3300.0, 7.0),
        ("lateness", "mean", 1400.0, 3.5),
        ("lateness", "p50", 1200.0, 3.0),
    ] {
        let got = metrics[metric][of].as_f64().unwrap();
        assert!(got > right - 0.001, "{metric} {of} is {got}, not {right}");
        in_time &= got < right + LATE * (waited + 1.0);
    }
    in_time
}

fn check(limit: &str) {
    let (bench, _) = (0..5)
        .map(|_| capped(limit))
        .find(|(bench, ended)| is_in_time(bench, ended))
        .expect("one of five runs is in time");
    let summary = bench.summary();
    let stage = &summary["stages"][0];
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
    let lateness = || {
        let bench = Bench::new();
        let server = Server::start(&["--ttft", "250ms", "--itl", "250ms"]);
        let load = ["--rate", "10", "--requests", "8"];
        let lengths = ["--output-tokens", "2", "--input-tokens", "8"];
        bench.load(&server, &[load, lengths].concat()).expect(0);
        let stage = bench.summary()["stages"][0].clone();
        assert_eq!(stage["loop"], "open");
        let records = bench.log().records;
        assert!(records.iter().all(|record| record.sent.unwrap() >= record.due.unwrap()));
        let lateness = stage["metrics"]["lateness"]["max"].as_f64().unwrap();
        assert!(lateness >= 0.0, "{lateness}");
        lateness
    };
    let is_in_time = (0..3).any(|_| lateness() < 100.0);
    assert!(is_in_time, "in each of three runs something was late");
}
