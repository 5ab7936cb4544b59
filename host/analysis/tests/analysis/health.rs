//! Which rule fires, and how gravely.

use crate::run::{MS, Run, answer, slo};
use analysis::{CacheState, CacheWish, EXPECTED_CACHED, Health, Options, Severity, Verdict};
use records::{ClientSample, Connection, Record, ThreadSample};

/// Two hundred requests, one every 100 ms, with a TTFT of 100 ms.
fn requests(lateness_ms: impl Fn(u64) -> f64) -> Vec<Record> {
    let request = |i: u64| {
        let due = i * 100 * MS;
        let sent = due + (lateness_ms(i) * MS as f64) as u64;
        let shift = |r: Record| Record { due: Some(due), ..r };
        let at = |ms: u64| sent + ms * MS;
        shift(Record {
            started: sent,
            sent: Some(sent),
            tokens: vec![at(100), at(110)],
            first_answer: Some(at(100)),
            finished: at(120),
            ..answer(0, &[100, 110], 120)
        })
    };
    (0..200).map(request).collect()
}

fn health(records: Vec<Record>, samples: impl IntoIterator<Item = ClientSample>) -> Health {
    let mut run = Run::open(20_200, records);
    let place = run.entries.len() - 2;
    let samples = samples.into_iter().map(|s| records::Entry::Event(records::Event::Client(s)));
    run.entries.splice(place..place, samples);
    run.analyse(&slo(&[])).summary.health
}

#[track_caller]
fn check(health: &Health, wanted: &[(&str, Verdict)]) {
    let fired: Vec<_> = health.reasons.iter().map(|r| (r.rule.as_str(), r.verdict)).collect();
    assert_eq!(fired, wanted, "{:?}", health.reasons);
    let worst = wanted.iter().map(|w| w.1).max().unwrap_or(Verdict::Valid);
    assert_eq!(health.verdict, worst);
}

fn thread(cpu: f64, waiting: f64) -> impl Iterator<Item = ClientSample> {
    (1..=20).map(move |second| ClientSample {
        at: second * 1_000 * MS,
        threads: vec![
            ThreadSample { name: "pacer".to_owned(), cpu: 0.01, waiting: 0.0 },
            ThreadSample { name: "load-0".to_owned(), cpu, waiting },
        ],
        ..ClientSample::default()
    })
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
fn threads_are_judged_by_the_busiest() {
    check(&health(requests(|_| 0.0), thread(0.7, 0.009)), &[]);
    check(&health(requests(|_| 0.0), thread(0.8, 0.0)), &[("thread_cpu", Verdict::Suspect)]);
    check(&health(requests(|_| 0.0), thread(0.95, 0.0)), &[("thread_cpu", Verdict::Invalid)]);
    check(&health(requests(|_| 0.0), thread(0.1, 0.02)), &[("thread_waiting", Verdict::Suspect)]);
    check(&health(requests(|_| 0.0), thread(0.1, 0.06)), &[("thread_waiting", Verdict::Invalid)]);
    check(&health(requests(|_| 0.0), thread(0.99, 0.9).take(9)), &[]);
}

#[test]
fn a_supply_that_ran_dry_is_invalid_however_short_the_run() {
    let sample = ClientSample { at: 1_000 * MS, starved: 1, ..ClientSample::default() };
    let short = requests(|_| 0.0).into_iter().take(3).collect();
    check(&health(short, [sample]), &[("starved", Verdict::Invalid)]);
}

#[test]
fn connections_beyond_those_that_the_load_needs_count() {
    let new = |n: usize, opening_ms: u64| {
        let mut records = requests(|_| 1.0);
        for record in &mut records[..n] {
            record.connection = Connection::New;
            record.started = record.sent.unwrap().saturating_sub(opening_ms * MS);
        }
        health(records, [])
    };
    // Two are under way at most: twelve are free.
    check(&new(12, 30), &[]);
    check(&new(20, 30), &[("new_connections", Verdict::Suspect)]);
    check(&new(200, 30), &[("new_connections", Verdict::Invalid)]);
    // Opening them takes no time to speak of.
    check(&new(200, 1), &[]);
}

#[test]
fn a_reason_is_a_sentence_with_value_limit_and_cure() {
    let fired = health(requests(|_| 21.0), []);
    insta::assert_snapshot!(fired.reasons[0], @"stage s: lateness (p99; p90 below 100 requests) against the TTFT p50: 21 %, limit 20 %: lower the rate, give the load generator more cores, or leave it a machine with nothing else on it");
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
