//! When each user asks: the arithmetic of `multi-round-qa`, in the original's form and in one that
//! keeps the rate that was asked for.
//!
//! The original looks at its users in a loop that sleeps for a tenth of a second; its whole load
//! follows from that loop's ticks. Its times are floating-point seconds, and so are ours until
//! they are put on a tick, for the same rounding.

use crate::settings::{Mode, Rounds};

/// A turn of the original's loop in nanoseconds: its sleep and its own time. With it the number
/// of requests of its published runs comes out.
pub(crate) const TICK: u64 = 100_200_000;

/// A user who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: u64,
    /// When the first question leaves, in nanoseconds from the start.
    pub(crate) start: u64,
    /// The number of that question, from 1; the ones before are as if asked before the start.
    pub(crate) first_question: u32,
}

/// When the stage ends, in nanoseconds from its start: nothing starts from then on.
pub(crate) fn end(rounds: &Rounds) -> u64 {
    match rounds.mode {
        // The original looks at its users until its length has passed, at least once. With half a
        // tick after the last look none is lost to a request that leaves late, and none is added.
        Mode::Compat => rounds.length.max(rounds.length / TICK * TICK + TICK / 2),
        Mode::Corrected => rounds.length,
    }
}

/// The users that ask within the length of the stage, in the order in which their first questions
/// leave.
pub(crate) fn users(rounds: &Rounds) -> Vec<User> {
    match rounds.mode {
        Mode::Compat => compat(rounds),
        Mode::Corrected => corrected(rounds),
    }
}

/// How long a user waits from one question to the next, in nanoseconds.
pub(crate) fn gap(rounds: &Rounds) -> u64 {
    let gap = nanos(f64::from(rounds.users) / rounds.qps);
    // The original waits until more than the gap has passed.
    if rounds.mode == Mode::Compat { gap + 1 } else { gap }
}

fn compat(rounds: &Rounds) -> Vec<User> {
    let (count, last_round) = (rounds.users, rounds.rounds);
    let gap = f64::from(count) / rounds.qps;
    let alive = gap * f64::from(last_round - 1);
    let between = alive / f64::from(count);
    let ramp = f64::from(count) * between;
    let mut users = Vec::new();
    let mut id = rounds.init_user_id;
    // As if users had come all the time before; the oldest first.
    for i in 0..count {
        id += 1;
        let offset = ramp - f64::from(i) * between;
        let passed = (offset / gap) as u32 + 1;
        let last = -offset + f64::from(passed - 1) * gap;
        if passed < last_round {
            // More than the gap must have passed.
            let first = ((last + gap) / seconds(TICK)).floor() as u64 + 1;
            users.push(User { id, start: first * TICK, first_question: passed + 1 });
        }
    }
    // Then one at once, and one each time that more than the time between two has passed.
    let mut joined: Option<u64> = None;
    let mut tick = 0;
    while tick * TICK < end(rounds) {
        let due = joined.is_none_or(|last| seconds((tick - last) * TICK) > between);
        if due {
            id += 1;
            joined = Some(tick);
            users.push(User { id, start: tick * TICK, first_question: 1 });
        }
        tick += 1;
    }
    // Within a tick the loop goes through the users in the order in which they came.
    users.sort_by_key(|user| user.start);
    users.retain(|user| user.start < end(rounds));
    users
}

/// Users come every R/q and ask every U/q: q requests a second from the first moment on, and U
/// users under way.
fn corrected(rounds: &Rounds) -> Vec<User> {
    let between = f64::from(rounds.rounds) / rounds.qps;
    let gap = f64::from(rounds.users) / rounds.qps;
    let mut users = Vec::new();
    for i in 0..rounds.users {
        let came = -f64::from(rounds.users - i) * between;
        // Questions before the start are as if asked. The small part keeps a question that is due
        // at the start from falling before it by rounding.
        let asked = (-came / gap - 1e-9).ceil().max(0.0) as u32;
        if asked < rounds.rounds {
            users.push(User {
                id: rounds.init_user_id + 1 + u64::from(i),
                start: nanos((came + f64::from(asked) * gap).max(0.0)),
                first_question: asked + 1,
            });
        }
    }
    let first_new = rounds.init_user_id + 1 + u64::from(rounds.users);
    for k in 0_u32.. {
        let start = nanos(f64::from(k) * between);
        if start >= rounds.length {
            break;
        }
        users.push(User { id: first_new + u64::from(k), start, first_question: 1 });
    }
    users.sort_by_key(|user| user.start);
    users.retain(|user| user.start < rounds.length);
    users
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}
