//! [`Calibration`]: what was measured of the instrument itself, on one machine, before runs are
//! judged by it.

use crate::statistics::tidy;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// So many sessions are kept.
const SESSIONS: usize = 10;

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
    /// Standard deviations of the logarithms of results between the runs of a session, which were all
    /// the same, by metric and, after a dot, percentile (`ttft.p99`).
    pub floor: BTreeMap<String, f64>,
    /// The same between sessions, beyond what the runs of one make them differ. Empty: there was one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub between: BTreeMap<String, f64>,
    /// Number of those runs, of all sessions.
    pub runs: u32,
    /// How long each of them lasted, in seconds: longer ones scatter less. 0: it is not told.
    #[serde(default)]
    pub run_s: f64,
    /// What was found by these runs and by others that do not count among them, the oldest session first. Empty:
    /// it is not told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<Equals>,
}

/// Runs that were all the same, one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Equals {
    /// When they were made, RFC 3339.
    pub measured: String,
    /// How long each of them lasted, in seconds.
    pub run_s: f64,
    /// Rules about the client that fired at that time: the machine was not quiet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
    /// What each of them found, by the names that [`Calibration::floor`] has.
    pub results: BTreeMap<String, Vec<f64>>,
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
    /// The version that is written. Those before 2 told the error of values whose arrivals the client stamped
    /// when it read them.
    pub const VERSION: &str = "2.0";

    /// This one, with the sessions of earlier ones of the same machine, and what they come to.
    #[must_use]
    pub fn with_sessions(mut self, mut earlier: Vec<Equals>) -> Self {
        earlier.append(&mut self.sessions);
        earlier.sort_by(|a, b| a.measured.cmp(&b.measured));
        earlier.drain(..earlier.len().saturating_sub(SESSIONS));
        self.sessions = earlier;
        let counted = self.counted();
        let runs = |session: &&Equals| session.results.values().map(Vec::len).max().unwrap_or(0);
        let all = counted.iter().map(runs).sum::<usize>();
        let names: BTreeSet<&String> =
            counted.iter().flat_map(|session| session.results.keys()).collect();
        let (mut floor, mut between) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            let found = counted.iter().filter_map(|session| session.results.get(name));
            let logarithms = |values: &Vec<f64>| values.iter().map(|value| value.ln()).collect();
            if let Some((within, beyond)) = scatter(&found.map(logarithms).collect::<Vec<_>>()) {
                floor.insert(name.clone(), tidy(within));
                between.extend(beyond.map(|beyond| (name.clone(), tidy(beyond))));
            }
        }
        (self.runs, self.floor, self.between) = (all as u32, floor, between);
        self
    }

    /// The sessions whose runs count together: those of runs as long as this one's, for others scatter
    /// otherwise, and of them those on a quiet machine, if there are any.
    #[must_use]
    pub fn counted(&self) -> Vec<&Equals> {
        let as_long = |session: &&Equals| (session.run_s - self.run_s).abs() < 1e-6;
        let all: Vec<&Equals> = self.sessions.iter().filter(as_long).collect();
        let quiet = |session: &&Equals| session.doubts.is_empty();
        let is_any_quiet = all.iter().any(quiet);
        all.into_iter().filter(|session| !is_any_quiet || quiet(session)).collect()
    }

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

/// Standard deviations within groups and between them, by the analysis of variance of one random
/// factor (Searle, Casella, McCulloch: Variance Components, 1992, section 3.6). None: no group has
/// two values, or a value is no number; of the second: there is one group.
fn scatter(groups: &[Vec<f64>]) -> Option<(f64, Option<f64>)> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let squares =
        |values: &[f64], mean: f64| values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let (count, all) = (groups.len() as f64, groups.concat());
    let total = all.len() as f64;
    let inside: f64 = groups.iter().map(|group| squares(group, mean(group))).sum();
    let within = inside / (total - count);
    if !within.is_finite() {
        return None;
    }
    let among = (squares(&all, mean(&all)) - inside) / (count - 1.0);
    let lengths: f64 = groups.iter().map(|group| (group.len() as f64).powi(2)).sum();
    let length = (total - lengths / total) / (count - 1.0);
    let between = ((among - within) / length).max(0.0).sqrt();
    Some((within.sqrt(), (groups.len() > 1).then_some(between)))
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
            between: BTreeMap::new(),
            runs: 5,
            run_s: 6.0,
            sessions: Vec::new(),
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

    /// A session whose runs found these latencies.
    fn with_session(day: u8, latencies: &[f64]) -> Calibration {
        let results = [("latency.p50".to_owned(), latencies.to_vec())].into();
        let measured = format!("2026-02-{day:02}T04:05:06Z");
        let session = Equals { measured, run_s: 6.0, doubts: Vec::new(), results };
        Calibration { sessions: vec![session], ..calibration() }
    }

    /// A session, and before it those of an earlier calibration.
    fn beside(new: Calibration, earlier: Calibration) -> Calibration {
        new.with_sessions(earlier.sessions)
    }

    #[test]
    fn runs_of_several_sessions_tell_how_runs_differ_and_how_sessions_do() {
        // e^0, e^2 and e^6, e^8: runs differ by sqrt(2) within a session; the sessions' means are 1
        // and 7, which is a variance of 18, of which their runs explain 2 / 2.
        let one = with_session(1, &[1.0, 2f64.exp()]).with_sessions(Vec::new());
        assert_eq!((one.floor["latency.p50"], one.runs), (tidy(2f64.sqrt()), 2));
        assert!(one.between.is_empty());
        let two = beside(with_session(2, &[6f64.exp(), 8f64.exp()]), one);
        assert_eq!((two.floor["latency.p50"], two.runs), (tidy(2f64.sqrt()), 4));
        assert_eq!(two.between["latency.p50"], tidy(17f64.sqrt()));
        // Sessions that differ by less than their runs explain.
        let [first, second] = [2, 3].map(|day| with_session(day, &[1.0, 2f64.exp()]));
        let same = beside(second, first);
        assert_eq!(same.between["latency.p50"], 0.0);
    }

    #[test]
    fn scatter_is_relative_and_missing_where_a_result_was_nothing() {
        let [small, large] = [1.0, 1_000.0].map(|scale| {
            with_session(1, &[scale, 1.1 * scale]).with_sessions(Vec::new()).floor["latency.p50"]
        });
        assert_eq!((small, large), (tidy(1.1f64.ln() / 2f64.sqrt()), small));
        assert_eq!(with_session(1, &[7.0; 5]).with_sessions(Vec::new()).floor["latency.p50"], 0.0);
        assert!(with_session(1, &[1.0, 0.0]).with_sessions(Vec::new()).floor.is_empty());
    }

    #[test]
    fn sessions_of_different_sizes_count_by_their_runs() {
        // Within: (2 + 0 + 2) / (3 + 2 - 2); among: 6/5 x (5 - 1)^2; length: 5 - 13/5.
        let (within, between) = scatter(&[vec![0.0, 1.0, 2.0], vec![4.0, 6.0]]).unwrap();
        assert!((within - (4.0f64 / 3.0).sqrt()).abs() < 1e-12, "{within}");
        let expected = ((19.2 - 4.0 / 3.0) / 2.4f64).sqrt();
        assert!((between.unwrap() - expected).abs() < 1e-12, "{between:?}");
        assert_eq!(scatter(&[vec![1.0]]), None);
        assert_eq!(scatter(&[vec![f64::NEG_INFINITY, 1.0]]), None);
    }

    #[test]
    fn the_newest_sessions_are_kept_and_those_of_as_long_runs_on_a_quiet_machine_count() {
        let mut all = Vec::new();
        for day in (1..20).rev() {
            all = with_session(day, &[1.0, 2.0]).with_sessions(all).sessions;
        }
        let mut all = with_session(20, &[1.0, 2.0]).with_sessions(all);
        let days: Vec<_> = all.sessions.iter().map(|session| &session.measured[8..10]).collect();
        assert_eq!(days.concat(), "11121314151617181920");
        assert_eq!((all.counted().len(), all.runs), (10, 20));

        all.sessions[0].run_s = 9.0;
        all.sessions[1].doubts.push("thread_waiting".to_owned());
        let all = with_session(21, &[1.0, 2.0]).with_sessions(all.sessions[..3].to_vec());
        assert_eq!((all.sessions.len(), all.counted().len(), all.runs), (4, 2, 4));
        // Where all were busy, that is what the machine is like.
        let mut busy = with_session(1, &[1.0, 2.0]);
        busy.sessions[0].doubts.push("thread_waiting".to_owned());
        let both = beside(busy.clone(), busy.clone());
        assert_eq!((both.counted().len(), both.runs), (2, 4));
        assert_eq!(beside(with_session(2, &[1.0, 3.0]), busy).counted().len(), 1);
    }
}
