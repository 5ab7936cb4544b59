//! A load thread: a single-threaded runtime with connections of its own, on which sessions run.

use crate::alarm::Alarm;
use crate::client::Client;
use crate::journal::Note;
use crate::run::Shared;
use crate::session::{self, Job, before_close};
use crate::stage::Active;
use records::EndReason;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc::UnboundedReceiver;

/// What a load thread is told to do.
pub(crate) enum Command {
    /// Play a session, now.
    Play(Active, Job),
    /// Play one session after the other: the slot of this number of a closed loop.
    Slot(Active, u32),
}

/// What the sessions of a load thread share.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
    pub(crate) alarm: Alarm,
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
    commands: UnboundedReceiver<Command>,
) -> io::Result<()> {
    shared.threads.register(&format!("load-{index}"));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build_local(LocalOptions::default())?;
    let outcome = runtime.block_on(async {
        let alarm = Alarm::new(shared.clock)?;
        let client = Client::new(shared.clone());
        let worker = Rc::new(Worker { index, shared: shared.clone(), client, alarm, journal });
        tokio::select! {
            broken = worker.alarm.run() => broken,
            () = obey(&worker, commands) => Ok(()),
        }
    });
    shared.threads.leave();
    outcome
}

async fn obey(worker: &Rc<Worker>, mut commands: UnboundedReceiver<Command>) {
    while let Some(command) = commands.recv().await {
        let worker = worker.clone();
        // The pacer knows by `Active` when a session has ended, so its handle is not needed.
        drop(tokio::task::spawn_local(async move {
            match command {
                Command::Play(active, job) => session::play(&worker, active.stage(), job).await,
                Command::Slot(active, number) => slot(&worker, &active, number).await,
            }
        }));
    }
}

async fn slot(worker: &Worker, active: &Active, number: u32) {
    let stage = active.stage();
    let mut phase = stage.phase(worker.index);
    while stage.is_open() && number < stage.slots(worker.shared.clock.now()) {
        let session = match stage.start_session() {
            true => before_close(&mut phase, stage.supply.take()).await.flatten(),
            false => None,
        };
        let Some(session) = session else {
            stage.used_up.store(true, Relaxed);
            return;
        };
        let Some(job) = Job::prepare(&worker.shared, session, None) else { return };
        session::play(worker, stage, job).await;
    }
}
