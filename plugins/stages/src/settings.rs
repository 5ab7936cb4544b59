//! The settings of the harness, as users write them.

use llmdbench_plugin::Duration;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What the experiment file says under `harness.settings`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) stages: Vec<Entry>,
    pub(crate) warmup: Option<WarmUp>,
    pub(crate) request_timeout: Option<Duration>,
}

/// How long the stage lasts that warms the server up.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(crate) enum WarmUp {
    /// This many requests.
    Requests(u64),
    /// This long.
    For(Duration),
}

/// One entry of `stages`: a stage, or several where a list is swept.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) name: Option<String>,
    pub(crate) rate: Option<Sweep<f64>>,
    pub(crate) concurrency: Option<Sweep<u32>>,
    pub(crate) arrival: Option<Pattern>,
    pub(crate) shape: Option<f64>,
    pub(crate) speed: Option<f64>,
    pub(crate) ramp: Option<Ramp>,
    #[serde(rename = "for")]
    pub(crate) length: Option<Duration>,
    pub(crate) sessions: Option<u64>,
    pub(crate) requests: Option<u64>,
    pub(crate) max_errors: Option<u64>,
    #[serde(default)]
    pub(crate) whole_workload: bool,
    pub(crate) max_in_flight: Option<u32>,
    #[serde(default)]
    pub(crate) warm_up: bool,
    pub(crate) drain: Option<Duration>,
    #[serde(default)]
    pub(crate) pause: Duration,
    pub(crate) quantum: Option<Duration>,
    pub(crate) workload: Option<Map<String, Value>>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
}

/// One value, or several that make a stage each.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Sweep<T> {
    One(T),
    Each(Vec<T>),
}

/// What the user calls the pattern of arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pattern {
    Constant,
    Poisson,
    Gamma,
    Closed,
    Trace,
}

/// A change of the rate or the concurrency.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ramp {
    pub(crate) to: f64,
    pub(crate) over: Option<Duration>,
    #[serde(default)]
    pub(crate) curve: Curve,
}

/// The form of a ramp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Curve {
    #[default]
    Linear,
    Exponential,
}
