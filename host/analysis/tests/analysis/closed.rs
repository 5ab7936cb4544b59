//! Health of closed loops, and of loads that were not what was asked for.

use crate::health::check;
use crate::run::{MS, Run, answer, slo, stage};
use analysis::Verdict;
use records::{
    Entry, Event, Failure, FailureKind, LoopKind, Record, StageEnd, StageInfo, StagePhase,
};

/// `concurrency` answers at a time, each of which takes 100 ms.
pub(crate) fn closed_loop(concurrency: u32, records: Vec<Record>) -> Run {
    let info = StageInfo { concurrency: Some(concurrency), ..stage("c", LoopKind::Closed) };
    let mut run = Run::new(vec![info]);
    run.begin(0, 0);
    run.records(records);
    run.end_with(StageEnd {
        at: 20_200 * MS,
        stage: 0,
        window_end: 20_200 * MS,
        scheduled: None,
        unsent: 0,
        capped: 0,
        exhausted: false,
    });
    run.completed(20_200);
    run
}

#[test]
fn a_closed_loop_is_judged_by_the_time_until_it_asks_again() {
    // Two slots; each asks again so many milliseconds after the answer before it.
    let judged = |pause: fn(u64) -> u64| {
        let mut records = Vec::new();
        for slot in 0..2 {
            let mut at = 10 * slot;
            for i in 0..200 {
                let session = slot * 1_000 + i;
                records.push(Record { session, ..answer(at, &[at + 80, at + 90], at + 100) });
                at += 100 + pause(session);
            }
        }
        closed_loop(2, records).analyse(&slo(&[])).summary.health
    };
    check(&judged(|_| 4), &[]);
    check(&judged(|_| 5), &[("closed_loop_gap", Verdict::Suspect)]);
    check(&judged(|_| 17), &[("closed_loop_gap", Verdict::Invalid)]);
    check(&judged(|i| if i == 50 { 90 } else { 0 }), &[]);
}

#[test]
fn slots_that_a_limit_in_flight_leaves_empty_are_no_gaps() {
    // Eight slots, of which one may be busy: whoever is next starts when the one before has ended.
    let records = (0..100).map(|session| {
        let at = session * 100;
        Record { session, ..answer(at, &[at + 80, at + 90], at + 100) }
    });
    let judged = |limit: Option<u32>, capped: u64| {
        let mut run = closed_loop(8, records.clone().collect());
        run.header.stages[0].max_in_flight = limit;
        let end = run.entries.iter_mut().find_map(|entry| match entry {
            Entry::Event(Event::Stage(StagePhase::End(end))) => Some(end),
            _ => None,
        });
        end.expect("the stage has ended").capped = capped;
        run.analyse(&slo(&[])).summary
    };
    check(&judged(None, 0).health, &[("closed_loop_gap", Verdict::Invalid)]);
    let held = judged(Some(1), 99);
    assert!(held.health.reasons.iter().all(|reason| reason.rule != "closed_loop_gap"));
    let label = held.stages[0].label.clone().unwrap();
    assert!(label.starts_with("closed loop, C = 8 with 1 in flight at most: "), "{label}");
}

#[test]
fn the_pauses_within_the_sessions_of_a_closed_loop_are_no_gaps() {
    let turn = |session: u64, turn: u32| {
        let at = session * 1_500 + u64::from(turn) * 500;
        Record {
            session,
            turn,
            ..answer(at, &[at + 80, at + 90], at + 100 + 200 * u64::from(turn))
        }
    };
    let records = (0..40).flat_map(|session| (0..3).map(move |t| turn(session, t)));
    check(&closed_loop(1, records.collect()).analyse(&slo(&[])).summary.health, &[]);
}

#[test]
fn a_later_turn_of_a_closed_loop_that_starts_after_its_pause_is_a_gap() {
    let judged = |late: u64| {
        let turn = |session: u64, turn: u32| {
            let at = session * 1_500 + u64::from(turn) * 500;
            let wanted = (turn > 0).then_some((at - late * u64::from(turn)) * MS);
            Record { session, turn, wanted, ..answer(at, &[at + 80, at + 90], at + 500) }
        };
        let records = (0..40).flat_map(|session| (0..3).map(move |t| turn(session, t)));
        closed_loop(1, records.collect()).analyse(&slo(&[])).summary.health
    };
    check(&judged(0), &[]);
    check(&judged(3), &[("closed_loop_gap", Verdict::Suspect)]);
    check(&judged(9), &[("closed_loop_gap", Verdict::Invalid)]);
}

#[test]
fn what_the_client_had_no_means_for_and_a_workload_that_ended_early_are_told_apart() {
    let failing = |failed: u64| {
        let record = |i: u64| match i < failed {
            false => answer(i * 100, &[i * 100 + 80, i * 100 + 90], i * 100 + 100),
            true => Record {
                error: Some(Failure::new(FailureKind::Client, "too many open files")),
                ..answer(i * 100, &[], i * 100 + 1)
            },
        };
        Run::open(20_000, (0..200).map(record).collect()).analyse(&slo(&[])).summary.health
    };
    check(&failing(0), &[]);
    check(&failing(1), &[("client_failed", Verdict::Suspect)]);
    check(&failing(20), &[("client_failed", Verdict::Invalid)]);
    let few = (0..4).map(|i| answer(i * 100, &[i * 100 + 80], i * 100 + 100)).collect();
    let mut run = closed_loop(2, few);
    let end = run.entries.iter_mut().find_map(|entry| match entry {
        Entry::Event(Event::Stage(StagePhase::End(end))) => Some(end),
        _ => None,
    });
    end.expect("the stage has ended").exhausted = true;
    check(&run.analyse(&slo(&[])).summary.health, &[("workload_ended", Verdict::Suspect)]);
}
