//! A load generator in a pod, and what it and the controller tell each other.
//!
//! Everything goes through files of one folder in the pod, which commands run in the pod read and write. No port
//! takes orders, so that only who may run commands in the pod can give them; the pod needs no right of its own.
//!
//! | file | who writes it | what it is |
//! | --- | --- | --- |
//! | `in/` | the command `take` | the [`bundle`]: plan, settings, plugins, data |
//! | `start.json` | the command `start` | [`Start`] |
//! | `state.json`, `report.json` | the agent | [`State`] and [`Report`] |
//! | `out/` | the agent | a run folder with the results |
//! | `stop-N` | the command `stop` | the Nth wish that it end was heard |
//! | `done` | the command `done` | everything was collected: the agent may end |
//!
//! One that waits for work can be made to ask the target a question, by the command `ask`: it leaves no file.

pub(crate) mod bundle;
pub(crate) mod follow;
pub(crate) mod meeting;

use crate::cli::{ExperimentArgs, Global, LoadArgs, Output, TargetArgs};
use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::outcome::Outcome;
use crate::phase;
use crate::printer::Printer;
use crate::run_dir::{self, Results, RunDir};
use crate::unit;
use load::{Shard, Together};
use meeting::Meeting;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often files are looked for.
const LOOK: Duration = Duration::from_millis(100);
/// So long the agent waits for what it shall do, and then for the moment to begin.
const PATIENCE: Duration = Duration::from_secs(900);
/// So long it keeps what it has measured for somebody to collect it.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// How often it reports.
const REPORT: Duration = Duration::from_secs(1);

/// How far an agent is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum State {
    /// It has nothing to do yet.
    Waiting,
    /// It makes ready what it was given.
    Preparing,
    /// It waits for the moment to begin.
    Ready {
        /// Where the others meet it. None: it is not the first, or the only one.
        meeting: Option<u16>,
    },
    /// It makes load, or is about to.
    Running {
        /// When the run's clock reads 0, as [`Start`] has it.
        #[serde(default)]
        zero: u64,
        /// Where the others meet it, as before.
        #[serde(default)]
        meeting: Option<u16>,
    },
    /// It has ended.
    Ended {
        /// Everything that went wrong.
        outcome: Outcome,
        /// The first stage that it began without the others. None: there is none.
        #[serde(default)]
        alone_from: Option<u32>,
    },
}

/// When and with whom to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// When the run's clock reads 0, in nanoseconds of the epoch by the clock of the agent's own machine.
    pub(crate) zero: u64,
    /// ADDRESS:PORT of the first agent. None: there is one only, or this is the first.
    pub(crate) first: Option<String>,
}

/// How the load goes, for the controller's progress line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// All of it in one line.
    pub(crate) line: String,
    /// Index of the stage.
    pub(crate) stage: u32,
    pub(crate) in_flight: u64,
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    pub(crate) requests_per_s: f64,
    pub(crate) tokens_per_s: f64,
}

/// The folder of an agent.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder at this path.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The bundle.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("in")
    }

    /// The run folder.
    pub(crate) fn run(&self) -> RunDir {
        RunDir::at(&self.0.join("out"))
    }

    /// The results in it, whether there are any yet or not.
    pub(crate) fn results(&self) -> Results {
        let run = self.run();
        run.newest_results().unwrap_or_else(|| run.next_results())
    }

    /// How far the agent is.
    pub(crate) fn state(&self) -> Result<State> {
        Ok(run_dir::read_json(&self.0.join("state.json"))?.unwrap_or(State::Waiting))
    }

    /// How its load goes.
    pub(crate) fn report(&self) -> Result<Option<Report>> {
        run_dir::read_json(&self.0.join("report.json"))
    }

    fn set_state(&self, state: &State) -> Result<()> {
        run_dir::write_json(&self.0.join("state.json"), state)
    }

    fn set_report(&self, report: &Report) -> Result<()> {
        run_dir::write_json(&self.0.join("report.json"), report)
    }

    fn start(&self) -> Result<Option<Start>> {
        run_dir::read_json(&self.0.join("start.json"))
    }

    /// Tells the agent when to begin.
    pub(crate) fn set_start(&self, start: &Start) -> Result<()> {
        run_dir::write_json(&self.0.join("start.json"), start)
    }

    /// Whether a wish that the agent end comes for the first time, which is kept in mind.
    pub(crate) fn is_new_wish(&self, wish: usize) -> bool {
        let kept = File::create_new(self.0.join(format!("stop-{wish}")));
        // A full disk keeps nobody from ending the load.
        !kept.is_err_and(|error| error.kind() == ErrorKind::AlreadyExists)
    }

    fn is_done(&self) -> bool {
        self.0.join("done").exists()
    }

    /// Lets the agent end.
    pub(crate) fn set_done(&self) -> Result<()> {
        run_dir::write(&self.0.join("done"), b"")
    }
}

/// An agent at work.
#[derive(Debug)]
pub(crate) struct Agent {
    folder: Folder,
    run: String,
    shard: Shard,
    reported: Mutex<Option<Instant>>,
    /// None: it is the only one, or has not begun.
    meeting: Mutex<Option<Arc<Meeting>>>,
}

/// Waits for work, does it, and waits until its results are collected.
pub(crate) fn serve(folder: &Folder, printer: &Printer) -> Result<Exit> {
    folder.set_state(&State::Waiting)?;
    printer.step("waiting for what to do");
    wait(PATIENCE, "for what it shall do", || Ok(folder.bundle().is_dir().then_some(())))?;
    let (outcome, alone_from) = work(folder, printer).unwrap_or_else(|error| {
        let mut outcome = Outcome::default();
        outcome.fail(error.exit, &error);
        (outcome, None)
    });
    outcome.show(printer);
    folder.set_state(&State::Ended { outcome, alone_from })?;
    printer.step("the results wait to be collected");
    // The user may interrupt this as well, and nobody could collect anything then.
    let since = Instant::now();
    while !folder.is_done() && since.elapsed() < KEEP {
        std::thread::sleep(LOOK);
    }
    Ok(Exit::Ok)
}

/// Makes the load. Gives how that went, and the first stage that was begun without the other agents.
fn work(folder: &Folder, printer: &Printer) -> Result<(Outcome, Option<u32>)> {
    folder.set_state(&State::Preparing)?;
    let bundle = bundle::Bundle::read(&folder.bundle())?;
    let global = Global {
        plugins: Vec::new(),
        grants: bundle.grants.clone(),
        workdir: None,
        output: Output::Human,
        verbose: false,
        as_script: false,
    };
    let experiment = ExperimentArgs {
        file: Some(bundle::experiment(&folder.bundle()).display().to_string()),
        ..ExperimentArgs::default()
    };
    let mut prepared = phase::plan::prepare(
        &global,
        &experiment,
        &TargetArgs::default(),
        Some(&LoadArgs::default()),
        printer,
    )?;
    prepared.plan = bundle.plan_with(&prepared.plan);
    let agent = Agent {
        folder: folder.clone(),
        run: prepared.plan.run.clone(),
        shard: bundle::shard(&folder.bundle())?,
        reported: Mutex::new(None),
        meeting: Mutex::new(None),
    };
    let run = folder.run();
    run_dir::make(run.root())?;
    let (_, mut outcome) = phase::run::run(&prepared, &bundle.target, &run, Some(&agent), printer)?;
    let alone_from = lock(&agent.meeting).as_ref().and_then(|meeting| meeting.alone_from());
    if alone_from.is_some() {
        let index = agent.shard.index;
        outcome.add(
            Exit::Run,
            &format!("agent {index} lost its way to the first one, and began stages by itself: the load was not the one that was asked for"),
        );
    }
    Ok((outcome, alone_from))
}

impl Agent {
    /// Which part of the load it makes.
    pub(crate) fn shard(&self) -> Shard {
        self.shard
    }

    /// Says that everything is ready, and waits for the moment to begin.
    pub(crate) fn start(&self) -> Result<Together> {
        let is_first_of_several = self.shard.count > 1 && self.shard.index == 0;
        let hosted = is_first_of_several
            .then(|| Meeting::host(&self.run, self.shard.count))
            .transpose()
            .map_err(|error| {
                Error::unexpected("no port can be opened for the other agents").because(error)
            })?;
        let (hosted, port) = hosted.unzip();
        self.folder.set_state(&State::Ready { meeting: port })?;
        let start = wait(PATIENCE, "for the moment to begin", || self.folder.start())?;
        self.folder.set_state(&State::Running { zero: start.zero, meeting: port })?;
        let meeting = match (hosted, &start.first) {
            (Some(hosted), _) => Some(hosted),
            (None, Some(first)) => Some(Meeting::join(first, &self.run, self.shard.index)),
            (None, None) => None,
        };
        let meeting = meeting.map(Arc::new);
        lock(&self.meeting).clone_from(&meeting);
        Ok(Together {
            shard: self.shard,
            zero: UNIX_EPOCH + Duration::from_nanos(start.zero),
            agree: Box::new(move |own| match &meeting {
                Some(meeting) => meeting.agree(own),
                None => load::Agreement { begin: own.ready, first_id: None },
            }),
        })
    }

    /// Keeps a report for the controller, about once a second.
    pub(crate) fn report(&self, progress: &load::Progress, line: impl FnOnce() -> String) {
        let mut reported = lock(&self.reported);
        if reported.is_some_and(|at| at.elapsed() < REPORT) {
            return;
        }
        *reported = Some(Instant::now());
        let report = Report {
            line: line(),
            stage: progress.stage,
            in_flight: progress.in_flight.into(),
            sent: progress.sent,
            failed: progress.errors.iter().map(|(_, n)| n).sum(),
            requests_per_s: progress.requests_per_s,
            tokens_per_s: progress.tokens_per_s,
        };
        // A report that cannot be kept makes the terminal poorer, and no result.
        let _ = self.folder.set_report(&report);
    }
}

/// Waits for something, at most this long.
fn wait<T>(most: Duration, what: &str, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
    let since = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        interrupt::check()?;
        if since.elapsed() >= most {
            return Err(Error::new(
                Exit::Run,
                format!("the agent waited {} {what}, and nothing came", unit::show(most)),
            )
            .hint("the controller was killed or has lost the cluster: start the run again"));
        }
        std::thread::sleep(LOOK);
    }
}

/// What a thread that panicked held is whole all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nanoseconds of the epoch.
pub(crate) fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_to_end_is_heard_once_however_often_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let check = |wish: usize, is_new: bool| {
            assert_eq!(Folder::at(folder.path()).is_new_wish(wish), is_new, "{wish}");
        };
        check(1, true);
        check(1, false);
        check(2, true);
        check(2, false);
        let gone = Folder::at(&folder.path().join("gone"));
        assert!(gone.is_new_wish(1) && gone.is_new_wish(1));
    }
}
