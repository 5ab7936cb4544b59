//! Results that the original left: statistics and pictures of its CSV files.

use acceptance::{Bench, root};
use std::collections::BTreeMap;
use std::process::Command;

/// Copies published results into a folder of the bench.
fn bring(bench: &Bench, folder: &str, which: &dyn Fn(&str) -> bool) {
    for entry in std::fs::read_dir(root().join("tests/lmbench/data")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".csv") && which(&name) {
            bench.write(&format!("{folder}/{name}"), std::fs::read(&path).unwrap());
        }
    }
}

/// The numbers of a line of `stats.txt` that begins with this word.
fn numbers(stats: &str, word: &str) -> Vec<String> {
    let found = stats.lines().find(|line| line.split_whitespace().next() == Some(word));
    let line = found.unwrap_or_else(|| panic!("no line {word} in\n{stats}"));
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn short_input_has_the_numbers_of_the_originals_statistics() {
    let bench = Bench::new();
    bring(&bench, "results", &|name| name.contains("short_input"));
    let ended = bench.run(&["analyze", "results"]).expect(0);
    let stats = bench.read("analysis/data/stats.txt");
    assert_eq!(ended.stdout.trim(), stats.trim());
    for line in [
        "Benchmark Statistics:",
        "Overall Statistics:",
        "Total number of requests: 683",
        "Number of unique users: 503",
        "Number of QPS levels tested: 3",
        "Per QPS Statistics:",
        "Token Statistics:",
    ] {
        assert!(stats.lines().any(|other| other == line), "no `{line}` in\n{stats}");
    }
    // Mean, deviation and least of the TTFT; largest generation time; mean tokens.
    let check = |rate: &str, ttft: [&str; 3], rest: [&str; 3]| {
        let found = numbers(&stats, rate);
        assert_eq!(found.len(), 10, "{found:?}");
        assert_eq!(found[..3], ttft, "{rate}");
        assert_eq!(found[7..], rest, "{rate}");
    };
    check("0.5", ["0.0850", "0.0133", "0.0659"], ["0.9479", "75.0000", "20.0000"]);
    check("1.0", ["0.0811", "0.0098", "0.0661"], ["0.9395", "75.0000", "20.0000"]);
    check("5.0", ["0.1066", "0.0339", "0.0652"], ["1.4375", "92.7681", "20.0000"]);
    assert_eq!(numbers(&stats, "mean"), ["88.6837", "20.0000"]);
    assert_eq!(numbers(&stats, "std"), ["21.7442", "0.0000"]);
    assert_eq!(numbers(&stats, "max"), ["125.0000", "20.0000"]);
}

#[test]
fn every_number_agrees_with_an_independent_computation() {
    // Part of the files' names.
    for (name, part) in [("all", ""), ("sharegpt", "sharegpt"), ("one", "_1.34")] {
        let bench = Bench::new();
        // Nested, as a copy of several runs would be.
        bring(&bench, "copied/some/results", &|file| file.contains(part));
        bench.run(&["analyze", "copied"]).expect(0);
        let file = bench.path("copied/analysis/data/stats.txt");
        let check = Command::new("python3")
            .arg(root().join("tests/lmbench/check.py"))
            .args([bench.path("copied"), file])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&check.stderr));
        insta::assert_snapshot!(
            format!("stats_{name}"),
            bench.read("copied/analysis/data/stats.txt")
        );
    }
}

#[test]
fn pictures_stand_beside_the_results_with_their_meaning() {
    let bench = Bench::new();
    bring(&bench, "results", &|_| true);
    bench.write("results/LMBench_short_input_qps9.csv", "prompt_tokens,ttft\n1,fast\n");
    let ended = bench.run(&["analyze", "results"]).expect(0);
    ended.says(
        "LMBench_short_input_qps9.csv is left out: its header has no column `generation_tokens`",
    );
    let readme = bench.read("analysis/plots/README.md");
    let sizes: BTreeMap<&str, (u32, u32)> = BTreeMap::from([
        ("latency_analysis.png", (2700, 1800)),
        ("throughput_analysis.png", (2700, 750)),
    ]);
    for (file, size) in sizes {
        assert!(readme.contains(file), "{readme}");
        let png = std::fs::read(bench.path(&format!("analysis/plots/{file}"))).unwrap();
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
        assert_eq!((number(16), number(20)), size);
    }
    let empty = Bench::new();
    empty.write("x/LMBench_a_1.csv", "nothing");
    empty.run(&["analyze", "x"]).expect(2).says("no file in `x` holds a request");
}
