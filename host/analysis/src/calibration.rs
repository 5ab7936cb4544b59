//! [`Calibration`]: what was measured of the instrument itself, on one machine, before runs are
//! judged by it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a machine's load generator can do and how far it errs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Always [`Calibration::FORMAT`].
    pub format: String,
    /// "MAJOR.MINOR".
    pub version: String,
    /// What it holds for.
    pub machine: Machine,
    /// When it was measured, RFC 3339.
    pub measured: String,
    /// How long its part about errors lasted, in seconds.
    pub length_s: f64,
    /// Rules about the client that fired meanwhile: the machine was not quiet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
    /// By how much values differ from the truth, by metric (`ttft`, `itl`).
    pub error: BTreeMap<String, Deviation>,
    /// 99th percentile of the lateness in milliseconds.
    pub lateness_p99: f64,
    /// The most load that it sends without doubt.
    pub headroom: Headroom,
    /// Standard deviations of the logarithms of results between runs that were all the same, by
    /// metric and, after a dot, percentile (`ttft.p99`).
    pub floor: BTreeMap<String, f64>,
    /// Number of those runs.
    pub runs: u32,
    /// How long each of them lasted, in seconds: longer ones scatter less. 0: it is not told.
    #[serde(default)]
    pub run_s: f64,
}

/// The machine that a calibration holds for: hardware, kernel and version of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// Release of its kernel.
    pub kernel: String,
    /// Model of its processor.
    pub cpu: String,
    /// Processors that may be used.
    pub cores: u32,
    /// Version of the program.
    pub llmdbench: String,
}

/// |measured - truth| in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Deviation {
    /// Its median.
    pub e50: f64,
    /// Its 99th percentile: differences below it are below the instrument's resolution.
    pub e99: f64,
}

/// The most load that is sent without doubt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Headroom {
    /// Requests per second. 0: there was doubt at the lowest rate already.
    pub requests_per_s: f64,
    /// Output tokens per second.
    pub tokens_per_s: f64,
    /// The rule of health that fired at twice that rate. None: none did at any rate tried, so
    /// that this is a lower bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

impl Calibration {
    /// The name of the format.
    pub const FORMAT: &str = "llmdbench.calibration";
    /// The version that is written.
    pub const VERSION: &str = "1.0";

    /// The share of the headroom that a load takes. None: there is none, or it is not known.
    #[must_use]
    pub fn load(&self, requests_per_s: f64, tokens_per_s: f64) -> Option<f64> {
        let headroom = &self.headroom;
        let known = headroom.requests_per_s > 0.0 && headroom.tokens_per_s > 0.0;
        let requests = requests_per_s / headroom.requests_per_s;
        known.then(|| requests.max(tokens_per_s / headroom.tokens_per_s))
    }

    /// The rule that fired at the lowest rate already. None: there is a headroom.
    #[must_use]
    pub fn without_headroom(&self) -> Option<&str> {
        self.headroom.limit.as_deref().filter(|_| self.headroom.requests_per_s <= 0.0)
    }

    /// The day on which it was measured.
    #[must_use]
    pub fn date(&self) -> &str {
        self.measured.split('T').next().unwrap_or_default()
    }

    /// What it is, in words: "calibrated 2026-02-03".
    #[must_use]
    pub fn origin(&self) -> String {
        let busy = if self.doubts.is_empty() { "" } else { " while other work was in the way" };
        format!("calibrated {}{busy}", self.date())
    }

    /// How far single values may be off, in words: "TTFT by 0.12 ms, ITL by 0.05 ms".
    #[must_use]
    pub fn resolution(&self) -> String {
        let of = |(metric, deviation): (&String, &Deviation)| {
            let title = crate::metric(metric).map_or(metric.as_str(), |metric| metric.title);
            format!("{title} by {:.2} ms", deviation.e99)
        };
        self.error.iter().rev().map(of).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn calibration() -> Calibration {
        let machine = Machine {
            host: "h".to_owned(),
            kernel: "6.1".to_owned(),
            cpu: "c".to_owned(),
            cores: 2,
            llmdbench: "0".to_owned(),
        };
        Calibration {
            format: Calibration::FORMAT.to_owned(),
            version: Calibration::VERSION.to_owned(),
            machine,
            measured: "2026-02-03T04:05:06Z".to_owned(),
            length_s: 20.0,
            doubts: Vec::new(),
            error: [("ttft", 0.05, 0.125), ("itl", 0.01, 0.0625)]
                .map(|(metric, e50, e99)| (metric.to_owned(), Deviation { e50, e99 }))
                .into(),
            lateness_p99: 1.0,
            headroom: Headroom { requests_per_s: 100.0, tokens_per_s: 3_200.0, limit: None },
            floor: BTreeMap::new(),
            runs: 5,
            run_s: 6.0,
        }
    }

    #[test]
    fn a_load_takes_as_much_as_its_requests_or_its_tokens_take() {
        let calibration = calibration();
        assert_eq!(calibration.load(50.0, 1_600.0), Some(0.5));
        assert_eq!(calibration.load(50.0, 32_000.0), Some(10.0));
        assert_eq!(calibration.load(90.0, 90.0), Some(0.9));
        assert_eq!(calibration.without_headroom(), None);
        let limit = Some("lateness".to_owned());
        let headroom = Headroom { requests_per_s: 0.0, tokens_per_s: 0.0, limit };
        let none = Calibration { headroom, ..calibration };
        assert_eq!((none.load(1.0, 1.0), none.without_headroom()), (None, Some("lateness")));
    }

    #[test]
    fn day_and_resolution_are_told_in_words() {
        assert_eq!(calibration().origin(), "calibrated 2026-02-03");
        let busy = Calibration { doubts: vec!["lateness".to_owned()], ..calibration() };
        assert_eq!(busy.origin(), "calibrated 2026-02-03 while other work was in the way");
        assert_eq!(calibration().resolution(), "TTFT by 0.12 ms, ITL by 0.06 ms");
    }
}
