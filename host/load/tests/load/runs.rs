//! Whole runs: when requests start, what limits and stops do, how a run ends.

use crate::support::*;
use load::{Arrival, Message, Pacing, Part, Prompt, Ramp, Ramped, Session, Stage, Stop};
use records::{
    ClientSample, EndReason, Entry, Event, FailureKind, Record, StageBegin, StageEnd, StagePhase,
};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

fn sessions(n: u64) -> Stop {
    Stop { sessions: Some(n), ..Stop::default() }
}

fn after(ms: u64) -> Stop {
    Stop { after: Some(ms * MS), ..Stop::default() }
}

fn offsets(done: &Done) -> Vec<u64> {
    let begin = done.stage_begin(0);
    done.records().iter().map(|record| record.due.unwrap() - begin).collect()
}

#[test]
fn an_open_stage_sends_its_schedule_and_lasts_to_its_end() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    // The last is due long before the end, so that a busy machine sends it in time, too.
    let done = run(plan(&server.url(), vec![open(5.0, after(1_000))]));
    assert_sound(&done);
    assert_eq!(done.outcome.reason, EndReason::Completed);
    assert_eq!(offsets(&done), (0..5).map(|k| k * 200 * MS).collect::<Vec<_>>());
    let end = done.stage_end(0);
    assert_eq!(end.window_end, done.stage_begin(0) + 1_000 * MS);
    assert_eq!((end.scheduled, end.unsent, end.capped), (Some(5), 0, 0));
    assert_eq!(done.outcome.succeeded, 5);
}

#[test]
fn c23_requests_that_wait_for_a_limit_keep_their_due_time() {
    let check = |stop: Stop| {
        let server = Server::start(vec![Script::answer(100, 500)]);
        let stage = Stage { max_in_flight: Some(1), ..open(10.0, stop) };
        let done = run(plan(&server.url(), vec![stage]));
        assert_sound(&done);
        assert_eq!(offsets(&done), (0..8).map(|k| k * 100 * MS).collect::<Vec<_>>());
        let records = done.records();
        for (i, record) in (0..).zip(&records) {
            let sent = record.sent.unwrap() - done.stage_begin(0);
            assert!(sent >= 500 * i * MS, "{i} sent after {sent} ns");
        }
        // Each leaves when the one before has ended: on a busy machine a bit later, but not always.
        let waits = records.windows(2).map(|pair| pair[1].started - pair[0].finished);
        assert!(waits.min().unwrap() < 50 * MS, "{records:?}");
        let end = done.stage_end(0);
        assert_eq!((end.scheduled, end.unsent, end.capped), (Some(8), 0, 7));
        assert_eq!(end.window_end, done.records()[7].finished);
    };
    thread::scope(|scope| {
        scope.spawn(|| check(sessions(8)));
        scope.spawn(|| check(Stop { requests: Some(8), ..Stop::default() }));
    });
}

#[test]
fn a_limit_of_sessions_holds_them_from_first_to_last_turn() {
    let server = Server::start(vec![Script::answer(1, 5)]);
    let two_turns = |id| session_of(id, vec![turn(request("a"), 0), turn(request("b"), 30)]);
    let stage = Stage { concurrency: Some(1), ..open(1_000.0, sessions(3)) };
    let done = begin(plan(&server.url(), vec![stage]), vec![feed((0..).map(two_turns))]).finish();
    assert_sound(&done);
    let order: Vec<_> = done.records().iter().map(|r| (r.session, r.turn)).collect();
    assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    assert_eq!(done.stage_end(0).capped, 2);
}

#[test]
fn what_never_left_when_time_was_up_is_counted() {
    let server = Server::start(vec![Script::answer(10, 200), Script::answer(10, 10_000)]);
    let stage = Stage { max_in_flight: Some(1), drain: Some(20 * MS), ..open(50.0, after(600)) };
    let done = run(plan(&server.url(), vec![stage]));
    assert_sound(&done);
    assert_eq!(done.outcome.sent, 2);
    let end = done.stage_end(0);
    assert_eq!((end.scheduled, end.unsent), (Some(30), 28));
    assert_eq!(end.capped, 29, "those that were never sent had waited, too");
    assert_eq!(done.records()[0].error, None);
    let failure = done.records()[1].error.as_ref().unwrap();
    assert_eq!(failure.kind, FailureKind::Cancelled);
}

#[test]
fn a_workload_that_ends_before_its_stage_is_told_of() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let told = |stage: Stage, given: u64| {
        let feeds = vec![feed((0..given).map(session))];
        let done = begin(plan(&server.url(), vec![stage]), feeds).finish();
        assert_sound(&done);
        (done.outcome.sent, done.stage_end(0).exhausted)
    };
    assert_eq!(told(closed(5), 3), (3, true));
    assert_eq!(told(closed(3), 3), (3, false));
    assert_eq!(told(open(100.0, sessions(5)), 3), (3, true));
    assert_eq!(told(open(100.0, after(200)), 3), (3, true));
    let trace = |n| Stage { arrival: Arrival::Trace(1.0), stop: sessions(n), ..closed(0) };
    assert_eq!(told(trace(5), 3), (3, true));
    assert_eq!(told(trace(3), 3), (3, false));
    assert_eq!(told(open(100.0, sessions(3)), 3), (3, false));
    // The session that is asked for ahead takes no request from the turns that are left.
    let turns = |id| session_of(id, (0..3).map(|_| turn(request("a"), 0)).collect());
    let stop = Stop { requests: Some(9), ..Stop::default() };
    let feeds = vec![feed((0..3).map(turns))];
    let done = begin(plan(&server.url(), vec![Stage { stop, ..closed(0) }]), feeds).finish();
    assert_eq!((done.outcome.sent, done.stage_end(0).exhausted), (9, false));
    // Nothing but the workload was to end it.
    let unlimited = || Stage { stop: Stop::default(), ..closed(0) };
    assert_eq!(told(unlimited(), 3), (3, false));
    assert_eq!(told(Stage { arrival: Arrival::Trace(1.0), ..unlimited() }, 3), (3, false));
    let times = Arrival::Schedule((0..5).map(|i| i * MS).collect());
    assert_eq!(told(Stage { arrival: times, ..unlimited() }, 3), (3, true));
}

#[test]
fn a_closed_loop_keeps_its_slots_busy_and_nobody_is_due() {
    let server = Server::start(vec![Script::answer(5, 20)]);
    let stage = Stage { concurrency: Some(4), ..closed(20) };
    let done = run(plan(&server.url(), vec![stage]));
    assert_sound(&done);
    assert_eq!(done.outcome.succeeded, 20);
    assert!(done.records().iter().all(|record| record.due.is_none()));
    let connections = server.seen().iter().map(|seen| seen.connection).max();
    assert_eq!(connections, Some(3));
    assert_eq!(done.stage_end(0).scheduled, None);
    let records = done.records();
    let under_way = |at| records.iter().filter(|r| r.started <= at && at < r.finished).count();
    assert_eq!(records.iter().map(|r| under_way(r.started)).max(), Some(4));
}

#[test]
fn later_turns_of_a_closed_loop_say_when_they_were_wanted_unless_a_limit_held_them() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let with = |stage, pause_ms| {
        let turns = move || (0..3).map(move |_| turn(request("a"), pause_ms)).collect();
        let sessions = feed((0..).map(move |id| session_of(id, turns())));
        let done = begin(plan(&server.url(), vec![stage]), vec![sessions]).finish();
        assert_sound(&done);
        done.records().into_iter().cloned().collect::<Vec<_>>()
    };
    let records = with(Stage { concurrency: Some(1), ..closed(2) }, 5);
    for pair in records.windows(2).filter(|pair| pair[0].session == pair[1].session) {
        assert_eq!(pair[1].wanted, Some(pair[0].finished + 5 * MS));
        assert!(pair[1].wanted <= Some(pair[1].started));
    }
    assert!(records.iter().all(|record| record.wanted.is_some() == (record.turn > 0)));
    // Two that want to send at once, where one may: each waits for the other's answer.
    let limited = Stage { concurrency: Some(2), max_in_flight: Some(1), ..closed(4) };
    assert!(with(limited, 0).iter().any(|record| record.turn > 0 && record.wanted.is_none()));
}

#[test]
fn a_ramp_of_concurrency_grows() {
    let server = Server::start(vec![Script::answer(2, 10)]);
    let ramp =
        Ramp { what: Ramped::Closed, start: 1.0, end: 5.0, over: 400 * MS, exponential: false };
    let stage = Stage { arrival: Arrival::Ramp(ramp), stop: after(1_000), ..closed(0) };
    let done = run(plan(&server.url(), vec![stage]));
    assert_sound(&done);
    let begin = done.stage_begin(0);
    let records = done.records();
    let under_way = |at: u64| records.iter().filter(|r| r.started <= at && at < r.finished).count();
    let most = |at: u64| (1.0 + 4.0 * (at - begin) as f64 / (400 * MS) as f64).round() as usize;
    let starts: Vec<u64> = records.iter().map(|record| record.started).collect();
    assert!(starts.iter().all(|&at| under_way(at) <= most(at).min(5)), "{records:?}");
    assert_eq!(under_way(starts[0]), 1);
    assert_eq!(starts.iter().map(|&at| under_way(at)).max(), Some(5));
    assert_eq!(done.stage_end(0).window_end, begin + 1_000 * MS);
}

#[test]
fn a_trace_starts_sessions_at_their_own_times() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let starts = [Some(0), Some(0), Some(100 * MS), None, Some(240 * MS)];
    let sessions: Vec<_> =
        (0..).zip(starts).map(|(id, start)| Session { start, ..session(id) }).collect();
    let stage = Stage {
        arrival: Arrival::Trace(2.0),
        concurrency: None,
        stop: Stop::default(),
        ..closed(0)
    };
    let done = begin(plan(&server.url(), vec![stage]), vec![feed(sessions)]).finish();
    assert_sound(&done);
    let ids: Vec<_> = done.records().iter().map(|record| record.session).collect();
    let mut due = offsets(&done);
    due.sort_unstable();
    assert_eq!(due, [0, 0, 50 * MS, 50 * MS, 120 * MS]);
    assert_eq!(ids[4], 4);
    assert_eq!(done.stage_end(0).scheduled, Some(5));
}

#[test]
fn a_session_of_a_trace_that_is_there_before_it_is_due_starves_nobody() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let starved = |due_ms: u64| {
        let stage = Stage { arrival: Arrival::Trace(1.0), concurrency: None, ..closed(2) };
        let slow: Box<dyn FnOnce(load::Feeder) + Send> = Box::new(move |feeder| {
            feeder.push(Session { start: Some(0), ..session(0) }).unwrap();
            // Long after the stage has begun and the first is out.
            thread::sleep(Duration::from_millis(700));
            feeder.push(Session { start: Some(due_ms * MS), ..session(1) }).unwrap();
        });
        let going = begin(plan(&server.url(), vec![stage]), vec![slow]);
        while !going.run.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
        let starved = going.run.progress().starved;
        assert_sound(&going.finish());
        starved
    };
    assert_eq!((starved(2_000), starved(10)), (0, 1));
}

#[test]
fn later_turns_carry_history_and_are_due_by_their_pacing() {
    let server = Server::start(vec![
        Script::stream().content(5, "Hel").content(10, "lo").finish(10).done(10),
        Script::answer(5, 60),
        Script::answer(1, 2),
    ]);
    let mut second = request("two");
    second.history = true;
    let quote = Message {
        role: "user".into(),
        parts: vec![Part::Text("you said ".into()), Part::OutputOf(0)],
        extra: serde_json::Map::new(),
    };
    let third = load::Request { prompt: Prompt::Messages(vec![quote]), ..request("") };
    let mut turns = vec![turn(request("one"), 0), turn(second, 40), turn(third, 0)];
    turns[2].pacing = Pacing::AfterPreviousStart(20 * MS);
    let stage = open(10.0, Stop::default());
    let done = begin(plan(&server.url(), vec![stage]), vec![feed([session_of(7, turns)])]).finish();
    assert_sound(&done);
    assert_eq!(done.outcome.succeeded, 3);
    let records = done.records();
    assert_eq!(records[1].due, Some(records[0].finished + 40 * MS));
    assert_eq!(records[2].due, Some(records[1].finished), "20 ms after its start had passed");
    let messages = &server.seen()[1].json()["messages"];
    assert_eq!(messages[0]["content"], "one");
    assert_eq!(
        (&messages[1]["role"], &messages[1]["content"]),
        (&"assistant".into(), &"Hello".into())
    );
    assert_eq!(messages[2]["content"], "two");
    assert_eq!(server.seen()[2].json()["messages"][0]["content"], "you said Hello");
}

#[test]
fn every_turn_of_a_stage_with_a_quantum_starts_on_it_and_lateness_does_not_carry_it_further() {
    let server = Server::start(vec![
        Script::answer(1, 2),
        Script::answer(1, 2),
        Script::answer(1, 130),
        Script::answer(1, 2),
    ]);
    let mut turns: Vec<_> = (0..4).map(|_| turn(request("a"), 0)).collect();
    for turn in &mut turns[1..] {
        turn.pacing = Pacing::AfterPreviousStart(60 * MS);
    }
    let session = Session { start: Some(10 * MS), ..session_of(0, turns) };
    let stage = Stage {
        arrival: Arrival::Trace(1.0),
        concurrency: None,
        quantum: Some(30 * MS),
        ..open(1.0, Stop::default())
    };
    let done = begin(plan(&server.url(), vec![stage]), vec![feed([session])]).finish();
    assert_sound(&done);
    let (begin, due) = (done.stage_begin(0), offsets(&done));
    // 60 ms are two quanta, however late a request left; an answer that takes longer holds the
    // next turn back to the first quantum after it.
    assert_eq!(due[0], 30 * MS);
    for (turn, record) in (1..).zip(&done.records()[..3]) {
        let ended = (record.finished - begin).next_multiple_of(30 * MS);
        assert_eq!(due[turn], ended.max(due[turn - 1] + 60 * MS), "turn {turn}: {due:?}");
    }
    assert!(due[3] >= due[2] + 130 * MS, "{due:?}");
}

#[test]
fn turns_keep_to_the_plan_unless_they_were_kept_waiting_for_a_place() {
    let server = Server::start(vec![Script::answer(1, 600), Script::answer(1, 2)]);
    let session_with = |id, gap: u64| {
        let mut turns: Vec<_> = (0..3).map(|_| turn(request("a"), 0)).collect();
        for turn in &mut turns[1..] {
            turn.pacing = Pacing::AfterPreviousStart(gap);
        }
        session_of(id, turns)
    };
    // The second session comes while the answer to the first one holds the only place.
    let sessions = [session_with(0, 900 * MS), session_with(1, 780 * MS)];
    let stage = Stage { max_in_flight: Some(1), ..open(100.0, Stop::default()) };
    let done = begin(plan(&server.url(), vec![stage]), vec![feed(sessions)]).finish();
    assert_sound(&done);
    let begin = done.stage_begin(0);
    let of = |session| {
        let mut all: Vec<_> =
            done.records().into_iter().filter(|record| record.session == session).collect();
        all.sort_by_key(|record| record.turn);
        all
    };
    let due: Vec<u64> = of(0).iter().map(|record| record.due.unwrap() - begin).collect();
    assert_eq!(due, [0, 900 * MS, 1_800 * MS], "however late they left");
    let second = of(1);
    assert_eq!(second[0].due, Some(begin + 10 * MS));
    assert!(second[0].started >= begin + 600 * MS, "it waited");
    assert_eq!(second[1].due, Some(second[0].started + 780 * MS));
    assert_eq!(second[2].due, Some(second[0].started + 1_560 * MS));
}

#[test]
fn a_failing_turn_ends_its_session() {
    let server = Server::start(vec![
        Script::answer(1, 2),
        Script::body("500 Oops", "text/plain", "x"),
        Script::answer(1, 2),
    ]);
    let three = |id| session_of(id, (0..3).map(|_| turn(request("a"), 0)).collect());
    let done = begin(plan(&server.url(), vec![closed(2)]), vec![feed((0..).map(three))]).finish();
    assert_sound(&done);
    let turns: Vec<_> = done.records().iter().map(|r| (r.session, r.turn)).collect();
    assert_eq!(turns, [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]);
}

#[test]
fn stages_follow_each_other_and_say_what_is_not_measured() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let warm = Stage { name: "warm".into(), warm_up: true, cool_down: 50 * MS, ..closed(3) };
    let main = Stage { settle: 100 * MS, ..open(50.0, sessions(10)) };
    let feeds = vec![feed((0..).map(session)), feed((0..).map(session))];
    let done = begin(plan(&server.url(), vec![warm, main]), feeds).finish();
    assert_sound(&done);
    let warm_up = |record: &&Record| record.warmup;
    let (first, second): (Vec<_>, Vec<_>) = done.records().into_iter().partition(|r| r.stage == 0);
    assert_eq!((first.len(), first.iter().filter(|r| warm_up(r)).count()), (3, 3));
    assert_eq!((second.len(), second.iter().filter(|r| warm_up(r)).count()), (10, 5));
    assert!(done.stage_begin(1) >= done.stage_end(0).at + 50 * MS);
}

#[test]
fn a_stage_ends_at_its_count_of_requests_or_errors() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let two = |id| session_of(id, vec![turn(request("a"), 0), turn(request("b"), 0)]);
    let stage = |stop| Stage { stop, ..closed(0) };
    let requests = stage(Stop { requests: Some(5), ..Stop::default() });
    let done = begin(plan(&server.url(), vec![requests]), vec![feed((0..).map(two))]).finish();
    assert_sound(&done);
    assert_eq!(done.outcome.sent, 5);

    let failing = Server::start(vec![Script::body("500 Oops", "text/plain", "x")]);
    let errors = stage(Stop { errors: Some(3), ..Stop::default() });
    let done = run(plan(&failing.url(), vec![errors]));
    assert_sound(&done);
    assert_eq!((done.outcome.sent, done.outcome.reason), (3, EndReason::Completed));
}

#[test]
fn a_due_session_that_finds_the_supply_empty_is_counted_and_sent_late() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let (push, pushed) = mpsc::channel();
    let slow: Box<dyn FnOnce(load::Feeder) + Send> = Box::new(move |feeder| {
        for id in pushed {
            feeder.push(session(id)).unwrap();
        }
    });
    let going = begin(plan(&server.url(), vec![open(100.0, sessions(3))]), vec![slow]);
    let patient = Instant::now() + Duration::from_secs(10);
    for id in 0..3 {
        // Each but the first comes when it has been missed.
        while going.run.progress().starved < id && Instant::now() < patient {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(100));
        push.send(id).unwrap();
    }
    while !going.run.is_finished() {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(going.run.progress().starved, 2, "the wait before the stage is not counted");
    let done = going.finish();
    assert_sound(&done);
    assert_eq!(offsets(&done), [0, 10 * MS, 20 * MS]);
    let last = done.records()[2];
    assert!(last.started - last.due.unwrap() >= 150 * MS);
}

#[test]
fn a_stopped_run_drains_and_a_second_stop_breaks_off() {
    let stopped = |hard: bool, answer_ms: u64| {
        let server = Server::start(vec![Script::answer(1, answer_ms)]);
        let stage = Stage { concurrency: Some(2), stop: Stop::default(), ..closed(0) };
        let going = begin(plan(&server.url(), vec![stage]), vec![feed((0..).map(session))]);
        while going.run.progress().in_flight < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        going.run.stop();
        if hard {
            going.run.stop_now();
        }
        going.finish()
    };
    let gentle = stopped(false, 1_000);
    assert_sound(&gentle);
    assert_eq!((gentle.outcome.reason, gentle.outcome.sent), (EndReason::Interrupted, 2));
    assert_eq!(gentle.outcome.succeeded, 2);
    let began = Instant::now();
    let hard = stopped(true, 15_000);
    assert_sound(&hard);
    assert_eq!((hard.outcome.reason, hard.outcome.failed), (EndReason::Interrupted, 2));
    assert!(began.elapsed() < Duration::from_secs(10), "it did not wait for the answers");
}

#[test]
fn a_run_in_which_everything_fails_is_aborted() {
    let server = Server::start(vec![Script::body("503 No", "text/plain", "down")]);
    let endless = || vec![open(100.0, Stop::default())];
    let mut impatient = plan(&server.url(), endless());
    impatient.abort.without_success = Some(200 * MS);
    let done = run(impatient);
    assert_sound(&done);
    assert_eq!(done.outcome.reason, EndReason::Aborted);
    let since = done.outcome.message.split_once("none has ended well for ");
    let since = since.and_then(|(_, rest)| rest.split_once(" s ")?.0.parse().ok());
    assert!(since.is_some_and(|since| (0.2..5.0).contains(&since)), "{}", done.outcome.message);

    let mut strict = plan(&server.url(), endless());
    strict.abort.max_error_rate = Some(0.5);
    let done = run(strict);
    assert!(done.outcome.message.contains("100.0 %"), "{}", done.outcome.message);
    assert!(done.outcome.sent >= 10);
}

#[test]
fn a_server_that_answers_slowly_and_refuses_one_request_is_not_given_up() {
    let refused = Script::body("429 Busy", "text/plain", "later");
    let server = Server::start(vec![refused, Script::answer(100, 900)]);
    let mut stages = vec![closed(4), closed(4)];
    stages.iter_mut().for_each(|stage| stage.concurrency = Some(4));
    stages[0].cool_down = 500 * MS;
    let mut slow = plan(&server.url(), stages);
    slow.abort.without_success = Some(200 * MS);
    let done = run(slow);
    assert_sound(&done);
    assert_eq!((done.outcome.reason, done.outcome.failed), (EndReason::Completed, 1));
    assert_eq!(done.outcome.succeeded, 7);
}

#[test]
fn a_wrong_address_stops_load_at_once() {
    let server = Server::start(vec![Script::body(
        "404 Not Found",
        "application/json",
        r#"{"detail":"Not Found"}"#,
    )]);
    let done = run(plan(&format!("{}/ns", server.url()), vec![open(2.0, Stop::default())]));
    assert_eq!(done.outcome.reason, EndReason::Aborted);
    let found = done.outcome.not_found.unwrap();
    assert_eq!(found.url, format!("{}/ns/v1/chat/completions", server.url()));
    assert_eq!(found.body, "Not Found");
    assert!(done.outcome.sent <= 2, "{} sent", done.outcome.sent);
}

#[test]
fn the_program_can_end_a_run_for_its_own_reason() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let going = begin(
        plan(&server.url(), vec![open(50.0, Stop::default())]),
        vec![feed((0..).map(session))],
    );
    going.run.abort(EndReason::PluginFailed, "it trapped".into());
    let done = going.finish();
    assert_sound(&done);
    assert_eq!(
        (done.outcome.reason, &*done.outcome.message),
        (EndReason::PluginFailed, "it trapped")
    );
}

#[test]
fn samples_tell_how_the_client_fared() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let done = run(plan(&server.url(), vec![open(100.0, sessions(150))]));
    assert_sound(&done);
    let samples: Vec<_> = done
        .entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Event(Event::Client(sample)) => Some(sample),
            _ => None,
        })
        .collect();
    // Each tells of the time since the one before; one is taken after a second, the others at borders.
    let length = |sample: &ClientSample| sample.at - sample.since.unwrap();
    assert!(samples.windows(2).all(|pair| pair[1].since == Some(pair[0].at)), "{samples:?}");
    let whole: Vec<_> = samples.iter().filter(|sample| length(sample) >= SECOND).collect();
    assert!(!whole.is_empty(), "{samples:?}");
    let last = samples.last().unwrap();
    for sample in whole {
        let names: Vec<_> = sample.threads.iter().map(|thread| &*thread.name).collect();
        assert_eq!(names, ["load-0", "load-1", "pacer"]);
        let cpu: Vec<_> = sample.threads.iter().map(|thread| thread.cpu).collect();
        assert!(cpu[0] > 0.0 && cpu[2] > 0.0, "{cpu:?}");
        assert!(cpu.iter().all(|&cpu| cpu < 1.0), "{cpu:?}");
        // The second thread rests as long as the first has few sessions.
        assert!(cpu[1] < cpu[0], "{cpu:?}");
    }
    assert_eq!(last.succeeded, 150);
}

#[test]
fn a_sample_ends_where_a_stage_begins_or_ends() {
    // A beginning is told a little ahead, and what is younger than a millisecond is no sample.
    const AHEAD: u64 = 4 * MS;
    let server = Server::start(vec![Script::answer(1, 2)]);
    let stages = vec![open(100.0, after(300)), open(50.0, after(300))];
    let done = run(plan(&server.url(), stages));
    let mut before = None;
    let mut borders = 0;
    for entry in &done.entries {
        match entry {
            Entry::Event(Event::Client(sample)) => before = Some(sample.at),
            Entry::Event(Event::Stage(
                StagePhase::Begin(StageBegin { at, .. }) | StagePhase::End(StageEnd { at, .. }),
            )) => {
                borders += 1;
                // The first beginning may come before there is any sample.
                let is_first = borders == 1 && before.is_none();
                assert!(is_first || before.unwrap() + AHEAD >= *at, "{before:?} before {at}");
            }
            _ => {}
        }
    }
    assert_eq!(borders, 4);
}

#[test]
fn output_that_comes_densely_is_all_read_and_what_is_due_meanwhile_is_sent() {
    const TOKENS: usize = 64;
    let event = format!("data: {}\n\n", chat(r#"{"content":"a"}"#));
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let script = Script::stream().write(0, chunk.repeat(TOKENS).as_bytes()).finish(0);
    let server = Server::start(vec![script.usage(0, 5, TOKENS as u32).done(0)]);
    let dense = Stage { concurrency: Some(64), ..closed(500) };
    // Fewer at a time than a process may have open files.
    let scheduled = Stage { max_in_flight: Some(128), ..open(2_000.0, sessions(500)) };
    let done = run(plan(&server.url(), vec![dense, scheduled]));
    assert_sound(&done);
    assert_eq!(done.outcome.succeeded, 1_000);
    for record in done.records() {
        assert_eq!(record.tokens.len(), TOKENS);
        assert!(record.tokens.is_sorted() && record.sent.unwrap() <= record.tokens[0]);
        assert!(record.tokens[TOKENS - 1] <= record.finished);
        assert!(record.due.is_none_or(|due| due <= record.started));
    }
}
