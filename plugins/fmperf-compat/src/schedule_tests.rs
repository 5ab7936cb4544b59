//! Conformance of the schedule in virtual time: answers take no time, and the host rounds the start
//! of each request up to a tick, as the contract says.

use super::*;
use std::collections::BTreeMap;

/// The short-input scenario of the original's published runs, at level `level` of its rates.
fn short_input(qps: f64, level: u64) -> Rounds {
    rounds(320, 20, qps, 100, 1 + 400 * level)
}

fn rounds(users: u32, rounds: u32, qps: f64, seconds: u64, init_user_id: u64) -> Rounds {
    Rounds {
        users,
        rounds,
        qps,
        system_prompt: 1,
        chat_history: 1,
        answer_len: 20,
        init_user_id,
        length: seconds * 1_000_000_000,
        chat: false,
        mode: Mode::Compat,
    }
}

/// Time and user of every request, in the order in which they leave.
fn launches(rounds: &Rounds) -> Vec<(u64, u64)> {
    let quantum = if rounds.mode == Mode::Compat { TICK } else { 1 };
    let mut launches = Vec::new();
    for (order, user) in users(rounds).into_iter().enumerate() {
        let mut at = user.start;
        for _ in user.first_question..=rounds.rounds {
            at = at.div_ceil(quantum) * quantum;
            if at >= rounds.length {
                break;
            }
            launches.push((at, order, user.id));
            at += gap(rounds);
        }
    }
    // Within a tick, users go in the order in which they came: by their numbers.
    launches.sort_by_key(|(at, _, id)| (*at, *id));
    launches.into_iter().map(|(at, _, id)| (at, id)).collect()
}

#[test]
fn as_many_requests_leave_as_in_the_published_runs() {
    let rows = [52, 105, 157, 210, 263, 315, 368, 420, 473, 526, 577];
    for (level, rows) in (0_u64..).zip(rows) {
        let qps = 0.5 * (level + 1) as f64;
        assert_eq!(launches(&short_input(qps, level)).len(), rows, "at {qps}/s");
    }
}

#[test]
fn other_parameters_give_the_known_numbers_too() {
    // These were computed with a tick of 0.1 s, so that a gap that ticks divide is one tick longer.
    let check = |rounds: Rounds, rows: usize| {
        let found = launches(&rounds).len();
        assert!(found.abs_diff(rows) * 100 <= rows * 5, "{found} instead of {rows}: {rounds:?}");
    };
    check(rounds(15, 20, 0.5, 100, 0), 52);
    check(rounds(3, 5, 1.0, 300, 0), 366);
    check(rounds(3, 5, 0.1, 300, 0), 37);
    // A tick is the shortest gap between two users.
    check(rounds(3, 5, 5.0, 300, 0), 1800);
    // One round: one new user each tick, whatever the rate.
    for qps in [0.5, 2.0] {
        assert_eq!(launches(&rounds(1, 1, qps, 5, 0)).len(), 50);
    }
}

#[test]
fn users_ask_in_the_order_of_the_published_runs() {
    let published = |name: &str| -> Vec<u64> {
        let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        text.split_whitespace().map(|id| id.parse().unwrap()).collect()
    };
    for (qps, level, file) in [(0.5, 0, "order_qps0.5.txt"), (1.0, 1, "order_qps1.txt")] {
        let found: Vec<u64> =
            launches(&short_input(qps, level)).into_iter().map(|(_, id)| id).collect();
        assert_eq!(found, published(file), "at {qps}/s");
    }
    let count = |ids: Vec<u64>| {
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for id in ids {
            *counts.entry(id).or_default() += 1;
        }
        counts
    };
    let found = launches(&short_input(5.0, 9)).into_iter().map(|(_, id)| id).collect();
    assert_eq!(count(found), count(published("order_qps5.txt")));
}

#[test]
fn the_first_users_are_the_known_ones() {
    let first: Vec<(f64, u64)> = launches(&short_input(0.5, 0))
        .into_iter()
        .take(7)
        .map(|(at, id)| ((at as f64 / 1e9).round(), id))
        .collect();
    assert_eq!(
        first,
        [(0.0, 322), (2.0, 221), (4.0, 120), (6.0, 19), (8.0, 238), (10.0, 137), (12.0, 36)]
    );
}

#[test]
fn corrected_the_rate_is_the_one_that_was_asked_for() {
    for (users, turns, qps, seconds) in [
        (320, 20, 2.0, 100),
        (1, 1, 0.5, 30),
        (3, 5, 5.0, 60),
        (15, 20, 0.5, 100),
        (7, 3, 1.34, 90),
    ] {
        let rounds = Rounds { mode: Mode::Corrected, ..rounds(users, turns, qps, seconds, 0) };
        let launches = launches(&rounds);
        let expected = (qps * seconds as f64).ceil() as usize;
        assert!(launches.len().abs_diff(expected) <= 1, "{} of {expected}", launches.len());
        let early = launches.iter().filter(|(at, _)| *at < rounds.length / 2).count();
        assert!((early * 2).abs_diff(launches.len()) <= 2, "{early} of {}", launches.len());
    }
}
