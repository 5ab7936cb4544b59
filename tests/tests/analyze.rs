//! What `analyze` makes of records and files of before: how it ends, and that it ends.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, wait_until};
use nix::sys::signal::Signal;
use records::{
    ClientSample, EndReason, Event, Failure, FailureKind, Header, LoopKind, Record, StageBegin,
    StageEnd, StageInfo, StagePhase, UsageSource, Writer,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const MS: u64 = 1_000_000;

/// A records file of one stage with so many requests, one a millisecond; `failure` and `end` say how
/// each of them, and the run, ended.
fn records(requests: u64, failure: Option<&Failure>, end: &Event) -> Vec<u8> {
    let stage = StageInfo {
        name: "s".to_owned(),
        warmup: false,
        kind: LoopKind::Open,
        rate: None,
        concurrency: None,
        max_in_flight: None,
        length: None,
        settle: 0,
        labels: BTreeMap::new(),
    };
    let header = Header {
        format: records::FORMAT.to_owned(),
        version: records::VERSION.to_owned(),
        run: "r".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        clock: String::new(),
        model: "m".to_owned(),
        endpoint: "http://server:8000".to_owned(),
        seed: 1,
        stages: vec![stage],
        slo: BTreeMap::new(),
    };
    let mut file = Writer::new(Vec::new(), &header).unwrap();
    let begin = StageBegin { at: 0, stage: 0 };
    file.event(&Event::Stage(StagePhase::Begin(begin))).unwrap();
    for id in 0..requests {
        let at = id * MS;
        let record = Record {
            id,
            session: id,
            due: Some(at),
            started: at,
            sent: Some(at),
            tokens: vec![at + 9 * MS],
            finished: at + 10 * MS,
            status: 200,
            error: failure.cloned(),
            output_tokens: Some(1),
            usage: UsageSource::Server,
            connection: records::Connection::Reused,
            ..Record::default()
        };
        file.record(&record).unwrap();
    }
    let at = requests * MS;
    let ended = StageEnd {
        at,
        stage: 0,
        window_end: at,
        scheduled: Some(requests),
        unsent: 0,
        capped: 0,
        exhausted: false,
    };
    file.event(&Event::Stage(StagePhase::End(ended))).unwrap();
    file.event(end).unwrap();
    file.into_inner()
}

fn end(reason: EndReason, message: &str) -> Event {
    Event::End { at: 30 * MS, reason, message: message.to_owned() }
}

#[test]
fn an_analysis_ends_as_its_run_did() {
    let check = |file: Vec<u8>, code: i32, says: &str| {
        let bench = Bench::new();
        bench.write("old/records.jsonl", file);
        let ended = bench.run(&["analyze", "old"]);
        assert_eq!(ended.code, code, "{}", ended.output());
        assert!(ended.output().contains(says), "{}", ended.output());
    };
    let gone = Failure::new(FailureKind::HttpStatus, "503 gone");
    let (well, badly) = (|end| records(30, None, &end), |end| records(30, Some(&gone), &end));
    check(well(end(EndReason::Completed, "")), 0, "result: valid");
    check(badly(end(EndReason::Completed, "")), 4, "no request succeeded");
    check(badly(end(EndReason::Aborted, "too much")), 4, "the run was aborted: too much");
    check(well(end(EndReason::PluginFailed, "no more")), 4, "a plugin failed: no more");
    check(well(end(EndReason::Interrupted, "")), 130, "the run was interrupted");
    check(records(0, None, &end(EndReason::Completed, "")), 4, "nothing was sent");
    let killed = Event::Client(ClientSample::default());
    check(records(0, None, &killed), 7, "no request was measured");
}

#[test]
fn records_are_judged_again_by_other_objectives() {
    let bench = Bench::new();
    let file = String::from_utf8(records(30, None, &end(EndReason::Completed, ""))).unwrap();
    // Answers begin 9 ms after they were sent, and take 10.
    let header = file.replacen("\"seed\":1,", "\"seed\":1,\"slo\":{\"ttft\":5.0},", 1);
    bench.write("old/records.jsonl", header);
    let judged = |args: &[&str]| {
        let ended = bench.run(&[&["analyze", "old"], args].concat()).expect(0);
        let summary = bench.json("old/analysis/data/summary.json");
        let report = bench.read("old/analysis/report.html");
        let note =
            "The objectives were given to the analysis. The run was made with: ttft at most 5 ms.";
        assert_eq!(report.contains(note), summary["slo"] != json!({"ttft": 5.0}), "{report}");
        assert_eq!(
            ended.stdout.contains("goodput"),
            summary["slo"] != json!({}),
            "{}",
            ended.stdout
        );
        (summary["slo"].clone(), summary["total"]["goodput_share"].clone())
    };
    let of_the_run = (json!({"ttft": 5.0}), json!(0.0));
    assert_eq!(judged(&[]), of_the_run);
    assert_eq!(judged(&["--slo", "ttft=9ms"]), (json!({"ttft": 9.0}), json!(1.0)));
    let both = json!({"ttft": 9.0, "latency": 9.5});
    assert_eq!(judged(&["--slo", "ttft=9ms,latency=9.5ms"]), (both, json!(0.0)));
    assert_eq!(judged(&["--slo", ""]), (json!({}), Value::Null));
    assert_eq!(judged(&[]), of_the_run);
}

#[test]
fn records_that_were_damaged_are_left_out_and_their_first_line_is_named() {
    let bench = Bench::new();
    let file = String::from_utf8(records(30, None, &end(EndReason::Completed, ""))).unwrap();
    let damaged = file
        // A difference of token times that no sum can hold.
        .replacen("\"tokens\":[14000000]", "\"tokens\":[14000000,18446744073709551615]", 1)
        .replacen("\"finished\":27000000", "\"finished\":2700000", 1)
        // An empty line and an event of a newer version are no entries, and are lines.
        .replacen("{\"id\":0", "\n{\"event\":\"later\"}\n{\"id\":0", 1);
    bench.write("old/records.jsonl", damaged);
    let ended = bench.run(&["analyze", "old"]).expect(7);
    ended.says("(the first is line 10: it ended before its last token arrived): 2, limit 0");
    let total = bench.json("old/analysis/data/summary.json")["total"].clone();
    assert_eq!((&total["sent"], &total["metrics"]["latency"]["min"]), (&json!(28), &json!(10.0)));
}

#[test]
fn of_a_folder_with_several_runs_one_has_to_be_named() {
    let bench = Bench::new();
    let csv = "prompt_tokens,generation_tokens,ttft,generation_time\n75,20,0.1,0.9\n";
    for run in ["runs/a/results", "runs/b/results/2", "runs/deep/c"] {
        bench.write(
            &format!("{run}/records.jsonl"),
            records(30, None, &end(EndReason::Completed, "")),
        );
        // Rows of one rate, which are not to become one run's.
        bench.write(&format!("{run}/LMBench_a_qps1.csv"), csv);
    }
    bench.write("runs/b/results/records.jsonl", records(30, None, &end(EndReason::Completed, "")));
    for command in ["analyze", "report"] {
        let ended = bench.run(&[command, "runs"]).expect(2);
        ended.says("error: `runs` is no run, and has runs in it: `runs/a`, `runs/b`, `runs/deep/c`\n  hint: name one of them");
    }
    assert!(!bench.path("runs/analysis").exists());
    bench.run(&["analyze", "runs/b"]).expect(0);
    assert!(bench.path("runs/b/analysis/2/report.html").is_file());
}

#[test]
fn an_analysis_ends_soon_when_it_is_asked_to() {
    let bench = Bench::new();
    let few = String::from_utf8(records(1_000, None, &end(EndReason::Completed, ""))).unwrap();
    let lines: Vec<&str> = few.split_inclusive('\n').collect();
    // After two lines of other kinds a million requests, which take more than a second.
    let many = lines[2..1_002].concat().repeat(1_000);
    bench.write("old/records.jsonl", lines[..2].concat() + &many);
    let file = bench.path("old/records.jsonl").canonicalize().unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let running = bench.start(&["analyze", "old"]);
        wait_until("the records are open", || {
            let open = std::fs::read_dir(format!("/proc/{}/fd", running.pid())).unwrap();
            open.flatten().any(|one| std::fs::read_link(one.path()).is_ok_and(|to| to == file))
        });
        let since = Instant::now();
        running.signal(signal);
        drop(running.wait().expect(130).says("interrupted"));
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    }
}

#[test]
fn one_absurd_value_in_a_foreign_file_is_left_out_and_named() {
    let bench = Bench::new();
    bench.write(
        "old/LMBench_short_input_qps1.csv",
        "prompt_tokens,generation_tokens,ttft,generation_time\n75,20,0.1,0.9\n75,20,1e308,0.9\n",
    );
    let ended = bench.run(&["analyze", "old"]).expect(0);
    assert!(ended.stdout.contains("Total number of requests: 1\n"), "{}", ended.output());
    ended.says("warning: old/LMBench_short_input_qps1.csv:3: the row is left out: `1e308` in the column `ttft`");
}
