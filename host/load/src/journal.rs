//! The thread that writes the records file, and with it once a second a sample of the client's
//! health.

use crate::plan::Nanos;
use crate::run::Shared;
use records::{ClientSample, EndReason, Entry, Event, Writer};
use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

/// Entries that may wait for the writer. A load thread that finds the queue full waits.
pub(crate) const QUEUE: usize = 16 * 1024;

/// The writer looks for entries this often, rather than be woken for each of them: a wake-up
/// costs the load thread more than everything else about a record.
const PAUSE: Duration = Duration::from_millis(50);
const FLUSH: Nanos = 250_000_000;
const SAMPLE: Nanos = 1_000_000_000;
/// A last sample of less than this says little.
const SHORTEST_SAMPLE: Nanos = 200_000_000;

/// Writes entries until all who send them are gone.
pub(crate) fn write<W: Write>(
    writer: Writer<W>,
    entries: &Receiver<Entry>,
    shared: &Shared,
) -> Option<io::Error> {
    let now = shared.clock.now();
    let mut journal = Journal { writer, shared, flushed: now, sampled: now, failed: None };
    loop {
        let open = journal.take(entries);
        let now = shared.clock.now();
        shared.live.mark(now);
        if now >= journal.sampled + SAMPLE {
            journal.sample(now);
        }
        if !open || now >= journal.flushed + FLUSH {
            journal.flush(now);
        }
        if !open {
            return journal.failed;
        }
        thread::park_timeout(PAUSE);
    }
}

struct Journal<'a, W: Write> {
    writer: Writer<W>,
    shared: &'a Shared,
    flushed: Nanos,
    sampled: Nanos,
    failed: Option<io::Error>,
}

impl<W: Write> Journal<'_, W> {
    /// Writes what there is. False: nobody sends any more.
    fn take(&mut self, entries: &Receiver<Entry>) -> bool {
        loop {
            match entries.try_recv() {
                Ok(Entry::Record(record)) => self.note(|writer| writer.record(&record)),
                Ok(Entry::Event(event)) => {
                    if let Event::End { at, .. } = event
                        && at >= self.sampled + SHORTEST_SAMPLE
                    {
                        self.sample(at);
                    }
                    self.note(|writer| writer.event(&event));
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn sample(&mut self, now: Nanos) {
        let live = &self.shared.live;
        let sample = ClientSample {
            at: now,
            in_flight: live.in_flight.load(Relaxed),
            sent: live.sent.load(Relaxed),
            succeeded: live.succeeded.load(Relaxed),
            failed: live.failed.load(Relaxed),
            starved: live.starved.load(Relaxed),
            connections: live.connections.load(Relaxed),
            threads: self.shared.threads.sample(now - self.sampled),
        };
        self.sampled = now;
        self.note(|writer| writer.event(&Event::Client(sample)));
    }

    fn flush(&mut self, now: Nanos) {
        self.flushed = now;
        self.note(Writer::flush);
    }

    /// Does something with the file. What cannot be kept is not worth sending: the first failure
    /// ends the run.
    fn note(&mut self, act: impl FnOnce(&mut Writer<W>) -> io::Result<()>) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = act(&mut self.writer) {
            let message = format!("the records cannot be written: {error}");
            self.shared.end(EndReason::Aborted, message, true);
            self.failed = Some(error);
        }
    }
}
