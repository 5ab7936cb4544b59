//! [`Summary`]: the results of a run as `analysis/data/summary.json` keeps them.

use crate::cache::CacheSummary;
use crate::calibration::Calibration;
use crate::health::{Doubt, Health, Verdict};
use crate::notes::Note;
use crate::plugin::PluginResults;
use crate::server::ServerView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name of the format.
pub const FORMAT: &str = "llmdbench.summary";
/// The version that is written: major, minor. Fields may be added within a major version.
pub const VERSION: &str = "1.0";

/// The results of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Always [`FORMAT`].
    pub format: String,
    /// "MAJOR.MINOR".
    pub version: String,
    /// The run's id.
    pub run: String,
    /// The model asked.
    pub model: String,
    /// Whether the load generator can be believed.
    pub health: Health,
    /// What was measured of the machine's load generator before. None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The run did not come to its planned end.
    pub partial: bool,
    /// Requests that were sent and left out: warm-up stages and settling times.
    pub excluded: u64,
    /// Limits in milliseconds that count for goodput, by metric.
    pub slo: BTreeMap<String, f64>,
    /// Measured stages, in the order of the plan.
    pub stages: Vec<StageSummary>,
    /// All measured stages together.
    pub total: StageSummary,
    /// What the reader should know.
    pub notes: Vec<Note>,
    /// What the server says of itself, for each measured stage and for all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server: Vec<ServerView>,
    /// The server's prefix cache. None: nobody knows what was asked of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSummary>,
    /// What analyzer plugins found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<PluginResults>,
}

/// The results of a stage, or of all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    /// Unique within the run; "total".
    pub name: String,
    /// Who set the pace. None: stages of several kinds together.
    #[serde(rename = "loop", default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    /// Sessions that a closed loop keeps under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Share of arrivals that waited for a limit in flight.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub capped_share: f64,
    /// How its numbers must be read, where not every use of them is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The server ended fewer requests than arrived: latencies depend on the run's length.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overloaded: bool,
    /// Length of the measured window in seconds.
    pub window_s: f64,
    /// Requests per second that the schedule wanted, as it was realised. None: a closed loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_rate: Option<f64>,
    /// Requests per second that were sent in the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub achieved_rate: Option<f64>,
    /// Measured requests that were started.
    pub sent: u64,
    /// Of these, the ones that ended well.
    pub succeeded: u64,
    /// Of these, the ones that did not.
    pub failed: u64,
    /// Requests that were sent and left out.
    pub excluded: u64,
    /// Failures by kind. Requests under way that a stage's end broke off are `cancelled`.
    pub errors: BTreeMap<String, u64>,
    /// Successes by who counted their tokens: server, tokenizer, none.
    pub usage: BTreeMap<String, u64>,
    /// Share of output chunks that carried more than one token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub several_token_chunks: Option<f64>,
    /// Share of all requests sent that met every objective. None: there are no objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goodput_share: Option<f64>,
    /// Results by the name of their metric. What was not measured is missing.
    pub metrics: BTreeMap<String, Measured>,
}

/// Who set the pace of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// The schedule.
    Open,
    /// The schedule, until a limit in flight held requests back.
    Capped,
    /// The server: a request started when another had ended.
    Closed,
}

/// The result of a metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measured {
    /// One value for the whole stage.
    Single(Single),
    /// A value for each request or token.
    Distribution(Box<Distribution>),
}

/// A rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Single {
    /// Its unit.
    pub unit: String,
    /// The value.
    pub value: f64,
    /// 95 % interval within the run, where the run can know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// How the values of a metric lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Unit of everything here but `n`.
    pub unit: String,
    /// Number of values.
    pub n: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, by n - 1. None: a single value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stddev: Option<f64>,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The median. Percentiles are missing where there are too few values for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// The 90th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90: Option<f64>,
    /// The 95th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    /// The 99th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// The 99.9th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_9: Option<f64>,
    /// Names of the percentiles that rest on few values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub few: Vec<String>,
    /// 95 % intervals within the run of the mean and of percentiles, where the run can know them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub interval: BTreeMap<String, [f64; 2]>,
    /// How many independent values the run is worth for each percentile with an interval.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub n_eff: BTreeMap<String, f64>,
    /// By what factor the run would have to be longer to know the error of a percentile.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub too_short_by: BTreeMap<String, f64>,
    /// Percentiles that are left out because more of the values are something else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<String>,
    /// Rules of health that touch this metric.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<Doubt>,
    /// The percentiles over all requests that were sent. None: none failed, or it is no latency of
    /// a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_sent: Option<AllSent>,
    /// Percentiles are exact; otherwise they come from buckets 0.1 % wide.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub exact: bool,
}

/// Percentiles of a latency in which a request that failed is infinitely late.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllSent {
    /// Number of values and of requests that failed.
    pub n: u64,
    /// Percentiles by name. Missing are those that rest on too few, and those in `failed`.
    pub percentiles: BTreeMap<String, f64>,
    /// Names of the percentiles that are failures: infinite.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Names of the percentiles that rest on few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub few: Vec<String>,
}

impl StageSummary {
    /// The values of a metric.
    #[must_use]
    pub fn distribution(&self, metric: &str) -> Option<&Distribution> {
        match self.metrics.get(metric)? {
            Measured::Distribution(distribution) => Some(distribution),
            Measured::Single(_) => None,
        }
    }

    /// The one value of a metric.
    #[must_use]
    pub fn single(&self, metric: &str) -> Option<&Single> {
        match self.metrics.get(metric)? {
            Measured::Single(single) => Some(single),
            Measured::Distribution(_) => None,
        }
    }

    /// Failures / sent. None: nothing was sent.
    #[must_use]
    pub fn error_rate(&self) -> Option<f64> {
        (self.sent > 0).then(|| self.failed as f64 / self.sent as f64)
    }
}

impl Distribution {
    /// A percentile by its name: "p50", "p99_9".
    #[must_use]
    pub fn percentile(&self, name: &str) -> Option<f64> {
        match name {
            "p50" => self.p50,
            "p90" => self.p90,
            "p95" => self.p95,
            "p99" => self.p99,
            "p99_9" => self.p99_9,
            _ => None,
        }
    }

    /// The place of one of the percentiles that are reported.
    pub(crate) fn slot(&mut self, name: &str) -> &mut Option<f64> {
        match name {
            "p50" => &mut self.p50,
            "p90" => &mut self.p90,
            "p95" => &mut self.p95,
            "p99" => &mut self.p99,
            _ => &mut self.p99_9,
        }
    }

    /// The gravest verdict of a rule that touches it. None: none does.
    #[must_use]
    pub fn doubt(&self) -> Option<Verdict> {
        self.doubts.iter().map(|doubt| doubt.verdict).max()
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}
