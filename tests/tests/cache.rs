//! The server's prefix cache: cold, warm or as it is, against the simulated server, whose own counts say
//! what really happened.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, Ended, Reply, Server, Stub};

/// Prompts of 256 tokens, of which four groups share 192.
const EXPERIMENT: &str = "
workload:
  settings: {input_tokens: 64, output_tokens: 2, shared_prefix_tokens: 192, prefix_groups: 4}
";

const REQUESTS: usize = 40;

/// A simulated server with a cache that takes resets so.
fn server(reset: &str) -> Server {
    let delays = ["--ttft", "2ms", "--itl", "1ms"];
    Server::start(&[&delays[..], &["--cache-blocks", "8192", "--cache-reset", reset]].concat())
}

/// A run of its own, one request after the other, with these further options.
#[track_caller]
fn run(server: &Server, options: &[&str]) -> (Bench, Ended) {
    let bench = Bench::new();
    bench.write("e.yaml", EXPERIMENT);
    let requests = REQUESTS.to_string();
    let load = ["--concurrency", "1", "--requests", &requests, "--api", "completions"];
    let args = ["run", "e.yaml", "--endpoint", &server.url, "--model", "m"];
    let ended = bench.run(&[&args[..], &load[..], options].concat());
    // A busy machine may make the client late; here that is beside the point.
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    (bench, ended)
}

/// Cached tokens of each measured request.
fn cached(bench: &Bench) -> Vec<u32> {
    let measured = bench.log().records.into_iter().filter(|record| !record.warmup);
    measured.map(|record| record.cached_tokens.unwrap()).collect()
}

/// The shares of hits expected and reported.
fn hits(bench: &Bench) -> (f64, f64) {
    let view = &bench.summary()["cache"]["stages"][0];
    (view["expected"].as_f64().unwrap(), view["reported"].as_f64().unwrap())
}

fn rules(bench: &Bench) -> Vec<String> {
    let summary = bench.summary();
    let reasons = summary["health"]["reasons"].as_array().unwrap();
    let rules = reasons.iter().map(|reason| reason["rule"].as_str().unwrap().to_owned());
    rules.filter(|rule| rule.starts_with("cache")).collect()
}

#[test]
fn as_is_the_second_run_finds_what_the_first_one_left() {
    let server = server("vllm");
    let (first, _) = run(&server, &[]);
    assert_eq!(first.json("w/results/cache.json")["asked"], "as-is");
    assert_eq!(cached(&first)[0], 0);
    let (expected, reported) = hits(&first);
    // 36 of 40 prompts find 192 of their 256 tokens.
    assert!((expected - 0.675).abs() < 0.03, "{expected}");
    assert!((reported - 0.675).abs() < 0.03, "{reported}");

    let (second, ended) = run(&server, &[]);
    assert!(cached(&second).iter().all(|cached| *cached >= 240), "{:?}", cached(&second));
    assert!(hits(&second).1 > 0.9);
    // It is not what was asked about, so it is told and does not make the run suspect.
    assert_eq!(rules(&second), [""; 0]);
    assert!(ended.output().contains("prefix cache (as-is)"), "{}", ended.output());
    let notes = second.summary()["notes"].to_string();
    assert!(notes.contains("it held prompts of before"), "{notes}");
}

#[test]
fn cold_makes_the_server_forget_before_every_run() {
    for reset in ["vllm", "sglang"] {
        let server = server(reset);
        for _ in 0..2 {
            let (bench, _) = run(&server, &["--cache", "cold"]);
            let state = bench.json("w/results/cache.json");
            assert_eq!(
                state["resets"].as_array().unwrap().last().unwrap()["status"],
                200,
                "{state}"
            );
            assert!(state.get("marker").is_none(), "{state}");
            assert_eq!(cached(&bench)[0], 0, "{reset}");
            let (expected, reported) = hits(&bench);
            assert!((expected - reported).abs() < 0.05, "{expected} {reported}");
            assert_eq!(rules(&bench), [""; 0]);
        }
    }
}

#[test]
fn a_server_that_cannot_forget_gets_prompts_that_are_new_to_it() {
    let server = server("none");
    let mut markers = Vec::new();
    for _ in 0..2 {
        let (bench, _) = run(&server, &["--cache", "cold"]);
        let state = bench.json("w/results/cache.json");
        let statuses: Vec<_> =
            state["resets"].as_array().unwrap().iter().map(|answer| &answer["status"]).collect();
        assert_eq!(statuses, [404, 404]);
        let marker = state["marker"].as_str().unwrap().to_owned();
        assert_eq!(cached(&bench)[0], 0);
        // Within the run, prompts share what they shared.
        let (expected, reported) = hits(&bench);
        assert!(reported > 0.6 && (expected - reported).abs() < 0.05, "{expected} {reported}");
        assert_eq!(rules(&bench), [""; 0]);
        // What the marker adds is accounted for.
        let words = marker.split(' ').count() as u32;
        let records = bench.log().records;
        assert!(records.iter().all(|record| record.input_tokens == Some(256 + words)));
        let notes = bench.summary()["notes"].to_string();
        assert!(notes.contains("meant to have 256.0 tokens and had 262.0"), "{notes}");
        markers.push(marker);
    }
    assert_ne!(markers[0], markers[1]);
}

#[test]
fn a_server_that_says_it_forgot_and_did_not_makes_the_run_suspect() {
    let server = server("ignored");
    let (first, _) = run(&server, &["--cache", "cold"]);
    assert_eq!(rules(&first), [""; 0], "there was nothing to forget");
    let (second, ended) = run(&server, &["--cache", "cold"]);
    assert_eq!(rules(&second), ["cache_not_cold"]);
    assert_ne!(second.summary()["health"]["verdict"], "valid");
    let (expected, reported) = hits(&second);
    let told = |share: f64| format!("{:.1} %", share * 100.0);
    let notes = second.summary()["notes"].to_string();
    assert!(notes.contains(&told(expected)) && notes.contains(&told(reported)), "{notes}");
    let shown = ended.output();
    assert!(shown.contains("`cache: cold` was asked for"), "{shown}");
}

#[test]
fn warm_sends_the_common_beginnings_before_the_load() {
    let server = server("vllm");
    let (bench, _) = run(&server, &["--cache", "warm"]);
    let log = bench.log();
    let warm: Vec<_> = log.records.iter().filter(|record| record.warmup).collect();
    assert_eq!((warm.len(), log.header.stages[0].name.as_str()), (4, "cache-warm-up"));
    assert!(warm.iter().all(|record| record.output_tokens == Some(1)));
    assert_eq!(bench.summary()["excluded"], 4);
    // Every measured prompt finds its beginning, less what the last block does not fill, and no more.
    assert!(
        cached(&bench).iter().all(|cached| (160..=192).contains(cached)),
        "{:?}",
        cached(&bench)
    );
    let (expected, reported) = hits(&bench);
    assert!(expected > 0.7 && (expected - reported).abs() < 0.1, "{expected} {reported}");
    assert_eq!(rules(&bench), [""; 0]);
}

#[test]
fn warm_without_a_cache_is_suspect() {
    let server = Server::start(&["--ttft", "2ms", "--itl", "1ms", "--cache-blocks", "1"]);
    let (bench, _) = run(&server, &["--cache", "warm"]);
    assert_eq!(rules(&bench), ["cache_not_warm"]);
}

#[test]
fn hits_come_from_the_metrics_page_where_answers_have_none() {
    // Answers without `cached_tokens`, as vLLM gives them unless it is told otherwise.
    let asked = std::sync::atomic::AtomicU64::new(0);
    let stub = Stub::start(move |request| {
        use std::sync::atomic::Ordering::Relaxed;
        if request.is_completion() {
            asked.fetch_add(1, Relaxed);
            Reply::tokens(request)
        } else if request.path == "/metrics" {
            let n = asked.load(Relaxed);
            let page = format!(
                "vllm:prefix_cache_queries_total {}\nvllm:prefix_cache_hits_total {}\n",
                n * 100,
                n * 30
            );
            Reply::new(200, "text/plain", page)
        } else {
            Reply::models(&["m"])
        }
    });
    let bench = Bench::new();
    let load = ["--rate", "20", "--duration", "2s", "--cache", "cold"];
    bench.run(&[&["run", "--endpoint", &stub.url, "--model", "m"], &load[..]].concat());
    let view = &bench.summary()["cache"]["stages"][0];
    assert_eq!(view["source"], "metrics", "{view}");
    assert!((view["reported"].as_f64().unwrap() - 0.3).abs() < 1e-9, "{view}");
    // Both resets were tried, with nothing in them.
    let posts: Vec<_> =
        stub.seen().into_iter().filter(|r| r.method == "POST" && !r.is_completion()).collect();
    assert!(posts.iter().any(|request| request.path.starts_with("/reset_prefix_cache")));
}

#[test]
fn a_state_that_there_is_not_is_refused() {
    let bench = Bench::new();
    let args = ["run", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--cache", "icy"];
    bench.run(&args).expect(2).says("one of cold, warm, as-is");
}
