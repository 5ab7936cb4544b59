//! Analyzer plugins: what they find stands in every place where people look.

use acceptance::{Bench, Ended, Server, plugin};
use serde_json::Value;

const LOAD: [&str; 6] = ["--concurrency", "1,2", "--requests", "6", "--output-tokens", "4"];

#[test]
fn what_an_analyzer_finds_is_in_summary_report_tables_charts_and_files() {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "5ms", "--itl", "1ms"]);
    let tail = plugin("example-plugins", "rust-analyzer");
    bench.load(&server, &[&LOAD[..], &["--plugin", &tail]].concat()).expect(0);
    let check = || {
        let summary = bench.summary();
        assert_eq!(summary["plugins"].as_array().map(Vec::len), Some(1));
        let tail = &summary["plugins"][0];
        assert_eq!(tail["name"], "tail");
        let metrics = tail["metrics"].as_array().unwrap();
        assert_eq!(metrics.len(), 2, "{metrics:?}");
        assert_eq!(metrics[0]["name"], "slowest");
        assert_eq!(metrics[0]["better"], "lower");
        assert_eq!(metrics[0]["labels"]["stage"], "concurrency-1");
        assert_eq!(tail["findings"][0]["severity"], "info");
        assert_eq!(tail["findings"][0]["title"], "Slowest request");
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
        let svg = bench.read("w/analysis/plots/tail-slowest.svg");
        assert!(svg.contains("concurrency-1") && svg.contains("latency, ms"), "{svg}");
        let readme = bench.read("w/analysis/plots/README.md");
        assert!(readme.contains("- `tail-slowest.png`, `tail-slowest.svg`: Slowest"), "{readme}");
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
    assert_eq!(bench.summary()["plugins"][0]["metrics"].as_array().unwrap().len(), 2);
    // What is not asked for any more does not stay beside what is.
    let summary = bench.summary();
    let files: Vec<&str> = summary["plugins"][0]["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(files.contains(&"data/tail-slowest.csv") && files.len() > 1, "{files:?}");
    let is_there = |file: &&&str| bench.path("w/analysis").join(file).is_file();
    assert_eq!(files.iter().filter(is_there).count(), files.len());
    bench.run(&["analyze", "w"]).expect(0);
    assert_eq!(files.iter().filter(is_there).count(), 0, "{files:?}");
    assert!(bench.path("w/analysis/data/summary.csv").is_file());
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

/// Runs a load with the analyzer that misjudges in this way, and with a good one.
fn misjudging(seed: &str) -> (Bench, Ended) {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "5ms", "--itl", "1ms"]);
    let (bad, good) = (plugin("guests", "misjudge"), plugin("example-plugins", "rust-analyzer"));
    let plugins = ["--seed", seed, "--plugin", &bad, "--plugin", &good];
    let ended = bench.load(&server, &[&LOAD[..], &plugins].concat());
    (bench, ended)
}

#[test]
fn an_analyzer_that_fails_is_told_and_everything_else_is_there() {
    for (seed, parts) in [
        ("1", &["misjudge 0.1.0 (analyzer)", "the analyzer lost its marbles"][..]),
        ("2", &["misjudge", "I would rather not", "hint: ask somebody else"]),
    ] {
        let (bench, ended) = misjudging(seed);
        let check = |ended: Ended| {
            assert_eq!(ended.errors().len(), 1, "{}", ended.stderr);
            parts.iter().fold(ended.expect(4), |ended, part| ended.says(part));
        };
        check(ended);
        assert_eq!(bench.summary()["total"]["succeeded"], 12);
        assert_eq!(bench.summary()["plugins"].as_array().unwrap().len(), 1);
        assert!(bench.path("w/analysis/plots/tail-slowest.png").is_file());
        assert!(bench.read("w/analysis/report.html").contains("<h2>tail</h2>"));
        // The records are there, so it can be tried again.
        check(bench.run(&["analyze", "w"]));
        check(bench.run(&["report", "w"]));
    }
}

#[test]
fn of_what_an_analyzer_reports_the_good_is_kept_and_the_rest_is_told() {
    let (bench, ended) = misjudging("3");
    let parts = [
        "warning: misjudge: this analyzer misjudges on purpose",
        "made a file `../bad.txt`, which would lie outside of the results",
        "made a file `/bad.txt`, which would lie outside of the results",
        "made a file `records.jsonl`, which is the run's own",
        "gives two tables the name `good`",
        "names a table `../bad`, which is no plain name",
        "names a chart `a/b`, which is no plain name",
    ];
    let ended = parts.iter().fold(ended.expect(4), |ended, part| ended.says(part));
    assert_eq!(ended.errors().len(), 7, "{}", ended.stderr);
    assert_eq!(bench.read("w/results/good.txt"), "by misjudge");
    assert!(!bench.path("w/bad.txt").exists());
    assert_eq!(bench.log().records.len(), 12, "the records are untouched");
    assert_eq!(bench.read("w/analysis/data/misjudge-good.csv"), "a,b\n1,<b>\n,\n");
    for name in ["good", "wild"] {
        let svg = bench.read(&format!("w/analysis/plots/misjudge-{name}.svg"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
    let notes = bench.summary()["notes"].to_string();
    for part in [
        "Nothing here is right",
        "It asked for series (vllm:*)",
        "is not drawn: \\\"group\\\" has not one value for each",
    ] {
        assert!(notes.contains(part), "no `{part}` in {notes}");
    }
    let report = bench.read("w/analysis/report.html");
    assert!(report.contains("&lt;b&gt;") && report.contains("<h2>tail</h2>"));
}

#[test]
fn analyzers_need_the_plan_and_the_records_do_not() {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "5ms", "--itl", "1ms"]);
    bench.load(&server, &LOAD).expect(0);
    std::fs::create_dir(bench.path("away")).unwrap();
    std::fs::rename(bench.path("w/results/records.jsonl"), bench.path("away/records.jsonl"))
        .unwrap();
    let tail = plugin("example-plugins", "rust-analyzer");
    let ended = bench.run(&["analyze", "away", "--plugin", &tail]).expect(0);
    ended.says("warning: analyzers are not run: there is no plan.json beside the records");
    assert!(bench.path("away/analysis/report.html").is_file());
}
