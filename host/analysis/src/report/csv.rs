//! `summary.csv`: a row for each metric of each stage and of the total.

use super::loop_kind;
use crate::metric::METRICS;
use crate::statistics::PERCENTILES;
use crate::{AllSent, Measured, StageSummary, Summary};

/// The columns. `value` is for metrics with one value; the others are for those with many, and
/// `few` names the percentiles that rest on few of them, `doubts` the rules of health that touch
/// the metric. `loop` says who set the pace. What was not measured is an empty cell.
const COLUMNS: [&str; 17] = [
    "stage", "metric", "unit", "value", "n", "mean", "stddev", "min", "max", "p50", "p90", "p95",
    "p99", "p99_9", "few", "loop", "doubts",
];

type Count = (&'static str, fn(&StageSummary) -> Option<f64>, &'static str);

/// Counts that stand before the metrics of a stage, as values: name, value, unit.
const COUNTS: [Count; 7] = [
    ("window", |s| Some(s.window_s), "s"),
    ("offered_rate", |s| s.offered_rate, "1/s"),
    ("achieved_rate", |s| s.achieved_rate, "1/s"),
    ("sent", |s| Some(s.sent as f64), "requests"),
    ("succeeded", |s| Some(s.succeeded as f64), "requests"),
    ("failed", |s| Some(s.failed as f64), "requests"),
    ("goodput_share", |s| s.goodput_share, "share"),
];

/// A summary as CSV with a header: a row for each count and metric of each stage, then of the
/// total, whose stage is `total`.
///
/// Columns: `stage, metric, unit, value, n, mean, stddev, min, max, p50, p90, p95, p99, p99_9,
/// few, loop, doubts`. `value` is for counts and rates, the others for distributions; `few` names,
/// with spaces between them, the percentiles that rest on few values, and `doubts` the rules of
/// health that touch the metric. What was not measured is empty. A latency beside which requests
/// failed has a second row, named `<metric>_all_sent`, with its percentiles over all requests that
/// were sent; one that is a failure is `inf`.
#[must_use]
pub fn csv(summary: &Summary) -> String {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let mut write = |row: [String; 17]| {
        writer.write_record(row).expect("rows have as many cells as the header");
    };
    write(COLUMNS.map(str::to_owned));
    for stage in summary.stages.iter().chain([&summary.total]) {
        rows(stage).for_each(&mut write);
    }
    let bytes = writer.into_inner().expect("writing to memory does not fail");
    String::from_utf8(bytes).expect("every cell is a string")
}

fn rows(stage: &StageSummary) -> impl Iterator<Item = [String; 17]> {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let value_row = move |name: &str, unit: &str, value: Option<f64>| {
        let mut row: [String; 17] = std::array::from_fn(|_| String::new());
        row[0].clone_from(&stage.name);
        row[1] = name.to_owned();
        row[2] = unit.to_owned();
        row[3] = number(value);
        row[15] = loop_kind(stage);
        row
    };
    let counts = COUNTS.iter().map(move |(name, of, unit)| value_row(name, unit, of(stage)));
    let all_sent_row = move |name: &str, unit: &str, all: &AllSent| {
        let mut row = value_row(&format!("{name}_all_sent"), unit, None);
        row[4] = all.n.to_string();
        for (cell, p) in row[9..].iter_mut().zip(PERCENTILES) {
            let failed = all.failed.iter().any(|failed| failed == p.name);
            let value = all.percentiles.get(p.name).copied();
            *cell = number(value.or(failed.then_some(f64::INFINITY)));
        }
        row[14] = all.few.join(" ");
        row
    };
    let metrics = METRICS.iter().flat_map(move |metric| {
        let (name, unit) = (metric.name, metric.unit);
        match stage.metrics.get(name) {
            None => Vec::new(),
            Some(Measured::Single(single)) => vec![value_row(name, unit, Some(single.value))],
            Some(Measured::Distribution(d)) => {
                let doubts =
                    d.doubts.iter().map(|doubt| &*doubt.rule).collect::<Vec<_>>().join(" ");
                let mut row = value_row(name, unit, None);
                row[4] = d.n.to_string();
                let numbers = [
                    Some(d.mean),
                    d.stddev,
                    Some(d.min),
                    Some(d.max),
                    d.p50,
                    d.p90,
                    d.p95,
                    d.p99,
                    d.p99_9,
                ];
                for (cell, value) in row[5..].iter_mut().zip(numbers) {
                    *cell = number(value);
                }
                row[14] = d.few.join(" ");
                let all_sent = d.all_sent.as_ref().map(|all| all_sent_row(name, unit, all));
                let mut rows: Vec<_> = [row].into_iter().chain(all_sent).collect();
                for row in &mut rows {
                    row[16].clone_from(&doubts);
                }
                rows
            }
        }
    });
    counts.chain(metrics)
}
