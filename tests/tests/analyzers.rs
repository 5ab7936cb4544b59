//! Analyzer plugins: what they find stands in every place where people look.

use acceptance::{Bench, Server, plugin};

const LOAD: [&str; 6] = ["--concurrency", "1,2", "--requests", "6", "--output-tokens", "4"];

#[test]
fn what_an_analyzer_finds_is_in_summary_report_tables_charts_and_files() {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "5ms", "--itl", "1ms"]);
    let tail = plugin("example-plugins", "rust-analyzer");
    bench.load(&server, &[&LOAD[..], &["--plugin", &tail]].concat()).expect(0);
    let check = || {
        let summary = bench.summary();
        let metrics = summary["plugins"].as_array().unwrap();
        assert_eq!(metrics.len(), 2, "{metrics:?}");
        assert_eq!(metrics[0]["name"], "slowest");
        assert_eq!(metrics[0]["labels"]["stage"], "concurrency-1");
        let slowest = metrics[0]["value"].as_f64().unwrap();
        let max = summary["stages"][0]["metrics"]["latency"]["max"].as_f64().unwrap();
        assert!((slowest - max).abs() < 0.01, "{slowest} {max}");
        let notes = summary["notes"].as_array().unwrap();
        assert!(notes.iter().any(|note| note["source"] == "tail"), "{notes:?}");
        let report = bench.read("w/analysis/report.html");
        for text in ["<h2>tail</h2>", "Slowest request of each stage", "Slowest request by stage"] {
            assert!(report.contains(text), "no {text}");
        }
        let table = bench.read("w/analysis/data/tail-slowest.csv");
        assert!(table.starts_with("stage,\"latency, ms\"\nconcurrency-1,"), "{table}");
        assert!(bench.path("w/analysis/plots/tail-slowest.png").is_file());
        assert_eq!(bench.read("w/results/tail/stages.txt"), "concurrency-1\nconcurrency-2");
    };
    check();
    // Again from the records: the plan knows which analyzers there were.
    std::fs::remove_dir_all(bench.path("w/analysis")).unwrap();
    bench.run(&["analyze", "w"]).expect(0);
    check();
}

#[test]
fn an_analyzer_can_be_given_or_named_afterwards() {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "5ms", "--itl", "1ms"]);
    bench.load(&server, &LOAD).expect(0);
    assert!(bench.summary().get("plugins").is_none());
    let tail = plugin("example-plugins", "rust-analyzer");
    bench.run(&["analyze", "w", "--plugin", &tail]).expect(0);
    assert_eq!(bench.summary()["plugins"].as_array().unwrap().len(), 2);
    bench.write("e.yaml", format!("analyze: {{plugins: [{tail}]}}\n"));
    let target = ["run", "e.yaml", "--endpoint", &server.url, "--model", "m", "--workdir", "v"];
    bench.run(&[&target[..], &LOAD].concat()).expect(0);
    assert!(bench.path("v/results/tail/stages.txt").is_file());
    bench.write("e.yaml", "analyze: {plugins: [stages]}\n");
    let ended = bench.run(&[&target[..], &LOAD].concat()).expect(2);
    ended.says("the plugin `stages` is no analyzer");
}

#[test]
fn an_analyzer_that_is_gone_is_said_and_the_rest_is_done() {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "5ms", "--itl", "1ms"]);
    let copy = bench.path("mine.wasm");
    std::fs::copy(plugin("example-plugins", "rust-analyzer"), &copy).unwrap();
    bench.load(&server, &[&LOAD[..], &["--plugin", "mine.wasm"]].concat()).expect(0);
    std::fs::remove_file(copy).unwrap();
    let ended = bench.run(&["analyze", "w"]).expect(0);
    ended.says("the analyzer tail is left out: there is no plugin file `mine.wasm`");
    assert!(bench.path("w/analysis/report.html").is_file());
}
