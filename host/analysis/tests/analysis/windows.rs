//! What is measured and what is left out: windows, warm-ups, runs that were cut.

use crate::run::{MS, Run, answer, failure, near, slo, stage, values};
use analysis::server::{Snapshot, parse};
use analysis::{Options, Pace, STEADY_FROM, Severity, Verdict};
use records::{
    ClientSample, EndReason, Entry, Event, FailureKind, LoopKind, Record, StageEnd, StageInfo,
};

/// A request of 10 ms every 10 ms from `from` to `to`.
fn steady(stage: u32, from: u64, to: u64, warmup: bool) -> impl Iterator<Item = Record> {
    let requests = (from..to).step_by(10);
    requests.map(move |t| Record { stage, warmup, ..answer(t, &[t + 5], t + 10) })
}

fn timed(name: &str, length: u64) -> StageInfo {
    StageInfo { length: Some(length * MS), rate: Some(100.0), ..stage(name, LoopKind::Open) }
}

#[test]
fn warm_ups_are_left_out_and_counted_and_windows_add_up() {
    let warm_up = StageInfo { warmup: true, ..timed("warm-up", 500) };
    let settling = StageInfo { settle: 200 * MS, ..timed("a", 1_000) };
    let mut run = Run::new(vec![warm_up, settling, timed("b", 1_000)]);
    run.begin(0, 0);
    run.records(steady(0, 0, 500, true));
    run.end(0, 500, 50);
    run.begin(1, 1_000);
    run.records(steady(1, 1_000, 1_200, true));
    run.records(steady(1, 1_200, 2_000, false));
    run.end(1, 2_000, 100);
    run.begin(2, 3_000);
    run.records(steady(2, 3_000, 4_000, false));
    run.end(2, 4_000, 100);
    run.completed(4_000);
    let summary = run.analyse(&Options::default()).summary;
    let names: Vec<_> = summary.stages.iter().map(|s| (s.name.as_str(), s.sent)).collect();
    assert_eq!(names, [("a", 80), ("b", 100)]);
    assert_eq!((summary.excluded, summary.stages[0].excluded), (70, 20));
    near(summary.stages[0].window_s, 0.8);
    near(summary.total.window_s, 1.8);
    near(summary.stages[0].offered_rate.unwrap(), 100.0);
    // The last of the settling time ends as the window begins: 81 end within 0.8 s.
    near(summary.stages[0].single("request_throughput").unwrap().value, 81.0 / 0.8);
    near(summary.total.single("request_throughput").unwrap().value, 181.0 / 1.8);
    assert_eq!(values(&summary.total, "ttft").n, 180);
    assert!(!summary.partial);
}

#[test]
fn what_ends_after_the_window_enters_latencies_and_not_throughput() {
    let mut run = Run::new(vec![timed("s", 1_000)]);
    run.begin(0, 0);
    run.records([answer(0, &[10], 500), answer(100, &[110], 1_000), answer(900, &[910], 1_500)]);
    run.end(0, 1_000, 3);
    run.completed(1_500);
    let total = run.total();
    assert_eq!(values(&total, "latency").n, 3);
    near(total.single("request_throughput").unwrap().value, 2.0);
    near(total.single("total_token_throughput").unwrap().value, 16.0);
    near(total.achieved_rate.unwrap(), 3.0);
}

#[test]
fn requests_that_a_drain_broke_off_are_failures_and_are_named() {
    let cancelled = failure(answer(50, &[60], 90), FailureKind::Cancelled, "drain");
    let summary = Run::open(100, vec![answer(0, &[10], 20), cancelled]).analyse(&slo(&[])).summary;
    assert_eq!((summary.total.failed, summary.total.errors["cancelled"]), (1, 1));
    let named = summary.notes.iter().any(|note| note.text.contains("1 requests had not ended"));
    assert!(named, "{:?}", summary.notes);
}

#[test]
fn a_closed_loop_has_no_scheduled_metrics_and_says_how_to_read_it() {
    let closed = StageInfo { concurrency: Some(16), ..stage("c", LoopKind::Closed) };
    let mut run = Run::new(vec![closed]);
    run.begin(0, 0);
    run.records(steady(0, 0, 100, false));
    run.end_with(StageEnd {
        at: 110 * MS,
        stage: 0,
        window_end: 110 * MS,
        scheduled: None,
        unsent: 0,
        capped: 0,
        exhausted: false,
    });
    run.completed(110);
    let analysis = run.analyse(&slo(&[]));
    let text = analysis::report::terminal(&analysis, 100, false);
    assert!(text.contains("closed loop, C = 16") && !text.contains("scheduled"), "{text}");
    let stage = &analysis.summary.stages[0];
    for metric in ["scheduled_ttft", "scheduled_latency", "lateness"] {
        assert!(!stage.metrics.contains_key(metric), "{metric}");
    }
    assert_eq!((stage.pace, stage.offered_rate), (Some(Pace::Closed), None));
    assert!(stage.label.as_ref().unwrap().starts_with("closed loop, C = 16: the server set"));
}

#[test]
fn a_run_that_was_killed_is_judged_up_to_its_last_entry_and_marked_partial() {
    let mut run = Run::new(vec![timed("a", 10_000), timed("never", 10_000)]);
    run.begin(0, 0);
    run.records(steady(0, 0, 1_000, false));
    run.sample(ClientSample { at: 2_000 * MS, in_flight: 3, ..ClientSample::default() });
    let analysis = run.analyse(&Options { truncated: true, ..Options::default() });
    let summary = analysis.summary;
    assert!(summary.partial);
    assert_eq!(summary.stages.len(), 1);
    near(summary.total.window_s, 2.0);
    assert_eq!(summary.total.sent, 100);
    // What was planned, not the 50 per second that had left when it was killed.
    near(summary.stages[0].offered_rate.unwrap(), 100.0);
    near(summary.total.offered_rate.unwrap(), 100.0);
    near(summary.stages[0].achieved_rate.unwrap(), 50.0);
    let grave = |severity, text: &str| {
        summary.notes.iter().any(|note| note.severity == severity && note.text.contains(text))
    };
    assert!(
        grave(
            Severity::Problem,
            "at 2.0 s, when the load generator last looked, 3 requests were under way"
        ),
        "{:?}",
        summary.notes
    );
    assert!(grave(Severity::Warning, "middle of a line"), "{:?}", summary.notes);
}

#[test]
fn a_run_that_was_interrupted_is_partial_and_does_not_blame_the_client_for_what_was_cut() {
    let mut run = Run::new(vec![timed("a", 10_000)]);
    run.begin(0, 0);
    run.records(steady(0, 0, 1_000, false));
    run.end_with(StageEnd {
        at: 1_000 * MS,
        stage: 0,
        window_end: 1_000 * MS,
        scheduled: Some(1_000),
        unsent: 900,
        capped: 0,
        exhausted: false,
    });
    let reason = EndReason::Interrupted;
    run.entries.push(Entry::Event(Event::End { at: 1_000 * MS, reason, message: String::new() }));
    let summary = run.analyse(&slo(&[])).summary;
    assert!(summary.partial);
    assert_eq!(summary.health.reasons, []);
}

#[test]
fn nothing_at_all_gives_an_empty_summary() {
    let summary = Run::new(Vec::new()).analyse(&slo(&[])).summary;
    assert_eq!((summary.total.sent, summary.total.metrics.len()), (0, 0));
    assert!(summary.partial);
}

#[test]
fn prompts_that_are_not_as_long_as_meant_are_reported() {
    let record = Record {
        asked_input_tokens: Some(100),
        input_tokens: Some(110),
        asked_output_tokens: Some(2),
        ..answer(0, &[10], 20)
    };
    let summary = Run::open(100, vec![record]).analyse(&slo(&[])).summary;
    let said = |text: &str| summary.notes.iter().any(|note| note.text.contains(text));
    assert!(said("(+10.0 %)") && said("0.0 % of the answers"), "{:?}", summary.notes);
}

/// A stage of one request per second: what it is, how many requests, and how long each takes in
/// milliseconds.
fn filling(info: StageInfo, requests: u64, latency: impl Fn(u64) -> u64) -> Run {
    let of = |i: u64| {
        let (at, end) = (i * 1_000, i * 1_000 + latency(i));
        Record { session: i, warmup: at * MS < info.settle, ..answer(at, &[at + 100, end], end) }
    };
    let records: Vec<Record> = (0..requests).map(of).collect();
    let ended = (0..requests).map(|i| of(i).finished / MS).max().unwrap_or_default();
    let end = info.length.map_or(ended, |length| length / MS);
    let mut run = Run::new(vec![info]);
    run.begin(0, 0);
    run.records(records);
    run.end(0, end, requests);
    run.completed(ended);
    run
}

#[test]
fn a_stage_that_is_measured_while_its_server_fills_up_is_told_of() {
    let per_second = |length_s: Option<u64>, settle_s: u64| StageInfo {
        rate: Some(1.0),
        length: length_s.map(|length| length * 1_000 * MS),
        settle: settle_s * 1_000 * MS,
        ..stage("s", LoopKind::Open)
    };
    let check = |run: Run, wanted: Option<(&str, Verdict, f64)>| {
        let health = run.analyse(&Options::default()).summary.health;
        let told = health.reasons.iter().map(|r| (r.rule.as_str(), r.verdict, tidy(r.value)));
        assert_eq!(told.collect::<Vec<_>>(), wanted.into_iter().collect::<Vec<_>>());
        health
    };
    let timed = |length_s, settle_s, latency_s: u64| {
        filling(per_second(Some(length_s), settle_s), length_s, move |_| latency_s * 1_000)
    };
    let long = STEADY_FROM / 1_000 / MS;
    // Answers of a minute are under way all the time that is measured.
    let health = check(timed(long, 30, 60), Some(("filling_up", Verdict::Suspect, 1.0)));
    assert!(health.reasons[0].text.contains(": 100 %, limit 10 %: "), "{}", health.reasons[0]);
    assert_eq!(health.verdict, Verdict::Suspect);
    check(timed(long, 30, 15), None);
    check(timed(long, 30, 20), Some(("filling_up", Verdict::Suspect, 0.111)));
    check(timed(long, 0, 6), None);
    check(timed(long, 0, 7), Some(("filling_up", Verdict::Suspect, 0.117)));
    // One that is short shows no steady state, and need not.
    let health = check(timed(long - 1, 0, 7), Some(("filling_up_short", Verdict::Note, 0.118)));
    assert_eq!(health.verdict, Verdict::Valid);
    check(timed(20, 0, 1), None);
    check(timed(9, 0, 5), None);
    // A number of requests ends it: how long that takes is seen afterwards.
    check(
        filling(per_second(None, 0), 240, |_| 29_000),
        Some(("filling_up", Verdict::Suspect, 0.216)),
    );
    check(filling(per_second(None, 0), 240, |_| 10_000), None);
    // A few that take long fill nothing.
    check(filling(per_second(None, 0), 240, |i| if i % 30 == 3 { 29_000 } else { 1_000 }), None);
    // Another load is wanted as time goes on.
    let changing = StageInfo { rate: None, ..per_second(Some(long), 0) };
    check(filling(changing, long, |_| 60_000), None);
}

#[test]
fn an_overload_is_no_filling_up() {
    let length = Some(240_000 * MS);
    let info = StageInfo { rate: Some(1.0), length, ..stage("s", LoopKind::Open) };
    let health =
        filling(info, 240, |i| 1_000 + 500 * i).analyse(&Options::default()).summary.health;
    let told: Vec<&str> = health.reasons.iter().map(|reason| reason.rule.as_str()).collect();
    assert!(told.contains(&"overloaded") && !told.contains(&"filling_up"), "{told:?}");
}

fn tidy(share: f64) -> f64 {
    (share * 1e3).round() / 1e3
}

#[test]
fn the_servers_own_total_adds_up_the_windows_and_leaves_out_what_lies_between() {
    let warm_up = StageInfo { warmup: true, ..timed("warm-up", 10_000) };
    let mut run = Run::new(vec![timed("a", 10_000), warm_up, timed("b", 10_000)]);
    for (stage, begin) in [(0, 0), (1, 20_000), (2, 40_000)] {
        run.begin(stage, begin);
        run.records(steady(stage, begin, begin + 1_000, stage == 1));
        run.end(stage, begin + 10_000, 100);
    }
    run.completed(50_000);
    // What was generated, what ran, answers and how many of them came within a second.
    let page = |(at_s, tokens, running, n, fast): (u64, u32, u32, u32, u32)| {
        let ttft = "vllm:time_to_first_token_seconds";
        let text = format!(
            "vllm:generation_tokens_total {tokens}\nvllm:num_requests_running {running}\n\
             {ttft}_count {n}\n{ttft}_sum {}\n{ttft}_bucket{{le=\"1\"}} {fast}\n\
             {ttft}_bucket{{le=\"2\"}} {n}\n{ttft}_bucket{{le=\"+Inf\"}} {n}\n",
            2 * n - fast
        );
        Snapshot { at: at_s * 1_000 * MS, series: parse(&text) }
    };
    let server = [
        (0, 0, 2, 0, 0),
        (10, 100, 4, 10, 10),
        (20, 100, 90, 10, 10),
        (30, 5_000, 90, 900, 10),
        (40, 5_000, 6, 900, 10),
        (50, 5_300, 8, 930, 40),
    ];
    let options = Options { server: server.map(page).to_vec(), ..Options::default() };
    let views = run.analyse(&options).summary.server;
    let total = views.last().unwrap();
    assert_eq!((total.stage.as_str(), total.span_s), ("total", 20.0));
    let tokens = &total.totals["generation_tokens"];
    assert_eq!((tokens.value, tokens.per_second), (400.0, 20.0));
    assert_eq!((total.gauges["running"].mean, total.gauges["running"].max), (5.0, 8.0));
    let ttft = &total.histograms["ttft"];
    assert_eq!((ttft.n, ttft.mean, ttft.percentiles["p50"]), (40, 1_000.0, 500.0));
}
