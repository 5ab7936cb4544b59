//! [`Timeline`]: the run in equal steps of time, warm-up included, for charts over time.

use crate::collector::{Request, Run, TOKEN_BIN};
use crate::metric::ms;
use crate::statistics::{P50, P99, sorted};

/// The run in equal steps of time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Timeline {
    /// Length of a step in seconds.
    pub step_s: f64,
    /// The steps, from the run's start.
    pub bins: Vec<Bin>,
    /// When each stage ran.
    pub phases: Vec<Phase>,
}

/// What happened in a step of time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bin {
    /// Requests sent, per second.
    pub sent: f64,
    /// Requests that ended well, per second.
    pub succeeded: f64,
    /// Requests that failed, per second.
    pub failed: f64,
    /// Output tokens that arrived, per second.
    pub tokens: f64,
    /// Requests under way, averaged over the step.
    pub in_flight: f64,
    /// Median and 99th percentile of the TTFT of requests sent in the step, in milliseconds.
    pub ttft: Option<(f64, f64)>,
    /// The same of the latency.
    pub latency: Option<(f64, f64)>,
    /// The same of the lateness.
    pub lateness: Option<(f64, f64)>,
}

/// When a stage ran.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// The stage.
    pub name: String,
    /// Its requests are left out.
    pub warmup: bool,
    /// Seconds since the run's start.
    pub from_s: f64,
    /// Seconds since the run's start.
    pub to_s: f64,
}

/// Most steps of a run.
const MOST: u64 = 200;
/// Most steps of a run of few requests, of which each step should see some.
const MOST_OF_FEW: u64 = 20;

impl Timeline {
    /// `run`'s requests are sorted by stage and time.
    pub(crate) fn of(run: &Run) -> Self {
        let few = run.requests.len() as u64 / 4;
        let step = step(run.last_seen, few.clamp(MOST_OF_FEW, MOST));
        if run.requests.is_empty() {
            return Self { step_s: step as f64 / 1e9, bins: Vec::new(), phases: phases(run) };
        }
        let n = (run.last_seen / step + 1) as usize;
        let bin_of = |at: u64| ((at / step) as usize).min(n - 1);
        let per_second = 1e9 / step as f64;
        let mut bins = vec![Bin::default(); n];
        let mut under_way = UnderWay::new(n, step);
        let mut values: [Vec<Vec<f64>>; 3] = std::array::from_fn(|_| vec![Vec::new(); n]);
        for r in &run.requests {
            under_way.add(r.started, r.finished);
            let ended = &mut bins[bin_of(r.finished)];
            match r.failure {
                None => ended.succeeded += per_second,
                Some(_) => ended.failed += per_second,
            }
            let Some(sent) = r.sent else { continue };
            let at = bin_of(sent);
            bins[at].sent += per_second;
            for (values, value) in values.iter_mut().zip(latencies(r, sent)) {
                values[at].extend(value);
            }
        }
        for (at, tokens) in run.tokens.iter().enumerate() {
            bins[bin_of(at as u64 * TOKEN_BIN)].tokens += f64::from(*tokens) * per_second;
        }
        let [ttft, latency, lateness] =
            values.map(|values| values.into_iter().map(middle_and_tail));
        let distributions = ttft.zip(latency).zip(lateness);
        for (bin, ((ttft, latency), lateness)) in bins.iter_mut().zip(distributions) {
            (bin.ttft, bin.latency, bin.lateness) = (ttft, latency, lateness);
        }
        for (bin, in_flight) in bins.iter_mut().zip(under_way.means()) {
            bin.in_flight = in_flight;
        }
        Self { step_s: step as f64 / 1e9, bins, phases: phases(run) }
    }
}

/// TTFT, latency and lateness in milliseconds, where a request has them.
fn latencies(r: &Request, sent: u64) -> [Option<f64>; 3] {
    let ended_well = r.failure.is_none();
    [
        r.tokens.filter(|_| ended_well).map(|tokens| ms(sent, tokens.first)),
        ended_well.then(|| ms(sent, r.finished)),
        r.due.map(|due| ms(due, sent)),
    ]
}

fn middle_and_tail(values: Vec<f64>) -> Option<(f64, f64)> {
    let values = sorted(values);
    P50.of(&values).zip(P99.of(&values))
}

/// A round number of nanoseconds that cuts a run of this length into at most so many steps.
fn step(length: u64, most: u64) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    let tenths = [TOKEN_BIN, 2 * TOKEN_BIN, 5 * TOKEN_BIN];
    let longer = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600].map(|s| s * SECOND);
    let days = (1..).map(|days| days * 86_400 * SECOND);
    let mut steps = tenths.into_iter().chain(longer).chain(days);
    steps.find(|step| length / step < most).unwrap_or(u64::MAX)
}

fn phases(run: &Run) -> Vec<Phase> {
    let phase = |stage: &crate::collector::Stage| {
        let end = stage.end.as_ref().map_or(run.last_seen, |end| end.at);
        Some(Phase {
            name: stage.info.name.clone(),
            warmup: stage.info.warmup,
            from_s: stage.begin? as f64 / 1e9,
            to_s: end as f64 / 1e9,
        })
    };
    run.stages.iter().filter_map(phase).collect()
}

/// Requests under way, summed over time.
struct UnderWay {
    step: u64,
    /// Nanoseconds of requests that do not cover the whole step.
    parts: Vec<u64>,
    /// Change, at each step, of the number of requests that cover all of it.
    changes: Vec<i64>,
}

impl UnderWay {
    fn new(bins: usize, step: u64) -> Self {
        Self { step, parts: vec![0; bins], changes: vec![0; bins + 1] }
    }

    fn add(&mut self, from: u64, to: u64) {
        let to = to.max(from);
        let last = self.parts.len() - 1;
        let (first_bin, last_bin) =
            (((from / self.step) as usize).min(last), ((to / self.step) as usize).min(last));
        if first_bin == last_bin {
            self.parts[first_bin] += to - from;
            return;
        }
        self.parts[first_bin] += (first_bin as u64 + 1) * self.step - from;
        self.parts[last_bin] += to - last_bin as u64 * self.step;
        self.changes[first_bin + 1] += 1;
        self.changes[last_bin] -= 1;
    }

    fn means(&self) -> impl Iterator<Item = f64> {
        let mut whole = 0;
        self.parts.iter().zip(&self.changes).map(move |(part, change)| {
            whole += change;
            *part as f64 / self.step as f64 + whole as f64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_under_way_are_averaged_over_each_step() {
        let mut under_way = UnderWay::new(4, 10);
        under_way.add(5, 35);
        under_way.add(12, 14);
        under_way.add(10, 20);
        let means: Vec<f64> = under_way.means().collect();
        assert_eq!(means, [0.5, 2.2, 1.0, 0.5]);
    }

    #[test]
    fn steps_are_round_and_few() {
        for length in [0, 1, 19_999_999_999, 20_000_000_000, 3_600_000_000_000, u64::MAX / 2] {
            let step = step(length, MOST);
            assert!(length / step < MOST && step.is_multiple_of(TOKEN_BIN), "{length}: {step}");
        }
    }
}
