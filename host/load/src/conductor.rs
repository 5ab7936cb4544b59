//! The pacer thread: takes the stages one after the other, lets sessions start, watches for
//! reasons to stop, and closes each stage with what is known of it.

use crate::journal::Note;
use crate::open;
use crate::plan::{Arrival, Nanos};
use crate::ring::Supply;
use crate::run::{Ending, Shared};
use crate::stage::{Active, StageNow, is_closed};
use crate::worker::Command;
use records::{EndReason, Entry, Event, StageBegin, StageEnd, StagePhase};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// The pacer looks for reasons to stop at least this often.
pub(crate) const TICK: Nanos = 20_000_000;
/// How long after everything is ready a stage begins, so that its first arrival is not late.
const LEAD: Nanos = 2_000_000;
/// How long requests may go on when the run is stopped and the stage names no time.
const DRAIN: Nanos = 5_000_000_000;
/// Ended requests from which an error rate is judged.
const FEW: u64 = 10;

/// The pacer's side of the threads.
pub(crate) struct Conductor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: SyncSender<Note>,
    pub(crate) loads: Vec<LoadThread>,
    next: usize,
}

/// A load thread.
pub(crate) struct LoadThread {
    pub(crate) commands: UnboundedSender<Command>,
    pub(crate) handle: JoinHandle<std::io::Result<()>>,
}

impl Conductor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        journal: SyncSender<Note>,
        loads: Vec<LoadThread>,
    ) -> Self {
        Self { shared, journal, loads, next: 0 }
    }

    /// Runs all stages and ends the journal. Why load ended.
    pub(crate) fn run(mut self, supplies: Vec<Supply>) -> (EndReason, String) {
        self.shared.threads.register("pacer");
        let stages = self.shared.plan.stages.clone();
        self.shared.live.last_success.store(self.shared.clock.now(), Relaxed);
        for (index, (plan, supply)) in (0..).zip(stages.into_iter().zip(supplies)) {
            if !self.prefill(&supply) {
                break;
            }
            let cool_down = plan.cool_down;
            let begin = self.shared.clock.now() + LEAD;
            let stage = StageNow::new(index, begin, plan, supply, self.loads.len());
            self.stage(&Arc::new(stage));
            self.pause(self.shared.clock.now().saturating_add(cool_down));
        }
        for load in self.loads.drain(..) {
            drop(load.commands);
            if !matches!(load.handle.join(), Ok(Ok(()))) {
                self.shared.end(EndReason::Aborted, "a load thread broke down".into(), true);
            }
        }
        let (reason, message) = self.shared.ending().map_or_else(
            || (EndReason::Completed, String::new()),
            |ending| (ending.reason, ending.message),
        );
        self.shared.threads.leave();
        let at = self.shared.clock.now();
        self.write(Event::End { at, reason, message: message.clone() });
        (reason, message)
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
                let load = self.next_load();
                self.send(load, Command::Slot(Active::new(stage), started));
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
        while stage.active() > 0 {
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
        if self.loads.iter().any(|load| load.handle.is_finished()) {
            self.shared.end(EndReason::Aborted, "a load thread broke down".into(), true);
        }
        let success = live.last_success.load(Relaxed);
        let failure = live.last_failure.load(Relaxed);
        let since = self.shared.clock.now().saturating_sub(success);
        if let Some(limit) = abort.without_success
            && failure > success
            && since >= limit
        {
            let message = format!(
                "requests fail and none has ended well for {:.1} s ({} failed)",
                since as f64 / 1e9,
                live.broken(),
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

    /// The load thread whose turn it is.
    pub(crate) fn next_load(&mut self) -> usize {
        self.next += 1;
        self.next % self.loads.len()
    }

    pub(crate) fn send(&self, load: usize, command: Command) {
        // A thread that broke down is noticed by `watch`; what it was told counts as ended.
        let _ = self.loads[load].commands.send(command);
    }

    fn write(&self, event: Event) {
        // Without the writer the run has ended already.
        let _ = self.journal.send(Note::Entry(Entry::Event(event)));
    }
}
