//! A real inference server: llama.cpp with a tiny model, stood up, loaded and torn down.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, Heard, Log, Relay, metric, ms, root};
use records::Record;
use serde_json::Value;
use std::collections::BTreeMap;

const EXPERIMENT: &str = "examples/experiments/llama-cpp.yaml";

/// Records' sums of input and output tokens.
#[track_caller]
fn sums(log: &Log) -> (f64, f64) {
    assert!(log.records.len() >= 32, "{} requests", log.records.len());
    for record in &log.records {
        assert_eq!(record.error, None, "{record:?}");
    }
    let sum = |count: fn(&records::Record) -> Option<u32>| {
        log.records.iter().map(|record| f64::from(count(record).unwrap())).sum()
    };
    (sum(|record| record.input_tokens), sum(|record| record.output_tokens))
}

#[test]
fn the_servers_own_counters_agree_with_the_records() {
    let bench = Bench::new();
    let file = root().join(EXPERIMENT).display().to_string();
    bench.run(&["standup", &file]).expect(0);
    let target = bench.json("w/target.json");
    let url = target["endpoints"][0].as_str().unwrap();
    let counters = || {
        (
            metric(url, "llamacpp:prompt_tokens_total"),
            metric(url, "llamacpp:tokens_predicted_total"),
        )
    };
    // The smoke test has been counted by now.
    let before = counters();
    let ended = bench.run(&["run", &file]);
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    let after = counters();
    let (input, output) = sums(&bench.log());
    assert_eq!(after.0 - before.0, input, "prompt tokens");
    assert_eq!(after.1 - before.1, output, "output tokens");
    let summary = bench.summary();
    assert_eq!(summary["total"]["failed"], 0);
    assert_eq!(summary["total"]["usage"]["server"], summary["total"]["succeeded"]);
    bench.run(&["teardown"]).expect(0);
    assert_eq!(bench.standing(), Vec::<i32>::new());
}

/// The server's own `timings` of each request of the load, by number: requests of a connection and
/// their answers come in the same order.
fn timings(heard: &[Heard]) -> BTreeMap<u64, Value> {
    let mut all = BTreeMap::new();
    for Heard { asked, answered } in heard {
        let (asked, answered) = [asked, answered].map(|b| String::from_utf8_lossy(b)).into();
        let ids = asked.split("\r\nx-request-id: llmdbench-").skip(1).map(|rest| {
            let line = rest.split("\r\n").next().unwrap();
            line.rsplit('-').next().unwrap().parse().unwrap()
        });
        let timings = answered.split("\"timings\":").skip(1).map(|rest| {
            serde_json::Deserializer::from_str(rest).into_iter::<Value>().next().unwrap().unwrap()
        });
        let (ids, timings): (Vec<u64>, Vec<Value>) = (ids.collect(), timings.collect());
        // The server closes connections that it called kept; the last request then is sent again
        // over another one.
        if !ids.is_empty() {
            assert!((1..=ids.len()).contains(&timings.len()), "an answer has one `timings`");
            all.extend(ids.into_iter().zip(timings));
        }
    }
    all
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn the_servers_own_timings_agree_with_each_record() {
    const LATE: f64 = 15.0;
    let bench = Bench::new();
    let file = root().join(EXPERIMENT).display().to_string();
    bench.run(&["standup", &file]).expect(0);
    let url = bench.json("w/target.json")["endpoints"][0].as_str().unwrap().to_owned();
    let counters = || {
        [
            "prompt_tokens_total",
            "tokens_predicted_total",
            "prompt_seconds_total",
            "tokens_predicted_seconds_total",
        ]
        .map(|name| metric(&url, &format!("llamacpp:{name}")))
    };
    for api in ["chat", "completions"] {
        let mut latest = (f64::INFINITY, f64::INFINITY);
        for _ in 0..5 {
            let relay = Relay::start(&url);
            let run = Bench::new();
            let before = counters();
            let load = ["--endpoint", &relay.url, "--model", "tiny", "--api", api];
            let lengths = ["--input-tokens", "100", "--output-tokens", "24"];
            let stage = ["--concurrency", "1", "--requests", "16"];
            let ended = run.run(&[&["run"], &load[..], &lengths, &stage].concat());
            assert!([0, 7].contains(&ended.code), "{}", ended.output());
            let after = counters();
            let timings = timings(&relay.heard());
            let records = run.log().records;
            assert_eq!((records.len(), timings.len()), (16, 16));

            let (mut first, mut span) = (Vec::new(), Vec::new());
            let own = |record: &Record, name: &str| timings[&record.id][name].as_f64().unwrap();
            for record in &records {
                let counts =
                    [record.input_tokens, record.output_tokens].map(|n| f64::from(n.unwrap()));
                assert_eq!(
                    counts,
                    ["prompt_n", "predicted_n"].map(|n| own(record, n)),
                    "{record:?}"
                );
                let last = *record.tokens.last().unwrap();
                let ttft = ms(record.sent.unwrap(), record.tokens[0]);
                let (prompt, predicted) = (own(record, "prompt_ms"), own(record, "predicted_ms"));
                assert!(
                    ttft >= prompt,
                    "TTFT {ttft} ms, but {prompt} ms for the prompt: {record:?}"
                );
                first.push(ttft - prompt);
                span.push((ms(record.tokens[0], last) - predicted).abs());
            }
            // The counters are the sums of the same times, in seconds.
            let sum = |name: &str| records.iter().map(|record| own(record, name)).sum::<f64>();
            let grown: Vec<f64> =
                after.iter().zip(before).map(|(after, before)| after - before).collect();
            let tokens = [sum("prompt_n"), sum("predicted_n")];
            assert_eq!(grown[..2], tokens, "{api}: counters, and the records' sums");
            let seconds = [sum("prompt_ms") / 1e3, sum("predicted_ms") / 1e3];
            for (grown, sum) in grown[2..].iter().zip(seconds) {
                assert!((grown - sum).abs() < 0.01, "{api}: {grown} s, but {sum} s in all");
            }
            latest = (median(first), median(span));
            if latest.0 < LATE && latest.1 < LATE {
                break;
            }
        }
        assert!(
            latest.0 < LATE && latest.1 < LATE,
            "{api}: medians {latest:?} ms off in the best of five"
        );
    }
    bench.run(&["teardown"]).expect(0);
}

#[test]
fn a_workload_profile_of_the_original_runs_against_a_real_server() {
    let bench = Bench::new();
    let file = root().join("examples/experiments/short-input.yaml").display().to_string();
    let ended = bench.run(&["bench", &file]);
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    for path in [
        "environment/variables",
        "setup/commands",
        "workload/profiles/sanity_short-input.yaml",
        "workload/harnesses",
        "analysis/data/stats.txt",
        "analysis/plots/README.md",
        "analysis/plots/latency_analysis.png",
        "analysis/plots/throughput_analysis.png",
    ] {
        assert!(bench.path("w").join(path).exists(), "no {path}");
    }
    let csv = bench.read("w/results/LMBench_short_input_qps0.5.csv");
    // Half a request a second, for 30 s.
    assert_eq!(csv.lines().count(), 1 + 15, "{csv}");
    let first: Vec<&str> = csv.lines().nth(1).unwrap().split(',').collect();
    assert_eq!(first[1], "32", "{csv}");
    let log = Log::read(&bench.path("w/results/records.jsonl"));
    let measured = log.records.iter().filter(|record| !record.warmup);
    let tokens: u32 = measured.map(|record| record.input_tokens.unwrap()).sum();
    let rows = csv.lines().skip(1).map(|line| line.split(',').next().unwrap());
    assert_eq!(rows.map(|count| count.parse::<u32>().unwrap()).sum::<u32>(), tokens);
    assert_eq!(bench.standing(), Vec::<i32>::new());
}

#[test]
fn bench_does_it_all_with_a_real_server() {
    let bench = Bench::new();
    let file = root().join(EXPERIMENT).display().to_string();
    let ended = bench.run(&["bench", &file]);
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    let (input, output) = sums(&bench.log());
    assert!(input > 1000.0 && output > 1000.0, "{input} {output}");
    assert_eq!(bench.standing(), Vec::<i32>::new());
    assert!(bench.path("w/analysis/report.html").is_file());
}

#[test]
fn a_cold_cache_is_had_of_a_real_server_that_cannot_forget() {
    let bench = Bench::new();
    let serve = root().join("tests/llama/serve");
    bench.write(
        "e.yaml",
        format!(
            "deploy:
  method: local
  model: tiny
  settings:
    command: [{}, --port, $(LLMDBENCH_PORT), --model, tiny, --slots, '1', --prompt-cache]
    ready_path: /health
    ready_timeout: 5m
target: {{api: completions}}
harness:
  settings: {{stages: [{{concurrency: 1, requests: 12}}]}}
workload:
  settings: {{input_tokens: 64, output_tokens: 2, shared_prefix_tokens: 192}}
",
            serve.display()
        ),
    );
    bench.run(&["standup", "e.yaml"]).expect(0);
    let run = |n: usize, cache: &str| {
        let ended = bench.run(&["run", "e.yaml", "--cache", cache]);
        assert!([0, 7].contains(&ended.code), "{}", ended.output());
        let within =
            |folder: &str| if n == 1 { folder.to_owned() } else { format!("{folder}/{n}") };
        let log = Log::read(&bench.path(&format!("w/{}/records.jsonl", within("results"))));
        let summary = bench.json(&format!("w/{}/data/summary.json", within("analysis")));
        let first =
            log.records.iter().find(|record| !record.warmup).unwrap().cached_tokens.unwrap();
        let share = |value: &serde_json::Value| value.as_f64().unwrap();
        let view = &summary["cache"]["stages"][0];
        let [expected, reported] = ["expected", "reported"].map(|name| share(&view[name]));
        // Answers and counters agree where nothing else lies between two readings of the counters.
        let counted = share(&summary["server"][0]["prefix_cache_hit_rate"]);
        assert!(cache == "warm" || (counted - reported).abs() < 0.02, "{counted} {reported}");
        (first, expected, reported)
    };
    let (first, expected, reported) = run(1, "as-is");
    assert!(first < 16 && (expected - reported).abs() < 0.1, "{first} {expected} {reported}");
    let (first, ..) = run(2, "as-is");
    assert!(first > 180, "{first}: what the first run left");
    for n in [3, 4] {
        let (first, expected, reported) = run(n, "cold");
        assert!(first < 16 && (expected - reported).abs() < 0.1, "{first} {expected} {reported}");
    }
    let (first, ..) = run(5, "warm");
    assert!(first > 180, "{first}: sent before the load");
    bench.run(&["teardown"]).expect(0);
    assert_eq!(bench.standing(), Vec::<i32>::new());
}
