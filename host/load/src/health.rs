//! How much the threads of the load path run, and how long they wait for a processor.

use crate::plan::Nanos;
use records::ThreadSample;
use std::sync::{Mutex, PoisonError};

/// The threads of the load path, each of which registers itself.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    all: Mutex<Vec<Watched>>,
}

#[derive(Debug)]
struct Watched {
    name: String,
    id: i32,
    before: Usage,
    /// What it came to when it ended.
    end: Option<Usage>,
}

/// Nanoseconds since the thread began.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    ran: u64,
    waited: u64,
}

impl Threads {
    /// Watches the calling thread from now on.
    pub(crate) fn register(&self, name: &str) {
        let id = nix::unistd::gettid().as_raw();
        let before = usage(id).unwrap_or_default();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Watched { name: name.to_owned(), id, before, end: None });
        all.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// The calling thread ends: later the operating system knows nothing of it.
    pub(crate) fn leave(&self) {
        let id = nix::unistd::gettid().as_raw();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in all.iter_mut().filter(|thread| thread.id == id) {
            thread.end = usage(id);
        }
    }

    /// What each thread did since the sample before, which is this long ago. Empty where the
    /// operating system does not tell.
    pub(crate) fn sample(&self, ago: Nanos) -> Vec<ThreadSample> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let share = |now: u64, before: u64| now.saturating_sub(before) as f64 / ago.max(1) as f64;
        let samples = all.iter_mut().filter_map(|thread| {
            let now = thread.end.or_else(|| usage(thread.id))?;
            let before = std::mem::replace(&mut thread.before, now);
            Some(ThreadSample {
                name: thread.name.clone(),
                cpu: share(now.ran, before.ran),
                waiting: share(now.waited, before.waited),
            })
        });
        samples.collect()
    }
}

fn usage(id: i32) -> Option<Usage> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?;
    let mut fields = text.split_whitespace().map(|field| field.parse().ok());
    Some(Usage { ran: fields.next()??, waited: fields.next()?? })
}
