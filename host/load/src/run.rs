//! [`start`] and [`Run`]: load from its first thread to its outcome.

use crate::clock::Clock;
use crate::conductor::{Conductor, LoadThread, load_thread};
use crate::health::Threads;
use crate::journal;
use crate::live::{Live, Progress};
use crate::machine::Machine;
use crate::plan::{Nanos, Plan};
use crate::prepare;
use crate::ring::Supply;
use crate::tls::{self, TlsError};
use crate::together::{Numbers, Shard};
use crate::worker;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use records::{EndReason, Writer};
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

const MOST_THREADS: usize = 8;

/// Why load cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The plan has nothing to do.
    #[error("start load: the plan has no {0}")]
    Missing(&'static str),
    /// Stages and supplies do not match.
    #[error("start load: {stages} stages and {supplies} supplies of sessions")]
    Supplies {
        /// Stages of the plan.
        stages: usize,
        /// Supplies given.
        supplies: usize,
    },
    /// HTTP forbids a header of the target.
    #[error("send the header `{0}`: HTTP forbids its name or value, or the client sets it itself")]
    Header(String),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system gives no thread.
    #[error("start the threads of load: {0}")]
    Thread(#[from] io::Error),
}

/// What load came to.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub reason: EndReason,
    /// Why, in words, where the reason needs them.
    pub message: String,
    /// Requests started.
    pub sent: u64,
    /// Requests ended well.
    pub succeeded: u64,
    /// Requests failed.
    pub failed: u64,
    /// The server knows nothing at the URL; load was stopped for it at once.
    pub not_found: Option<NotFound>,
    /// Why records are missing from the file.
    pub journal_error: Option<io::Error>,
}

/// An answer with status 404 before any success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound {
    /// Where the request was posted to.
    pub url: String,
    /// What the server said.
    pub body: String,
}

/// Load under way. Dropping it stops load at once and does not wait for the end.
#[derive(Debug)]
pub struct Run {
    shared: Arc<Shared>,
    pacer: Option<JoinHandle<(EndReason, String)>>,
    writer: Option<JoinHandle<Option<io::Error>>>,
}

/// Sets load going: the plan's stages one after the other, each fed by its supply. `writer` gets
/// the records and events, on a thread of its own; what it got is flushed four times a second.
pub fn start<W: Write + Send + 'static>(
    plan: Plan,
    supplies: Vec<Supply>,
    writer: Writer<W>,
) -> Result<Run, StartError> {
    check(&plan, supplies.len())?;
    let secure = plan.target.endpoints.iter().any(crate::Endpoint::secure);
    let tls = secure.then(|| tls::config(&plan.target.tls)).transpose()?;
    let cores = || thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let threads = plan.threads.unwrap_or_else(cores).max(1);
    allow_many_connections();
    let shard = plan.together.as_ref().map_or(Shard::WHOLE, |together| together.shard);
    let shared = Arc::new(Shared {
        clock: plan
            .together
            .as_ref()
            .map_or_else(Clock::start, |together| Clock::with_zero_at(together.zero)),
        numbers: Numbers::new(shard),
        live: Live::new(threads),
        threads: Threads::default(),
        tls,
        plan,
        ending: Mutex::new(None),
        is_ending: AtomicBool::new(false),
        pacer: Mutex::new(None),
        not_found: Mutex::new(None),
        endpoint: AtomicUsize::new(0),
    });
    let (journal, entries) = mpsc::sync_channel(journal::QUEUE);
    let loads = (0..threads)
        .map(|index| {
            let (commands, inbox) = worker::inbox(shared.clock)?;
            let (of_thread, journal) = (shared.clone(), journal.clone());
            let run = move || worker::run(index, of_thread, journal, inbox);
            let handle = spawn(&shared, load_thread(index), run)?;
            Ok(LoadThread { commands, handle, sessions: Arc::default() })
        })
        .collect::<io::Result<Vec<_>>>()?;
    let writing = shared.clone();
    let machine = Machine::watch();
    let writer = thread::Builder::new()
        .name("records".into())
        .spawn(move || journal::write(writer, &entries, &writing, machine))?;
    let wake = writer.thread().clone();
    let conductor = Conductor::new(shared.clone(), journal, wake.clone(), loads);
    let pacer = spawn(&shared, "pacer".into(), move || {
        let ended = conductor.run(supplies);
        // It would notice by itself, but up to its pause later.
        wake.unpark();
        ended
    })?;
    *lock(&shared.pacer) = Some(pacer.thread().clone());
    Ok(Run { shared, pacer: Some(pacer), writer: Some(writer) })
}

impl Run {
    /// A snapshot of the counters.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.live.progress(self.shared.clock.now())
    }

    /// Stops load gently: nothing new starts, requests under way may end within the stage's drain
    /// or, without one, thirty seconds.
    pub fn stop(&self) {
        self.shared.end(EndReason::Interrupted, String::new(), false);
    }

    /// Stops load at once: requests under way are broken off.
    pub fn stop_now(&self) {
        self.shared.end(EndReason::Interrupted, String::new(), true);
    }

    /// Stops load gently for another reason than the user's wish.
    pub fn abort(&self, reason: EndReason, message: String) {
        self.shared.end(reason, message, false);
    }

    /// Whether all is done and written.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.pacer.as_ref().is_none_or(JoinHandle::is_finished)
            && self.writer.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        let broken = || (EndReason::Aborted, "the pacer thread broke down".to_owned());
        let pacer = self.pacer.take().and_then(|thread| thread.join().ok());
        let (reason, message) = pacer.unwrap_or_else(broken);
        let journal_error = match self.writer.take().map(JoinHandle::join) {
            Some(Ok(error)) => error,
            _ => Some(io::Error::other("the thread that writes the records broke down")),
        };
        let live = &self.shared.live;
        Outcome {
            reason,
            message,
            sent: live.sent.load(Relaxed),
            succeeded: live.succeeded.load(Relaxed),
            failed: live.failed.load(Relaxed),
            not_found: lock(&self.shared.not_found).take(),
            journal_error,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.pacer.is_some() {
            self.stop_now();
        }
    }
}

/// What all threads of a run share.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) live: Live,
    pub(crate) threads: Threads,
    pub(crate) numbers: Numbers,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    ending: Mutex<Option<Ending>>,
    is_ending: AtomicBool,
    pacer: Mutex<Option<thread::Thread>>,
    not_found: Mutex<Option<NotFound>>,
    /// Sessions so far; they go to the endpoints in turn.
    endpoint: AtomicUsize,
}

/// A run that is to end before everything is done.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) reason: EndReason,
    pub(crate) message: String,
    /// When it was decided.
    pub(crate) at: Nanos,
    /// Break off what is under way.
    pub(crate) now: bool,
}

impl Shared {
    /// Which part of the load is made here.
    pub(crate) fn shard(&self) -> Shard {
        self.plan.together.as_ref().map_or(Shard::WHOLE, |together| together.shard)
    }

    /// Ends the run. The first reason stands; a later one may only make it quicker.
    pub(crate) fn end(&self, reason: EndReason, message: String, now: bool) {
        let mut ending = lock(&self.ending);
        let at = self.clock.now();
        ending.get_or_insert(Ending { reason, message, at, now }).now |= now;
        drop(ending);
        self.is_ending.store(true, Relaxed);
        if let Some(pacer) = &*lock(&self.pacer) {
            pacer.unpark();
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Relaxed)
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        lock(&self.ending).clone()
    }

    /// Ends the run because the address is wrong: nothing good can come of more requests.
    pub(crate) fn not_found(&self, found: NotFound) {
        let message = format!("the server answered 404 Not Found to POST {}", found.url);
        lock(&self.not_found).get_or_insert(found);
        self.end(EndReason::Aborted, message, true);
    }

    /// The endpoint of the next session.
    pub(crate) fn next_endpoint(&self) -> usize {
        self.endpoint.fetch_add(1, Relaxed) % self.plan.target.endpoints.len()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("plan", &self.plan).finish_non_exhaustive()
    }
}

fn check(plan: &Plan, supplies: usize) -> Result<(), StartError> {
    if plan.target.endpoints.is_empty() {
        return Err(StartError::Missing("endpoint"));
    }
    if plan.stages.is_empty() {
        return Err(StartError::Missing("stage"));
    }
    if plan.stages.len() != supplies {
        return Err(StartError::Supplies { stages: plan.stages.len(), supplies });
    }
    for (name, value) in &plan.target.headers {
        prepare::check_header(name, value.expose_secret())
            .map_err(|_| StartError::Header(name.escape_default().to_string()))?;
    }
    if let Some(key) = &plan.target.api_key {
        prepare::check_header("authorization", key.expose_secret())
            .map_err(|_| StartError::Header("authorization".into()))?;
    }
    Ok(())
}

/// Every connection needs a file descriptor, and the usual limit of 1024 is soon reached.
fn allow_many_connections() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without it load works up to the old limit, and failures to connect say so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Begins a thread of the load path, which is watched before anything else happens.
fn spawn<T: Send + 'static>(
    shared: &Arc<Shared>,
    name: String,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let shared = shared.clone();
    let (entered, has_entered) = mpsc::channel::<()>();
    let thread = thread::Builder::new().name(name.clone()).spawn(move || {
        shared.threads.enter(name);
        drop(entered);
        let outcome = run();
        shared.threads.leave();
        outcome
    })?;
    // Nothing is ever sent: it ends when the thread has dropped it.
    let _ = has_entered.recv();
    Ok(thread)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
