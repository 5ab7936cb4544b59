//! Counters of a run while it is under way, and the snapshot that a progress display shows.

use crate::lengths::Lengths;
use crate::plan::Nanos;
use records::{FailureKind, Record};
use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A snapshot of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Index of the stage under way.
    pub stage: u32,
    /// Its name.
    pub stage_name: String,
    /// How long it has lasted.
    pub stage_elapsed: Duration,
    /// How long it is planned to last, where time ends it.
    pub stage_length: Option<Duration>,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests sent since the start of the run.
    pub sent: u64,
    /// Requests ended well.
    pub succeeded: u64,
    /// Requests failed.
    pub failed: u64,
    /// Failed requests by kind; only kinds that occurred.
    pub errors: Vec<(FailureKind, u64)>,
    /// Output tokens received.
    pub output_tokens: u64,
    /// Requests ended per second, over the last five seconds.
    pub requests_per_s: f64,
    /// Output tokens per second, over the last five seconds.
    pub tokens_per_s: f64,
    /// Due sessions that found the supply empty.
    pub starved: u64,
    /// Time to first token in milliseconds, of this stage's successes. None: none yet.
    pub ttft: Option<Percentiles>,
    /// Gaps between output chunks in milliseconds, of this stage's successes.
    pub itl: Option<Percentiles>,
    /// Sent after due in milliseconds, of this stage's requests that were due at a certain time.
    pub lateness: Option<Percentiles>,
}

/// Two percentiles, to about one percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// The counters.
pub(crate) struct Live {
    pub(crate) in_flight: AtomicU32,
    /// Requests started.
    pub(crate) sent: AtomicU64,
    pub(crate) succeeded: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) starved: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) output_tokens: AtomicU64,
    /// When a request last failed of itself, not because it was broken off. 0: never.
    pub(crate) last_failure: AtomicU64,
    errors: [AtomicU64; FailureKind::ALL.len()],
    /// One for each load thread, so that they do not wait for each other.
    latencies: Vec<Mutex<Latencies>>,
    stage: Mutex<CurrentStage>,
    window: Mutex<VecDeque<Mark>>,
}

#[derive(Debug, Clone, Default)]
struct CurrentStage {
    index: u32,
    name: String,
    begin: Nanos,
    length: Option<Nanos>,
}

/// Where the counters stood at a time.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Nanos,
    ended: u64,
    tokens: u64,
}

/// In microseconds, to about one percent.
struct Latencies {
    ttft: Lengths<7>,
    itl: Lengths<7>,
    lateness: Lengths<7>,
}

impl Latencies {
    fn new() -> Self {
        let an_hour = || Lengths::up_to(3_600_000_000);
        Self { ttft: an_hour(), itl: an_hour(), lateness: an_hour() }
    }
}

impl Live {
    const WINDOW: Nanos = 5_000_000_000;

    pub(crate) fn new(threads: usize) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            starved: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            output_tokens: AtomicU64::new(0),
            last_failure: AtomicU64::new(0),
            errors: std::array::from_fn(|_| AtomicU64::new(0)),
            latencies: (0..threads).map(|_| Mutex::new(Latencies::new())).collect(),
            stage: Mutex::default(),
            window: Mutex::default(),
        }
    }

    /// A stage begins: latencies are counted anew.
    pub(crate) fn begin_stage(&self, index: u32, name: &str, begin: Nanos, length: Option<Nanos>) {
        *lock(&self.stage) = CurrentStage { index, name: name.to_owned(), begin, length };
        for latencies in &self.latencies {
            *lock(latencies) = Latencies::new();
        }
    }

    /// A request has ended on this load thread. Its chunks were counted as tokens when they came.
    pub(crate) fn ended(&self, thread: usize, record: &Record) {
        let chunks = record.tokens.len() as u64;
        let more = record.output_tokens.map_or(0, u64::from).saturating_sub(chunks);
        self.output_tokens.fetch_add(more, Relaxed);
        let latencies = lock(&self.latencies[thread]);
        if let (Some(due), Some(sent)) = (record.due, record.sent) {
            latencies.lateness.record(sent.saturating_sub(due) / 1_000);
        }
        if let Some(failure) = &record.error {
            self.errors[failure.kind as usize].fetch_add(1, Relaxed);
            if failure.kind != FailureKind::Cancelled {
                self.last_failure.fetch_max(record.finished, Relaxed);
            }
            // Whoever sees the count sees the time, too.
            self.failed.fetch_add(1, Release);
            return;
        }
        self.succeeded.fetch_add(1, Relaxed);
        if let (Some(sent), Some(first)) = (record.sent, record.tokens.first()) {
            latencies.ttft.record(first.saturating_sub(sent) / 1_000);
        }
        for pair in record.tokens.windows(2) {
            latencies.itl.record(pair[1].saturating_sub(pair[0]) / 1_000);
        }
    }

    /// Grows whenever a request ends well or output comes.
    pub(crate) fn signs_of_life(&self) -> u64 {
        self.succeeded.load(Relaxed) + self.output_tokens.load(Relaxed)
    }

    /// Requests that failed of themselves.
    pub(crate) fn broken(&self) -> u64 {
        let failed = self.failed.load(Acquire);
        failed.saturating_sub(self.errors[FailureKind::Cancelled as usize].load(Relaxed))
    }

    /// Remembers where the counters stand; called a few times a second.
    pub(crate) fn mark(&self, at: Nanos) {
        let mut window = lock(&self.window);
        window.push_back(self.mark_at(at));
        while window.front().is_some_and(|mark| mark.at + Self::WINDOW < at) {
            window.pop_front();
        }
    }

    pub(crate) fn progress(&self, now: Nanos) -> Progress {
        let stage = lock(&self.stage).clone();
        let first =
            lock(&self.window).front().copied().unwrap_or(Mark { at: 0, ended: 0, tokens: 0 });
        let last = self.mark_at(now);
        let seconds = (last.at.saturating_sub(first.at) as f64 / 1e9).max(0.001);
        let all = Latencies::new();
        for latencies in &self.latencies {
            let latencies = lock(latencies);
            all.ttft.add(&latencies.ttft);
            all.itl.add(&latencies.itl);
            all.lateness.add(&latencies.lateness);
        }
        let kinds = FailureKind::ALL.iter().map(|&k| (k, self.errors[k as usize].load(Relaxed)));
        Progress {
            stage: stage.index,
            stage_name: stage.name,
            stage_elapsed: Duration::from_nanos(now.saturating_sub(stage.begin)),
            stage_length: stage.length.map(Duration::from_nanos),
            in_flight: self.in_flight.load(Relaxed),
            sent: self.sent.load(Relaxed),
            succeeded: self.succeeded.load(Relaxed),
            failed: self.failed.load(Relaxed),
            errors: kinds.filter(|&(_, n)| n > 0).collect(),
            output_tokens: last.tokens,
            requests_per_s: (last.ended - first.ended) as f64 / seconds,
            tokens_per_s: (last.tokens - first.tokens) as f64 / seconds,
            starved: self.starved.load(Relaxed),
            ttft: percentiles(&all.ttft),
            itl: percentiles(&all.itl),
            lateness: percentiles(&all.lateness),
        }
    }

    fn mark_at(&self, at: Nanos) -> Mark {
        let ended = self.succeeded.load(Relaxed) + self.failed.load(Relaxed);
        Mark { at, ended, tokens: self.output_tokens.load(Relaxed) }
    }
}

fn percentiles(lengths: &Lengths<7>) -> Option<Percentiles> {
    let ms = |share| lengths.quantile(share).map(|us| us as f64 / 1_000.0);
    Some(Percentiles { p50: ms(0.5)?, p99: ms(0.99)? })
}

/// Counters are whole between any two statements, so that a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
