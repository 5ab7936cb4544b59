//! Conformance in virtual time: the stages of a profile and their sessions, launched by the rules
//! of the contract and answered at once, against published runs and against the original's loop.

use crate::plan::plan;
use crate::profile;
use crate::schedule::TICK;
use crate::sessions::Compat;
use crate::settings::{Mode, WorkloadSettings};
use llmdbench_plugin::requests::{Pacing, Part, Prompt};
use llmdbench_plugin::stages::{Arrival, Stage};
use llmdbench_plugin::{Context, Workload};
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000_000;

/// A request that leaves.
#[derive(Debug, Clone, PartialEq)]
struct Launch {
    /// Nanoseconds from the start of the stage.
    at: u64,
    user: u64,
    text: String,
}

impl Launch {
    /// The number in the text, of a user's question.
    fn question(&self) -> u32 {
        let number = self.text.split("question #").nth(1).unwrap();
        number.split(':').next().unwrap().parse().unwrap()
    }
}

fn stages(profile: &str, mode: Mode) -> Vec<Stage> {
    plan(&profile::parse(profile).unwrap(), mode).unwrap().stages
}

fn measured(profile: &str, mode: Mode) -> Vec<Stage> {
    stages(profile, mode).into_iter().filter(|stage| !stage.warm_up).collect()
}

/// What leaves in a stage, in the order in which it does.
fn launches(stage: &Stage) -> Vec<Launch> {
    let settings: WorkloadSettings =
        serde_json::from_str(stage.workload_settings.as_deref().unwrap()).unwrap();
    let context = Context {
        run_id: "r".into(),
        model: "m".into(),
        model_alias: "m".into(),
        namespace: None,
        seed: 0,
        labels: Vec::new(),
        target: None,
        cluster: None,
    };
    let mut workload = Compat::configure(settings, context).unwrap();
    let mut sessions = Vec::new();
    loop {
        let batch = workload.next_batch(0, 100).unwrap();
        if batch.is_empty() {
            break;
        }
        sessions.extend(batch);
    }
    let end = stage.stop.after.unwrap_or(u64::MAX);
    let on_quantum = |at: u64| stage.quantum.map_or(at, |q| at.div_ceil(q) * q);
    let mut launches = Vec::new();
    let mut last_start = 0;
    for (order, session) in sessions.into_iter().enumerate() {
        let mut at = match stage.arrival {
            Arrival::Trace(1.0) => session.start.unwrap(),
            Arrival::Constant(rate) => (order as f64 / rate * SECOND as f64).round() as u64,
            ref other => panic!("{other:?}"),
        };
        assert!(last_start <= at, "sessions of a trace come in rising order");
        last_start = at;
        for turn in session.turns {
            at += match turn.pacing {
                Pacing::AfterPreviousStart(gap) | Pacing::AfterPreviousEnd(gap) => gap,
                Pacing::At(_) => panic!("nothing here is paced so"),
            };
            at = on_quantum(at);
            if at >= end {
                break;
            }
            let Prompt::Messages(messages) = &turn.request.prompt else { panic!("no messages") };
            let [Part::Text(text)] = messages[0].parts.as_slice() else { panic!("no text") };
            launches.push(Launch { at, user: session.user, text: text.clone() });
        }
    }
    // Within a tick, the original goes through its users in the order in which they came.
    launches.sort_by_key(|launch| (launch.at, launch.user));
    launches
}

/// Parameters of `multi-round-qa`.
#[derive(Debug, Clone, Copy)]
struct Parameters {
    users: u32,
    rounds: u32,
    qps: f64,
    seconds: u64,
    init_user_id: u64,
}

/// The original's loop, look by look at its users: tick, user and question of every request.
fn original(p: Parameters) -> Vec<(u64, u64, u32)> {
    struct Asker {
        id: u64,
        last: Option<f64>,
        asked: u32,
    }
    let gap = f64::from(p.users) / p.qps;
    let alive = gap * f64::from(p.rounds - 1);
    let between = alive / f64::from(p.users);
    let ramp = f64::from(p.users) * between;
    let mut ids = p.init_user_id + 1..;
    let mut come = || Asker { id: ids.next().unwrap(), last: None, asked: 0 };
    let mut askers: Vec<Asker> = Vec::new();
    let mut joined = f64::NEG_INFINITY;
    let mut requests = Vec::new();
    for tick in 0.. {
        let now = tick as f64 * TICK as f64 / SECOND as f64;
        if now > p.seconds as f64 && tick > 0 {
            break;
        }
        if tick == 0 {
            for i in 0..p.users {
                let offset = ramp - f64::from(i) * between;
                let passed = (offset / gap) as u32 + 1;
                let last = Some(now - offset + f64::from(passed - 1) * gap);
                askers.push(Asker { last, asked: passed, ..come() });
            }
        }
        if now - joined > between {
            askers.push(come());
            joined = now;
        }
        askers.retain(|asker| asker.asked < p.rounds);
        for asker in &mut askers {
            if asker.last.is_none_or(|last| now - last > gap) {
                asker.asked += 1;
                asker.last = Some(now);
                requests.push((tick, asker.id, asker.asked));
            }
        }
    }
    requests
}

/// What leaves in a stage, which is what the original sent.
fn launches_like(parameters: Parameters, stage: &Stage) -> Vec<Launch> {
    let launches = launches(stage);
    let found: Vec<_> = launches
        .iter()
        .map(|launch| {
            assert!(launch.at.is_multiple_of(TICK), "{} is no tick", launch.at);
            (launch.at / TICK, launch.user, launch.question())
        })
        .collect();
    assert_eq!(found, original(parameters), "{parameters:?}");
    launches
}

fn published(name: &str) -> Vec<u64> {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn users_of(stage: &Stage) -> Vec<u64> {
    launches(stage).iter().map(|launch| launch.user).collect()
}

/// The rates of the published runs with short input, one plan as there.
fn published_rates() -> Vec<Stage> {
    measured(
        "scenarios: short-input\nqps_values: 0.5 1 1.5 2 2.5 3 3.5 4 4.5 5 5.5\n",
        Mode::Compat,
    )
}

#[test]
fn as_many_requests_leave_as_in_the_published_runs() {
    let rows: Vec<usize> = published_rates().iter().map(|stage| launches(stage).len()).collect();
    assert_eq!(rows, [52, 105, 157, 210, 263, 315, 368, 420, 473, 526, 577]);
}

#[test]
fn users_ask_in_the_order_of_the_published_runs() {
    let rates = published_rates();
    assert_eq!(users_of(&rates[0]), published("order_qps0.5.txt"));
    assert_eq!(users_of(&rates[1]), published("order_qps1.txt"));
    // At higher rates requests that are due in one tick leave in an order of their own.
    let count = |ids: Vec<u64>| {
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for id in ids {
            *counts.entry(id).or_default() += 1;
        }
        counts
    };
    let found = count(users_of(&rates[9]));
    assert_eq!(found, count(published("order_qps5.txt")));
    let asked = |times| found.values().filter(|count| **count == times).count();
    assert_eq!((asked(1), asked(2)), (166, 180));
}

#[test]
fn the_first_users_are_the_known_ones() {
    let first: Vec<(f64, u64)> = launches(&published_rates()[0])
        .iter()
        .take(7)
        .map(|launch| ((launch.at as f64 / SECOND as f64).round(), launch.user))
        .collect();
    assert_eq!(
        first,
        [(0.0, 322), (2.0, 221), (4.0, 120), (6.0, 19), (8.0, 238), (10.0, 137), (12.0, 36)]
    );
}

#[test]
fn every_request_leaves_in_the_tick_in_which_the_original_sent_it() {
    let check = |users, rounds, text: &str, seconds, rows| {
        let init_user_id = 7;
        let parameters =
            Parameters { users, rounds, qps: text.parse().unwrap(), seconds, init_user_id };
        let profile = format!(
            "scenarios: long-input\nqps_values: {text}\nnum_users: {users}\nnum_rounds: {rounds}\ninit_user_id: {init_user_id}\ntest_duration: {seconds}\nsystem_prompt: 1\nchat_history: 1\n"
        );
        let stage = &measured(&profile, Mode::Compat)[0];
        assert_eq!(launches_like(parameters, stage).len(), rows, "{parameters:?}");
    };
    check(15, 20, "0.5", 100, 52);
    check(3, 5, "0.1", 300, 37);
    check(3, 5, "0.25", 300, 93);
    // A tick of exactly 0.1 s divides the times between these users, and the last digit of a sum
    // then decides about a whole tick: 366 come out at 1/s, and from 1667 to 1874 at 5/s.
    check(3, 5, "1", 300, 374);
    check(3, 5, "5", 300, 1872);
    // One round: one new user each tick, whatever the rate, the last one 0.4 ms before the end.
    check(1, 1, "0.5", 5, 50);
    check(1, 1, "2", 5, 50);
    check(320, 1, "2", 100, 999);
    check(320, 20, "10", 100, 1051);
    check(7, 3, "1.34", 90, 179);
}

#[test]
fn warm_ups_ask_what_the_original_asked_for_half_as_many_seconds_as_users() {
    let check = |users: u64, rows| {
        let profile = format!(
            "scenarios: long-input\nqps_values: 3\nnum_users_warmup: {users}\ninit_user_id: 4\nsystem_prompt: 1\nchat_history: 1\n"
        );
        let stage = &stages(&profile, Mode::Compat)[1];
        let parameters =
            Parameters { users: 1, rounds: 2, qps: 2.0, seconds: users / 2, init_user_id: 4 };
        assert_eq!(launches_like(parameters, stage).len(), rows);
    };
    check(400, 799);
    check(5, 7);
    // Of no length is one look.
    check(1, 1);
}

#[test]
fn the_originals_profiles_make_the_originals_load() {
    let check = |scenario: &str, rates: &[&str], numbers: [u64; 6], imposed: Option<[u64; 5]>| {
        let [warm_up, users, rounds, system, history, seconds] = numbers;
        let profile = format!(
            "model_name: \"m\"\nimage: \"i\"\nservice_account: \"s\"\npvc_name: \"p\"\nscenarios: \"{scenario}\"\nqps_values: \"{}\"\nnum_users_warmup: {warm_up}\nnum_users: {users}\nnum_rounds: {rounds}\nsystem_prompt: {system}\nchat_history: {history}\nanswer_len: 32\ninit_user_id: 1\ntest_duration: {seconds}\nuse_chat_completions: false\n",
            rates.join(" ")
        );
        let [users, rounds, system, history, seconds] =
            imposed.unwrap_or([users, rounds, system, history, seconds]);
        let stages = measured(&profile, Mode::Compat);
        assert_eq!(stages.len(), rates.len());
        for (k, (stage, rate)) in (0..).zip(stages.iter().zip(rates)) {
            let parameters = Parameters {
                users: users as u32,
                rounds: rounds as u32,
                qps: rate.parse().unwrap(),
                seconds,
                init_user_id: 1 + k * warm_up,
            };
            assert_eq!(stage.name, format!("{scenario}-qps-{rate}"));
            let words = launches_like(parameters, stage)[0].text.matches("hi ").count() as u64;
            assert_eq!(words, system + history - 2, "all but the last of each");
        }
    };
    let many = ["0.1", "0.25", "0.5", "1", "2", "3", "4", "5"];
    check("short-input", &["0.5"], [1, 1, 1, 256, 1024, 30], Some([320, 20, 1, 1, 100]));
    check("long-input", &["1.34"], [1, 1, 1, 256, 1024, 30], None);
    check("long-input", &many[..3], [1, 1, 1, 256, 1024, 60], None);
    check("long-input", &many, [5, 3, 5, 512, 2048, 300], None);
    check("long-input", &many, [5, 3, 5, 256, 1024, 300], None);
    let stages = stages("scenarios: sharegpt\nqps_values: '1.34'\nnum_users: 1\n", Mode::Compat);
    for (stage, requests) in stages.iter().zip([55_u32, 252]) {
        let launches = launches(stage);
        let due: Vec<u64> = launches.iter().map(|launch| launch.at).collect();
        let expected: Vec<u64> =
            (0..requests).map(|i| (f64::from(i) / 1.34 * 1e9).round() as u64).collect();
        assert_eq!(due, expected);
        assert!(launches.iter().all(|launch| launch.text.starts_with("1.34 ")));
    }
}

#[test]
fn corrected_the_rate_is_the_one_that_was_asked_for() {
    for (users, rounds, qps, seconds) in [
        (320, 20, 2.0, 100_u32),
        (1, 1, 0.5, 30),
        (3, 5, 5.0, 60),
        (15, 20, 0.5, 100),
        (7, 3, 1.34, 90),
    ] {
        let profile = format!(
            "scenarios: short-input\nqps_values: {qps}\nnum_users: {users}\nnum_rounds: {rounds}\ntest_duration: {seconds}\nsystem_prompt: 1\nchat_history: 1\n"
        );
        let stage = &measured(&profile, Mode::Corrected)[0];
        let launches = launches(stage);
        let expected = (qps * f64::from(seconds)).ceil() as usize;
        assert!(launches.len().abs_diff(expected) <= 1, "{} of {expected}", launches.len());
        let half = u64::from(seconds) * SECOND / 2;
        let early = launches.iter().filter(|launch| launch.at < half).count();
        assert!((early * 2).abs_diff(launches.len()) <= 2, "{early} of {}", launches.len());
    }
}
