//! [`Analysis`]: everything that reports and charts show, and the function that reckons it.

use crate::cache::{self, CacheState};
use crate::calibration::Calibration;
use crate::collector::{Request, Run};
use crate::server::{ServerView, Snapshot, view};
use crate::slo::Slo;
use crate::statistics::PERCENTILES;
use crate::summarise::{Part, parts, summarise};
use crate::summary::{FORMAT, StageSummary, Summary, VERSION};
use crate::timeline::Timeline;
use crate::{Note, PluginReport, health, notes};
use records::EndReason;
use std::collections::BTreeMap;

/// What the caller knows beyond the records.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The limits that a good request meets.
    pub slo: Slo,
    /// The records file ended in the middle of a line.
    pub truncated: bool,
    /// Whatever the reader should know.
    pub notes: Vec<Note>,
    /// What analyzer plugins found.
    pub plugins: Vec<PluginReport>,
    /// What was measured of this machine's load generator before.
    pub calibration: Option<Calibration>,
    /// The server is on the load generator's own machine.
    pub same_host: bool,
    /// Readings of the server's own metrics, in order of time.
    pub server: Vec<Snapshot>,
    /// What was asked of the server's prefix cache. None: nobody knows.
    pub cache: Option<CacheState>,
    /// Title of the report.
    pub title: String,
    /// Name and value of what stands at the report's head.
    pub facts: Vec<(String, String)>,
}

/// The results of a run and what they are drawn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// Title of the report.
    pub title: String,
    /// Name and value of what stands at the report's head.
    pub facts: Vec<(String, String)>,
    /// The results.
    pub summary: Summary,
    /// How values lie, for each measured stage.
    pub curves: Vec<StageCurves>,
    /// The run over time.
    pub timeline: Timeline,
    /// What analyzer plugins found.
    pub plugins: Vec<PluginReport>,
    /// Up to three different messages of each kind of failure.
    pub messages: BTreeMap<String, Vec<String>>,
}

/// How the values of a stage lie.
#[derive(Debug, Clone, PartialEq)]
pub struct StageCurves {
    /// The stage.
    pub stage: String,
    /// By metric name.
    pub curves: BTreeMap<&'static str, Curve>,
}

/// An empirical distribution function, in few enough points to draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Value and the share of values that are at most that, both rising.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// Values up to which every one gets a point.
    const ALL: usize = 300;

    pub(crate) fn of<T: Copy + Into<f64>>(sorted: &[T]) -> Self {
        let n = sorted.len();
        let point = |i: usize| (sorted[i].into(), (i + 1) as f64 / n as f64);
        if n <= Self::ALL {
            return Self { points: (0..n).map(point).collect() };
        }
        let rank = |share: f64| ((share * n as f64).ceil() as usize).clamp(1, n) - 1;
        let mut ranks: Vec<usize> = Self::shares().map(rank).collect();
        ranks.dedup();
        Self { points: ranks.into_iter().map(point).collect() }
    }

    pub(crate) fn at_shares(value: impl Fn(f64) -> f64) -> Self {
        Self { points: Self::shares().map(|share| (value(share), share)).collect() }
    }

    /// Shares that show the body evenly and the last hundredth closely.
    fn shares() -> impl Iterator<Item = f64> {
        let body = (0..=198).map(|i| f64::from(i) / 200.0);
        let tail = (0..=100).map(|i| 0.99 + f64::from(i) / 10_000.0);
        body.chain(tail)
    }

    /// The value that a share of the values does not exceed.
    #[must_use]
    pub fn at(&self, share: f64) -> Option<f64> {
        let index = self.points.partition_point(|point| point.1 < share - 1e-12);
        self.points.get(index).or(self.points.last()).map(|point| point.0)
    }
}

/// Reckons everything.
pub(crate) fn analyse(mut run: Run, options: &Options) -> Analysis {
    run.requests.sort_by_key(|r| (r.stage, r.place(), r.started));
    let timeline = Timeline::of(&run);
    let parts = parts(&run);
    let mut stages = Vec::new();
    let mut curves = Vec::new();
    for part in &parts {
        let (summary, by_metric) =
            summarise(&part.stage.info.name, std::slice::from_ref(part), &options.slo);
        curves.push(StageCurves { stage: summary.name.clone(), curves: by_metric });
        stages.push(summary);
    }
    // A stage that is alone is the total too: millions of gaps need not be sorted twice.
    let mut total = match &stages[..] {
        [only] => StageSummary { name: "total".to_owned(), ..only.clone() },
        _ => summarise("total", &parts, &options.slo).0,
    };
    total.overloaded = stages.iter().any(|stage| stage.overloaded);
    let measured: usize = parts.iter().map(|part| part.measured().count()).sum();
    let excluded = (run.requests.len() - measured) as u64;
    total.excluded = excluded;
    let mut server = server_views(&parts, &options.server);
    for view in &mut server {
        if let Some(here) = stages.iter().chain([&total]).find(|stage| stage.name == view.stage) {
            view.compare(here);
        }
    }
    let cache = cache::summarise(options.cache.as_ref(), &parts, &server);
    let health = health::judge(&run, &parts, &stages, cache.as_ref(), options);
    health::mark(&health, &mut stages, &mut total);
    let notes = notes::collect(&run, &parts, &total, &server, cache.as_ref(), options);
    let summary = Summary {
        format: FORMAT.to_owned(),
        version: VERSION.to_owned(),
        run: run.header.run.clone(),
        model: run.header.model.clone(),
        health,
        calibration: options.calibration.clone(),
        partial: !matches!(run.end, Some((EndReason::Completed, _))),
        excluded,
        slo: options.slo.limits().map(|limit| (limit.metric.to_owned(), limit.ms)).collect(),
        stages,
        total,
        notes,
        server,
        cache,
        plugins: options.plugins.iter().map(|found| found.results.clone()).collect(),
    };
    let messages = run.messages.iter().map(|(kind, texts)| (kind.name().to_owned(), texts.clone()));
    Analysis {
        title: options.title.clone(),
        facts: options.facts.clone(),
        summary,
        curves,
        timeline,
        plugins: options.plugins.clone(),
        messages: messages.collect(),
    }
}

/// What the server says of each measured stage, and of all of them where there are several.
fn server_views(parts: &[Part], snapshots: &[Snapshot]) -> Vec<ServerView> {
    let mut views: Vec<ServerView> = parts
        .iter()
        .filter_map(|part| view(&part.stage.info.name, &[part.window], snapshots))
        .collect();
    if parts.len() > 1 {
        let windows: Vec<(u64, u64)> = parts.iter().map(|part| part.window).collect();
        views.extend(view("total", &windows, snapshots));
    }
    views
}

/// Values of `part`'s requests that ended well.
pub(crate) fn values(part: &Part, value: fn(&Request) -> Option<f64>) -> Vec<f64> {
    part.measured().filter(|r| r.counts()).filter_map(value).collect()
}

/// The names of percentiles in files, in order, with what people call them.
pub(crate) fn percentile_titles() -> impl Iterator<Item = (&'static str, String)> {
    PERCENTILES.iter().map(|p| (p.name, p.name.replace('_', ".")))
}
