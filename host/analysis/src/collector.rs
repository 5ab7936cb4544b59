//! [`Collector`]: takes a run's entries one by one and keeps of each only what results need.

use crate::cache::CacheCounts;
use crate::gaps::Gaps;
use crate::{Analysis, Options};
use records::{
    Astray, BROKE_DOWN, ClientSample, Connection, EndReason, Entry, Event, FailureKind, Header,
    LoopKind, Record, StageEnd, StageInfo, StagePhase, UsageSource,
};
use std::collections::BTreeMap;

/// Takes in a run, entry by entry.
#[derive(Debug)]
pub struct Collector {
    run: Run,
    gaps: usize,
    /// Of the file, the last that was taken.
    line: u64,
}

/// A run as far as results need it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) header: Header,
    pub(crate) stages: Vec<Stage>,
    pub(crate) requests: Vec<Request>,
    pub(crate) samples: Vec<ClientSample>,
    pub(crate) end: Option<(EndReason, String)>,
    /// What load generators did not send as planned.
    pub(crate) astray: Vec<Astray>,
    /// A thread of a load generator broke down.
    pub(crate) broke_down: bool,
    /// The latest time in any entry.
    pub(crate) last_seen: u64,
    /// Entries of stages that the header does not know.
    pub(crate) strays: u64,
    /// Records whose times cannot be, which are left out.
    pub(crate) damaged: Damaged,
    /// Output tokens that arrived in each [`TOKEN_BIN`] of the run.
    pub(crate) tokens: Vec<u32>,
    /// Up to [`MESSAGES`] different ones of each kind.
    pub(crate) messages: BTreeMap<FailureKind, Vec<String>>,
}

/// Records whose times cannot be.
#[derive(Debug, Default)]
pub(crate) struct Damaged {
    pub(crate) count: u64,
    /// "line 7: it ended before it was sent".
    pub(crate) first: String,
}

/// Nanoseconds into which arrivals of tokens are gathered for time lines.
pub(crate) const TOKEN_BIN: u64 = 100_000_000;
/// Runs longer than this many bins (11 days) have no time line of tokens beyond it.
const MOST_BINS: usize = 10_000_000;
/// Different messages kept of each kind of failure.
const MESSAGES: usize = 3;

/// What is kept of a request. Times in nanoseconds since the run's start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Request {
    pub(crate) session: u64,
    pub(crate) stage: u32,
    pub(crate) warmup: bool,
    pub(crate) connection: Connection,
    /// It was sent again over a new connection.
    pub(crate) is_again: bool,
    pub(crate) failure: Option<FailureKind>,
    /// Never set in a closed loop.
    pub(crate) due: Option<u64>,
    /// Set only for later turns of a closed loop.
    pub(crate) wanted: Option<u64>,
    pub(crate) started: u64,
    pub(crate) sent: Option<u64>,
    pub(crate) tokens: Option<Arrivals>,
    pub(crate) first_answer: Option<u64>,
    pub(crate) finished: u64,
    pub(crate) input_tokens: Option<u32>,
    pub(crate) output_tokens: Option<u32>,
}

/// When a request's output arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Arrivals {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) chunks: u32,
}

/// A stage: its plan, its ends, and what was counted over its measured requests.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) info: StageInfo,
    pub(crate) begin: Option<u64>,
    pub(crate) end: Option<StageEnd>,
    pub(crate) gaps: Gaps,
    pub(crate) counts: Counts,
}

/// Counts over the measured requests of a stage that ended well.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) chunks: u64,
    /// Chunks that carried more than one token.
    pub(crate) several: u64,
    /// Requests whose first chunk carried more than one token.
    pub(crate) several_first: u64,
    /// Requests whose whole answer came in one chunk of several tokens.
    pub(crate) one_chunk: u64,
    /// Requests whose chunks carried no counts and are not as many as their output tokens.
    pub(crate) uncounted: u64,
    /// Requests by who counted their tokens.
    pub(crate) server: u64,
    pub(crate) tokenizer: u64,
    pub(crate) nobody: u64,
    /// Requests whose prompt was meant to have so many tokens, those tokens, and those it had.
    pub(crate) asked_input: [u64; 3],
    /// Requests that asked for so many tokens, and those that got them.
    pub(crate) asked_output: [u64; 2],
    pub(crate) retries: u64,
    /// Tokens and hits of the prefix cache.
    pub(crate) cache: CacheCounts,
}

impl Counts {
    /// Adds another stage's.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.chunks += other.chunks;
        self.several += other.several;
        self.several_first += other.several_first;
        self.one_chunk += other.one_chunk;
        self.uncounted += other.uncounted;
        self.server += other.server;
        self.tokenizer += other.tokenizer;
        self.nobody += other.nobody;
        self.retries += other.retries;
        self.cache.add(&other.cache);
        for (sum, more) in self.asked_input.iter_mut().zip(other.asked_input) {
            *sum += more;
        }
        for (sum, more) in self.asked_output.iter_mut().zip(other.asked_output) {
            *sum += more;
        }
    }
}

impl Request {
    /// Enters latencies: measured, and ended well.
    pub(crate) fn counts(&self) -> bool {
        !self.warmup && self.failure.is_none()
    }

    /// Its tokens had no pace that could be too slow: there was one, or all came at once.
    pub(crate) fn has_no_pace(&self) -> bool {
        self.output_tokens == Some(1) || self.tokens.is_some_and(|tokens| tokens.chunks == 1)
    }

    /// When the client asked, as far as that was its own doing.
    pub(crate) fn asked_at(&self) -> Option<u64> {
        self.connection.asked_at(self.started, self.sent)
    }

    /// Its place in the order of time.
    pub(crate) fn place(&self) -> u64 {
        self.due.or(self.sent).unwrap_or(self.started)
    }
}

impl Collector {
    /// Starts with a run's header.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        let stage = |info: &StageInfo| Stage {
            info: info.clone(),
            begin: None,
            end: None,
            gaps: Gaps::default(),
            counts: Counts::default(),
        };
        let run = Run {
            stages: header.stages.iter().map(stage).collect(),
            header: header.clone(),
            requests: Vec::new(),
            samples: Vec::new(),
            end: None,
            astray: Vec::new(),
            broke_down: false,
            last_seen: 0,
            strays: 0,
            damaged: Damaged::default(),
            tokens: Vec::new(),
            messages: BTreeMap::new(),
        };
        Self { run, gaps: 0, line: 1 }
    }

    /// Takes the next entry.
    pub fn add(&mut self, entry: Entry) {
        // After a header each entry has a line as a rule.
        self.add_line(self.line + 1, entry);
    }

    /// Takes the next entry, which stands in this line of its file.
    pub fn add_line(&mut self, line: u64, entry: Entry) {
        self.line = line;
        match entry {
            Entry::Record(record) => match record.contradiction() {
                None => self.record(&record),
                Some(what) => self.run.damaged.take(line, what),
            },
            Entry::Event(event) => self.run.event(event),
        }
    }

    /// When each stage began and ended, in nanoseconds since the run's start. None: it did not.
    pub fn stage_times(&self) -> impl Iterator<Item = (Option<u64>, Option<u64>)> {
        self.run.stages.iter().map(|stage| (stage.begin, stage.end.as_ref().map(|end| end.at)))
    }

    /// Reckons the results.
    #[must_use]
    pub fn finish(self, options: &Options) -> Analysis {
        crate::analysis::analyse(self.run, options)
    }

    fn record(&mut self, record: &Record) {
        let run = &mut self.run;
        run.last_seen = run.last_seen.max(record.finished);
        let Some(stage) = run.stages.get_mut(record.stage as usize) else {
            run.strays += 1;
            return;
        };
        let request = Request::of(record, &stage.info);
        if request.counts() {
            self.gaps += stage.take(record);
            if self.gaps > Gaps::EXACT {
                for stage in &mut run.stages {
                    stage.gaps.count();
                }
            }
        }
        if let Some(failure) = record.error.as_ref().filter(|_| !request.warmup) {
            let messages = run.messages.entry(failure.kind).or_default();
            if messages.len() < MESSAGES && !messages.contains(&failure.message) {
                messages.push(failure.message.clone());
            }
        }
        run.tokens_arrived(record);
        run.requests.push(request);
    }
}

impl Request {
    fn of(record: &Record, stage: &StageInfo) -> Self {
        let open = stage.kind == LoopKind::Open;
        Self {
            session: record.session,
            stage: record.stage,
            warmup: record.warmup || stage.warmup,
            connection: record.connection,
            is_again: record.retries > 0,
            failure: record.error.as_ref().map(|failure| failure.kind),
            due: record.due.filter(|_| open),
            wanted: record.wanted.filter(|_| !open),
            started: record.started,
            sent: record.sent,
            tokens: match record.tokens[..] {
                [] => None,
                [first, ..] => Some(Arrivals {
                    first,
                    last: record.tokens.last().copied().unwrap_or(first),
                    chunks: u32::try_from(record.tokens.len()).unwrap_or(u32::MAX),
                }),
            },
            first_answer: record.first_answer,
            finished: record.finished,
            input_tokens: record.input_tokens,
            output_tokens: record.output_tokens,
        }
    }
}

impl Stage {
    /// Counts a request that ended well; gives the number of its gaps.
    fn take(&mut self, record: &Record) -> usize {
        let before = self.gaps.len();
        let carried = |chunk: usize| record.chunk_tokens.get(chunk).copied().unwrap_or(1);
        if record.chunk_tokens.is_empty() {
            self.gaps.extend(record.tokens.windows(2).map(|pair| pair[1].saturating_sub(pair[0])));
        } else {
            let mut from = record.tokens.first().copied().unwrap_or(0);
            for (chunk, &at) in record.tokens.iter().enumerate().skip(1) {
                let tokens = carried(chunk);
                // A chunk of no token lends its time to the next one that has any.
                if tokens > 0 {
                    self.gaps.push(at.saturating_sub(from) as f64 / f64::from(tokens), tokens);
                    from = at;
                }
            }
        }
        let counts = &mut self.counts;
        let chunks = record.tokens.len();
        counts.chunks += chunks as u64;
        counts.several += record.chunk_tokens.iter().filter(|&&tokens| tokens > 1).count() as u64;
        counts.several_first += u64::from(chunks > 1 && carried(0) > 1);
        counts.one_chunk += u64::from(chunks == 1 && record.output_tokens > Some(1));
        let uncounted = chunks > 0
            && record.chunk_tokens.is_empty()
            && record.output_tokens.is_some_and(|tokens| tokens as usize != chunks);
        counts.uncounted += u64::from(uncounted);
        match record.usage {
            UsageSource::Server => counts.server += 1,
            UsageSource::Tokenizer => counts.tokenizer += 1,
            UsageSource::None => counts.nobody += 1,
        }
        if let (Some(asked), Some(got)) = (record.asked_input_tokens, record.input_tokens) {
            let more = [1, u64::from(asked), u64::from(got)];
            counts.asked_input.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        if let (Some(asked), Some(got)) = (record.asked_output_tokens, record.output_tokens) {
            counts.asked_output[0] += 1;
            counts.asked_output[1] += u64::from(got >= asked);
        }
        counts.retries += u64::from(record.retries);
        counts.cache.take(record);
        self.gaps.len() - before
    }
}

impl Damaged {
    fn take(&mut self, line: u64, what: &str) {
        self.count += 1;
        if self.count == 1 {
            self.first = format!("line {line}: {what}");
        }
    }
}

impl Run {
    fn event(&mut self, event: Event) {
        let at = match event {
            Event::Stage(StagePhase::Begin(begin)) => {
                match self.stages.get_mut(begin.stage as usize) {
                    Some(stage) => stage.begin = Some(begin.at),
                    None => self.strays += 1,
                }
                begin.at
            }
            Event::Stage(StagePhase::End(end)) => {
                let at = end.at;
                match self.stages.get_mut(end.stage as usize) {
                    Some(stage) => stage.end = Some(end),
                    None => self.strays += 1,
                }
                at
            }
            Event::Client(sample) => {
                let at = sample.at;
                self.samples.push(sample);
                at
            }
            Event::Astray(part) => {
                let at = part.at;
                self.astray.push(part);
                at
            }
            Event::BrokeDown(broken) => {
                self.broke_down = true;
                broken.at
            }
            Event::End { at, reason, message } => {
                // Files of before that event tell it so, where it was the first reason to end.
                self.broke_down |= reason == EndReason::Aborted && message == BROKE_DOWN;
                self.end = Some((reason, message));
                at
            }
        };
        self.last_seen = self.last_seen.max(at);
    }

    fn tokens_arrived(&mut self, record: &Record) {
        for (chunk, at) in record.tokens.iter().enumerate() {
            let Ok(bin) = usize::try_from(at / TOKEN_BIN) else { continue };
            if bin >= MOST_BINS {
                continue;
            }
            if bin >= self.tokens.len() {
                self.tokens.resize(bin + 1, 0);
            }
            let carried = record.chunk_tokens.get(chunk).copied().unwrap_or(1);
            self.tokens[bin] = self.tokens[bin].saturating_add(carried);
        }
    }
}
