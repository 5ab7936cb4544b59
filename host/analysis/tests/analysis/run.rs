//! Runs made by hand: times in milliseconds, one stage unless said otherwise.

use analysis::{Analysis, Collector, Distribution, Options, Slo, StageSummary};
use records::{
    ClientSample, EndReason, Entry, Event, Failure, FailureKind, Header, LoopKind, Record,
    StageBegin, StageEnd, StageInfo, StagePhase, UsageSource,
};
use std::collections::BTreeMap;

pub(crate) const MS: u64 = 1_000_000;

/// A run in the making.
pub(crate) struct Run {
    pub(crate) header: Header,
    pub(crate) entries: Vec<Entry>,
}

/// A stage of this kind without limits.
pub(crate) fn stage(name: &str, kind: LoopKind) -> StageInfo {
    StageInfo {
        name: name.to_owned(),
        warmup: false,
        kind,
        rate: None,
        concurrency: None,
        max_in_flight: None,
        length: None,
        settle: 0,
        labels: BTreeMap::new(),
    }
}

/// A streamed answer that went well: sent at once, with these arrivals.
pub(crate) fn answer(due: u64, tokens: &[u64], finished: u64) -> Record {
    let tokens: Vec<u64> = tokens.iter().map(|at| at * MS).collect();
    Record {
        due: Some(due * MS),
        started: due * MS,
        sent: Some(due * MS),
        first_byte: tokens.first().copied(),
        first_answer: tokens.first().copied(),
        finished: finished * MS,
        status: 200,
        output_tokens: Some(tokens.len() as u32),
        input_tokens: Some(7),
        usage: UsageSource::Server,
        tokens,
        connection: records::Connection::Reused,
        ..Record::default()
    }
}

/// The same, but it failed.
pub(crate) fn failure(record: Record, kind: FailureKind, message: &str) -> Record {
    Record { error: Some(Failure::new(kind, message)), ..record }
}

impl Run {
    /// A run of these stages.
    pub(crate) fn new(stages: Vec<StageInfo>) -> Self {
        let header = Header {
            format: records::FORMAT.to_owned(),
            version: records::VERSION.to_owned(),
            run: "r1".to_owned(),
            started: "2026-01-01T00:00:00Z".to_owned(),
            clock: String::new(),
            model: "m".to_owned(),
            endpoint: "http://server:8000".to_owned(),
            seed: 1,
            stages,
            slo: BTreeMap::new(),
        };
        Self { header, entries: Vec::new() }
    }

    /// A run of one open stage from 0 to `window_end`, with these requests.
    pub(crate) fn open(window_end: u64, records: Vec<Record>) -> Self {
        let scheduled = records.len() as u64;
        let mut run = Self::new(vec![stage("s", LoopKind::Open)]);
        run.begin(0, 0);
        run.records(records);
        run.end(0, window_end, scheduled);
        run.completed(window_end);
        run
    }

    pub(crate) fn begin(&mut self, stage: u32, at: u64) {
        let begin = StageBegin { at: at * MS, stage };
        self.entries.push(Entry::Event(Event::Stage(StagePhase::Begin(begin))));
    }

    pub(crate) fn end(&mut self, stage: u32, window_end: u64, scheduled: u64) {
        self.end_with(StageEnd {
            at: window_end * MS,
            stage,
            window_end: window_end * MS,
            scheduled: Some(scheduled),
            unsent: 0,
            capped: 0,
            exhausted: false,
        });
    }

    pub(crate) fn end_with(&mut self, end: StageEnd) {
        self.entries.push(Entry::Event(Event::Stage(StagePhase::End(end))));
    }

    pub(crate) fn completed(&mut self, at: u64) {
        let reason = EndReason::Completed;
        self.entries.push(Entry::Event(Event::End { at: at * MS, reason, message: String::new() }));
    }

    pub(crate) fn records(&mut self, records: impl IntoIterator<Item = Record>) {
        self.entries.extend(records.into_iter().map(|record| Entry::Record(Box::new(record))));
    }

    pub(crate) fn sample(&mut self, sample: ClientSample) {
        self.entries.push(Entry::Event(Event::Client(sample)));
    }

    /// Its results.
    pub(crate) fn analyse(&self, options: &Options) -> Analysis {
        let mut collector = Collector::new(&self.header);
        self.entries.iter().cloned().for_each(|entry| collector.add(entry));
        collector.finish(options)
    }

    /// The total of its results, without any option.
    pub(crate) fn total(&self) -> StageSummary {
        self.analyse(&Options::default()).summary.total
    }
}

/// The values of a metric that must be there.
#[track_caller]
pub(crate) fn values<'a>(stage: &'a StageSummary, metric: &str) -> &'a Distribution {
    stage.distribution(metric).unwrap_or_else(|| panic!("{metric} is missing"))
}

/// Options with these limits.
pub(crate) fn slo(limits: &[(&str, f64)]) -> Options {
    let slo: Result<Slo, _> = limits.iter().map(|(name, ms)| Slo::parse(name, *ms)).collect();
    Options { slo: slo.expect("the limits of tests are possible"), ..Options::default() }
}

/// Equal but for rounding.
#[track_caller]
pub(crate) fn near(value: f64, wanted: f64) {
    assert!((value - wanted).abs() < 1e-4 * wanted.abs().max(1.0), "{value} is not {wanted}");
}
