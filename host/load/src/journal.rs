//! The thread that writes the records file, and with it once a second, and where a stage begins or
//! ends, a sample of the client's health. What takes time and can wait is done here: counting tokens.

use crate::machine::Machine;
use crate::plan::Nanos;
use crate::run::Shared;
use records::{ClientSample, EndReason, Entry, Event, Record, UsageSource, Writer};
use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

/// Notes that may wait for the writer. A load thread that finds the queue full waits.
pub(crate) const QUEUE: usize = 16 * 1024;

/// The writer looks for notes this often, rather than be woken for each of them: a wake-up
/// costs the load thread more than everything else about a record.
const PAUSE: Duration = Duration::from_millis(50);
const FLUSH: Nanos = 250_000_000;
const SAMPLE: Nanos = 1_000_000_000;
/// A sample of less than this says nothing.
const SHORTEST_SAMPLE: Nanos = 1_000_000;
/// The client stood still if the writer woke so much too late; less comes of a busy machine, of which
/// other rules tell.
const STOP: Nanos = 100_000_000;

/// Something for the records file.
pub(crate) enum Note {
    /// Written as it is.
    Entry(Entry),
    /// A record whose tokens the server did not count, and all that the model generated.
    Uncounted {
        /// The record, as far as it is known.
        record: Box<Record>,
        /// Reasoning and answer.
        texts: [String; 2],
    },
}

/// Writes what it gets until the run ends, or all who send are gone.
pub(crate) fn write<W: Write>(
    writer: Writer<W>,
    notes: &Receiver<Note>,
    shared: &Shared,
    machine: Machine,
) -> Option<io::Error> {
    let now = shared.clock.now();
    let mut journal =
        Journal { writer, shared, machine, flushed: now, sampled: now, stopped: 0, failed: None };
    loop {
        match notes.try_recv() {
            Ok(note) => {
                // A load thread that broke down may never drop its sender: its sessions hold one another.
                let is_last = matches!(note, Note::Entry(Entry::Event(Event::End { .. })));
                journal.take(note);
                if is_last {
                    return journal.end();
                }
            }
            Err(TryRecvError::Empty) => {
                let from = shared.clock.now();
                thread::park_timeout(PAUSE);
                journal.woke(shared.clock.now() - from);
            }
            Err(TryRecvError::Disconnected) => return journal.end(),
        }
        journal.look_at_clock();
    }
}

struct Journal<'a, W: Write> {
    writer: Writer<W>,
    shared: &'a Shared,
    machine: Machine,
    flushed: Nanos,
    sampled: Nanos,
    /// Since the sample before.
    stopped: Nanos,
    failed: Option<io::Error>,
}

impl<W: Write> Journal<'_, W> {
    fn take(&mut self, note: Note) {
        match note {
            Note::Entry(Entry::Record(record)) => self.write(|writer| writer.record(&record)),
            Note::Uncounted { mut record, texts } => {
                let counter = self.shared.plan.count_tokens.as_ref();
                let count = |text: &String| counter?.count(text);
                record.output_tokens = texts.iter().map(count).sum();
                if record.output_tokens.is_some() {
                    record.usage = UsageSource::Tokenizer;
                }
                self.write(|writer| writer.record(&record));
            }
            Note::Entry(Entry::Event(event)) => {
                // What was before it belongs to another stage than what comes after it.
                let now = self.shared.clock.now();
                if now >= self.sampled + SHORTEST_SAMPLE {
                    self.sample(now);
                }
                self.write(|writer| writer.event(&event));
            }
        }
    }

    /// A pause lasted so long.
    fn woke(&mut self, after: Nanos) {
        let late = after.saturating_sub(PAUSE.as_nanos() as Nanos);
        self.stopped += if late >= STOP { late } else { 0 };
    }

    /// Does what time asks for.
    fn look_at_clock(&mut self) {
        let now = self.shared.clock.now();
        if now >= self.sampled + SAMPLE {
            self.sample(now);
        }
        if now >= self.flushed + FLUSH {
            self.shared.live.mark(now);
            self.flush(now);
        }
    }

    fn sample(&mut self, now: Nanos) {
        let live = &self.shared.live;
        let threads = &self.shared.threads;
        let ago = now - self.sampled;
        let (throttled, steal) = self.machine.sample(ago);
        let sample = ClientSample {
            at: now,
            since: Some(self.sampled),
            generator: None,
            in_flight: live.in_flight.load(Relaxed),
            sent: live.sent.load(Relaxed),
            succeeded: live.succeeded.load(Relaxed),
            failed: live.failed.load(Relaxed),
            starved: live.starved.load(Relaxed),
            connections: live.connections.load(Relaxed),
            threads: threads.sample(ago),
            stamp_lag: threads.sample_stamp_lags(),
            throttled,
            steal,
            stopped: std::mem::take(&mut self.stopped),
        };
        self.sampled = now;
        self.write(|writer| writer.event(&Event::Client(sample)));
    }

    fn flush(&mut self, now: Nanos) {
        self.flushed = now;
        self.write(Writer::flush);
    }

    /// Hands over the rest. Why something is missing from the file.
    fn end(mut self) -> Option<io::Error> {
        self.flush(self.shared.clock.now());
        self.failed
    }

    /// Does something with the file. What cannot be kept is not worth sending: the first failure
    /// ends the run.
    fn write(&mut self, act: impl FnOnce(&mut Writer<W>) -> io::Result<()>) {
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
