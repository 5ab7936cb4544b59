//! The pacer thread: takes the stages one after the other, lets sessions start, watches for
//! reasons to stop, and closes each stage with what is known of it.

use crate::journal::Note;
use crate::open;
use crate::plan::{Arrival, Nanos, Ramped, Stage, Stop};
use crate::ring::Supply;
use crate::run::{Ending, Shared};
use crate::stage::{Active, StageNow, is_closed};
use crate::together::Readiness;
use crate::worker::{Command, Commands, Countdown};
use records::{BrokeDown, EndReason, Entry, Event, StageBegin, StageEnd, StagePhase};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

/// The pacer looks for reasons to stop at least this often.
pub(crate) const TICK: Nanos = 20_000_000;
/// How long after everything is ready a stage begins, so that its first arrival is not late.
const LEAD: Nanos = 2_000_000;
/// How long requests may go on when the run is stopped and the stage names no time.
const DRAIN: Nanos = 30_000_000_000;
/// How long a stage waits for connections that are opened ahead of it.
const OPEN_AHEAD: Nanos = 2_000_000_000;
/// A load thread that has fewer sessions takes the next one, and others rest: a thread that wakes
/// for one token costs nearly as much as one that wakes for several.
const FULL: usize = 256;
/// Ended requests from which an error rate is judged.
const FEW: u64 = 10;
/// Failures in a row from which a server is given up.
const SEVERAL: u64 = 3;

/// The pacer's side of the threads.
pub(crate) struct Conductor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: SyncSender<Note>,
    /// The thread that the journal goes to.
    writer: Thread,
    pub(crate) loads: Vec<LoadThread>,
    failing: Cell<Failing>,
    /// Load threads of which the records say that they broke down.
    broken: RefCell<BTreeSet<usize>>,
}

/// What has failed since the server last showed that it lives.
#[derive(Debug, Clone, Copy, Default)]
struct Failing {
    /// What was known of its life then.
    signs: u64,
    /// Requests that had failed by then.
    broken: u64,
    /// When the first failed after that.
    since: Option<Nanos>,
}

impl Failing {
    /// Looks again. How long requests have failed, and how many.
    fn look(&mut self, signs: u64, broken: u64, last_failure: Nanos) -> (Nanos, u64) {
        if signs != self.signs {
            *self = Self { signs, broken, since: None };
        }
        let failed = broken.saturating_sub(self.broken);
        if failed == 0 {
            return (0, 0);
        }
        let since = *self.since.get_or_insert(last_failure);
        (last_failure.saturating_sub(since), failed)
    }
}

/// The name of a load thread.
pub(crate) fn load_thread(index: usize) -> String {
    format!("load-{index}")
}

/// A load thread.
pub(crate) struct LoadThread {
    pub(crate) commands: Commands,
    pub(crate) handle: JoinHandle<std::io::Result<()>>,
    /// Sessions and slots on it.
    pub(crate) sessions: Arc<AtomicUsize>,
}

impl Conductor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        journal: SyncSender<Note>,
        writer: Thread,
        loads: Vec<LoadThread>,
    ) -> Self {
        Self {
            shared,
            journal,
            writer,
            loads,
            failing: Cell::default(),
            broken: RefCell::default(),
        }
    }

    /// Runs all stages and ends the journal. Why load ended.
    pub(crate) fn run(mut self, supplies: Vec<Supply>) -> (EndReason, String) {
        let stages = self.shared.plan.stages.clone();
        for (index, (plan, supply)) in (0..).zip(stages.into_iter().zip(supplies)) {
            if !self.prefill(&supply) {
                break;
            }
            let cool_down = plan.cool_down;
            self.open_ahead(&plan);
            let begin = self.agree(index);
            let stage =
                StageNow::new(index, begin, plan, supply, self.loads.len(), self.shared.shard());
            self.stage(&Arc::new(stage));
            self.pause(self.shared.clock.now().saturating_add(cool_down));
        }
        for (index, load) in std::mem::take(&mut self.loads).into_iter().enumerate() {
            drop(load.commands);
            if !matches!(load.handle.join(), Ok(Ok(()))) {
                self.broke_down(index);
            }
        }
        let (reason, message) = self.shared.ending().map_or_else(
            || (EndReason::Completed, String::new()),
            |ending| (ending.reason, ending.message),
        );
        let at = self.shared.clock.now();
        self.write(Event::End { at, reason, message: message.clone() });
        (reason, message)
    }

    /// When a stage begins: as soon as all shards can.
    fn agree(&self, stage: u32) -> Nanos {
        let ready = self.shared.clock.now() + LEAD;
        let Some(together) = &self.shared.plan.together else { return ready };
        let next_id = self.shared.numbers.above();
        let agreed = (together.agree)(Readiness { stage, ready, next_id });
        match agreed.first_id {
            Some(first) => {
                self.shared.numbers.go_on(first);
                agreed.begin
            }
            // Somebody is missing, and waiting for them may have used up the time until then.
            None => agreed.begin.max(self.shared.clock.now()),
        }
    }

    /// Waits until the stage has its first session, so that a slow beginning of the workload is
    /// not taken for a lack of sessions. False: the run is over.
    fn prefill(&self, supply: &Supply) -> bool {
        while self.goes_on() {
            if supply.is_ready() {
                return true;
            }
            supply.wait(Duration::from_nanos(TICK));
        }
        false
    }

    fn stage(&mut self, stage: &Arc<StageNow>) {
        self.write(Event::Stage(StagePhase::Begin(StageBegin {
            at: stage.begin,
            stage: stage.index,
        })));
        let length = stage.plan.stop.after;
        self.shared.live.begin_stage(stage.index, &stage.plan.name, stage.begin, length);
        // Between stages nobody asks the server anything.
        let (signs, broken) = (self.shared.live.signs_of_life(), self.shared.live.broken());
        self.failing.set(Failing { signs, broken, since: None });
        let (scheduled, to_the_end) = if is_closed(&stage.plan) {
            self.shared.clock.sleep_until(stage.begin);
            self.slots(stage);
            (None, false)
        } else {
            let pace = open::pace(self, stage);
            (Some(pace.scheduled), pace.to_the_end)
        };
        let timed = self.outlast(stage, to_the_end);
        stage.close();
        self.drain(stage);
        let last_end = match stage.last_end.load(Relaxed) {
            0 => self.shared.clock.now(),
            end => end,
        };
        let sent = stage.first_turns_sent.load(Relaxed);
        self.write(Event::Stage(StagePhase::End(StageEnd {
            at: last_end,
            stage: stage.index,
            window_end: if timed { stage.deadline() } else { last_end },
            scheduled,
            unsent: scheduled.map_or(0, |scheduled| scheduled.saturating_sub(sent)),
            capped: stage.capped.load(Relaxed),
            exhausted: stage.ended_early() && wants_more(&stage.plan),
        })));
    }

    /// Starts the slots of a closed loop; of a ramp, each when it is wanted.
    fn slots(&mut self, stage: &Arc<StageNow>) {
        let length = match &stage.plan.arrival {
            Arrival::Ramp(ramp) => ramp.over,
            _ => 0,
        };
        let grown = stage.begin.saturating_add(length);
        let mut started = 0;
        loop {
            let now = self.shared.clock.now();
            while started < stage.slots(now) {
                self.start(stage, |active| Command::Slot(active, started));
                started += 1;
            }
            let over = now >= grown || now >= stage.deadline() || stage.used_up.load(Relaxed);
            if over || !stage.is_open() || !self.goes_on() {
                return;
            }
            thread::park_timeout(Duration::from_nanos(TICK.min(grown - now)));
        }
    }

    /// Waits until the stage's sessions have ended, or its time; with `to_the_end` its time in any
    /// case. Whether time ended it.
    fn outlast(&self, stage: &StageNow, to_the_end: bool) -> bool {
        while stage.is_open() && (to_the_end || stage.active() > 0) && self.goes_on() {
            let now = self.shared.clock.now();
            let Some(left) = stage.deadline().checked_sub(now).filter(|&left| left > 0) else {
                return true;
            };
            thread::park_timeout(Duration::from_nanos(TICK.min(left)));
        }
        false
    }

    fn drain(&self, stage: &StageNow) {
        let drained = self.shared.clock.now();
        while stage.active() > lost(&self.loads) {
            self.watch();
            let drain = match self.shared.ending() {
                Some(Ending { now: true, .. }) => Some(0),
                Some(ending) => {
                    // The stop may come while the stage drains already.
                    let since = ending.at.max(drained) - drained;
                    Some(since.saturating_add(stage.plan.drain.unwrap_or(DRAIN)))
                }
                None => stage.plan.drain,
            };
            let now = self.shared.clock.now();
            if drain.is_some_and(|drain| now >= drained.saturating_add(drain)) {
                stage.cancel();
                self.loads.iter().for_each(|load| load.commands.send(Command::LookUp));
            }
            thread::park_timeout(Duration::from_nanos(TICK));
        }
    }

    fn pause(&self, until: Nanos) {
        while self.goes_on() {
            let now = self.shared.clock.now();
            if now >= until {
                return;
            }
            thread::park_timeout(Duration::from_nanos(TICK.min(until - now)));
        }
    }

    /// Whether the run is not to be ended; looks for reasons to end it.
    pub(crate) fn goes_on(&self) -> bool {
        self.watch();
        !self.shared.is_ending()
    }

    fn watch(&self) {
        let (live, abort) = (&self.shared.live, self.shared.plan.abort);
        for (index, load) in self.loads.iter().enumerate() {
            if load.handle.is_finished() {
                self.broke_down(index);
            }
        }
        let mut failing = self.failing.get();
        let (signs, broken) = (live.signs_of_life(), live.broken());
        let (lasted, failed) = failing.look(signs, broken, live.last_failure.load(Relaxed));
        self.failing.set(failing);
        if let Some(limit) = abort.without_success
            && failed >= SEVERAL
            && lasted >= limit
        {
            let message = format!(
                "requests fail and none has ended well for {:.1} s ({failed} failed)",
                lasted as f64 / 1e9,
            );
            self.shared.end(EndReason::Aborted, message, true);
        }
        let (broken, well) = (live.broken(), live.succeeded.load(Relaxed));
        if let Some(most) = abort.max_error_rate
            && broken + well >= FEW
            && broken as f64 > most * (broken + well) as f64
        {
            let rate = 100.0 * broken as f64 / (broken + well) as f64;
            let message = format!(
                "{broken} of {} requests failed ({rate:.1} %, at most {:.1} % are allowed)",
                broken + well,
                100.0 * most,
            );
            self.shared.end(EndReason::Aborted, message, true);
        }
    }

    /// Ends the run, which may be ending for another reason: what the thread had under way is missing all the same, and
    /// the records say so, once.
    fn broke_down(&self, index: usize) {
        self.shared.end(EndReason::Aborted, records::BROKE_DOWN.into(), true);
        if self.broken.borrow_mut().insert(index) {
            let (at, thread) = (self.shared.clock.now(), load_thread(index));
            self.write(Event::BrokeDown(BrokeDown { at, thread }));
        }
    }

    /// Lets a load thread begin a session or a slot.
    pub(crate) fn start(&self, stage: &Arc<StageNow>, command: impl FnOnce(Active) -> Command) {
        let busy = self.loads.iter().map(|load| load.sessions.load(Relaxed));
        let load = &self.loads[deal(busy)];
        // A thread that broke down is noticed by `watch`; what it was told counts as ended.
        load.commands.send(command(Active::new(stage, &load.sessions)));
    }

    /// Has connections opened before the stage begins, so that its requests find them.
    fn open_ahead(&self, plan: &Stage) {
        let mut wanted = vec![0; self.loads.len()];
        let all = connections_ahead(plan);
        for _ in 0..all.div_ceil(self.shared.shard().count as usize) {
            let load = deal(wanted.iter().copied());
            wanted[load] += 1;
        }
        let endpoints = self.shared.plan.target.endpoints.len();
        let opening = Arc::new(Countdown(thread::current()));
        for (load, wanted) in self.loads.iter().zip(wanted) {
            load.commands.send(Command::OpenAhead(wanted.div_ceil(endpoints), opening.clone()));
        }
        // The threads hold all copies now, so that the last one to be done wakes this thread.
        let under_way = Arc::downgrade(&opening);
        drop(opening);
        let until = self.shared.clock.now() + OPEN_AHEAD;
        while under_way.strong_count() > 0 && self.shared.clock.now() < until && self.goes_on() {
            thread::park_timeout(Duration::from_nanos(TICK));
        }
    }

    fn write(&self, event: Event) {
        // Without the writer the run has ended already.
        let _ = self.journal.send(Note::Entry(Entry::Event(event)));
        // Its sample of what was until now is to end now, not after its pause.
        self.writer.unpark();
    }
}

/// Sessions and slots of load threads that broke down: they will not end.
fn lost(loads: &[LoadThread]) -> usize {
    let broken_down = loads.iter().filter(|load| load.handle.is_finished());
    broken_down.map(|load| load.sessions.load(Relaxed)).sum()
}

/// Which of the load threads, with so many sessions each, takes the next one.
fn deal(busy: impl Iterator<Item = usize> + Clone) -> usize {
    let least = || busy.clone().enumerate().min_by_key(|&(_, sessions)| sessions);
    let free = busy.clone().position(|sessions| sessions < FULL);
    free.or_else(|| Some(least()?.0)).unwrap_or(0)
}

/// How many connections are opened before a stage: those of all slots; where the schedule sets the
/// pace, enough for its first quarter of a second, since more are opened as requests come.
fn connections_ahead(plan: &Stage) -> usize {
    const MOST: u32 = 512;
    let most = plan.max_in_flight.into_iter().chain(plan.concurrency).min().unwrap_or(u32::MAX);
    let wanted = match &plan.arrival {
        Arrival::Closed => plan.concurrency.unwrap_or(1),
        Arrival::Constant(rate) | Arrival::Poisson(rate) | Arrival::Gamma { rate, .. } => {
            (rate / 4.0).ceil() as u32
        }
        Arrival::Ramp(ramp) if ramp.what == Ramped::Closed => ramp.start.max(ramp.end) as u32,
        Arrival::Ramp(ramp) => (ramp.start / 4.0).ceil() as u32,
        Arrival::Trace(_) | Arrival::Schedule(_) => 1,
    };
    wanted.clamp(1, most.clamp(1, MOST)) as usize
}

/// Whether something else than the end of the workload was to end a stage.
fn wants_more(stage: &Stage) -> bool {
    let Stop { after, sessions, requests, .. } = stage.stop;
    let by_time = match stage.arrival {
        // Its sessions say how long it is.
        Arrival::Trace(_) => false,
        Arrival::Schedule(_) => true,
        _ => after.is_some(),
    };
    by_time || sessions.is_some() || requests.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::worker;
    use std::io;
    use std::sync::mpsc::{self, Receiver};

    #[test]
    fn a_server_is_given_up_by_how_long_requests_have_failed_without_a_sign_of_life() {
        let mut failing = Failing::default();
        assert_eq!(failing.look(0, 0, 0), (0, 0));
        // The first failure begins it, however late it comes.
        assert_eq!(failing.look(0, 1, 30), (0, 1));
        assert_eq!(failing.look(0, 3, 45), (15, 3));
        // A token is enough, and no failure after it is none.
        assert_eq!(failing.look(1, 3, 45), (0, 0));
        assert_eq!(failing.look(1, 4, 60), (0, 1));
        assert_eq!(failing.look(1, 5, 61), (1, 2));
    }

    #[test]
    fn sessions_of_a_load_thread_that_broke_down_are_not_waited_for() {
        let thread = |sessions: usize, ends: Receiver<()>| LoadThread {
            commands: worker::inbox(Clock::start()).unwrap().0,
            handle: thread::spawn(move || ends.recv().map_err(io::Error::other)),
            sessions: Arc::new(AtomicUsize::new(sessions)),
        };
        let (break_one, one) = mpsc::channel();
        let (break_other, other) = mpsc::channel();
        let loads = [thread(3, one), thread(5, other)];
        assert_eq!(lost(&loads), 0);
        drop(break_one);
        while !loads[0].handle.is_finished() {
            thread::yield_now();
        }
        assert_eq!(lost(&loads), 3);
        drop(break_other);
        while !loads[1].handle.is_finished() {
            thread::yield_now();
        }
        assert_eq!(lost(&loads), 8);
    }

    #[test]
    fn a_thread_is_filled_before_the_next_wakes_and_then_all_share_evenly() {
        let mut busy = [0; 3];
        for _ in 0..FULL {
            let load = deal(busy.iter().copied());
            busy[load] += 1;
        }
        assert_eq!(busy, [FULL, 0, 0]);
        for _ in 0..3 * FULL {
            let load = deal(busy.iter().copied());
            busy[load] += 1;
        }
        assert!(
            busy.iter()
                .all(|&sessions| sessions == FULL + FULL / 3 || sessions == FULL + FULL / 3 + 1),
            "{busy:?}"
        );
        busy[2] = 10;
        assert_eq!(deal(busy.iter().copied()), 2);
    }
}
