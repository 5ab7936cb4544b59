//! [`Slo`]: the limits that a good request meets.

use crate::collector::Request;
use crate::metric::{METRICS, Measure};
use std::collections::BTreeMap;

/// Service-level objectives: the largest value that a good request may have, by metric.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Slo {
    limits: BTreeMap<&'static str, f64>,
}

/// One objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// One of [`Slo::NAMES`].
    pub metric: &'static str,
    /// Largest good value, in milliseconds.
    pub ms: f64,
}

/// Why something is no objective.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SloError {
    /// There is no such metric, or it has no value per request.
    #[error("an objective for `{0}` is not possible; the metrics that can have one are {names}", names = Slo::NAMES.join(", "))]
    Metric(String),
    /// The limit is not a positive length of time.
    #[error("the objective for `{0}` is {1} ms; it must be more than 0")]
    Limit(String, f64),
}

impl Slo {
    /// Metrics that can have a limit.
    pub const NAMES: &[&str] =
        &["ttft", "scheduled_ttft", "answer_ttft", "tpot", "ntpot", "latency", "scheduled_latency"];

    /// One objective: `metric` must be at most `ms` milliseconds. Collect several into a [`Slo`].
    pub fn parse(metric: &str, ms: f64) -> Result<Limit, SloError> {
        let known = Self::NAMES.iter().find(|known| **known == metric);
        let known = known.ok_or_else(|| SloError::Metric(metric.to_owned()))?;
        if !(ms.is_finite() && ms > 0.0) {
            return Err(SloError::Limit(metric.to_owned(), ms));
        }
        Ok(Limit { metric: known, ms })
    }

    /// The objectives that the header of a records file names.
    pub fn from_header(header: &records::Header) -> Result<Self, SloError> {
        header.slo.iter().map(|(metric, ms)| Self::parse(metric, *ms)).collect()
    }

    /// The limits in milliseconds, by metric name.
    pub fn limits(&self) -> impl Iterator<Item = Limit> {
        self.limits.iter().map(|(&metric, &ms)| Limit { metric, ms })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Whether a request that ended well met every limit.
    pub(crate) fn is_met_by(&self, request: &Request) -> bool {
        self.limits.iter().all(|(&name, &limit)| {
            if name == "tpot" && request.has_no_pace() {
                return true;
            }
            let metric = METRICS.iter().find(|metric| metric.name == name);
            match metric.map(|metric| metric.measure) {
                Some(Measure::Request(value)) => value(request).is_some_and(|value| value <= limit),
                _ => false,
            }
        })
    }
}

impl FromIterator<Limit> for Slo {
    fn from_iter<I: IntoIterator<Item = Limit>>(limits: I) -> Self {
        Self { limits: limits.into_iter().map(|limit| (limit.metric, limit.ms)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_that_may_have_a_limit_has_a_value_per_request() {
        for name in Slo::NAMES {
            let metric = METRICS.iter().find(|metric| metric.name == *name);
            assert!(matches!(metric.unwrap().measure, Measure::Request(_)), "{name}");
        }
    }

    #[test]
    fn what_is_no_objective_is_refused_with_the_names_that_are() {
        let error = Slo::parse("tpto", 50.0).unwrap_err().to_string();
        assert!(error.contains("`tpto`") && error.contains("tpot"), "{error}");
        assert!(Slo::parse("ttft", 0.0).is_err());
        assert!(Slo::parse("ttft", f64::NAN).is_err());
    }
}
