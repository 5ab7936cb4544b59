//! The bounded ring through which sessions reach a stage: whoever makes sessions works ahead of
//! the schedule, but not further than this.

use crate::plan::Session;
use crate::together::{Deal, Shard};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A ring that holds at most `capacity` sessions (at least one).
#[must_use]
pub fn ring(capacity: usize) -> (Feeder, Supply) {
    let ring = Arc::new(Ring {
        state: Mutex::new(State {
            sessions: VecDeque::new(),
            fed: false,
            closed: false,
            deal: Deal::new(Shard::WHOLE),
        }),
        capacity: capacity.max(1),
        room: Condvar::new(),
        filled: Condvar::new(),
        arrived: Notify::new(),
    });
    (Feeder { ring: ring.clone() }, Supply { ring })
}

/// The end of a ring where sessions go in. Dropping it says that there are no more.
#[derive(Debug)]
pub struct Feeder {
    ring: Arc<Ring>,
}

/// The end of a ring where load takes sessions out.
#[derive(Debug)]
pub struct Supply {
    ring: Arc<Ring>,
}

/// Load wants no more sessions of this stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("feed the stage: it is over")]
pub struct Closed;

impl Feeder {
    /// Puts a session in. Blocks while the ring is full.
    pub fn push(&self, session: Session) -> Result<(), Closed> {
        let mut state = self.ring.lock();
        while state.sessions.len() >= self.ring.capacity && !state.closed {
            state = self.ring.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Closed);
        }
        // Waking is a system call, even if nobody waits: only where somebody may.
        let was_empty = state.sessions.is_empty();
        state.sessions.push_back(session);
        drop(state);
        if was_empty {
            self.ring.filled.notify_all();
        }
        self.ring.arrived.notify_one();
        Ok(())
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.ring.lock().fed = true;
        self.ring.filled.notify_all();
        self.ring.arrived.notify_waiters();
    }
}

/// What a look into the ring found.
#[derive(Debug, PartialEq)]
pub(crate) enum Taken {
    Session(Box<Session>),
    /// Nothing yet.
    Empty,
    /// Nothing any more.
    Exhausted,
}

impl Supply {
    /// Has only the sessions of a shard taken out; of the others nothing has been taken yet.
    pub(crate) fn deal(&self, shard: Shard) {
        self.ring.lock().deal = Deal::new(shard);
    }

    /// Takes a session if there is one.
    pub(crate) fn try_take(&self) -> Taken {
        let mut state = self.ring.lock();
        while let Some(mut session) = state.sessions.pop_front() {
            let is_own = state.deal.take(&mut session);
            // A feeder that waits does so at a full ring. It is woken once on the way down, for
            // half a ring of sessions.
            if state.sessions.len() == self.ring.capacity / 2 {
                self.ring.room.notify_one();
            }
            if is_own {
                return Taken::Session(Box::new(session));
            }
        }
        if state.fed || state.closed { Taken::Exhausted } else { Taken::Empty }
    }

    /// Whether there is a session, or there will be none.
    pub(crate) fn is_ready(&self) -> bool {
        let state = self.ring.lock();
        !state.sessions.is_empty() || state.fed || state.closed
    }

    /// Waits, at most this long, until there is a session or there will be none.
    pub(crate) fn wait(&self, at_most: Duration) {
        let state = self.ring.lock();
        let idle = |state: &mut State| state.sessions.is_empty() && !state.fed && !state.closed;
        drop(self.ring.filled.wait_timeout_while(state, at_most, idle));
    }

    /// Takes the next session. None: there are no more.
    pub(crate) async fn take(&self) -> Option<Box<Session>> {
        loop {
            let mut arrived = std::pin::pin!(self.ring.arrived.notified());
            arrived.as_mut().enable();
            match self.try_take() {
                Taken::Session(session) => return Some(session),
                Taken::Exhausted => return None,
                Taken::Empty => arrived.await,
            }
        }
    }

    /// Lets whoever feeds know that no more is wanted.
    pub(crate) fn close(&self) {
        let mut state = self.ring.lock();
        state.closed = true;
        state.sessions.clear();
        drop(state);
        self.ring.room.notify_all();
        self.ring.filled.notify_all();
        self.ring.arrived.notify_waiters();
    }
}

impl Drop for Supply {
    fn drop(&mut self) {
        self.close();
    }
}

#[derive(Debug)]
struct Ring {
    state: Mutex<State>,
    capacity: usize,
    room: Condvar,
    filled: Condvar,
    arrived: Notify,
}

#[derive(Debug)]
struct State {
    sessions: VecDeque<Session>,
    /// The feeder is gone.
    fed: bool,
    /// The supply is gone.
    closed: bool,
    /// Which sessions are taken out, rather than dropped.
    deal: Deal,
}

impl Ring {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements, so that a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::thread;

    fn session(id: u64) -> Session {
        Session {
            id,
            user: 0,
            start: None,
            endpoint: None,
            turns: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn sessions_come_out_in_order_and_then_it_is_exhausted() {
        let (feeder, supply) = ring(2);
        assert_eq!(supply.try_take(), Taken::Empty);
        feeder.push(session(1)).unwrap();
        feeder.push(session(2)).unwrap();
        drop(feeder);
        assert_eq!(supply.try_take(), Taken::Session(Box::new(session(1))));
        assert_eq!(supply.try_take(), Taken::Session(Box::new(session(2))));
        assert_eq!(supply.try_take(), Taken::Exhausted);
    }

    #[test]
    fn a_full_ring_holds_its_feeder_until_there_is_room_or_the_stage_is_over() {
        let (feeder, supply) = ring(1);
        let feeding = thread::spawn(move || {
            (0..).map(|id| feeder.push(session(id))).position(|r| r.is_err())
        });
        let mut taken = 0;
        while taken < 3 {
            supply.wait(Duration::from_secs(5));
            taken += usize::from(matches!(supply.try_take(), Taken::Session(_)));
        }
        drop(supply);
        let pushed = feeding.join().unwrap().unwrap();
        assert!((3..=4).contains(&pushed), "{pushed} pushed");
    }

    #[test]
    fn every_session_gets_through_a_ring_of_any_size() {
        for capacity in [1, 2, 3, 8] {
            let (feeder, supply) = ring(capacity);
            let feeding =
                thread::spawn(move || (0..500).all(|id| feeder.push(session(id)).is_ok()));
            for id in 0..500 {
                // Were a wake-up lost, nothing would come until this gives up.
                supply.wait(Duration::from_secs(60));
                assert_eq!(supply.try_take(), Taken::Session(Box::new(session(id))));
            }
            assert!(feeding.join().unwrap());
        }
    }
}
