//! Several load generators that make one load together: which share of it each of them makes, and how they
//! begin a stage in the same moment.
//!
//! Of the sessions of a stage generator `i` of `n` plays every one whose number `k` has `k mod n = i`, at the
//! time of arrival `k`: all of them together send what a single one would. Limits are dealt out.

use crate::plan::{Nanos, Session, Stage};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// One of several load generators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: u32,
    /// How many there are, at least one.
    pub count: u32,
}

/// What all shards agree on.
pub struct Together {
    /// Which one this is.
    pub shard: Shard,
    /// When the clock of the run reads 0, by the clock of this machine. It may lie ahead.
    pub zero: SystemTime,
    /// Asks when a stage begins.
    pub agree: Box<Agree>,
}

/// Waits until all shards are ready for a stage. It must come back: no load is made meanwhile.
pub type Agree = dyn Fn(Readiness) -> Agreement + Send + Sync;

/// A shard that is ready for a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Index of the stage.
    pub stage: u32,
    /// The earliest time at which the shard could begin.
    pub ready: Nanos,
    /// A number above those of all its requests.
    pub next_id: u64,
}

/// When a stage begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// On the clock of the run.
    pub begin: Nanos,
    /// The number of the stage's first request. None: the others are not there to agree on one.
    pub first_id: Option<u64>,
}

impl fmt::Debug for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl Shard {
    /// The one that makes all of the load.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Its part of a number of things that are dealt out in turn.
    #[must_use]
    pub fn share(self, total: u64) -> u64 {
        let (index, count) = (u64::from(self.index), u64::from(self.count));
        total / count + u64::from(index < total % count)
    }

    /// The same of a smaller number.
    #[must_use]
    pub fn share_u32(self, total: u32) -> u32 {
        u32::try_from(self.share(total.into())).unwrap_or(u32::MAX)
    }

    /// Whether the session or arrival of this number is its own.
    pub(crate) fn is_own(self, number: u64) -> bool {
        number % u64::from(self.count) == u64::from(self.index)
    }

    /// The stage with its part of each limit. How many slots a ramp wants is dealt out when it wants them.
    pub(crate) fn part_of(self, mut stage: Stage) -> Stage {
        let small = |limit: Option<u32>| limit.map(|limit| self.share_u32(limit));
        let large = |limit: Option<u64>| limit.map(|limit| self.share(limit));
        stage.concurrency = small(stage.concurrency);
        stage.max_in_flight = small(stage.max_in_flight);
        stage.stop.sessions = large(stage.stop.sessions);
        stage.stop.requests = large(stage.stop.requests);
        // A single failure may be all that a stage shall bear.
        stage.stop.errors = large(stage.stop.errors).map(|errors| errors.max(1));
        stage
    }
}

/// Deals out the sessions of a stage.
#[derive(Debug)]
pub(crate) struct Deal {
    shard: Shard,
    /// Of the next session.
    number: u64,
    /// The latest start of a session so far.
    start: Option<Nanos>,
}

impl Deal {
    pub(crate) fn new(shard: Shard) -> Self {
        Self { shard, number: 0, start: None }
    }

    /// Whether the next session is the shard's own. It gets a start of its own: the one before it, with which it
    /// would start otherwise, may be another shard's.
    pub(crate) fn take(&mut self, session: &mut Session) -> bool {
        let is_own = self.shard.is_own(self.number);
        self.number += 1;
        if self.shard.count > 1 {
            self.start = self.start.max(session.start);
            session.start = self.start;
        }
        is_own
    }
}

/// Numbers the requests of a run: of all shards' together no two have the same.
#[derive(Debug)]
pub(crate) struct Numbers {
    shard: Shard,
    first: AtomicU64,
    given: AtomicU64,
}

impl Numbers {
    pub(crate) fn new(shard: Shard) -> Self {
        Self { shard, first: AtomicU64::new(0), given: AtomicU64::new(0) }
    }

    /// The number of the next request.
    pub(crate) fn next(&self) -> u64 {
        let nth = self.given.fetch_add(1, Relaxed);
        self.first.load(Relaxed) + nth * u64::from(self.shard.count) + u64::from(self.shard.index)
    }

    /// A number above all that were given.
    pub(crate) fn above(&self) -> u64 {
        let (first, given) = (self.first.load(Relaxed), self.given.load(Relaxed));
        match given.checked_sub(1) {
            None => first,
            Some(last) => {
                first + last * u64::from(self.shard.count) + u64::from(self.shard.index) + 1
            }
        }
    }

    /// Goes on with this number; nothing is under way.
    pub(crate) fn go_on(&self, first: u64) {
        self.first.store(first, Relaxed);
        self.given.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn shards(count: u32) -> impl Iterator<Item = Shard> {
        (0..count).map(move |index| Shard { index, count })
    }

    proptest! {
        #[test]
        fn shares_add_up_and_are_what_is_dealt(total in 0..500_u64, count in 1..9_u32) {
            let mut sum = 0;
            for shard in shards(count) {
                let own = (0..total).filter(|&number| shard.is_own(number)).count() as u64;
                prop_assert_eq!(shard.share(total), own);
                sum += own;
            }
            prop_assert_eq!(sum, total);
        }

        #[test]
        fn numbers_of_all_shards_are_those_of_a_single_one(stages in prop::collection::vec(0..40_u64, 1..5), count in 1..6_u32) {
            let numbers: Vec<Numbers> = shards(count).map(Numbers::new).collect();
            let mut all = Vec::new();
            for requests in &stages {
                let first = numbers.iter().map(Numbers::above).max().unwrap();
                for numbers in &numbers {
                    numbers.go_on(first);
                    all.extend((0..numbers.shard.share(*requests)).map(|_| numbers.next()));
                }
            }
            all.sort_unstable();
            prop_assert_eq!(all, (0..stages.iter().sum()).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn a_session_without_a_start_keeps_that_of_the_one_before_whoever_plays_it() {
        let session = |start| Session {
            id: 0,
            user: 0,
            start,
            endpoint: None,
            turns: Vec::new(),
            labels: BTreeMap::new(),
        };
        let mut deal = Deal::new(Shard { index: 1, count: 2 });
        let mut first = session(Some(7));
        assert!(!deal.take(&mut first));
        let mut second = session(None);
        assert!(deal.take(&mut second));
        assert_eq!(second.start, Some(7));
    }
}
