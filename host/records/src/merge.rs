//! Makes one records file of those of several load generators that made one load together.
//!
//! Their clocks read 0 in the same moment, so that times stay as they are. Records are taken over unchanged; the
//! stages of all files become one each, and samples of their health count for all of them.

use crate::{
    Astray, BrokeDown, ClientSample, EndReason, Entry, Event, Header, ReadError, Reader,
    StageBegin, StageEnd, StagePhase, Writer,
};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

/// Why files cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// One of them cannot be read.
    #[error("shard {shard}: {source}")]
    Read {
        /// Which of them, from 0.
        shard: usize,
        /// Why.
        source: ReadError,
    },
    /// The whole cannot be written.
    #[error("failed to write: {0}")]
    Write(#[from] io::Error),
}

/// Writes one file of several, each with the number of its load generator; `of` made the load together. One that was
/// lost left a file without an end, or none: `lost` has their numbers, and what stands of each in the whole file's last
/// line. `alone` has those that began stages without the others, from which one on.
///
/// # Errors
/// When a line of a file other than its last is broken, or the whole cannot be written.
pub fn merge<R: BufRead, W: Write>(
    header: &Header,
    files: Vec<(usize, Reader<R>)>,
    of: u32,
    lost: &[(usize, String)],
    alone: &[(usize, u32)],
    out: W,
) -> Result<W, MergeError> {
    let mut merge = Merge {
        out: Writer::new(out, header)?,
        stages: BTreeMap::new(),
        courses: BTreeMap::new(),
        latest: BTreeMap::new(),
        last: 0,
    };
    let with_file = files.len();
    let mut sources = Vec::new();
    for (shard, mut reader) in files {
        let next = read(shard, &mut reader)?;
        sources.push(Source { shard, reader, next });
    }
    let mut ends = Vec::new();
    // The entry that happened first comes first; of none is waited for.
    while let Some(source) = sources
        .iter_mut()
        .filter(|source| source.next.is_some())
        .min_by_key(|source| source.next.as_ref().map(time))
    {
        let shard = source.shard;
        let entry = source.next.take();
        source.next = read(shard, &mut source.reader)?;
        if source.next.is_none()
            && let Some(latest) = merge.latest.get_mut(&shard)
        {
            // Nothing of a generator that has ended or was lost is under way.
            latest.in_flight = 0;
        }
        if let Some(entry) = &entry {
            merge.last = merge.last.max(time(entry));
            merge.courses.entry(shard).or_default().go_on(entry);
        }
        match entry {
            Some(Entry::Record(record)) => merge.out.record(&record)?,
            Some(Entry::Event(Event::Stage(StagePhase::Begin(begin)))) => merge.begin(begin)?,
            Some(Entry::Event(Event::Stage(StagePhase::End(end)))) => merge.end(end, with_file)?,
            Some(Entry::Event(Event::Client(sample))) => merge.sample(shard, sample)?,
            Some(Entry::Event(Event::Astray(part))) => merge.out.event(&Event::Astray(part))?,
            Some(Entry::Event(Event::BrokeDown(broken))) => {
                let thread = of_shard(shard, &broken.thread);
                merge.out.event(&Event::BrokeDown(BrokeDown { thread, ..broken }))?;
            }
            Some(Entry::Event(Event::End { reason, message, .. })) => ends.push((reason, message)),
            None => {}
        }
    }
    let stages = u32::try_from(header.stages.len()).unwrap_or(u32::MAX);
    let cut = lost.iter().map(|(shard, _)| {
        let course = merge.courses.get(shard);
        (*shard, course.map_or(Some(0), Course::cut))
    });
    let alone = alone.iter().map(|(shard, stage)| (*shard, Some(*stage)));
    for (shard, stage) in cut.chain(alone).collect::<Vec<_>>() {
        if let Some(stage) = stage.filter(|stage| *stage < stages) {
            let at = merge.courses.get(&shard).map_or(0, |course| course.last);
            let generator = u32::try_from(shard).unwrap_or(u32::MAX);
            merge.out.event(&Event::Astray(Astray { at, generator, of, stage }))?;
        }
    }
    let lost: Vec<&str> = lost.iter().map(|(_, why)| why.as_str()).collect();
    merge.finish(ends, &lost.join("; "))
}

fn read<R: BufRead>(shard: usize, reader: &mut Reader<R>) -> Result<Option<Entry>, MergeError> {
    reader.next_entry().map_err(|source| MergeError::Read { shard, source })
}

fn time(entry: &Entry) -> u64 {
    match entry {
        Entry::Record(record) => record.finished,
        Entry::Event(Event::Stage(StagePhase::Begin(begin))) => begin.at,
        Entry::Event(Event::Stage(StagePhase::End(end))) => end.at,
        Entry::Event(Event::Client(sample)) => sample.at,
        Entry::Event(Event::Astray(part)) => part.at,
        Entry::Event(Event::BrokeDown(broken)) => broken.at,
        Entry::Event(Event::End { at, .. }) => *at,
    }
}

/// The name of a thread, which says whose it is.
fn of_shard(shard: usize, thread: &str) -> String {
    format!("{shard}/{thread}")
}

struct Source<R> {
    shard: usize,
    reader: Reader<R>,
    next: Option<Entry>,
}

/// How far a load generator came.
#[derive(Default)]
struct Course {
    /// The newest stage that it began.
    begun: Option<u32>,
    /// The newest stage that it ended, or that was ended.
    ended: Option<u32>,
    /// Why its load ended.
    end: Option<EndReason>,
    /// When the last thing happened.
    last: u64,
}

impl Course {
    fn go_on(&mut self, entry: &Entry) {
        self.last = self.last.max(time(entry));
        match entry {
            Entry::Event(Event::Stage(StagePhase::Begin(begin))) => self.begun = Some(begin.stage),
            Entry::Event(Event::Stage(StagePhase::End(end))) => self.ended = Some(end.stage),
            Entry::Event(Event::End { reason, .. }) => self.end = Some(*reason),
            _ => {}
        }
    }

    /// The first stage that it did not send as planned. None: it sent all of them.
    fn cut(&self) -> Option<u32> {
        match (self.end, self.begun, self.ended) {
            (Some(EndReason::Completed), ..) => None,
            // Its end came while that stage was under way.
            (Some(_), begun, _) => Some(begun.unwrap_or(0)),
            (None, Some(begun), ended) if ended == Some(begun) => Some(begun + 1),
            (None, begun, _) => Some(begun.unwrap_or(0)),
        }
    }
}

struct Merge<W: Write> {
    out: Writer<W>,
    /// The stages that began, and what their ends add up to so far.
    stages: BTreeMap<u32, Ends>,
    /// How far each generator came.
    courses: BTreeMap<usize, Course>,
    /// The newest sample of each generator.
    latest: BTreeMap<usize, ClientSample>,
    /// When the last thing happened.
    last: u64,
}

#[derive(Default)]
struct Ends {
    whole: Option<StageEnd>,
    count: usize,
    is_written: bool,
}

impl<W: Write> Merge<W> {
    fn begin(&mut self, begin: StageBegin) -> io::Result<()> {
        if self.stages.contains_key(&begin.stage) {
            return Ok(());
        }
        self.stages.insert(begin.stage, Ends::default());
        self.out.event(&Event::Stage(StagePhase::Begin(begin)))
    }

    fn end(&mut self, end: StageEnd, of: usize) -> io::Result<()> {
        let ends = self.stages.entry(end.stage).or_default();
        ends.count += 1;
        ends.whole = Some(match ends.whole.take() {
            None => end,
            Some(whole) => StageEnd {
                at: whole.at.max(end.at),
                stage: end.stage,
                window_end: whole.window_end.max(end.window_end),
                scheduled: whole.scheduled.zip(end.scheduled).map(|(a, b)| a + b),
                unsent: whole.unsent + end.unsent,
                capped: whole.capped + end.capped,
                exhausted: whole.exhausted || end.exhausted,
            },
        });
        if ends.count == of { ends.write(&mut self.out) } else { Ok(()) }
    }

    /// What counts since the start counts for all; threads say whose they are.
    fn sample(&mut self, shard: usize, sample: ClientSample) -> io::Result<()> {
        self.latest.insert(shard, sample.clone());
        let mut whole = sample;
        for (_, latest) in self.latest.iter().filter(|(other, _)| **other != shard) {
            whole.in_flight += latest.in_flight;
            whole.sent += latest.sent;
            whole.succeeded += latest.succeeded;
            whole.failed += latest.failed;
            whole.starved += latest.starved;
            whole.connections += latest.connections;
        }
        whole.generator = u32::try_from(shard).ok();
        for thread in &mut whole.threads {
            thread.name = of_shard(shard, &thread.name);
        }
        self.out.event(&Event::Client(whole))
    }

    fn finish(mut self, ends: Vec<(EndReason, String)>, lost: &str) -> Result<W, MergeError> {
        for ends in self.stages.values_mut() {
            ends.write(&mut self.out)?;
        }
        let worst = ends.into_iter().find(|(reason, _)| *reason != EndReason::Completed);
        let (reason, message) = match worst {
            _ if !lost.is_empty() => (EndReason::Aborted, lost.to_owned()),
            Some(worst) => worst,
            None => (EndReason::Completed, String::new()),
        };
        self.out.event(&Event::End { at: self.last, reason, message })?;
        self.out.flush()?;
        Ok(self.out.into_inner())
    }
}

impl Ends {
    fn write<W: Write>(&mut self, out: &mut Writer<W>) -> io::Result<()> {
        match (&self.whole, std::mem::replace(&mut self.is_written, true)) {
            (Some(whole), false) => out.event(&Event::Stage(StagePhase::End(whole.clone()))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FORMAT, LoopKind, Record, StageInfo, ThreadSample, VERSION};

    fn header() -> Header {
        Header {
            format: FORMAT.into(),
            version: VERSION.into(),
            run: "r".into(),
            started: String::new(),
            clock: String::new(),
            model: "m".into(),
            endpoint: String::new(),
            seed: 1,
            stages: vec![stage(), stage()],
            slo: BTreeMap::new(),
        }
    }

    fn stage() -> StageInfo {
        StageInfo {
            name: "s".into(),
            warmup: false,
            kind: LoopKind::Open,
            rate: None,
            concurrency: None,
            max_in_flight: None,
            length: None,
            settle: 0,
            labels: BTreeMap::new(),
        }
    }

    fn file(entries: &[Entry]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        for entry in entries {
            match entry {
                Entry::Record(record) => writer.record(record).unwrap(),
                Entry::Event(event) => writer.event(event).unwrap(),
            }
        }
        writer.into_inner()
    }

    fn record(id: u64, finished: u64) -> Entry {
        Entry::Record(Box::new(Record { id, finished, ..Record::default() }))
    }

    fn begin() -> Entry {
        Entry::Event(Event::Stage(StagePhase::Begin(StageBegin { at: 5, stage: 0 })))
    }

    fn end(at: u64, scheduled: u64, unsent: u64) -> Entry {
        let end = StageEnd {
            at,
            stage: 0,
            window_end: 100,
            scheduled: Some(scheduled),
            unsent,
            capped: 0,
            exhausted: false,
        };
        Entry::Event(Event::Stage(StagePhase::End(end)))
    }

    fn sample(at: u64, sent: u64) -> Entry {
        let threads = vec![ThreadSample { name: "pacer".into(), cpu: 0.5, waiting: 0.0 }];
        Entry::Event(Event::Client(ClientSample { at, sent, threads, ..ClientSample::default() }))
    }

    fn over(at: u64) -> Entry {
        let message = String::new();
        Entry::Event(Event::End { at, reason: EndReason::Completed, message })
    }

    fn merged(files: &[Vec<u8>], lost: &[(usize, &str)]) -> Vec<Entry> {
        let readers = files.iter().map(|file| Reader::new(file.as_slice()).unwrap());
        let lost: Vec<_> = lost.iter().map(|(shard, why)| (*shard, (*why).to_owned())).collect();
        let readers = readers.enumerate().collect();
        let whole = merge(&header(), readers, 3, &lost, &[], Vec::new()).unwrap();
        Reader::new(whole.as_slice()).unwrap().map(|entry| entry.unwrap()).collect()
    }

    #[test]
    fn records_are_all_there_stages_are_one_and_counts_add_up() {
        let first = [begin(), record(0, 20), sample(30, 2), record(2, 60), end(60, 3, 1), over(61)];
        let second = [begin(), record(1, 10), sample(40, 5), end(110, 2, 0), over(111)];
        let whole = merged(&[file(&first), file(&second)], &[]);
        let named = |at, sent, shard: u32| {
            let Entry::Event(Event::Client(mut sample)) = sample(at, sent) else { unreachable!() };
            sample.generator = Some(shard);
            sample.threads[0].name = format!("{shard}/pacer");
            Entry::Event(Event::Client(sample))
        };
        assert_eq!(
            whole,
            [
                begin(),
                record(1, 10),
                record(0, 20),
                named(30, 2, 0),
                named(40, 7, 1),
                record(2, 60),
                end(110, 5, 1),
                over(111),
            ]
        );
    }

    #[test]
    fn what_a_lost_generator_left_is_kept_and_the_whole_says_that_it_was_lost() {
        let first = [begin(), record(0, 20), end(60, 3, 0), over(61)];
        let mut second = file(&[begin(), record(1, 10)]);
        second.extend_from_slice(b"{\"id\": 3, \"se");
        let whole = merged(&[file(&first), second], &[(1, "agent 1 was lost")]);
        let ids: Vec<u64> = whole
            .iter()
            .filter_map(|entry| match entry {
                Entry::Record(record) => Some(record.id),
                Entry::Event(_) => None,
            })
            .collect();
        assert_eq!(ids, [1, 0]);
        assert!(whole.contains(&end(60, 3, 0)));
        let message = "agent 1 was lost".to_owned();
        let last = Event::End { at: 61, reason: EndReason::Aborted, message };
        assert_eq!(whole.last(), Some(&Entry::Event(last)));
    }

    #[test]
    fn of_a_lost_generator_it_is_told_from_which_stage_on_its_part_is_missing() {
        let check = |left: &[Entry], stage: Option<u32>| {
            let whole = [begin(), end(60, 3, 0), over(61)];
            let whole = merged(&[file(&whole), file(left)], &[(1, "agent 1 was lost")]);
            let lost: Vec<&Astray> = whole
                .iter()
                .filter_map(|entry| match entry {
                    Entry::Event(Event::Astray(part)) => Some(part),
                    _ => None,
                })
                .collect();
            let at = left.iter().map(time).max().unwrap_or(0);
            let part = stage.map(|stage| Astray { at, generator: 1, of: 3, stage });
            assert_eq!(lost, part.iter().collect::<Vec<_>>(), "{left:?}");
        };
        let interrupted =
            Event::End { at: 70, reason: EndReason::Interrupted, message: String::new() };
        check(&[], Some(0));
        check(&[begin(), record(1, 10)], Some(0));
        check(&[begin(), end(60, 3, 1)], Some(1));
        check(&[begin(), end(60, 3, 1), Entry::Event(interrupted)], Some(0));
        // Lost when everything was sent: nothing is missing.
        check(&[begin(), end(60, 3, 0), over(61)], None);
    }

    #[test]
    fn of_a_generator_that_went_on_by_itself_it_is_told_from_which_stage_on() {
        let files = [file(&[begin(), over(61)]), file(&[begin(), record(1, 70), over(71)])];
        let readers = files.iter().map(|file| Reader::new(file.as_slice()).unwrap());
        let readers = readers.enumerate().collect();
        let whole = merge(&header(), readers, 2, &[], &[(1, 1)], Vec::new()).unwrap();
        let whole: Vec<Entry> =
            Reader::new(whole.as_slice()).unwrap().map(|entry| entry.unwrap()).collect();
        let astray = Event::Astray(Astray { at: 71, generator: 1, of: 2, stage: 1 });
        assert_eq!(whole[whole.len() - 2..], [Entry::Event(astray), over(71)]);
    }

    #[test]
    fn a_thread_that_broke_down_is_told_of_with_its_generator() {
        let of = |thread: &str| {
            Entry::Event(Event::BrokeDown(BrokeDown { at: 20, thread: thread.to_owned() }))
        };
        let whole =
            merged(&[file(&[begin(), over(61)]), file(&[begin(), of("load-1"), over(61)])], &[]);
        assert!(whole.contains(&of("1/load-1")), "{whole:?}");
    }
}
