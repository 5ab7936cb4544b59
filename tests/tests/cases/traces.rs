//! C11 and C13: traces whose rows share times and blocks, or have no answer.

use acceptance::{Bench, Server, root};
use serde_json::Value;

fn case(bench: &Bench, name: &str) {
    bench.write(name, std::fs::read(root().join("tests/cases").join(name)).unwrap());
}

/// What the plan says.
fn planned(bench: &Bench, file: &str) -> Value {
    let target = ["--output", "json", "plan", "--endpoint", "http://127.0.0.1:9", "--model", "m"];
    let ended = bench.run(&[&target[..], &["--dataset", file]].concat());
    serde_json::from_str(&ended.expect(0).stdout).unwrap()
}

fn notes(plan: &Value) -> String {
    let findings = plan["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["text"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn c11_rows_leave_at_their_times_and_share_their_first_blocks() {
    let bench = Bench::new();
    case(&bench, "C11-mooncake.jsonl");
    let plan = planned(&bench, "C11-mooncake.jsonl");
    assert_eq!(plan["workload"]["requests"], 4);
    let notes = notes(&plan);
    for text in ["3,748 input", "2,048 of 3,748 tokens = 54.6 %"] {
        assert!(notes.contains(text), "no `{text}` in {notes}");
    }
    let server = Server::start(&["--cache-blocks", "4096"]);
    bench.load(&server, &["--dataset", "C11-mooncake.jsonl", "--speed", "10"]).expect(0);
    let mut log = bench.log();
    // Those that are due together leave together; their sessions are numbered as in the file.
    log.records.sort_by_key(|r| (r.due, r.session));
    let begin = log.records[0].due.unwrap();
    let due: Vec<u64> =
        log.records.iter().map(|r| (r.due.unwrap() - begin).div_ceil(100_000)).collect();
    assert_eq!(due, [0, 0, 3000, 5999], "a tenth of the recorded times");
    let asked: Vec<_> = log.records.iter().map(|r| r.asked_output_tokens.unwrap()).collect();
    assert_eq!(asked, [20, 5, 40, 1]);
    let lengths: Vec<_> = log.records.iter().map(|r| r.asked_input_tokens.unwrap()).collect();
    assert_eq!(lengths, [1100, 1536, 600, 512]);
    // One token has no time per output token.
    assert_eq!(log.records[3].output_tokens, Some(1));
    let summary = bench.summary();
    assert_eq!(summary["total"]["metrics"]["tpot"]["n"], 3);
    let cached: u32 = log.records.iter().filter_map(|r| r.cached_tokens).sum();
    assert!(cached >= 1024, "{cached} tokens were reused");
}

#[test]
fn c13_rows_without_an_answer_are_left_out_and_a_sparse_trace_is_told() {
    let bench = Bench::new();
    case(&bench, "C13-burstgpt.csv");
    let plan = planned(&bench, "C13-burstgpt.csv");
    assert_eq!(plan["workload"]["requests"], 4);
    let skipped = plan["workload"]["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0][1], "1");
    let notes = notes(&plan);
    for text in ["4 in 205 s = 0.0195/s", "1,880 input and 474 output", "sparse"] {
        assert!(notes.contains(text), "no `{text}` in {notes}");
    }
    let server = Server::start(&["--ttft", "5ms", "--itl", "100us"]);
    bench.load(&server, &["--dataset", "C13-burstgpt.csv", "--speed", "200"]).expect(0);
    let log = bench.log();
    let begin = log.records[0].due.unwrap();
    let due: Vec<u64> = log.records.iter().map(|r| (r.due.unwrap() - begin) / 5_000_000).collect();
    assert_eq!(due, [0, 40, 113, 205], "a two-hundredth of the recorded times");
    assert!(log.records.iter().all(|r| r.asked_output_tokens != Some(0)));
}
