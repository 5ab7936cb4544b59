//! Lets the sessions of an open stage start when they are due: never earlier, none left out, and
//! no later than this thread, the supply and the stage's limits allow.

use crate::conductor::{Conductor, TICK};
use crate::plan::{Arrival, Nanos};
use crate::ring::Taken;
use crate::schedule::{self, Arrivals};
use crate::session::Job;
use crate::stage::StageNow;
use crate::worker::Command;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Sessions that are made ready before they are due, at most.
const AHEAD: usize = 64;
/// Nothing is made ready in the last moment before something is due.
const LAST_MOMENT: Nanos = 300_000;

/// How an open stage was paced.
pub(crate) struct Pace {
    /// First turns that the schedule wanted out.
    pub(crate) scheduled: u64,
    /// The schedule goes on to the end of the stage's time, and so does the stage.
    pub(crate) to_the_end: bool,
}

/// Starts the sessions of a stage. Returns when the last has started, or none may start any more.
pub(crate) fn pace(conductor: &mut Conductor, stage: &Arc<StageNow>) -> Pace {
    let (seed, shard) = (conductor.shared.plan.seed, conductor.shared.shard());
    let pacer = Pacer { conductor, stage, ready: VecDeque::new(), scheduled: 0 };
    match (&stage.plan.arrival, schedule::arrivals(&stage.plan, stage.index, seed)) {
        (_, Some(arrivals)) => {
            let own = (0..).zip(arrivals).filter(move |&(number, _)| shard.is_own(number));
            pacer.follow(Box::new(own.map(|(_, at)| at)))
        }
        (&Arrival::Trace(factor), None) => pacer.replay(factor),
        (_, None) => Pace { scheduled: 0, to_the_end: false },
    }
}

struct Pacer<'a> {
    conductor: &'a mut Conductor,
    stage: &'a Arc<StageNow>,
    ready: VecDeque<Box<Job>>,
    scheduled: u64,
}

impl Pacer<'_> {
    /// Starts sessions by a schedule.
    fn follow(mut self, mut arrivals: Arrivals) -> Pace {
        while let Some(offset) = arrivals.next() {
            let due = self.stage.begin.saturating_add(offset);
            if !self.wait(due) {
                return self.cut(arrivals);
            }
            if !self.stage.start_session() {
                return self.done(false);
            }
            self.scheduled += 1;
            match self.next(Self::starve) {
                Next::Job(job) => self.start(job, due),
                // There was no session for this arrival, so nobody wanted it out.
                Next::Exhausted => {
                    self.stage.lacks_session();
                    self.scheduled -= 1;
                    return self.done(false);
                }
                Next::Over => return self.cut(arrivals),
            }
        }
        // A list of times may end before the stage does; the other schedules are endless.
        let endless = !matches!(self.stage.plan.arrival, Arrival::Schedule(_));
        self.done(endless && self.stage.plan.stop.after.is_some())
    }

    /// Starts sessions at their own times.
    fn replay(mut self, factor: f64) -> Pace {
        let mut before = 0;
        loop {
            let mut waited = false;
            let job = match self.next(|_| waited = true) {
                Next::Job(job) => job,
                Next::Exhausted => {
                    if self.stage.start_session() {
                        self.stage.lacks_session();
                    }
                    return self.done(false);
                }
                Next::Over => return self.done(false),
            };
            let own = job.session.start.map(|start| (start as f64 / factor).round() as Nanos);
            let offset = schedule::on_quantum(&self.stage.plan, own.unwrap_or(before).max(before));
            before = offset;
            let due = self.stage.begin.saturating_add(offset);
            if due >= self.stage.deadline() {
                return self.done(true);
            }
            if waited && due < self.conductor.shared.clock.now() {
                self.starve();
            }
            self.ready.push_front(job);
            if !self.wait(due) || !self.stage.start_session() {
                return self.done(false);
            }
            self.scheduled += 1;
            if let Some(job) = self.ready.pop_front() {
                self.start(job, due);
            }
        }
    }

    fn start(&mut self, mut job: Box<Job>, due: Nanos) {
        job.due = Some(due);
        self.conductor.start(self.stage, |active| Command::Play(active, job));
    }

    /// Sleeps until `due`, making sessions ready meanwhile. False: nothing may start any more.
    fn wait(&mut self, due: Nanos) -> bool {
        loop {
            let now = self.conductor.shared.clock.now();
            // Late arrivals are let through without a look at anything.
            if now >= due {
                return self.stage.is_open() && !self.conductor.shared.is_ending();
            }
            if !self.stage.is_open() || !self.conductor.goes_on() {
                return false;
            }
            let quiet = due.saturating_sub(LAST_MOMENT);
            while self.ready.len() < AHEAD && self.conductor.shared.clock.now() < quiet {
                let Taken::Session(session) = self.stage.supply.try_take() else { break };
                match Job::prepare(&self.conductor.shared, session) {
                    Some(job) => self.ready.push_back(job),
                    None => return false,
                }
            }
            self.conductor.shared.clock.sleep_until(due.min(now + TICK));
        }
    }

    /// Counts a session that was due and not there: the load is not the one that was asked for.
    fn starve(&self) {
        self.conductor.shared.live.starved.fetch_add(1, Relaxed);
    }

    /// The next session; `waits` is called once where it has to be waited for.
    fn next(&mut self, waits: impl FnOnce(&Self)) -> Next {
        if let Some(job) = self.ready.pop_front() {
            return Next::Job(job);
        }
        let mut waits = Some(waits);
        loop {
            match self.stage.supply.try_take() {
                Taken::Session(session) => {
                    let job = Job::prepare(&self.conductor.shared, session);
                    return job.map_or(Next::Over, Next::Job);
                }
                Taken::Exhausted => return Next::Exhausted,
                Taken::Empty => {}
            }
            let over = self.conductor.shared.clock.now() >= self.stage.deadline();
            if over || !self.stage.is_open() || !self.conductor.goes_on() {
                return Next::Over;
            }
            if let Some(waits) = waits.take() {
                waits(self);
            }
            self.stage.supply.wait(Duration::from_nanos(TICK));
        }
    }

    /// The stage ended in the middle of its schedule: what was due by now counts as wanted.
    fn cut(mut self, arrivals: Arrivals) -> Pace {
        let now = self.conductor.shared.clock.now();
        let due = |&offset: &Nanos| self.stage.begin.saturating_add(offset) <= now;
        self.scheduled += arrivals.take_while(due).count() as u64;
        self.done(false)
    }

    fn done(&self, to_the_end: bool) -> Pace {
        Pace { scheduled: self.scheduled, to_the_end }
    }
}

/// The next session of a stage.
enum Next {
    Job(Box<Job>),
    /// There are no more.
    Exhausted,
    /// Nothing may start any more.
    Over,
}
