//! How much the threads of the load path run, how long they wait for a processor, and how late
//! what arrives may be stamped.

use crate::lengths::Lengths;
use crate::machine::read_again;
use crate::plan::Nanos;
use records::ThreadSample;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The threads of the load path, each of which enters itself.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    all: Mutex<Vec<Watched>>,
    /// With what was told of each already.
    lags: Mutex<Vec<(Arc<StampLag>, Vec<u64>)>>,
}

/// By how much arrivals may have been stamped late, on one load thread, which counts them: not at all
/// where a read brought one event and the kernel said when, else since it may have been readable. In
/// nanoseconds, to about 6 %, the same everywhere, so that samples add up exactly.
pub(crate) type StampLag = Lengths<4>;

/// An hour.
const LONGEST_LAG: Nanos = 3_600_000_000_000;

#[derive(Debug)]
struct Watched {
    name: String,
    id: i32,
    /// What the operating system tells of it, if it does. It is opened when the thread begins, for later there may be no
    /// more files.
    told: Option<File>,
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
    pub(crate) fn enter(&self, name: String) {
        let id = nix::unistd::gettid().as_raw();
        let told = File::open(format!("/proc/self/task/{id}/schedstat")).ok();
        let before = told.as_ref().and_then(usage).unwrap_or_default();
        let mut all = lock(&self.all);
        all.push(Watched { name, id, told, before, end: None });
        all.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// The calling thread ends: later the operating system knows nothing of it.
    pub(crate) fn leave(&self) {
        let id = nix::unistd::gettid().as_raw();
        let mut all = lock(&self.all);
        for thread in all.iter_mut().filter(|thread| thread.id == id) {
            thread.end = thread.told.as_ref().and_then(usage);
        }
    }

    /// What each thread did since the sample before, which is this long ago. Empty where the
    /// operating system does not tell.
    pub(crate) fn sample(&self, ago: Nanos) -> Vec<ThreadSample> {
        let mut all = lock(&self.all);
        let share = |now: u64, before: u64| now.saturating_sub(before) as f64 / ago.max(1) as f64;
        let samples = all.iter_mut().filter_map(|thread| {
            let now = thread.end.or_else(|| usage(thread.told.as_ref()?))?;
            let before = std::mem::replace(&mut thread.before, now);
            Some(ThreadSample {
                name: thread.name.clone(),
                cpu: share(now.ran, before.ran),
                waiting: share(now.waited, before.waited),
            })
        });
        samples.collect()
    }

    /// A recorder of stamp lags for the calling load thread.
    pub(crate) fn stamp_lag(&self) -> Arc<StampLag> {
        let lag = Arc::new(StampLag::up_to(LONGEST_LAG));
        lock(&self.lags).push((lag.clone(), lag.counts().collect()));
        lag
    }

    /// The lags of all threads since the sample before: the longest of each bucket, and how many.
    pub(crate) fn sample_stamp_lags(&self) -> Vec<(u64, u64)> {
        let mut new = Vec::new();
        for (lag, told) in &mut *lock(&self.lags) {
            new.resize(told.len(), 0);
            for ((now, told), new) in lag.counts().zip(told).zip(&mut new) {
                *new += now - std::mem::replace(told, now);
            }
        }
        let buckets = new.into_iter().enumerate().filter(|&(_, count)| count > 0);
        buckets.map(|(bucket, count)| (StampLag::longest(bucket), count)).collect()
    }
}

/// What is in them is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn usage(told: &File) -> Option<Usage> {
    let text = read_again(told)?;
    let mut fields = text.split_whitespace().map(|field| field.parse().ok());
    Some(Usage { ran: fields.next()??, waited: fields.next()?? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lag_falls_into_the_bucket_of_the_next_longer_wait(ns in 0u64..1 << 39) {
            let threads = Threads::default();
            let lag = threads.stamp_lag();
            lag.record(ns);
            let [(longest, 1)] = threads.sample_stamp_lags()[..] else { panic!("one bucket") };
            prop_assert!(longest >= ns && (longest - ns) as f64 <= 0.125 * ns as f64);
            // The bucket before it ends below: a longer one would have taken both.
            lag.record(ns);
            lag.record(longest + 1);
            prop_assert_eq!(threads.sample_stamp_lags().len(), 2);
        }
    }

    #[test]
    fn lags_of_all_threads_are_told_once() {
        let threads = Threads::default();
        let (one, two) = (threads.stamp_lag(), threads.stamp_lag());
        one.record(1_000);
        two.record(1_000);
        two.record(5);
        two.record(u64::MAX);
        let sampled = threads.sample_stamp_lags();
        assert_eq!(sampled[..2], [(5, 1), (1_023, 2)]);
        // What is longer than an hour falls into the last bucket.
        assert!(sampled[2].0 >= 3_600_000_000_000 && sampled[2].1 == 1 && sampled.len() == 3);
        assert_eq!(threads.sample_stamp_lags(), []);
        one.record(1_000);
        assert_eq!(threads.sample_stamp_lags(), [(1_023, 1)]);
    }
}
