//! The tasks of a load thread: what is ready to go on, and the bell that wakes the thread when
//! another one has something for it.

use async_task::Runnable;
use mio::unix::SourceFd;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// Wakes a thread that waits for events of the operating system.
pub(crate) struct Bell {
    event: EventFd,
    /// Nobody has rung since the thread began to listen: ringing is a system call, so it is done
    /// once.
    listens: AtomicBool,
}

impl Bell {
    pub(crate) fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let watched = event.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&watched), token, mio::Interest::READABLE)?;
        Ok(Self { event, listens: AtomicBool::new(false) })
    }

    /// The descriptor to watch.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// The thread has noticed that somebody rang.
    pub(crate) fn heard(&self) {
        // Reading takes it back; how often somebody rang does not matter.
        let _ = self.event.read();
    }

    /// Something was put where the thread looks before it waits.
    pub(crate) fn ring(&self) {
        if self.listens.swap(false, SeqCst) {
            // It fails only if it has been rung more often than a number of 64 bits can say.
            let _ = self.event.write(1);
        }
    }

    /// The thread is going to look for work and then to wait: what comes after this call rings.
    pub(crate) fn listen(&self) {
        self.listens.store(true, SeqCst);
    }
}

/// Tasks of one thread, which alone runs them; any thread may wake one.
pub(crate) struct Tasks {
    /// Besides this one, every task that has not ended holds a copy.
    ready: Arc<Ready>,
}

struct Ready {
    queue: Mutex<VecDeque<Runnable>>,
    bell: Arc<Bell>,
    owner: ThreadId,
}

impl Tasks {
    /// For the calling thread.
    pub(crate) fn new(bell: Arc<Bell>) -> Self {
        let ready = Ready { queue: Mutex::default(), bell, owner: thread::current().id() };
        Self { ready: Arc::new(ready) }
    }

    /// Lets a task run until it ends by itself.
    pub(crate) fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) {
        let ready = self.ready.clone();
        let schedule = move |runnable| {
            ready.lock().push_back(runnable);
            if thread::current().id() != ready.owner {
                ready.bell.ring();
            }
        };
        let (runnable, task) = async_task::spawn_local(task, schedule);
        runnable.schedule();
        task.detach();
    }

    /// Goes on with every task that is ready now.
    pub(crate) fn run(&self) {
        let now = self.ready.lock().len();
        for _ in 0..now {
            let Some(runnable) = self.ready.lock().pop_front() else { return };
            // It tells whether the task has woken itself, and then it is in the queue again.
            let _ = runnable.run();
        }
    }

    /// Whether no task is ready.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.lock().is_empty()
    }

    /// Whether all tasks have ended.
    pub(crate) fn all_ended(&self) -> bool {
        Arc::strong_count(&self.ready) == 1
    }
}

impl Ready {
    /// A queue is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Runnable>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
