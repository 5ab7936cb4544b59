//! From kept requests to a [`StageSummary`]: one function for a stage and for the total.

use crate::analysis::Curve;
use crate::collector::{Counts, Request, Run, Stage};
use crate::gaps::{self, Counted, Gaps};
use crate::metric::{METRICS, Measure, Metric};
use crate::slo::Slo;
use crate::statistics::{
    BATCHES, P50, PERCENTILES, Percentile, batch, effective_size, interval_ranks, mean_interval,
    sorted, tidy, too_short_by,
};
use crate::summary::{AllSent, Distribution, Measured, Pace, Single, StageSummary};
use records::{EndReason, FailureKind, LoopKind};
use std::collections::BTreeMap;

/// A stage with its requests in order of time and the window in which it is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) requests: &'a [Request],
    /// Nanoseconds since the run's start.
    pub(crate) window: (u64, u64),
    /// First turns due in the window that never left.
    pub(crate) unsent: u64,
}

/// What the requests that ended well within a window add up to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) finished: u64,
    /// None: no request's is known.
    pub(crate) output_tokens: Option<u64>,
    pub(crate) input_tokens: Option<u64>,
    /// Those that met every objective. None: there are no objectives.
    pub(crate) good: Option<u64>,
}

/// A stage's results and the curves behind them, by metric.
pub(crate) type Summarised = (StageSummary, BTreeMap<&'static str, Curve>);

/// The measured stages of a run.
pub(crate) fn parts(run: &Run) -> Vec<Part<'_>> {
    let completed = matches!(run.end, Some((EndReason::Completed, _)));
    let mut parts = Vec::new();
    for (index, stage) in run.stages.iter().enumerate().filter(|(_, stage)| !stage.info.warmup) {
        let from = run.requests.partition_point(|r| (r.stage as usize) < index);
        let to = run.requests.partition_point(|r| (r.stage as usize) <= index);
        let requests = &run.requests[from..to];
        let earliest = requests.iter().map(|r| r.started).min();
        let Some(begin) = stage.begin.or(earliest) else { continue };
        let begin = begin + stage.info.settle;
        let end = stage.end.as_ref().map_or(run.last_seen, |end| end.window_end);
        // A stage that was cut has unsent requests because it was cut.
        let unsent = stage.end.as_ref().filter(|_| completed).map_or(0, |end| end.unsent);
        parts.push(Part { stage, requests, window: (begin, end.max(begin)), unsent });
    }
    parts
}

impl Part<'_> {
    /// Length of the window in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        (self.window.1 - self.window.0) as f64 / 1e9
    }

    /// Measured requests, in order of time.
    pub(crate) fn measured(&self) -> impl Iterator<Item = &Request> + Clone {
        self.requests.iter().filter(|r| !r.warmup)
    }

    /// When each session of the stage began and ended, warm-up included.
    pub(crate) fn sessions(&self) -> Vec<(u64, u64)> {
        let mut turns: Vec<(u64, u64, u64)> = self
            .requests
            .iter()
            .map(|r| (r.session, r.asked_at().unwrap_or(r.started), r.finished))
            .collect();
        turns.sort_unstable();
        let span = |turns: &[(u64, u64, u64)]| {
            Some((turns.first()?.1, turns.iter().map(|turn| turn.2).max()?))
        };
        turns.chunk_by(|a, b| a.0 == b.0).filter_map(span).collect()
    }

    fn within(&self, at: u64) -> bool {
        (self.window.0..=self.window.1).contains(&at)
    }

    /// Who set the pace.
    pub(crate) fn pace(&self) -> Pace {
        match self.stage.info.kind {
            LoopKind::Closed => Pace::Closed,
            LoopKind::Open if self.capped_share() > 0.0 => Pace::Capped,
            LoopKind::Open => Pace::Open,
        }
    }

    /// Share of arrivals that waited for a limit in flight.
    pub(crate) fn capped_share(&self) -> f64 {
        let Some(end) = &self.stage.end else { return 0.0 };
        let arrivals = end.scheduled.unwrap_or(0).max(end.capped).max(1);
        end.capped as f64 / arrivals as f64
    }

    /// Requests that were due in the window.
    pub(crate) fn due(&self) -> u64 {
        self.measured().filter(|r| r.due.is_some_and(|due| self.within(due))).count() as u64
            + self.unsent
    }

    /// Of the requests that were due in the window, those that were started in it.
    pub(crate) fn due_and_started(&self) -> u64 {
        let both = |r: &&Request| {
            let asked = r.asked_at().unwrap_or(r.started);
            r.due.is_some_and(|due| self.within(due)) && self.within(asked)
        };
        self.measured().filter(both).count() as u64
    }

    /// Requests per second that the schedule wanted.
    fn offered_rate(&self) -> Option<f64> {
        let info = &self.stage.info;
        if info.kind == LoopKind::Closed {
            return None;
        }
        // What was killed has no end, and had not sent all that was due: its plan is known.
        if let (None, Some(rate)) = (&self.stage.end, info.rate) {
            return Some(rate);
        }
        let planned_end = info.length.zip(self.stage.begin).map(|(length, begin)| begin + length);
        let ended_by_time = planned_end.is_some_and(|planned| self.window.1 >= planned);
        if ended_by_time || (info.length.is_some() && self.stage.end.is_none()) {
            return per_second(self.due() as f64, self.seconds());
        }
        // A number of requests ended it: its length is the server's doing, its schedule is not.
        let dues = || self.measured().filter_map(|r| r.due);
        let span = dues().max().zip(dues().min()).map_or(0, |(last, first)| last - first);
        let gaps = dues().count().saturating_sub(1) as f64;
        per_second(gaps, span as f64 / 1e9).or(info.rate)
    }

    fn achieved(&self) -> u64 {
        self.measured().filter(|r| r.sent.is_some_and(|sent| self.within(sent))).count() as u64
    }

    /// The window cut into ten, and what ended well in each: requests of the settling time too,
    /// as others of the same kind end after the window.
    fn tallies(&self, slo: &Slo) -> [Tally; BATCHES] {
        let good = (!slo.is_empty()).then_some(0);
        let mut tallies = [Tally { good, ..Tally::default() }; BATCHES];
        let (from, to) = self.window;
        for r in self.requests.iter().filter(|r| r.failure.is_none() && self.within(r.finished)) {
            let position = u128::from(r.finished - from) * BATCHES as u128;
            let slice = position / u128::from((to - from).max(1));
            let tally = &mut tallies[(slice as usize).min(BATCHES - 1)];
            tally.finished += 1;
            let add = |sum: &mut Option<u64>, more: Option<u32>| {
                if let Some(more) = more {
                    *sum = Some(sum.unwrap_or(0) + u64::from(more));
                }
            };
            add(&mut tally.output_tokens, r.output_tokens);
            add(&mut tally.input_tokens, r.input_tokens);
            if let Some(good) = &mut tally.good {
                *good += u64::from(slo.is_met_by(r));
            }
        }
        tallies
    }
}

/// The results of a stage, or of several together.
pub(crate) fn summarise(name: &str, parts: &[Part], slo: &Slo) -> Summarised {
    let measured = || parts.iter().flat_map(Part::measured);
    let window_s: f64 = parts.iter().map(Part::seconds).sum();
    let mut counts = Counts::default();
    for part in parts {
        counts.add(&part.stage.counts);
    }
    let mut kinds: BTreeMap<FailureKind, u64> = BTreeMap::new();
    let mut sent = 0;
    for request in measured() {
        sent += 1;
        if let Some(kind) = request.failure {
            *kinds.entry(kind).or_default() += 1;
        }
    }
    let failed: u64 = kinds.values().sum();
    let paces = || parts.iter().map(Part::pace);
    let pace = paces().next().filter(|first| paces().all(|pace| pace == *first));
    let offered: Option<f64> =
        parts.iter().map(|part| Some(part.offered_rate()? * part.seconds())).sum();
    let achieved: u64 = parts.iter().map(Part::achieved).sum();
    let good = || measured().filter(|r| r.counts() && slo.is_met_by(r)).count();
    let usage =
        [("server", counts.server), ("tokenizer", counts.tokenizer), ("none", counts.nobody)];
    let (metrics, curves) = metrics(parts, slo, window_s);
    let single = if let [part] = parts { Some(part) } else { None };
    let summary = StageSummary {
        name: name.to_owned(),
        pace,
        concurrency: single
            .filter(|part| part.stage.info.kind == LoopKind::Closed)
            .and_then(|part| part.stage.info.concurrency),
        capped_share: single.map_or(0.0, |part| tidy(part.capped_share())),
        label: single.and_then(label),
        overloaded: single.is_some_and(crate::health::is_overloaded),
        window_s: tidy(window_s),
        offered_rate: offered.and_then(|offered| per_second(offered, window_s)).map(tidy),
        achieved_rate: per_second(achieved as f64, window_s).map(tidy),
        sent,
        succeeded: sent - failed,
        failed,
        excluded: parts.iter().map(|part| part.requests.len() as u64).sum::<u64>() - sent,
        errors: kinds.iter().map(|(kind, n)| (kind.name().to_owned(), *n)).collect(),
        usage: usage.iter().filter(|(_, n)| *n > 0).map(|(k, n)| ((*k).to_owned(), *n)).collect(),
        several_token_chunks: (counts.chunks > 0)
            .then(|| tidy(counts.several as f64 / counts.chunks as f64)),
        goodput_share: (!slo.is_empty() && sent > 0).then(|| tidy(good() as f64 / sent as f64)),
        metrics,
    };
    (summary, curves)
}

/// How numbers must be read whose pace was not the schedule's.
fn label(part: &Part) -> Option<String> {
    let info = &part.stage.info;
    match part.pace() {
        Pace::Open => None,
        Pace::Capped => {
            let mut label = format!(
                "open loop, capped: {:.1} % of the arrivals waited for the limit of {} in flight",
                part.capped_share() * 100.0,
                limit_in_flight(part)
                    .map_or_else(|| "requests".to_owned(), |limit| limit.to_string()),
            );
            let unsent = part.stage.end.as_ref().map_or(0, |end| end.unsent);
            if part.capped_share() > 0.01 {
                label.push_str(
                    "; latencies from the moment of sending are those of a closed loop, ",
                );
                label.push_str(&match unsent {
                    0 => "scheduled ones are right".to_owned(),
                    n => format!("and scheduled ones lack those of {n} that were never sent"),
                });
            }
            Some(label)
        }
        Pace::Closed => Some(format!(
            "closed loop{}: the server set the pace; latency at this concurrency, not at a \
             request rate; not comparable with open-loop latency",
            info.concurrency.map_or_else(String::new, |c| match info.max_in_flight {
                Some(limit) if limit < c => format!(", C = {c} with {limit} in flight at most"),
                _ => format!(", C = {c}"),
            }),
        )),
    }
}

/// The smaller of a stage's limits of sessions and requests under way.
pub(crate) fn limit_in_flight(part: &Part) -> Option<u32> {
    let info = &part.stage.info;
    info.max_in_flight.into_iter().chain(info.concurrency).min()
}

fn metrics(
    parts: &[Part],
    slo: &Slo,
    window_s: f64,
) -> (BTreeMap<String, Measured>, BTreeMap<&'static str, Curve>) {
    let of_one_stage = parts.len() == 1;
    let tallies: Vec<[Tally; BATCHES]> = parts.iter().map(|part| part.tallies(slo)).collect();
    let requests = || parts.iter().flat_map(Part::measured);
    let measured = |metric: &Metric| {
        let distribution = match metric.measure {
            Measure::Request(value) => {
                let values: Vec<f64> =
                    requests().filter(|r| r.counts()).filter_map(value).collect();
                let sorted = sorted(values.clone());
                let failed = failed(metric, requests());
                distribution(metric.unit, &values, &sorted, of_one_stage, failed)
            }
            Measure::Sent(value) => {
                let values: Vec<f64> = requests().filter_map(value).collect();
                let sorted = sorted(values.clone());
                distribution(metric.unit, &values, &sorted, of_one_stage, 0)
            }
            Measure::Gaps => gaps_distribution(metric.unit, parts),
            Measure::Rate(count) => {
                let single = rate(metric.unit, count, &tallies, window_s)?;
                return Some((Measured::Single(single), None));
            }
        };
        let (distribution, curve) = distribution?;
        Some((Measured::Distribution(Box::new(distribution)), Some(curve)))
    };
    let (gaps, others): (Vec<&Metric>, Vec<&Metric>) =
        METRICS.iter().partition(|metric| matches!(metric.measure, Measure::Gaps));
    let all = |metrics: Vec<&'static Metric>| -> Vec<_> {
        metrics.into_iter().map(|metric| (metric.name, measured(metric))).collect()
    };
    // Gaps are many times as many as all other values together, and so get a thread.
    let found = std::thread::scope(|scope| {
        let gaps = scope.spawn(|| all(gaps));
        let others = all(others);
        gaps.join().map(|gaps| others.into_iter().chain(gaps))
    });
    let mut results = BTreeMap::new();
    let mut curves = BTreeMap::new();
    for (name, found) in found.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        if let Some((measured, curve)) = found {
            results.insert(name.to_owned(), measured);
            curves.extend(curve.map(|curve| (name, curve)));
        }
    }
    (results, curves)
}

fn gaps_distribution(unit: &str, parts: &[Part]) -> Option<(Distribution, Curve)> {
    let pooled;
    let gaps = match parts {
        [part] => &part.stage.gaps,
        _ => {
            pooled = Gaps::pooled(parts.iter().map(|part| &part.stage.gaps));
            &pooled
        }
    };
    match gaps {
        Gaps::Exact(gaps) => distribution(unit, gaps, &gaps::sorted(gaps), parts.len() == 1, 0),
        Gaps::Counted(counted) => counted_distribution(unit, counted),
    }
}

/// How many requests count as infinitely late ones of a latency. 0: the metric is none.
fn failed<'a>(metric: &Metric, requests: impl Iterator<Item = &'a Request>) -> u64 {
    if !Slo::NAMES.contains(&metric.name) {
        return 0;
    }
    // Nothing was scheduled where nothing is due: in closed loops.
    let is_scheduled = metric.name.starts_with("scheduled_");
    requests.filter(|r| r.failure.is_some() && (!is_scheduled || r.due.is_some())).count() as u64
}

/// Requests that must have ended before the scatter of a rate says something.
const LEAST_FOR_RATE: u64 = 100;

fn rate(
    unit: &str,
    count: fn(&Tally) -> Option<u64>,
    tallies: &[[Tally; BATCHES]],
    window_s: f64,
) -> Option<Single> {
    let slices = || tallies.iter().flatten();
    let sum = slices().filter_map(count).reduce(|a, b| a + b)?;
    let value = per_second(sum as f64, window_s)?;
    let finished: u64 = slices().map(|tally| tally.finished).sum();
    // Stages have rates of their own: their scatter is no error.
    let interval = match tallies {
        [stage] if finished >= LEAST_FOR_RATE => {
            let slice_s = window_s / BATCHES as f64;
            let means = stage.map(|tally| count(&tally).unwrap_or(0) as f64 / slice_s);
            let [low, high] = mean_interval(&means);
            Some([tidy(low.max(0.0)), tidy(high)])
        }
        _ => None,
    };
    Some(Single { unit: unit.to_owned(), value: tidy(value), interval })
}

/// What `series`, in order of time and `sorted`, is distributed like, beside which so many requests failed.
/// None: there are no values.
fn distribution<T: Copy + PartialOrd + Into<f64>>(
    unit: &str,
    series: &[T],
    sorted: &[T],
    of_one_stage: bool,
    failed: u64,
) -> Option<(Distribution, Curve)> {
    let n = series.len();
    let (least, most) = ((*sorted.first()?).into(), (*sorted.last()?).into());
    let mean = series.iter().map(|&x| x.into()).sum::<f64>() / n as f64;
    let squares: f64 = series.iter().map(|&x| (x.into() - mean).powi(2)).sum();
    let mut result = empty(unit, n as u64, mean, least, most);
    result.stddev = (n > 1).then(|| tidy((squares / (n as f64 - 1.0)).sqrt()));
    set_percentiles(&mut result, |p| p.of(sorted).map_or(0.0, Into::into));
    result.all_sent = (failed > 0).then(|| all_sent(sorted, failed));
    // Stages differ by design: how they scatter around their common percentile is no error.
    if of_one_stage {
        intervals(&mut result, series, sorted);
    }
    Some((result, Curve::of(sorted)))
}

/// The same for values that were counted in buckets, whose order is not known.
fn counted_distribution(unit: &str, counted: &Counted) -> Option<(Distribution, Curve)> {
    let n = counted.buckets.len();
    if n == 0 {
        return None;
    }
    let ms = |nanos: u64| counted.buckets.median_equivalent(nanos) as f64 / 1e6;
    let mean = counted.sum / n as f64;
    let (min, max) = (ms(counted.buckets.min()), ms(counted.buckets.max()));
    let mut result = empty(unit, n, mean, min, max);
    result.exact = false;
    let variance = (counted.squares - counted.sum * mean) / (n as f64 - 1.0).max(1.0);
    result.stddev = (n > 1).then(|| tidy(variance.max(0.0).sqrt()));
    set_percentiles(&mut result, |p| ms(counted.buckets.value_at_quantile(p.share())));
    let curve = Curve::at_shares(|share| ms(counted.buckets.value_at_quantile(share)));
    Some((result, curve))
}

fn empty(unit: &str, n: u64, mean: f64, min: f64, max: f64) -> Distribution {
    Distribution {
        unit: unit.to_owned(),
        n,
        mean: tidy(mean),
        stddev: None,
        min: tidy(min),
        max: tidy(max),
        p50: None,
        p90: None,
        p95: None,
        p99: None,
        p99_9: None,
        few: Vec::new(),
        interval: BTreeMap::new(),
        n_eff: BTreeMap::new(),
        too_short_by: BTreeMap::new(),
        withheld: Vec::new(),
        doubts: Vec::new(),
        all_sent: None,
        exact: true,
    }
}

fn set_percentiles(result: &mut Distribution, value: impl Fn(Percentile) -> f64) {
    for p in PERCENTILES {
        if result.n < p.least {
            continue;
        }
        *result.slot(p.name) = Some(tidy(value(p)));
        if result.n < p.plain {
            result.few.push(p.name.to_owned());
        }
    }
}

/// The percentiles of `sorted` values and so many failures, which are above all of them.
fn all_sent<T: Copy + Into<f64>>(sorted: &[T], failed: u64) -> AllSent {
    let n = sorted.len() as u64 + failed;
    let mut all = AllSent { n, percentiles: BTreeMap::new(), failed: Vec::new(), few: Vec::new() };
    for p in PERCENTILES.into_iter().filter(|p| n >= p.least) {
        let place = usize::try_from(p.rank(n) - 1).ok();
        match place.and_then(|place| sorted.get(place)) {
            Some(&value) => {
                all.percentiles.insert(p.name.to_owned(), tidy(value.into()));
            }
            None => all.failed.push(p.name.to_owned()),
        }
        if n < p.plain {
            all.few.push(p.name.to_owned());
        }
    }
    all
}

/// Intervals of the percentiles and the mean, where the run can know its own error.
fn intervals<T: Copy + PartialOrd + Into<f64>>(
    result: &mut Distribution,
    series: &[T],
    sorted: &[T],
) {
    let size = |p: Percentile| p.of(sorted).map_or(0.0, |at| effective_size(series, p, &at));
    let n_eff_p50 = size(P50);
    for p in PERCENTILES.into_iter().filter(|p| result.n >= p.plain) {
        let n_eff = if p == P50 { n_eff_p50 } else { size(p) };
        if let Some(factor) = too_short_by(n_eff_p50, n_eff, p) {
            result.too_short_by.insert(p.name.to_owned(), tidy(factor));
            continue;
        }
        let value = |rank: u64| usize::try_from(rank).ok().and_then(|rank| sorted.get(rank - 1));
        if let (Some(low), Some(high)) = interval_ranks(result.n, n_eff, p)
            && let (Some(&low), Some(&high)) = (value(low), value(high))
        {
            let ends = [tidy(low.into()), tidy(high.into())];
            result.interval.insert(p.name.to_owned(), ends);
            result.n_eff.insert(p.name.to_owned(), n_eff.round());
        }
    }
    if result.interval.contains_key(P50.name) {
        let means = std::array::from_fn(|b| {
            let part = &series[batch(series.len(), b)];
            part.iter().map(|&x| x.into()).sum::<f64>() / part.len() as f64
        });
        result.interval.insert("mean".to_owned(), mean_interval(&means).map(tidy));
    }
}

fn per_second(count: f64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| count / seconds)
}
