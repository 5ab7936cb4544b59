//! A load thread: a loop around its sockets and its timer, on which sessions run.

use crate::alarm::Alarm;
use crate::client::Client;
use crate::clock::Clock;
use crate::journal::Note;
use crate::plan::{Arrival, Nanos};
use crate::run::Shared;
use crate::session::{self, Job, before_close};
use crate::stage::{Active, StageNow};
use crate::tasks::{Bell, Tasks};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use nix::poll::{PollFd, PollFlags, ppoll};
use records::EndReason;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::watch;

/// Sockets have the tokens of their places, which are small.
const BELL: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX);
/// The operating system gave events after less than this: they had waited for this thread.
const AT_ONCE: Nanos = 10_000;
/// Events that are taken at once.
const EVENTS: usize = 256;
/// With so many requests under way a thread may let what they bring gather for so long, to which the operating system
/// adds up to 50 µs: being woken costs more than reading does. The kernel stamps what comes meanwhile, and what a
/// schedule or a pause wants to be sent is sent on time; what follows from an answer, as the next request of a closed
/// loop, is later by as much, which is little of the time that so many requests take.
const MANY: usize = 32;
const PAUSE: Nanos = 50_000;
/// A timer costs as much as being woken a few times, so it has to gather more: output that comes at least so often.
const DENSE: Nanos = 12_500;

/// What a load thread is told to do.
pub(crate) enum Command {
    /// Open connections until so many wait at each endpoint, and drop this.
    OpenAhead(usize, Arc<Countdown>),
    /// Play a session, now.
    Play(Active, Box<Job>),
    /// Requests under way may have been broken off.
    LookUp,
    /// Play one session after the other: the slot of this number of a closed loop.
    Slot(Active, u32),
}

/// Wakes the pacer when its last copy is dropped.
pub(crate) struct Countdown(pub(crate) std::thread::Thread);

impl Drop for Countdown {
    fn drop(&mut self) {
        self.0.unpark();
    }
}

/// Where the commands of a load thread go in. The thread ends when this is dropped and all
/// sessions have ended.
pub(crate) struct Commands {
    sender: Option<Sender<Command>>,
    bell: Arc<Bell>,
}

impl Commands {
    /// Tells the thread to do something, if it is still there.
    pub(crate) fn send(&self, command: Command) {
        if let Some(sender) = &self.sender {
            // A command to a thread that broke down is dropped, and what it was about has ended.
            let _ = sender.send(command);
        }
        self.bell.ring();
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.sender = None;
        self.bell.ring();
    }
}

/// What a load thread waits on. All that it needs files for is here, so that they are open before any thread opens
/// connections.
pub(crate) struct Inbox {
    poll: Poll,
    registry: Registry,
    bell: Arc<Bell>,
    alarm: Alarm,
    commands: Receiver<Command>,
}

/// The way into a load thread, and what the thread is to run with.
pub(crate) fn inbox(clock: Clock) -> io::Result<(Commands, Inbox)> {
    let poll = Poll::new()?;
    let registry = poll.registry().try_clone()?;
    let bell = Arc::new(Bell::new(&registry, BELL)?);
    let alarm = Alarm::new(clock)?;
    let descriptor = alarm.descriptor().as_raw_fd();
    registry.register(&mut SourceFd(&descriptor), TIMER, Interest::READABLE)?;
    let (sender, commands) = mpsc::channel();
    let inbox = Inbox { poll, registry, bell: bell.clone(), alarm, commands };
    Ok((Commands { sender: Some(sender), bell }, inbox))
}

/// What the sessions of a load thread share.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Rc<Client>,
    pub(crate) alarm: Rc<Alarm>,
    journal: SyncSender<Note>,
}

impl Worker {
    /// Hands something to the journal's thread, which ends after this one.
    pub(crate) fn journal(&self, note: Note) {
        if self.journal.send(note).is_err() {
            let message = "the thread that writes the records is gone".to_owned();
            self.shared.end(EndReason::Aborted, message, true);
        }
    }
}

/// Runs until nobody can send commands any more and all sessions have ended.
pub(crate) fn run(
    index: usize,
    shared: Arc<Shared>,
    journal: SyncSender<Note>,
    inbox: Inbox,
) -> io::Result<()> {
    let outcome = serve(index, shared.clone(), journal, inbox);
    if let Err(error) = &outcome {
        shared.end(EndReason::Aborted, format!("{}: {error}", records::BROKE_DOWN), true);
    }
    outcome
}

fn serve(
    index: usize,
    shared: Arc<Shared>,
    journal: SyncSender<Note>,
    inbox: Inbox,
) -> io::Result<()> {
    let Inbox { mut poll, registry, bell, alarm, commands } = inbox;
    let alarm = Rc::new(alarm);
    let tasks = Rc::new(Tasks::new(bell.clone()));
    let client = Client::new(shared.clone(), alarm.clone(), tasks.clone(), registry);
    let client = Rc::new(client);
    let worker = Rc::new(Worker { index, shared, client, alarm, journal });
    let mut events = Events::with_capacity(EVENTS);
    let clock = worker.shared.clock;
    let mut woke = clock.now();
    let mut flow = Flow::default();
    // When what is there by now may have come, at the earliest, and whether more was there than was taken.
    let (mut since, mut full) = (woke, false);
    loop {
        bell.listen();
        let told = loop {
            match commands.try_recv() {
                Ok(command) => obey(&worker, &tasks, command),
                Err(TryRecvError::Empty) => break true,
                Err(TryRecvError::Disconnected) => break false,
            }
        };
        if !told {
            worker.client.finish();
        }
        tasks.run();
        if !told && tasks.all_ended() {
            return Ok(());
        }
        let is_busy = worker.client.read_on() || !tasks.is_idle();
        if !is_busy && !full && flow.is_dense && worker.client.under_way() >= MANY {
            pause(&bell, &worker.alarm, PAUSE);
        }
        let asked = clock.now();
        match poll.poll(&mut events, is_busy.then_some(Duration::ZERO)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        if !full {
            since = woke;
        }
        woke = clock.now();
        // What was there before this thread asked may have come at any time since it woke before.
        worker.client.readable_since(if woke - asked < AT_ONCE { since } else { woke });
        full = events.iter().count() == EVENTS;
        for event in &events {
            match event.token() {
                TIMER => {
                    worker.alarm.ring();
                    worker.client.ring();
                }
                BELL => bell.heard(),
                _ => worker.client.ready(event),
            }
        }
        flow.take(worker.client.count(), woke);
    }
}

/// How often output comes.
#[derive(Debug, Default)]
struct Flow {
    is_dense: bool,
    since: Nanos,
    chunks: u64,
}

impl Flow {
    /// It is judged anew so often.
    const WINDOW: Nanos = 1_000_000;

    /// So many chunks of output have come by now.
    fn take(&mut self, chunks: u64, now: Nanos) {
        self.chunks += chunks;
        let passed = now - self.since;
        if passed >= Self::WINDOW {
            let is_dense = self.chunks * DENSE >= passed;
            *self = Self { is_dense, since: now, chunks: 0 };
        }
    }
}

/// Waits so long, unless somebody rings or a time comes.
fn pause(bell: &Bell, alarm: &Alarm, length: Nanos) {
    let watched = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
    let mut urgent = [watched(bell.descriptor()), watched(alarm.descriptor())];
    // A signal may end it early, which does no harm.
    let _ = ppoll(&mut urgent, Some(Duration::from_nanos(length).into()), None);
}

fn obey(worker: &Rc<Worker>, tasks: &Tasks, command: Command) {
    let worker = worker.clone();
    match command {
        Command::OpenAhead(wanted, done) => worker.client.open_ahead(wanted, &done),
        Command::LookUp => {
            worker.alarm.wake_all();
            worker.client.wake_all();
        }
        // The pacer knows by `Active` when a session has ended.
        Command::Play(active, job) => {
            tasks.spawn(session::play(worker, active, job));
        }
        Command::Slot(active, number) => {
            tasks.spawn(slot(worker, active, number));
        }
    }
}

/// One session after the other. The next one is made ready while its forerunner is under way.
async fn slot(worker: Rc<Worker>, stage: Active, number: u32) {
    let mut closing = stage.closing(worker.index);
    let wanted = || stage.is_open() && number < stage.slots(worker.shared.clock.now());
    let mut next = if wanted() { next_job(&worker, &stage, &mut closing).await } else { None };
    while let Some(job) = next {
        let endpoint = job.endpoint;
        let play = session::play(worker.clone(), &*stage, job);
        // Where slots end before the stage does, a session that was taken ahead would be lost.
        let is_connected;
        (is_connected, next) = if matches!(stage.plan.arrival, Arrival::Closed) {
            tokio::join!(play, next_job(&worker, &stage, &mut closing))
        } else {
            let is_connected = play.await;
            let more = wanted();
            let next = if more { next_job(&worker, &stage, &mut closing).await } else { None };
            (is_connected, next)
        };
        if !is_connected {
            let pause = worker.client.pause_of_failure(endpoint);
            let until = worker.shared.clock.now().saturating_add(pause);
            before_close(&mut closing, worker.alarm.sleep_until(until)).await;
        }
        if !wanted() {
            return;
        }
    }
}

/// The next session of a closed loop. None: there is no other.
async fn next_job(
    worker: &Worker,
    stage: &StageNow,
    closing: &mut watch::Receiver<bool>,
) -> Option<Box<Job>> {
    let session = match stage.start_session() {
        true => {
            let taken = before_close(closing, stage.supply.take()).await;
            if matches!(taken, Some(None)) && stage.is_open() {
                stage.lacks_session();
            }
            taken.flatten()
        }
        false => None,
    };
    let Some(session) = session else {
        stage.used_up.store(true, Relaxed);
        return None;
    };
    Job::prepare(&worker.shared, session)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Nanos = 60_000_000_000;

    #[test]
    fn output_is_dense_where_it_comes_often_for_a_while() {
        let mut flow = Flow::default();
        let mut take = |chunks, at| {
            flow.take(chunks, at);
            flow.is_dense
        };
        assert!(!take(1_000, 900_000), "a moment says nothing");
        assert!(take(0, 1_000_000));
        assert!(take(79, 1_900_000));
        assert!(!take(0, 2_000_000));
        assert!(take(80, 3_000_000));
        assert!(!take(80, 9_000_000), "they came over a longer time");
    }

    #[test]
    fn a_pause_ends_when_somebody_rings_or_a_time_comes() {
        let poll = Poll::new().unwrap();
        let bell = Bell::new(poll.registry(), BELL).unwrap();
        let clock = Clock::start();
        let alarm = Alarm::new(clock).unwrap();
        let begin = clock.now();
        bell.listen();
        bell.ring();
        pause(&bell, &alarm, LONG);
        bell.heard();
        alarm.expire_by(clock.now() + 1_000_000);
        pause(&bell, &alarm, LONG);
        alarm.ring();
        let before = clock.now();
        assert!(before - begin < LONG, "a pause went to its end");
        pause(&bell, &alarm, PAUSE);
        assert!(clock.now() - before >= PAUSE, "what was heard ends no further pause");
    }
}
