//! Runs analyzer plugins over the records of a load run.

use crate::chosen::{PluginLog, Use, context, line_text};
use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::phase::analyzer_report::keep;
use crate::plan::Plan;
use crate::plugins::plugin_error;
use crate::printer::Printer;
use crate::records_file::Records;
use crate::run_dir::Results;
use analysis::{Note, PluginReport, Severity};
use plugin_host::wit::analyzer::Report;
use plugin_host::wit::log::Level;
use plugin_host::wit::results::{Columns, LabelColumn, StageFacts, TokenTimes};
use plugin_host::{AnalyzerInstance, Setup, wit};
use records::{Entry, Header, Record};

/// Requests that an analyzer is fed at once.
const BATCH: usize = 4096;

/// What the contract writes for an instant that did not happen, and for a count that is not known.
const NEVER: u64 = u64::MAX;
const UNKNOWN: u32 = u32::MAX;

/// What analyzers found, and what of it failed.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) reports: Vec<PluginReport>,
    /// What they asked for or found, and what the host cannot do with it.
    pub(crate) notes: Vec<Note>,
    /// What others found is kept.
    pub(crate) failures: Vec<Error>,
}

/// Runs every analyzer, and keeps the files that they made among the results. One that fails ends
/// the program with the code of a failed run in the end, for what was asked is not there.
pub(crate) fn run(
    analyzers: &[Use],
    results: &Results,
    plan: &Plan,
    stages: &[StageFacts],
    heeded: usize,
    printer: &Printer,
) -> Result<Findings> {
    let mut findings = Findings::default();
    for used in analyzers {
        let log = PluginLog::default();
        let outcome = one(used, results, plan, stages, &log, heeded, &mut findings.notes);
        for line in log.take() {
            let text = format!("{}: {}", line.plugin, line_text(&line));
            if matches!(line.level, Level::Warn | Level::Error) {
                printer.warning(&text);
            } else {
                printer.detail(&text);
            }
        }
        match outcome {
            Ok(report) => keep(used.plugin.name(), report, results, &mut findings),
            Err(error) if error.exit == Exit::Interrupted => return Err(error),
            Err(error) => findings.failures.push(error.exit(Exit::Run)),
        }
    }
    Ok(findings)
}

fn one(
    used: &Use,
    results: &Results,
    plan: &Plan,
    stages: &[StageFacts],
    log: &PluginLog,
    heeded: usize,
    notes: &mut Vec<Note>,
) -> Result<Report> {
    let setup = Setup {
        seed: plan.experiment.seed,
        grants: used.grants().to_vec(),
        log: log.sink(),
        ..Setup::new(used.settings.clone(), context(&plan.facts(), None))
    };
    let (mut instance, needs) =
        used.plugin.analyzer(setup, stages).map_err(|error| plugin_error(&error))?;
    if !needs.series.is_empty() {
        notes.push(Note {
            severity: Severity::Warning,
            source: used.plugin.name().to_owned(),
            text: format!(
                "It asked for series ({}), and this version of llmdbench feeds analyzers requests only.",
                needs.series.join(", ")
            ),
        });
    }
    let mut batch = Vec::with_capacity(BATCH);
    let mut reader = Records::open(results)?;
    loop {
        interrupt::check_beyond(heeded)?;
        let entry = reader.next()?;
        let is_end = entry.is_none();
        if let Some(Entry::Record(record)) = entry
            && (needs.warm_up || !record.warmup)
            && record.contradiction().is_none()
        {
            batch.push(*record);
        }
        if batch.len() == BATCH || (is_end && !batch.is_empty()) {
            feed(&mut instance, &batch, needs.token_times).map_err(|error| plugin_error(&error))?;
            batch.clear();
        }
        if is_end {
            break;
        }
    }
    instance.finish().map_err(|error| plugin_error(&error))
}

fn feed(
    instance: &mut AnalyzerInstance,
    batch: &[Record],
    token_times: bool,
) -> std::result::Result<(), plugin_host::Error> {
    let times = token_times.then(|| self::token_times(batch));
    instance.feed(&columns(batch), times.as_ref())
}

/// The stages of a run as analyzers are told of them; `times` says when each began and ended.
pub(crate) fn stage_facts(
    header: &Header,
    times: impl Iterator<Item = (Option<u64>, Option<u64>)>,
) -> Vec<StageFacts> {
    let unix = header
        .started
        .parse::<jiff::Timestamp>()
        .map_or(0, |at| u64::try_from(at.as_nanosecond()).unwrap_or(0));
    let label = |(key, value): (&String, &String)| wit::types::Label {
        key: key.clone(),
        value: value.clone(),
    };
    header
        .stages
        .iter()
        .zip(times)
        .map(|(stage, (begin, end))| StageFacts {
            run_id: header.run.clone(),
            name: stage.name.clone(),
            warm_up: stage.warmup,
            started: begin.unwrap_or(NEVER),
            finished: end.unwrap_or(NEVER),
            unix_started: begin.map_or(0, |begin| unix.saturating_add(begin)),
            rate: stage.rate,
            concurrency: stage.concurrency,
            labels: stage.labels.iter().map(label).collect(),
        })
        .collect()
}

fn columns(batch: &[Record]) -> Columns {
    let times = |get: &dyn Fn(&Record) -> Option<u64>| -> Vec<u64> {
        batch.iter().map(|record| get(record).unwrap_or(NEVER)).collect()
    };
    let counts = |get: &dyn Fn(&Record) -> Option<u32>| -> Vec<u32> {
        batch.iter().map(|record| get(record).unwrap_or(UNKNOWN)).collect()
    };
    let mut errors: Vec<String> = Vec::new();
    let error = batch
        .iter()
        .map(|record| match &record.error {
            None => UNKNOWN,
            Some(failure) => code(&mut errors, failure.kind.name()),
        })
        .collect();
    Columns {
        stage: batch.iter().map(|record| record.stage).collect(),
        session: batch.iter().map(|record| record.session).collect(),
        user: batch.iter().map(|record| record.user).collect(),
        turn: batch.iter().map(|record| record.turn).collect(),
        due: times(&|record| record.due),
        started: times(&|record| Some(record.started)),
        sent: times(&|record| record.sent),
        first_byte: times(&|record| record.first_byte),
        first_token: times(&|record| record.tokens.first().copied()),
        last_token: times(&|record| record.tokens.last().copied()),
        finished: times(&|record| Some(record.finished)),
        status: batch.iter().map(|record| record.status).collect(),
        error,
        input_tokens: counts(&|record| record.input_tokens),
        cached_tokens: counts(&|record| record.cached_tokens),
        output_tokens: counts(&|record| record.output_tokens),
        errors,
        labels: label_columns(batch),
    }
}

fn label_columns(batch: &[Record]) -> Vec<LabelColumn> {
    let mut keys: Vec<&String> = batch.iter().flat_map(|record| record.labels.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .map(|key| {
            let mut values = Vec::new();
            let codes = batch
                .iter()
                .map(|record| record.labels.get(key).map_or(UNKNOWN, |v| code(&mut values, v)))
                .collect();
            LabelColumn { key: key.clone(), values, codes }
        })
        .collect()
}

/// The number of a text, which is added where it is new.
fn code(known: &mut Vec<String>, text: &str) -> u32 {
    let at = known.iter().position(|other| other == text).unwrap_or_else(|| {
        known.push(text.to_owned());
        known.len() - 1
    });
    u32::try_from(at).unwrap_or(UNKNOWN)
}

fn token_times(batch: &[Record]) -> TokenTimes {
    let mut times = TokenTimes { offsets: vec![0], deltas: Vec::new(), tokens: Vec::new() };
    let counted = batch.iter().any(|record| !record.chunk_tokens.is_empty());
    for record in batch {
        let mut before = record.sent.unwrap_or(record.started);
        for (i, at) in record.tokens.iter().enumerate() {
            times.deltas.push(at.saturating_sub(before));
            before = *at;
            if counted {
                times.tokens.push(record.chunk_tokens.get(i).copied().unwrap_or(1));
            }
        }
        times.offsets.push(u32::try_from(times.deltas.len()).unwrap_or(UNKNOWN));
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn records_become_columns_with_marks_for_what_is_not_known() {
        let ok = Record {
            session: 7,
            started: 10,
            sent: Some(20),
            tokens: vec![50, 80],
            finished: 90,
            output_tokens: Some(2),
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            ..Record::default()
        };
        let failed = Record {
            started: 30,
            finished: 40,
            error: Some(records::Failure {
                kind: records::FailureKind::Timeout,
                message: String::new(),
            }),
            ..Record::default()
        };
        let batch = [ok, failed];
        let columns = columns(&batch);
        assert_eq!(columns.first_token, [50, NEVER]);
        assert_eq!(columns.last_token, [80, NEVER]);
        assert_eq!(columns.sent, [20, NEVER]);
        assert_eq!(columns.due, [NEVER, NEVER]);
        assert_eq!(columns.output_tokens, [2, UNKNOWN]);
        assert_eq!(columns.error, [UNKNOWN, 0]);
        assert_eq!(columns.errors, ["timeout"]);
        assert_eq!(columns.labels[0].codes, [0, UNKNOWN]);
        let times = token_times(&batch);
        assert_eq!(times.offsets, [0, 2, 2]);
        assert_eq!(times.deltas, [30, 30]);
    }
}
