//! Streams whose metrics are reckoned by hand.

use crate::run::{MS, Run, answer, failure, near, slo, stage, values};
use records::{FailureKind, LoopKind, Record, StageEnd};

/// C01: what comes before the first token is no token.
#[test]
fn a_stream_that_opens_without_tokens_has_the_ttft_of_its_first() {
    let total = Run::open(257, vec![answer(0, &[214, 234, 254], 257)]).total();
    near(values(&total, "ttft").mean, 214.0);
    near(values(&total, "tpot").mean, 20.0);
    near(values(&total, "latency").mean, 257.0);
    near(values(&total, "ntpot").mean, 257.0 / 3.0);
    let itl = values(&total, "itl");
    assert_eq!((itl.n, itl.min, itl.max), (2, 20.0, 20.0));
    near(values(&total, "output_tokens").mean, 3.0);
    assert_eq!(total.usage["server"], 1);
}

/// C03: an error in a stream that began well is a failure with all it entails.
#[test]
fn a_request_that_failed_after_some_tokens_enters_rates_and_no_latency() {
    let cut = failure(answer(0, &[50, 70, 90], 96), FailureKind::ServerError, "engine died (500)");
    let run = Run::open(96, vec![answer(0, &[50, 70, 90], 96), cut]);
    let analysis = run.analyse(&slo(&[("ttft", 50.0)]));
    let total = analysis.summary.total;
    assert_eq!((total.sent, total.succeeded, total.failed), (2, 1, 1));
    assert_eq!(total.errors.iter().collect::<Vec<_>>(), [(&"server_error".to_owned(), &1)]);
    assert_eq!(analysis.messages["server_error"], ["engine died (500)"]);
    near(total.error_rate().unwrap(), 0.5);
    assert_eq!((values(&total, "ttft").n, values(&total, "latency").n), (1, 1));
    near(values(&total, "ttft").mean, 50.0);
    near(values(&total, "latency").mean, 96.0);
    near(total.single("output_token_throughput").unwrap().value, 3.0 / 0.096);
    // Met when equal; a share of all sent, failures included.
    near(total.goodput_share.unwrap(), 0.5);
    near(total.single("goodput").unwrap().value, 1.0 / 0.096);
}

#[test]
fn with_a_share_of_failures_the_percentiles_beyond_it_are_failures() {
    let check = |n: u64, broken: u64, failed: &[&str], few: &[&str]| {
        let request = |i: u64| {
            let answer = answer(i, &[i + 10], i + 30);
            if i < broken { failure(answer, FailureKind::Timeout, "late") } else { answer }
        };
        let total = Run::open(n + 30, (0..n).map(request).collect()).total();
        for metric in ["ttft", "scheduled_latency"] {
            let all = values(&total, metric).all_sent.as_ref().unwrap();
            assert_eq!((all.n, all.percentiles.len() + all.failed.len()), (n, 5 - missing(n)));
            assert_eq!(all.failed, failed, "{broken} of {n}");
            assert_eq!(all.few, few, "{broken} of {n}");
        }
        // How many tokens there were, and the client's own delay, are no latencies of a request.
        for metric in ["output_tokens", "lateness"] {
            assert_eq!(values(&total, metric).all_sent, None, "{metric}");
        }
    };
    check(1_000, 1, &[], &["p99_9"]);
    check(1_000, 2, &["p99_9"], &["p99_9"]);
    check(1_000, 10, &["p99_9"], &["p99_9"]);
    check(1_000, 11, &["p99", "p99_9"], &["p99_9"]);
    check(400, 4, &[], &[]);
    check(400, 5, &["p99"], &[]);
    check(20, 1, &[], &["p90", "p95"]);
    check(20, 11, &["p50", "p90", "p95"], &["p90", "p95"]);
}

/// How many percentiles are not given of so few.
fn missing(n: u64) -> usize {
    [2, 10, 20, 100, 1_000].iter().filter(|least| n < **least).count()
}

#[test]
fn failures_move_the_percentiles_of_all_sent_up_by_their_number() {
    let quick = (0..10).map(|i| answer(i, &[i + 10 + i], 60));
    let cut = |i| failure(answer(i, &[i + 1], i + 2), FailureKind::StreamCut, "no end");
    let total = Run::open(60, quick.chain((10..14).map(cut)).collect()).total();
    let ttft = values(&total, "ttft");
    // The fifth of ten values, and the seventh of fourteen.
    assert_eq!((ttft.p50, ttft.n), (Some(14.0), 10));
    assert_eq!(ttft.all_sent.as_ref().unwrap().percentiles["p50"], 16.0);
}

#[test]
fn a_failure_of_a_closed_loop_was_never_scheduled() {
    let mut run = Run::new(vec![stage("open", LoopKind::Open), stage("closed", LoopKind::Closed)]);
    for (index, kind) in [(0, LoopKind::Open), (1, LoopKind::Closed)] {
        let begin = 1_000 * u64::from(index);
        run.begin(index, begin);
        run.records((0..10).map(|i| {
            let at = begin + i * 50;
            let record = Record { stage: index, ..answer(at, &[at + 5, at + 9], at + 10) };
            let record = if i < 3 { failure(record, FailureKind::Timeout, "") } else { record };
            Record { due: record.due.filter(|_| kind == LoopKind::Open), ..record }
        }));
        run.end(index, begin + 500, 10);
    }
    run.completed(1_500);
    let total = run.total();
    let n = |metric| values(&total, metric).all_sent.as_ref().unwrap().n;
    assert_eq!((n("ttft"), n("scheduled_ttft")), (20, 10));
}

/// C05: reasoning is output; the answer's first token stands apart.
#[test]
fn reasoning_counts_as_output_and_the_answer_has_a_ttft_of_its_own() {
    let record = Record {
        first_answer: Some(120 * MS),
        reasoning_tokens: Some(2),
        ..answer(0, &[80, 100, 120, 140], 143)
    };
    let total = Run::open(143, vec![record.clone(), record]).total();
    near(values(&total, "ttft").mean, 80.0);
    near(values(&total, "answer_ttft").mean, 120.0);
    near(values(&total, "tpot").mean, 20.0);
    let itl = values(&total, "itl");
    assert_eq!((itl.n, itl.min, itl.max), (6, 20.0, 20.0));
    near(values(&total, "output_tokens").mean, 4.0);
}

/// C07: two tokens in one read have a gap of 0; an answer that was cut is a failure.
#[test]
fn tokens_of_one_read_have_no_gap_and_cut_streams_no_latency() {
    let cut = || failure(answer(0, &[50, 70], 90), FailureKind::StreamCut, "no end");
    let whole = answer(0, &[130, 150, 150], 155);
    let total = Run::open(155, vec![whole, answer(0, &[50, 70], 71), cut(), cut()]).total();
    near(total.error_rate().unwrap(), 0.5);
    assert_eq!(total.errors["stream_cut"], 2);
    let itl = values(&total, "itl");
    assert_eq!((itl.n, itl.min, itl.max, itl.p50), (3, 0.0, 20.0, Some(20.0)));
    assert_eq!((values(&total, "ttft").max, values(&total, "tpot").min), (130.0, 10.0));
}

/// C21: chunks of several tokens give as many gaps.
#[test]
fn a_chunk_of_several_tokens_gives_several_gaps() {
    let record = Record {
        chunk_tokens: vec![3, 2, 3, 2],
        output_tokens: Some(10),
        ..answer(0, &[100, 120, 140, 160], 163)
    };
    let analysis = Run::open(163, vec![record]).analyse(&slo(&[]));
    let total = &analysis.summary.total;
    near(values(total, "ttft").mean, 100.0);
    near(values(total, "tpot").mean, 60.0 / 9.0);
    let itl = values(total, "itl");
    assert_eq!((itl.n, itl.p50), (7, Some(10.0)));
    near(itl.mean, 60.0 / 7.0);
    near(itl.min, 20.0 / 3.0);
    assert_eq!(total.several_token_chunks, Some(1.0));
    let notes: Vec<&str> = analysis.summary.notes.iter().map(|note| note.text.as_str()).collect();
    assert!(notes.iter().any(|n| n.contains("4 of 4 chunks") && n.contains("differ")), "{notes:?}");
}

#[test]
fn a_chunk_without_a_token_lends_its_time_to_the_next() {
    let record = Record {
        chunk_tokens: vec![1, 0, 2],
        output_tokens: Some(3),
        ..answer(0, &[10, 20, 50], 60)
    };
    let total = Run::open(60, vec![record]).total();
    assert_eq!((values(&total, "itl").n, values(&total, "itl").min), (2, 20.0));
}

/// C23: a limit in flight makes requests late, and is named as the cause.
#[test]
fn waiting_for_a_limit_in_flight_is_seen_from_due_and_is_not_a_slow_client() {
    let mut limited = stage("capped", LoopKind::Open);
    (limited.rate, limited.max_in_flight) = (Some(10.0), Some(1));
    let mut run = Run::new(vec![limited]);
    run.begin(0, 0);
    run.records((0..8).map(|i| {
        let sent = 500 * i;
        let answer = answer(sent, &[sent + 400, sent + 500], sent + 500);
        Record { due: Some(100 * i * MS), ..answer }
    }));
    run.end_with(StageEnd {
        at: 4_000 * MS,
        stage: 0,
        window_end: 4_000 * MS,
        scheduled: Some(8),
        unsent: 0,
        capped: 7,
        exhausted: false,
    });
    run.completed(4_000);
    let summary = run.analyse(&slo(&[])).summary;
    let stage = &summary.stages[0];
    let latency = values(stage, "latency");
    assert_eq!((latency.min, latency.max), (500.0, 500.0));
    near(values(stage, "scheduled_latency").mean, 1_900.0);
    near(values(stage, "scheduled_latency").max, 3_300.0);
    near(values(stage, "lateness").mean, 1_400.0);
    assert_eq!(values(stage, "lateness").p50, Some(1_200.0));
    near(stage.achieved_rate.unwrap(), 2.0);
    near(stage.offered_rate.unwrap(), 10.0);
    near(stage.single("request_throughput").unwrap().value, 2.0);
    assert!(stage.label.as_ref().unwrap().starts_with("open loop, capped: 87.5 %"));

    assert_eq!(summary.health.verdict, analysis::Verdict::Suspect);
    let [reason] = &summary.health.reasons[..] else { panic!("{:?}", summary.health) };
    assert_eq!(reason.rule, "limit_in_flight");
    assert!(reason.text.contains("limit of requests in flight (1)"), "{reason}");
    assert!(reason.text.contains("not a slow client"), "{reason}");
}

#[test]
fn an_answer_of_one_token_has_no_tpot_and_breaks_no_limit_on_it() {
    let run = Run::open(100, vec![answer(0, &[50], 60)]);
    let total = run.analyse(&slo(&[("ttft", 50.0), ("tpot", 1.0)])).summary.total;
    assert!(total.distribution("tpot").is_none() && total.distribution("itl").is_none());
    near(total.goodput_share.unwrap(), 1.0);
    near(values(&total, "ntpot").mean, 60.0);
}

#[test]
fn limits_are_met_when_equal_and_by_nothing_that_was_not_measured() {
    let check = |limits: &[(&str, f64)], record: Record, met: bool| {
        let total = Run::open(100, vec![record]).analyse(&slo(limits)).summary.total;
        assert_eq!(total.goodput_share, Some(f64::from(met)), "{limits:?}");
    };
    let streamed = || answer(0, &[50, 70], 80);
    let whole = || Record { output_tokens: Some(5), ..answer(0, &[], 80) };
    check(&[("ttft", 50.0)], streamed(), true);
    check(&[("ttft", 49.9)], streamed(), false);
    check(&[("ttft", 50.0), ("tpot", 19.9)], streamed(), false);
    check(&[("ttft", 50.0), ("tpot", 20.0), ("latency", 80.0)], streamed(), true);
    check(&[("ttft", 1_000.0)], whole(), false);
    check(&[("tpot", 1_000.0)], whole(), false);
    check(&[("latency", 80.0), ("ntpot", 16.0)], whole(), true);
    check(&[("latency", 80.0)], failure(streamed(), FailureKind::Timeout, ""), false);
}

#[test]
fn an_answer_that_was_not_streamed_has_a_latency_and_no_ttft() {
    let whole = Record { output_tokens: Some(5), ..answer(0, &[], 80) };
    let total = Run::open(100, vec![whole]).total();
    for metric in ["ttft", "answer_ttft", "itl", "tpot", "scheduled_ttft", "goodput"] {
        assert!(!total.metrics.contains_key(metric), "{metric}");
    }
    near(values(&total, "latency").mean, 80.0);
}

#[test]
fn percentiles_are_missing_marked_or_plain_by_the_number_of_values() {
    let check = |n: u64, missing: &[&str], few: &[&str]| {
        let records = (0..n).map(|i| answer(i, &[i + 10], i + 10)).collect();
        let total = Run::open(n + 10, records).total();
        let json = serde_json::to_value(values(&total, "ttft")).unwrap();
        for name in ["p50", "p90", "p95", "p99", "p99_9"] {
            assert_eq!(json.get(name).is_none(), missing.contains(&name), "{name} of {n}");
        }
        assert_eq!(values(&total, "ttft").few, few, "of {n}");
    };
    check(1, &["p50", "p90", "p95", "p99", "p99_9"], &[]);
    check(2, &["p90", "p95", "p99", "p99_9"], &["p50"]);
    check(19, &["p95", "p99", "p99_9"], &["p90"]);
    check(36, &["p99", "p99_9"], &["p95"]);
    check(100, &["p99_9"], &["p99"]);
    check(368, &["p99_9"], &[]);
    check(1_000, &[], &["p99_9"]);
}

#[test]
fn a_percentile_gets_an_interval_only_where_the_run_can_know_its_error() {
    let records = |n: u64| {
        let ttft = |i: u64| 100 + i * 7_919 % 1_000;
        (0..n).map(|i| answer(i, &[i + ttft(i)], i + 1_200)).collect()
    };
    let long = Run::open(4_000, records(2_000)).total();
    let ttft = values(&long, "ttft");
    let [low, high] = ttft.interval["p50"];
    assert!(low < ttft.p50.unwrap() && ttft.p50.unwrap() < high, "{:?}", ttft.interval);
    assert!(ttft.interval.contains_key("p99") && ttft.too_short_by.is_empty());
    let short = Run::open(4_000, records(80)).total();
    let ttft = values(&short, "ttft");
    assert!(ttft.interval.is_empty() && ttft.too_short_by["p50"] >= 1.25, "{ttft:?}");
}
