//! [`StageNow`]: what a stage under way consists of, shared by the pacer and the load threads.

use crate::plan::{Arrival, Nanos, Ramp, Ramped, Stage};
use crate::ring::Supply;
use crate::schedule;
use crate::together::Shard;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, Thread};
use tokio::sync::{Semaphore, watch};

/// A stage under way.
#[derive(Debug)]
pub(crate) struct StageNow {
    pub(crate) index: u32,
    /// Zero of its schedule.
    pub(crate) begin: Nanos,
    /// This shard's part of it.
    pub(crate) plan: Stage,
    pub(crate) shard: Shard,
    pub(crate) supply: Supply,
    /// Sessions that may still start.
    sessions: Budget,
    /// Requests that may still start.
    requests: Budget,
    /// Places for sessions, where the stage is open and limits them.
    pub(crate) session_places: Option<Semaphore>,
    /// Places for requests.
    pub(crate) request_places: Option<Semaphore>,
    failures: AtomicU64,
    /// Sessions and slots that have not ended.
    active: AtomicUsize,
    pub(crate) first_turns_sent: AtomicU64,
    pub(crate) capped: AtomicU64,
    /// The workload had no further session when one was asked for.
    exhausted: AtomicBool,
    /// When its last request ended; 0: none has.
    pub(crate) last_end: AtomicU64,
    /// No request may start any more, whatever `closing` still says.
    closed: AtomicBool,
    /// Requests under way are broken off.
    cancelled: AtomicBool,
    /// A slot of a closed loop found no further session.
    pub(crate) used_up: AtomicBool,
    /// Tells what waits for its start that nothing may start any more. One for each load thread,
    /// so that they do not wait for each other.
    closing: Vec<watch::Sender<bool>>,
    /// Woken when the stage may be over: who made this.
    pacer: Thread,
}

impl StageNow {
    pub(crate) fn new(
        index: u32,
        begin: Nanos,
        whole: Stage,
        supply: Supply,
        threads: usize,
        shard: Shard,
    ) -> Self {
        let plan = shard.part_of(whole);
        supply.deal(shard);
        let places = |limit: Option<u32>| {
            limit.map(|n| Semaphore::new((n as usize).min(Semaphore::MAX_PERMITS)))
        };
        Self {
            index,
            begin,
            sessions: Budget::new(plan.stop.sessions),
            requests: Budget::new(plan.stop.requests),
            session_places: if is_closed(&plan) { None } else { places(plan.concurrency) },
            request_places: places(plan.max_in_flight),
            supply,
            failures: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            first_turns_sent: AtomicU64::new(0),
            capped: AtomicU64::new(0),
            exhausted: AtomicBool::new(false),
            last_end: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            used_up: AtomicBool::new(false),
            closing: (0..threads).map(|_| watch::Sender::new(false)).collect(),
            pacer: thread::current(),
            shard,
            plan,
        }
    }

    /// When time ends the stage.
    pub(crate) fn deadline(&self) -> Nanos {
        self.plan.stop.after.map_or(Nanos::MAX, |after| self.begin.saturating_add(after))
    }

    /// A time of the run, put on the stage's quantum.
    pub(crate) fn on_quantum(&self, at: Nanos) -> Nanos {
        let offset = at.saturating_sub(self.begin);
        self.begin.saturating_add(schedule::on_quantum(&self.plan, offset))
    }

    /// Whether requests may start.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Relaxed)
    }

    /// Takes one of the sessions that may start, and its first request.
    pub(crate) fn start_session(&self) -> bool {
        self.sessions.take() && self.requests.take()
    }

    /// Gives back what was taken for a session that the workload does not have: turns of others may still want it.
    pub(crate) fn lacks_session(&self) {
        self.sessions.give_back();
        self.requests.give_back();
        self.exhausted.store(true, Relaxed);
    }

    /// Whether the workload ended while more was to start.
    pub(crate) fn ended_early(&self) -> bool {
        self.exhausted.load(Relaxed) && self.sessions.has_more() && self.requests.has_more()
    }

    /// Takes one of the requests that may start.
    pub(crate) fn start_request(&self) -> bool {
        self.requests.take()
    }

    /// A request has failed.
    pub(crate) fn failed(&self) {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        if self.plan.stop.errors.is_some_and(|most| failures >= most) {
            self.closed.store(true, Relaxed);
            self.pacer.unpark();
        }
    }

    /// Lets nothing start any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        self.supply.close();
        for sender in &self.closing {
            sender.send_replace(true);
        }
    }

    /// Breaks off what is under way, once the load threads have been told to look.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether requests under way are to be broken off.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// Tells a load thread when nothing may start any more.
    pub(crate) fn closing(&self, thread: usize) -> watch::Receiver<bool> {
        self.closing[thread].subscribe()
    }

    pub(crate) fn active(&self) -> usize {
        self.active.load(Relaxed)
    }

    /// How many slots of a closed loop want to be busy at this time.
    pub(crate) fn slots(&self, now: Nanos) -> u32 {
        match &self.plan.arrival {
            Arrival::Ramp(ramp) => {
                let total = schedule::ramped_concurrency(ramp, now.saturating_sub(self.begin));
                self.shard.share_u32(total)
            }
            _ => self.plan.concurrency.unwrap_or(1),
        }
    }
}

/// Whether the server sets the pace.
pub(crate) fn is_closed(stage: &Stage) -> bool {
    matches!(stage.arrival, Arrival::Closed | Arrival::Ramp(Ramp { what: Ramped::Closed, .. }))
}

/// Counts a session or slot as active, in its stage and on its load thread, for as long as it
/// lives, however it ends.
pub(crate) struct Active {
    stage: Arc<StageNow>,
    on_thread: Arc<AtomicUsize>,
}

impl Active {
    pub(crate) fn new(stage: &Arc<StageNow>, on_thread: &Arc<AtomicUsize>) -> Self {
        stage.active.fetch_add(1, Relaxed);
        on_thread.fetch_add(1, Relaxed);
        Self { stage: stage.clone(), on_thread: on_thread.clone() }
    }
}

impl Deref for Active {
    type Target = StageNow;

    fn deref(&self) -> &StageNow {
        &self.stage
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.on_thread.fetch_sub(1, Relaxed);
        if self.stage.active.fetch_sub(1, Relaxed) == 1 {
            self.stage.pacer.unpark();
        }
    }
}

/// A number of things that may still happen.
#[derive(Debug)]
struct Budget(AtomicU64);

impl Budget {
    fn new(limit: Option<u64>) -> Self {
        Self(AtomicU64::new(limit.unwrap_or(u64::MAX)))
    }

    fn take(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn has_more(&self) -> bool {
        self.0.load(Relaxed) > 0
    }
}
