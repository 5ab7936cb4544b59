//! How much the threads of the load path run, how long they wait for a processor, and how long
//! what arrives waits for its time stamp.

use crate::plan::Nanos;
use records::ThreadSample;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The threads of the load path, each of which registers itself.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    all: Mutex<Vec<Watched>>,
    lags: Mutex<Lags>,
}

/// How long arrivals waited between being readable and being stamped, on one load thread.
///
/// A histogram with [`StampLag::PER_OCTAVE`] buckets for each doubling. Only its thread counts;
/// the sampling thread reads.
pub(crate) struct StampLag {
    counts: [AtomicU64; StampLag::BUCKETS],
}

/// Every thread's, and what they came to at the sample before.
#[derive(Default)]
struct Lags {
    threads: Vec<Arc<StampLag>>,
    before: Vec<u64>,
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

impl Threads {
    /// A recorder of stamp lags for the calling load thread.
    #[cfg_attr(not(test), expect(dead_code, reason = "no read tells yet when it became possible"))]
    pub(crate) fn stamp_lag(&self) -> Arc<StampLag> {
        let lag = Arc::new(StampLag::new());
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).threads.push(lag.clone());
        lag
    }

    /// The lags of all threads since the sample before, as a sample has them.
    pub(crate) fn sample_stamp_lags(&self) -> Vec<(u64, u64)> {
        let mut lags = self.lags.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |bucket: usize| -> u64 {
            lags.threads.iter().map(|lag| lag.counts[bucket].load(Relaxed)).sum()
        };
        let now: Vec<u64> = (0..StampLag::BUCKETS).map(sum).collect();
        let mut before = std::mem::replace(&mut lags.before, now.clone());
        before.resize(StampLag::BUCKETS, 0);
        let more = now.iter().zip(before).map(|(now, before)| now - before);
        let counted = more.enumerate().filter(|(_, more)| *more > 0);
        counted.map(|(bucket, more)| (StampLag::longest(bucket), more)).collect()
    }
}

impl StampLag {
    /// Buckets for each doubling: neighbours are 9 to 13 % apart.
    const PER_OCTAVE: usize = 8;
    /// Up to 2^40 ns, 18 minutes; what is longer falls into the last.
    const BUCKETS: usize = (40 - 2) * Self::PER_OCTAVE;

    fn new() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Counts one arrival that waited so long.
    #[cfg_attr(not(test), expect(dead_code, reason = "no read tells yet when it became possible"))]
    pub(crate) fn record(&self, ns: Nanos) {
        // No other thread writes, so that nothing is lost between reading and writing.
        let count = &self.counts[Self::bucket(ns)];
        count.store(count.load(Relaxed) + 1, Relaxed);
    }

    /// Below 8 ns a bucket each; above, the three bits after the leading one choose.
    fn bucket(ns: Nanos) -> usize {
        const STEP: u64 = StampLag::PER_OCTAVE as u64;
        if ns < STEP {
            return ns as usize;
        }
        let shift = ns.ilog2() - STEP.ilog2();
        let bucket = (u64::from(shift) * STEP + (ns >> shift)) as usize;
        bucket.min(Self::BUCKETS - 1)
    }

    /// The longest wait that falls into a bucket.
    fn longest(bucket: usize) -> Nanos {
        let step = Self::PER_OCTAVE;
        if bucket < step {
            return bucket as Nanos;
        }
        let shift = bucket / step - 1;
        (((bucket % step + step) as Nanos + 1) << shift) - 1
    }
}

impl std::fmt::Debug for Lags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lags").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

fn usage(id: i32) -> Option<Usage> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?;
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
            let bucket = StampLag::bucket(ns);
            let longest = StampLag::longest(bucket);
            prop_assert!(longest >= ns && (longest - ns) as f64 <= 0.125 * ns as f64);
            prop_assert!(bucket == 0 || StampLag::longest(bucket - 1) < ns);
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
        let longest = StampLag::longest(StampLag::BUCKETS - 1);
        assert_eq!(threads.sample_stamp_lags(), [(5, 1), (1_023, 2), (longest, 1)]);
        assert_eq!(threads.sample_stamp_lags(), []);
        one.record(1_000);
        assert_eq!(threads.sample_stamp_lags(), [(1_023, 1)]);
    }
}
