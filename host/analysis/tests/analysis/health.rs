//! Which rule fires, and how gravely.

use crate::closed::closed_loop;
use crate::run::{MS, Run, answer, failure, slo, stage, values};
use analysis::{
    CacheState, CacheWish, Calibration, EXPECTED_CACHED, Headroom, Health, Options, Severity,
    Verdict,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp, LogNormal};
use records::{
    Astray, ClientSample, Connection, Entry, Event, FailureKind, LoopKind, Record, StagePhase,
};

/// Two hundred requests, one every 100 ms, with a TTFT of 100 ms.
pub(crate) fn requests(lateness_ms: impl Fn(u64) -> f64) -> Vec<Record> {
    let request = |i: u64| {
        let due = i * 100 * MS;
        let sent = due + (lateness_ms(i) * MS as f64) as u64;
        let shift = |r: Record| Record { due: Some(due), ..r };
        let at = |ms: u64| sent + ms * MS;
        shift(Record {
            started: sent,
            sent: Some(sent),
            first_byte: Some(at(100)),
            tokens: vec![at(100), at(110)],
            first_answer: Some(at(100)),
            finished: at(120),
            ..answer(0, &[100, 110], 120)
        })
    };
    (0..200).map(request).collect()
}

pub(crate) fn health(
    records: Vec<Record>,
    samples: impl IntoIterator<Item = ClientSample>,
) -> Health {
    let mut run = Run::open(20_200, records);
    let place = run.entries.len() - 2;
    let samples = samples.into_iter().map(|s| records::Entry::Event(records::Event::Client(s)));
    run.entries.splice(place..place, samples);
    run.analyse(&slo(&[])).summary.health
}

#[track_caller]
pub(crate) fn check(health: &Health, wanted: &[(&str, Verdict)]) {
    let fired: Vec<_> = health.reasons.iter().map(|r| (r.rule.as_str(), r.verdict)).collect();
    assert_eq!(fired, wanted, "{:?}", health.reasons);
    let worst = wanted.iter().map(|w| w.1).max().unwrap_or(Verdict::Valid);
    assert_eq!(health.verdict, worst);
}

#[test]
fn a_load_of_which_a_part_was_lost_is_not_the_one_that_was_asked_for() {
    let of = |lost: &[(u32, u32)]| {
        let mut run = Run::open(20_200, requests(|_| 0.0));
        run.header.stages.push(stage("t", LoopKind::Open));
        let place = run.entries.len() - 1;
        let parts = lost.iter().map(|&(generator, stage)| {
            Entry::Event(Event::Astray(Astray { at: 0, generator, of: 4, stage }))
        });
        run.entries.splice(place..place, parts);
        run.analyse(&slo(&[])).summary.health
    };
    check(&of(&[]), &[]);
    let health = of(&[(1, 1)]);
    check(&health, &[("not_as_planned", Verdict::Invalid)]);
    assert_eq!((health.reasons[0].value, health.reasons[0].limit), (0.125, 0.0));
    assert!(health.reasons[0].text.contains(", limit 0"), "{}", health.reasons[0].text);
    assert_eq!(of(&[(1, 1), (2, 0)]).reasons[0].value, 0.375);
}

#[test]
fn a_run_in_which_nothing_was_measured_is_never_valid() {
    let nothing = [("nothing_measured", Verdict::Invalid)];
    let of = |run: &Run| {
        let health = run.analyse(&slo(&[])).summary.health;
        check(&health, &nothing);
        assert_eq!(health.meaning(), "nothing was measured");
    };
    of(&Run::new(vec![stage("s", LoopKind::Open)]));
    of(&Run::open(100, Vec::new()));
    of(&Run::open(100, vec![Record { warmup: true, ..answer(0, &[10], 20) }]));
}

#[test]
fn records_of_stages_that_the_header_does_not_know_make_the_run_invalid() {
    let mut records = requests(|_| 0.0);
    records[7].stage = 3;
    let health = health(records, []);
    check(&health, &[("stray_entries", Verdict::Invalid)]);
    assert!(health.reasons[0].text.contains("does not know: 1, limit 0: "), "{:?}", health.reasons);
}

#[test]
fn records_whose_times_go_back_are_left_out_and_make_the_run_invalid() {
    type Damage = fn(&mut Record);
    let damages: [(Damage, &str); 9] = [
        (|r| r.sent = Some(r.started - 1), "it was sent before it was started"),
        (|r| r.first_byte = Some(r.started - 1), "its answer began before it was started"),
        (
            |r| r.first_byte = Some(r.tokens[0] + 1),
            "its first token arrived before its answer began",
        ),
        (
            |r| (r.first_byte, r.tokens) = (None, vec![r.started - 1]),
            "its first token arrived before it was sent",
        ),
        (|r| r.first_answer = Some(r.started - 1), "its first token arrived before it was sent"),
        (|r| r.finished = r.started - 1, "it ended before it was started"),
        (|r| r.sent = Some(r.finished + 1), "its first token arrived before it was sent"),
        (|r| r.tokens[1] = r.finished + 1, "it ended before its last token arrived"),
        (|r| r.tokens[1] = u64::MAX, "it ended before its last token arrived"),
    ];
    for (damage, what) in damages {
        let mut records = requests(|_| 0.0);
        damage(&mut records[7]);
        damage(&mut records[9]);
        let run = Run::open(20_200, records);
        let analysis = run.analyse(&slo(&[]));
        check(&analysis.summary.health, &[("damaged_records", Verdict::Invalid)]);
        let text = &analysis.summary.health.reasons[0].text;
        // The header and the beginning of the stage come first.
        assert!(text.contains(&format!(" (the first is line 10: {what}): 2, limit 0: ")), "{text}");
        let total = &analysis.summary.total;
        assert_eq!((total.sent, values(total, "latency").min), (198, 120.0));
    }
}

#[test]
fn records_whose_times_are_equal_or_missing_are_whole() {
    let mut records = requests(|_| 0.0);
    let at = records[7].started;
    let at_once = Record { tokens: vec![at, at], finished: at, ..records[7].clone() };
    records[7] = Record { sent: Some(at), first_byte: Some(at), first_answer: Some(at), ..at_once };
    let unsent = Record { sent: None, first_byte: None, ..records[8].clone() };
    records[8] = Record { tokens: Vec::new(), first_answer: None, ..unsent };
    // A server may refuse what it has not heard to its end.
    let refused = Record { sent: Some(records[9].first_byte.unwrap() + MS), ..records[9].clone() };
    records[9] = failure(Record { tokens: Vec::new(), ..refused }, FailureKind::HttpStatus, "413");
    check(&health(records, []), &[]);
}

#[test]
fn lateness_is_judged_against_the_ttft() {
    check(&health(requests(|_| 1.0), []), &[]);
    check(&health(requests(|_| 5.0), []), &[]);
    check(&health(requests(|_| 6.0), []), &[("lateness", Verdict::Suspect)]);
    check(&health(requests(|_| 21.0), []), &[("lateness", Verdict::Invalid)]);
    // One in a hundred does not move the p99.
    check(&health(requests(|i| if i % 100 == 5 { 50.0 } else { 0.0 }), []), &[]);
}

#[test]
fn lateness_of_a_short_run_is_judged_by_its_p90() {
    let few = |n: usize| {
        let late = |i: u64| if i == 3 { 90.0 } else { 0.0 };
        health(requests(late).into_iter().take(n).collect(), [])
    };
    check(&few(40), &[]);
    check(&few(9), &[]);
}

#[test]
fn lateness_that_grows_is_told_apart() {
    let growing = requests(|i| 4.9 * i as f64 / 200.0 + if i > 170 { 2.5 } else { 0.0 });
    let fired = health(growing, []);
    let rules: Vec<_> = fired.reasons.iter().map(|r| r.rule.as_str()).collect();
    assert_eq!(rules, ["lateness", "lateness_growing"]);
}

#[test]
fn requests_that_did_not_leave_in_the_window_are_missed_beyond_two() {
    let late = |n: u64| move |i: u64| if i >= 200 - n { 30_000.0 } else { 0.0 };
    check(&health(requests(late(2)), []), &[]);
    let rules = |health: Health| {
        health.reasons.into_iter().map(|r| (r.rule, r.verdict)).collect::<Vec<_>>()
    };
    assert!(rules(health(requests(late(4)), [])).contains(&("unsent".into(), Verdict::Suspect)));
    assert!(rules(health(requests(late(8)), [])).contains(&("unsent".into(), Verdict::Invalid)));
}

#[test]
fn connections_opened_within_requests_count_where_opening_them_shows() {
    let new = |n: usize, opening_ms: u64| {
        let mut records = requests(|_| 1.0);
        for record in records.iter_mut().rev().take(n) {
            record.connection = Connection::New;
            let sent = record.started + opening_ms * MS;
            let shift = |at: &mut u64| *at += opening_ms * MS;
            record.sent = Some(sent);
            record.tokens.iter_mut().for_each(shift);
            shift(&mut record.finished);
        }
        records
    };
    check(&health(new(1, 30), []), &[]);
    check(&health(new(2, 30), []), &[("new_connections", Verdict::Suspect)]);
    check(&health(new(11, 30), []), &[("new_connections", Verdict::Invalid)]);
    // Opening them takes no time to speak of.
    check(&health(new(200, 1), []), &[]);
    // It is no lateness of the client's.
    check(&health(new(200, 90), []), &[("new_connections", Verdict::Invalid)]);
    // Nor is it that it sent them too late for the window.
    let slow = health(new(20, 1_000), []);
    assert!(slow.reasons.iter().all(|reason| reason.rule != "unsent"), "{:?}", slow.reasons);
}

#[test]
fn a_closed_loop_that_connects_for_each_request_has_no_slow_client() {
    // Two slots, each of which asks again at once and then opens a connection.
    let judged = |opening: u64| {
        let mut records = Vec::new();
        for slot in 0..2 {
            let mut at = 10 * slot;
            for i in 0..200 {
                let sent = at + opening;
                records.push(Record {
                    session: slot * 1_000 + i,
                    connection: Connection::New,
                    started: at * MS,
                    ..answer(sent, &[sent + 80, sent + 90], sent + 100)
                });
                at = sent + 100;
            }
        }
        closed_loop(2, records).analyse(&slo(&[])).summary.health
    };
    check(&judged(3), &[]);
    let health = judged(30);
    assert_eq!(
        (health.reasons[0].rule.as_str(), health.reasons.len()),
        ("new_connections_closed", 1)
    );
    assert_eq!(health.verdict, Verdict::Valid);
}

#[test]
fn percentiles_that_are_the_time_to_connect_are_withheld() {
    let scheduled = |n: usize, failed: usize| {
        let mut records = requests(|_| 1.0);
        for record in records.iter_mut().take(failed) {
            *record = failure(record.clone(), FailureKind::Timeout, "late");
        }
        for record in records.iter_mut().rev().take(n) {
            record.connection = Connection::New;
            record.started = record.sent.unwrap().saturating_sub(30 * MS);
        }
        let stage = Run::open(20_200, records).analyse(&slo(&[])).summary.stages.remove(0);
        let own = values(&stage, "ttft");
        assert!(own.p99.is_some() && own.doubts.is_empty());
        values(&stage, "scheduled_ttft").clone()
    };
    let [two, three, twelve] = [2, 3, 12].map(|n| scheduled(n, 0));
    assert!(two.p99.is_some());
    assert_eq!(
        (two.doubt(), two.withheld.as_slice()),
        (Some(Verdict::Suspect), &["p99_9".to_owned()][..])
    );
    assert_eq!((three.p99, three.p95.is_some(), three.withheld.len()), (None, true, 2));
    assert_eq!((twelve.p95, twelve.p90.is_some()), (None, true));
    assert_eq!(twelve.doubt(), Some(Verdict::Invalid));
    // With failures, too, and there is no other way to them.
    let failing = scheduled(12, 1);
    let all = failing.all_sent.as_ref().unwrap();
    assert_eq!(all.percentiles.keys().collect::<Vec<_>>(), ["p50", "p90"], "{failing:?}");
}

/// A stage at 10 a second whose TTFTs in milliseconds are these.
fn level(ttfts: impl IntoIterator<Item = f64>) -> Health {
    let ttfts: Vec<f64> = ttfts.into_iter().collect();
    let end = ttfts.len() as u64 * 100;
    let records = ttfts.iter().zip(0..).map(|(ttft, i)| {
        let record = answer(i * 100, &[i * 100], i * 100);
        let first = i * 100 * MS + (ttft * MS as f64) as u64;
        Record { tokens: vec![first], finished: first + MS, ..record }
    });
    let mut run = Run::open(end, records.collect());
    run.header.stages[0].rate = Some(10.0);
    run.analyse(&slo(&[])).summary.health
}

#[test]
fn a_stage_that_is_not_steady_or_was_not_warm_is_suspect() {
    let noise = |i: u64| 1.0 + 0.05 * ((i * 7_919 % 101) as f64 / 50.0 - 1.0);
    check(&level((0..2_000).map(|i| 50.0 * noise(i))), &[]);
    let rising = level((0..2_000).map(|i| 50.0 * noise(i) * (1.0 + 0.3 * i as f64 / 2_000.0)));
    assert!(rising.reasons.iter().any(|r| r.rule == "not_steady"), "{:?}", rising.reasons);
    let slow = |n: u64| level((0..2_000).map(|i| 50.0 * noise(i) * if i < n { 2.0 } else { 1.0 }));
    let warm_up = |health: &Health| health.reasons.iter().any(|r| r.rule == "warm_up");
    assert!(!warm_up(&slow(150)) && warm_up(&slow(300)));
    assert!(warm_up(&slow(900)) && slow(300).verdict == Verdict::Suspect);
    // A level that differs by hardly anything needs no warm-up.
    let little = level((0..2_000).map(|i| 50.0 * if i < 400 { 1.04 } else { 1.0 }));
    assert!(!warm_up(&little), "{:?}", little.reasons);
}

#[test]
fn a_limit_in_flight_touches_what_counts_from_sending_once_it_binds_often() {
    let capped = |capped: u64| {
        let mut run = Run::open(20_200, requests(|_| 0.0));
        run.header.stages[0].max_in_flight = Some(8);
        let end = run.entries.iter_mut().find_map(|entry| match entry {
            Entry::Event(Event::Stage(StagePhase::End(end))) => Some(end),
            _ => None,
        });
        end.expect("the stage has ended").capped = capped;
        run.analyse(&slo(&[]))
    };
    let seldom = capped(2);
    check(&seldom.summary.health, &[]);
    let label = "open loop, capped: 1.0 % of the arrivals waited for the limit of 8 in flight";
    assert_eq!(seldom.summary.stages[0].label.as_deref(), Some(label));
    let often = capped(3);
    check(&often.summary.health, &[("limit_in_flight", Verdict::Suspect)]);
    let stage = &often.summary.stages[0];
    assert!(stage.label.as_ref().unwrap().ends_with("scheduled ones are right"));
    assert_eq!(values(stage, "ttft").doubt(), Some(Verdict::Suspect));
    assert_eq!(values(stage, "scheduled_ttft").doubt(), None);
    let terminal = analysis::report::terminal(&often, 100, false);
    let line = |title: &str| terminal.lines().find(|line| line.starts_with(title)).unwrap();
    assert!(line(" TTFT, ms").contains("100.0? / 100.0? / 100.0*?"), "{terminal}");
    assert!(!line(" scheduled TTFT").contains('?') && line(" loop").contains("open, capped 1.5 %"));
    assert!(terminal.contains("the load generator did what it was asked, but mind the reasons"));
    let page = analysis::report::html(&often);
    assert!(page.contains("<td>100.0*?") && page.contains("a rule of health touches this metric"));
    assert!(
        analysis::report::csv(&often.summary).contains(",\"open, capped 1.5 %\",limit_in_flight")
    );
}

#[test]
fn arrivals_that_differ_from_the_nominal_rate_are_noted() {
    let drew = |rate: f64| {
        let mut run = Run::open(20_000, requests(|_| 0.0));
        run.header.stages[0].rate = Some(rate);
        run.header.stages[0].length = Some(20_000 * MS);
        run.analyse(&slo(&[])).summary.health
    };
    assert_eq!(drew(10.4).reasons, []);
    let noted = drew(11.0);
    assert_eq!(noted.verdict, Verdict::Valid);
    assert_eq!(
        (noted.reasons[0].rule.as_str(), noted.reasons[0].verdict),
        ("realised_rate", Verdict::Note)
    );
}

#[test]
fn a_server_on_the_same_host_is_noted() {
    let mut run = Run::open(20_200, requests(|_| 0.0));
    // A port that is forwarded to it has such an address, too: whoever knows the target decides.
    run.header.endpoint = "http://127.0.0.1:40123".to_owned();
    assert_eq!(run.analyse(&slo(&[])).summary.health.reasons, []);
    let options = Options { same_host: true, ..slo(&[]) };
    let health = run.analyse(&options).summary.health;
    assert_eq!(health.verdict, Verdict::Valid);
    insta::assert_snapshot!(health.reasons[0], @"the load generator and the endpoint share a machine and its processors: use a machine of its own for the load generator where that matters");
}

fn calibration(requests_per_s: f64, lateness_p99: f64) -> Calibration {
    let json = serde_json::json!({
        "format": "llmdbench.calibration", "version": "1.0", "measured": "2026-02-03T04:05:06Z",
        "machine": {"host": "h", "kernel": "k", "cpu": "c", "cores": 2, "llmdbench": "0"},
        "length_s": 20.0, "error": {"ttft": {"e50": 0.01, "e99": 0.1}},
        "lateness_p99": lateness_p99, "runs": 5, "floor": {},
        "headroom": {"requests_per_s": requests_per_s, "tokens_per_s": 1e6},
    });
    serde_json::from_value(json).expect("a calibration")
}

#[test]
fn a_run_is_set_beside_the_calibration_of_its_machine() {
    let calibrated = |requests_per_s: f64, lateness_p99: f64| {
        let calibration = Some(calibration(requests_per_s, lateness_p99));
        let options = Options { calibration, ..slo(&[]) };
        Run::open(20_000, requests(|_| 3.0)).analyse(&options)
    };
    // 10 requests a second, 3 ms late.
    assert_eq!(calibrated(20.0, 1.0).summary.health.reasons, []);
    let noted = calibrated(19.0, 0.9);
    let fired: Vec<_> =
        noted.summary.health.reasons.iter().map(|r| (r.rule.as_str(), r.verdict)).collect();
    assert_eq!(fired, [("headroom", Verdict::Note), ("lateness_calibrated", Verdict::Note)]);
    let mut none = calibration(0.0, 5.0);
    none.headroom =
        Headroom { tokens_per_s: 0.0, limit: Some("steal".to_owned()), ..none.headroom };
    let options = Options { calibration: Some(none), ..slo(&[]) };
    let none = Run::open(20_000, requests(|_| 3.0)).analyse(&options).summary.health;
    assert_eq!((none.reasons.len(), none.reasons[0].rule.as_str()), (1, "no_headroom"));
    assert_eq!(none.verdict, Verdict::Valid);
    let text = analysis::report::terminal(&noted, 120, false);
    assert!(
        text.contains("resolution: TTFT by 0.10 ms (99 % of the errors, calibrated 2026-02-03)"),
        "{text}"
    );
    assert!(analysis::report::html(&noted).contains("&plusmn; 0.100"));
}

#[test]
fn lateness_that_a_limit_in_flight_made_is_not_set_beside_the_calibration() {
    // 0.5 ms late, the calibration's p99 being 0.9; the limit held `capped` of 200 back.
    let noted = |capped: u64| {
        let mut run = Run::open(20_000, requests(|i| if i < capped { 80.0 } else { 0.5 }));
        run.header.stages[0].max_in_flight = Some(8);
        let end = run.entries.iter_mut().find_map(|entry| match entry {
            Entry::Event(Event::Stage(StagePhase::End(end))) => Some(end),
            _ => None,
        });
        end.expect("the stage has ended").capped = capped;
        let options = Options { calibration: Some(calibration(1e6, 0.9)), ..slo(&[]) };
        let reasons = run.analyse(&options).summary.health.reasons;
        reasons.iter().any(|reason| reason.rule == "lateness_calibrated")
    };
    assert!(!noted(100) && !noted(3) && !noted(2));
}

#[test]
fn the_loop_is_told_of_every_number_and_chart() {
    let records: Vec<Record> =
        (0..200).map(|i| answer(i * 100, &[i * 100 + 80], i * 100 + 100)).collect();
    let analysis = closed_loop(1, records).analyse(&slo(&[]));
    let label = "closed loop, C = 1: the server set the pace; latency at this concurrency, not at a \
        request rate; not comparable with open-loop latency";
    let [stage] = &analysis.summary.stages[..] else { panic!() };
    assert_eq!(stage.label.as_deref(), Some(label));
    let terminal = analysis::report::terminal(&analysis, 100, false);
    assert!(terminal.contains(label) && terminal.contains("closed, C = 1"), "{terminal}");
    let page = analysis::report::html(&analysis);
    let charts = analysis::charts::CHARTS;
    assert!(page.matches(label).count() > charts.len(), "beside tables and below each chart");
    for chart in charts {
        assert!(
            analysis::charts::svg(chart, &analysis, 1200, 600).contains(label),
            "{}",
            chart.name
        );
    }
    let csv = analysis::report::csv(&analysis.summary);
    assert!(csv.lines().skip(1).all(|line| line.contains(",\"closed, C = 1\",")), "{csv}");
}

#[test]
fn a_reason_is_a_sentence_with_value_limit_and_cure() {
    let fired = health(requests(|_| 21.0), []);
    insta::assert_snapshot!(fired.reasons[0], @"stage s: lateness (p99; p90 below 100 requests; connecting apart) against the TTFT p50: 21 %, limit 20 %: lower the rate, give the load generator more cores, or leave it a machine with nothing else on it");
    // A value just over its limit is not written like it.
    let fired = health(requests(|_| 20.01), []);
    assert!(fired.reasons[0].text.contains(": 20.01 %, limit 20 %: "), "{}", fired.reasons[0]);
}

#[test]
fn requests_under_way_at_the_end_are_no_overload_and_a_growing_backlog_is() {
    let run = |latency: fn(u64) -> u64| {
        let request = |i: u64| answer(i * 100, &[i * 100 + 50], i * 100 + latency(i));
        let mut run = Run::open(20_000, (0..200).map(request).collect());
        run.header.stages[0].length = Some(20_000 * MS);
        run.analyse(&slo(&[])).summary.stages[0].overloaded
    };
    assert!(!run(|_| 1_500));
    assert!(run(|i| 500 + 50 * i));
}

#[test]
fn a_cache_that_is_not_as_asked_is_told_with_both_figures() {
    // Half of each prompt but the first is shared; `cached` of its 100 tokens were there.
    let check = |asked: CacheWish, cached: u32, rule: Option<&str>| {
        let shared = |(i, record): (usize, Record)| Record {
            input_tokens: Some(100),
            asked_input_tokens: Some(100),
            cached_tokens: Some(cached),
            labels: [(EXPECTED_CACHED.to_owned(), if i == 0 { "0" } else { "0.5" }.to_owned())]
                .into(),
            ..record
        };
        let records = requests(|_| 0.0).into_iter().enumerate().map(shared).collect();
        let cache = Some(CacheState { asked, done: "Nothing was done.".to_owned() });
        let options = Options { cache, ..Options::default() };
        let summary = Run::open(20_200, records).analyse(&options).summary;
        let fired: Vec<&str> = summary.health.reasons.iter().map(|r| r.rule.as_str()).collect();
        assert_eq!(fired, rule.into_iter().collect::<Vec<_>>(), "{asked:?} {cached}");
        let verdict = if rule.is_some() { Verdict::Suspect } else { Verdict::Valid };
        assert_eq!(summary.health.verdict, verdict);
        let figures = [format!("{cached}.0 %"), "49.8 %".to_owned()];
        let told = |text: &str| figures.iter().all(|figure| text.contains(figure));
        let problem = |note: &&analysis::Note| note.severity == Severity::Problem;
        assert_eq!(summary.notes.iter().filter(problem).any(|n| told(&n.text)), rule.is_some());
    };
    check(CacheWish::Cold, 48, None);
    check(CacheWish::Cold, 96, Some("cache_not_cold"));
    check(CacheWish::Cold, 0, None);
    check(CacheWish::Warm, 96, None);
    check(CacheWish::Warm, 32, None);
    // The prompts explain 50 of 100 tokens, and blocks leave 18 of them at the least.
    check(CacheWish::AsIs, 96, None);
    check(CacheWish::AsIs, 0, None);
}

/// How often each sign of overload, and how often any rule, fires in 40 seeded runs of a queue with 16 places: Poisson
/// arrivals, log-normal service of mean 2 s and coefficient of variation 0.6, 2,000 requests at
/// this share of the 8 a second that it can do.
fn queue(load: f64) -> [usize; 3] {
    let mut fired = [0; 3];
    for seed in 0..40u64 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut at, mut free) = (0.0, [0.0f64; 16]);
        let gaps = Exp::new(8.0 * load).expect("a rate above 0");
        let services = LogNormal::from_mean_cv(2.0, 0.6).expect("a mean above 0");
        let mut records = Vec::new();
        for session in 0..2_000 {
            at += gaps.sample(&mut random);
            let place = free.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("there are 16");
            let begin = place.max(at);
            *place = begin + services.sample(&mut random);
            let end = *place;
            let ms = |s: f64| (s * 1e3) as u64;
            let last = ms(end).max(ms(begin) + 300);
            let answer = answer(ms(at), &[ms(begin) + 300, last], last);
            records.push(Record { session, ..answer });
        }
        let window_end = (at * 1e3) as u64 + 1;
        let mut run = Run::open(window_end, records);
        run.header.stages[0].rate = Some(8.0 * load);
        let Health { verdict, reasons } = run.analyse(&slo(&[])).summary.health;
        fired[2] += usize::from(verdict != Verdict::Valid);
        for (count, rule) in fired.iter_mut().zip(["overloaded", "overload_growing"]) {
            *count += usize::from(reasons.iter().any(|reason| reason.rule == rule));
        }
    }
    fired
}

#[test]
fn sessions_that_go_on_pile_up_without_an_overload() {
    // One begins every 200 ms and asks ten times, once a second: there are more and more of them.
    let turns = (0..150u64).flat_map(|session| {
        (0..10).map(move |turn| {
            let at = session * 200 + u64::from(turn) * 1_000;
            Record { session, turn, ..answer(at, &[at + 80], at + 300) }
        })
    });
    let end = 30_000;
    let mut run = Run::open(end, turns.filter(|r| r.due < Some(end * MS)).collect());
    run.header.stages[0].rate = Some(5.0);
    run.header.stages[0].length = Some(end * MS);
    let reasons = run.analyse(&slo(&[])).summary.health.reasons;
    assert!(reasons.iter().all(|reason| reason.verdict <= Verdict::Note), "{reasons:?}");
}

#[test]
fn a_busy_queue_is_seldom_called_overloaded_and_a_growing_one_mostly() {
    let [light, busy, heavy] = [queue(0.5), queue(0.85), queue(1.1)];
    assert!(busy[0] == 0 && busy[1] <= 2, "{busy:?}");
    assert!(heavy[0] >= 38 && heavy[1] >= 38, "{heavy:?}");
    // No rule of all fires where all is well.
    assert!(light[2] <= 2, "{light:?}");
}
