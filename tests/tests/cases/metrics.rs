//! C35: a metrics page with several engines, read while load runs.

use acceptance::{Bench, Reply, Server, Stub, root};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[test]
fn c35_engines_are_added_up_and_counts_are_differences() {
    let page = |name: &str| std::fs::read_to_string(root().join("tests/cases").join(name)).unwrap();
    let pages = [page("C35-vllm-t0.prom"), page("C35-vllm-t10.prom")];
    let asked = AtomicUsize::new(0);
    let stub = Stub::start(move |request| {
        if request.is_completion() {
            Reply::tokens(request)
        } else if request.path == "/metrics" {
            // Whether there are any, how it begins, and then how it goes on.
            let page = &pages[usize::from(asked.fetch_add(1, Relaxed) >= 2)];
            Reply::new(200, "text/plain", page.clone())
        } else {
            Reply::models(&["m"])
        }
    });
    let bench = Bench::new();
    let load = ["--rate", "10", "--duration", "1500ms"];
    bench.run(&[&["run", "--endpoint", &stub.url, "--model", "m"], &load[..]].concat()).expect(0);
    let summary = bench.summary();
    let server = &summary["server"][0];
    assert_eq!(server["gauges"]["running"]["last"], 10.0);
    assert_eq!(server["gauges"]["waiting"]["last"], 4.0);
    assert_eq!(server["gauges"]["kv_cache_usage"]["largest"], 0.7);
    assert_eq!(server["totals"]["generation_tokens"]["value"], 2000.0);
    let rate = server["prefix_cache_hit_rate"].as_f64().unwrap();
    assert!((rate - 400.0 / 1500.0).abs() < 1e-9, "{rate}");
    let ttft = &server["histograms"]["ttft"];
    assert_eq!(ttft["n"], 50);
    assert!((ttft["mean"].as_f64().unwrap() - 180.0).abs() < 1e-6, "{ttft}");
    assert!((ttft["percentiles"]["p50"].as_f64().unwrap() - 137.5).abs() < 1e-6, "{ttft}");
    assert!(ttft["percentiles"].get("p90").is_none(), "{ttft}");
    let lines = bench.read("w/results/server_metrics.jsonl");
    assert!(lines.lines().count() >= 3 && !lines.contains("_created"), "{lines}");
    assert!(bench.read("w/analysis/report.html").contains("The server's own view"));
}

#[test]
fn the_servers_own_numbers_stand_beside_ours_and_agree() {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "30ms", "--itl", "2ms", "--cache-blocks", "4096"]);
    let load = ["--concurrency", "2", "--requests", "40", "--output-tokens", "16"];
    bench.load(&server, &load).expect(0);
    let summary = bench.summary();
    let view = &summary["server"][0];
    // The stage is the whole run, so nothing else is in the differences.
    assert_eq!(view["totals"]["generation_tokens"]["value"], 40.0 * 16.0);
    assert_eq!(view["histograms"]["ttft"]["n"], 40);
    let there = view["histograms"]["ttft"]["mean"].as_f64().unwrap();
    let here = summary["total"]["metrics"]["ttft"]["mean"].as_f64().unwrap();
    assert!(there >= 30.0 && here >= there - 1.0, "server {there} ms, here {here} ms");
    // A server without a page, or with another one, has no such part.
    let other = Bench::new();
    let stub = Stub::good();
    let args =
        ["run", "--endpoint", &stub.url, "--model", "m", "--concurrency", "1", "--requests", "3"];
    other.run(&args).expect(0);
    assert!(other.summary().get("server").is_none());
    assert!(!other.path("w/results/server_metrics.jsonl").exists());
}
