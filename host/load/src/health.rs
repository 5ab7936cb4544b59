//! How much the threads of the load path run, how long they wait for a processor, and how long
//! what arrives waits for its time stamp.

use crate::plan::Nanos;
use hdrhistogram::Histogram;
use records::ThreadSample;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The threads of the load path, each of which registers itself.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    all: Mutex<Vec<Watched>>,
    lags: Mutex<Vec<Arc<StampLag>>>,
}

/// How long arrivals waited between being readable and being stamped, on one load thread, since
/// they were last sampled. In nanoseconds.
#[derive(Debug)]
pub(crate) struct StampLag(Mutex<Histogram<u64>>);

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
        let mut all = lock(&self.all);
        all.push(Watched { name: name.to_owned(), id, before, end: None });
        all.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// The calling thread ends: later the operating system knows nothing of it.
    pub(crate) fn leave(&self) {
        let id = nix::unistd::gettid().as_raw();
        let mut all = lock(&self.all);
        for thread in all.iter_mut().filter(|thread| thread.id == id) {
            thread.end = usage(id);
        }
    }

    /// What each thread did since the sample before, which is this long ago. Empty where the
    /// operating system does not tell.
    pub(crate) fn sample(&self, ago: Nanos) -> Vec<ThreadSample> {
        let mut all = lock(&self.all);
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

    /// A recorder of stamp lags for the calling load thread.
    pub(crate) fn stamp_lag(&self) -> Arc<StampLag> {
        let lag = Arc::new(StampLag(Mutex::new(lags())));
        lock(&self.lags).push(lag.clone());
        lag
    }

    /// The lags of all threads since the sample before: the longest of each bucket, and how many.
    pub(crate) fn sample_stamp_lags(&self) -> Vec<(u64, u64)> {
        let mut all = lags();
        for lag in &*lock(&self.lags) {
            let mut counted = lock(&lag.0);
            all.add(&*counted).expect("all histograms have the same bounds");
            counted.reset();
        }
        let buckets = all.iter_recorded();
        buckets
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_since_last_iteration()))
            .collect()
    }
}

impl StampLag {
    /// Counts one arrival that waited so long.
    pub(crate) fn record(&self, ns: Nanos) {
        lock(&self.0).saturating_record(ns);
    }
}

/// A histogram to about 6 %, the same everywhere, so that samples add up exactly.
fn lags() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 1)
        .expect("an hour in nanoseconds to one digit is a valid range")
}

/// What is in them is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
