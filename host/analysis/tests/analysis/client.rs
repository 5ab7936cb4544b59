//! What the client's samples of itself say against a run.

use crate::health::{check, health, requests};
use crate::run::{MS, Run, slo, stage};
use analysis::Verdict;
use records::{
    BrokeDown, ClientSample, EndReason, Entry, Event, LoopKind, Record, StageEnd, ThreadSample,
};

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

/// What the client's sample of a second says.
type Sample = fn(u64) -> ClientSample;

#[test]
fn a_stage_is_not_judged_by_the_load_of_the_one_before() {
    // The first stage takes a whole processor, the second hardly any.
    let judged = |since: fn(u64) -> Option<u64>, shift: u64, of: Sample| {
        let mut run =
            Run::new(vec![stage("heavy", LoopKind::Open), stage("light", LoopKind::Open)]);
        let end = |number: u64| StageEnd {
            at: (number + 1) * 12_000 * MS,
            stage: number as u32,
            window_end: (number + 1) * 12_000 * MS,
            scheduled: None,
            unsent: 0,
            capped: 0,
            exhausted: false,
        };
        for number in 0..2 {
            run.begin(number as u32, number * 12_000);
            let records = requests(|_| 0.0).into_iter().take(100).map(|r| {
                let shift = |at: u64| at + number * 12_000 * MS;
                Record {
                    stage: number as u32,
                    due: r.due.map(shift),
                    started: shift(r.started),
                    sent: r.sent.map(shift),
                    first_byte: r.first_byte.map(shift),
                    tokens: r.tokens.iter().map(|&at| shift(at)).collect(),
                    first_answer: r.first_answer.map(shift),
                    finished: shift(r.finished),
                    ..r
                }
            });
            run.records(records);
            run.end_with(end(number));
        }
        let samples = (1..=24).map(|second| ClientSample {
            at: (second * 1_000 + shift) * MS,
            since: since((second * 1_000 + shift) * MS),
            ..of(second)
        });
        run.entries.extend(samples.map(|sample| Entry::Event(Event::Client(sample))));
        run.completed(24_100);
        run.analyse(&slo(&[])).summary.health
    };
    let cpu = |second| ClientSample {
        threads: vec![ThreadSample {
            name: "load-0".to_owned(),
            cpu: if second <= 12 { 0.95 } else { 0.1 },
            waiting: 0.0,
        }],
        ..ClientSample::default()
    };
    let throttled = |second| ClientSample {
        throttled: Some(if second <= 12 { 1.0 } else { 0.0 }),
        ..ClientSample::default()
    };
    // Counted since the start.
    let starved = |second: u64| ClientSample { starved: second.min(12), ..ClientSample::default() };
    let rules: [(Sample, &str); 3] =
        [(cpu, "thread_cpu"), (throttled, "throttled"), (starved, "starved")];
    for shift in [0, 50, 400] {
        for since in [(|at| at.checked_sub(1_000 * MS)) as fn(u64) -> Option<u64>, |_| None] {
            for (of, rule) in rules {
                let health = judged(since, shift, of);
                let fired: Vec<_> = health.reasons.iter().map(|r| (&*r.rule, &*r.text)).collect();
                let [(name, text)] = fired[..] else { panic!("{shift}: {fired:?}") };
                assert!(name == rule && text.contains("heavy"), "{shift}: {fired:?}");
            }
        }
    }
}

#[test]
fn what_samples_tell_counts_by_how_long_they_tell_of() {
    // Ten milliseconds at the border of a stage are no second.
    let mut samples: Vec<ClientSample> = thread(0.2, 0.0).collect();
    samples.iter_mut().for_each(|sample| sample.steal = Some(0.0));
    let first = |length: u64| ClientSample {
        at: length * MS,
        since: Some(0),
        threads: vec![ThreadSample { name: "load-0".to_owned(), cpu: 1.0, waiting: 1.0 }],
        steal: Some(1.0),
        ..ClientSample::default()
    };
    samples.insert(0, first(10));
    check(&health(requests(|_| 0.0), samples.clone()), &[]);
    samples[0] = first(1_100);
    let wanted = ["thread_cpu", "thread_waiting", "steal"];
    let fired = health(requests(|_| 0.0), samples).reasons;
    assert!(
        fired.iter().map(|reason| &*reason.rule).all(|rule| wanted.contains(&rule)),
        "{fired:?}"
    );
    assert_eq!(fired.len(), wanted.len(), "{fired:?}");
}

#[test]
fn a_client_that_stood_still_says_so() {
    let judged = |stopped: u64| {
        let samples = (1..=20).map(move |second| ClientSample {
            at: second * 1_000 * MS,
            stopped: if second == 7 { stopped * MS } else { 0 },
            ..ClientSample::default()
        });
        health(requests(|_| 0.0), samples)
    };
    check(&judged(0), &[]);
    // Less than a tenth of what could move a p99.
    check(&judged(20), &[]);
    check(&judged(150), &[("stopped", Verdict::Suspect)]);
    check(&judged(500), &[("stopped", Verdict::Invalid)]);
    assert!(judged(500).reasons[0].metrics.contains(&"ttft".to_owned()));
}

#[test]
fn a_stop_in_what_is_left_out_of_a_stage_touches_nothing() {
    let judged = |second: u64| {
        let mut run = Run::open(20_200, requests(|_| 0.0));
        run.header.stages[0].settle = 10_000 * MS;
        let at = second * 1_000 * MS;
        let place = run.entries.len() - 2;
        let stop = ClientSample { at, stopped: 500 * MS, ..ClientSample::default() };
        run.entries.insert(place, Entry::Event(Event::Client(stop)));
        let reasons = run.analyse(&slo(&[])).summary.health.reasons;
        reasons.iter().any(|reason| reason.rule == "stopped")
    };
    assert!(!judged(7) && judged(12));
}

#[test]
fn of_several_load_generators_the_worst_one_counts() {
    let judged = |throttled: f64, stopped: u64| {
        let samples = (1..=20).flat_map(move |second| {
            (0..10).map(move |generator| ClientSample {
                at: second * 1_000 * MS + u64::from(generator),
                generator: Some(generator),
                throttled: Some(if generator == 3 { throttled } else { 0.0 }),
                stopped: if generator == 3 && second == 7 { stopped * MS } else { 0 },
                ..ClientSample::default()
            })
        });
        health(requests(|_| 0.0), samples)
    };
    check(&judged(0.0, 0), &[]);
    check(&judged(0.02, 0), &[("throttled", Verdict::Invalid)]);
    check(&judged(0.0, 500), &[("stopped", Verdict::Invalid)]);
}

#[test]
fn time_stamps_that_come_late_touch_the_itl_alone() {
    // The ITL is 10 ms.
    let judged = |late: u64, lag_us: u64| {
        let samples = (1..=20).map(|second| ClientSample {
            at: second * 1_000 * MS,
            stamp_lag: vec![(10_000, 100 - late), (lag_us * 1_000, late)],
            ..ClientSample::default()
        });
        health(requests(|_| 0.0), samples)
    };
    check(&judged(2, 1_000), &[]);
    check(&judged(2, 1_100), &[("stamp_lag", Verdict::Suspect)]);
    check(&judged(2, 3_100), &[("stamp_lag", Verdict::Invalid)]);
    // One in a hundred does not move the p99.
    check(&judged(1, 9_000), &[]);
    assert_eq!(judged(2, 1_100).reasons[0].metrics, ["itl"]);
}

#[test]
fn what_the_machine_takes_away_is_judged_by_its_mean() {
    let judged = |throttled: f64, steal: f64| {
        let samples = (1..=20).map(|second| ClientSample {
            at: second * 1_000 * MS,
            throttled: Some(if second == 1 { throttled * 20.0 } else { 0.0 }),
            steal: Some(steal),
            ..ClientSample::default()
        });
        health(requests(|_| 0.0), samples)
    };
    check(&judged(0.0, 0.0199), &[]);
    check(&judged(0.001, 0.0), &[("throttled", Verdict::Suspect)]);
    check(&judged(0.011, 0.0), &[("throttled", Verdict::Invalid)]);
    check(&judged(0.0, 0.021), &[("steal", Verdict::Suspect)]);
    check(&judged(0.0, 0.11), &[("steal", Verdict::Invalid)]);
}

#[test]
fn a_load_generator_that_broke_down_makes_the_run_invalid() {
    let of = |event: Option<BrokeDown>, reason: EndReason, message: &str| {
        let mut run = Run::open(20_200, requests(|_| 0.0));
        run.entries.pop();
        run.entries.extend(event.map(|broken| Entry::Event(Event::BrokeDown(broken))));
        let (at, message) = (20_200 * MS, message.to_owned());
        run.entries.push(Entry::Event(Event::End { at, reason, message }));
        run.analyse(&slo(&[])).summary.health
    };
    let broken = [("broken_down", Verdict::Invalid)];
    let event = || Some(BrokeDown { at: 300 * MS, thread: "load-1".to_owned() });
    let others = "requests fail and none has ended well for 30.0 s";
    // It need not be why the run ended.
    check(&of(event(), EndReason::Completed, ""), &broken);
    check(&of(event(), EndReason::Interrupted, ""), &broken);
    check(&of(event(), EndReason::Aborted, others), &broken);
    // Of files of before the event the reason alone tells it.
    check(&of(None, EndReason::Aborted, "a load thread broke down"), &broken);
    // What the server did is no fault of the load generator.
    check(&of(None, EndReason::Aborted, others), &[]);
}
