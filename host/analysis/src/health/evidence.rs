//! What rules look at, and how they measure it.

use super::{STEADY_FROM, is_overloaded};
use crate::cache::{CacheSummary, CacheView, CacheWish};
use crate::calibration::Calibration;
use crate::collector::{Request, Run};
use crate::metric::ms;
use crate::statistics::{P50, P90, P95, P99, Percentile, sorted};
use crate::steady::{self, Trend};
use crate::summarise::{Part, limit_in_flight};
use crate::summary::{Pace, StageSummary};
use records::{ClientSample, Connection, EndReason, FailureKind, LoopKind, ThreadSample};
use std::collections::BTreeMap;

/// A stage.
pub(super) struct Evidence<'a> {
    pub(super) part: &'a Part<'a>,
    /// The run came to its planned end.
    completed: bool,
    /// In order of time, in milliseconds.
    lateness: Vec<f64>,
    /// TTFT p50 in milliseconds; the latency's, where no answer was streamed.
    scale: Option<f64>,
    /// ITL p50 in milliseconds.
    itl: Option<f64>,
    /// What the client's samples tell of the time between the stage's begin and end.
    samples: Vec<&'a ClientSample>,
    pub(super) starved: u64,
    /// What was asked of the prefix cache, and how the stage found it.
    cache: Option<(CacheWish, &'a CacheView)>,
}

/// The run.
pub(super) struct Whole<'a> {
    pub(super) run: &'a Run,
    pub(super) same_host: bool,
    pub(super) stages: &'a [StageSummary],
    pub(super) evidence: &'a [Evidence<'a>],
    pub(super) calibration: Option<&'a Calibration>,
}

/// A value and on how many requests or samples it rests.
type Found = Option<(f64, usize)>;

impl<'a> Evidence<'a> {
    pub(super) fn of(
        run: &'a Run,
        part: &'a Part<'a>,
        summary: &StageSummary,
        cache: Option<&'a CacheSummary>,
    ) -> Self {
        let median = |metric| summary.distribution(metric).and_then(|d| d.p50);
        let begin = part.stage.begin.unwrap_or(part.window.0);
        let end = part.stage.end.as_ref().map_or(run.last_seen, |end| end.at);
        // One that tells of a border counts where most of its time lies.
        let within = |sample: &&ClientSample| (begin..=end).contains(&middle(sample));
        let samples: Vec<&ClientSample> = run.samples.iter().filter(within).collect();
        let before = run.samples.iter().filter(|sample| middle(sample) < begin);
        let before = before.map(|sample| sample.starved).max().unwrap_or(0);
        let starved = samples.iter().map(|sample| sample.starved).max().unwrap_or(0);
        let starved = starved.saturating_sub(before);
        let positive = |value: Option<f64>| value.filter(|&value| value > 0.0);
        Self {
            part,
            completed: matches!(run.end, Some((EndReason::Completed, _))),
            lateness: part.measured().filter_map(own_lateness).collect(),
            scale: positive(median("ttft").or(median("latency"))),
            itl: positive(median("itl")),
            samples,
            starved,
            cache: cache.and_then(|cache| Some((cache.asked, cache.stage(&summary.name)?))),
        }
    }

    /// What a rule measures of the prefix cache, where this was asked of it.
    pub(super) fn cache(
        &self,
        asked: CacheWish,
        measure: fn(&CacheView) -> Option<f64>,
    ) -> Option<(f64, usize)> {
        let (_, view) = self.cache.filter(|(wish, _)| *wish == asked)?;
        Some((measure(view)?, view.requests as usize))
    }

    /// Whether requests were late because a limit in flight held them back, or may have been.
    fn held_back(&self) -> bool {
        let info = &self.part.stage.info;
        let limit = match info.kind {
            LoopKind::Open => limit_in_flight(self.part),
            // As many as there are slots hold none back.
            LoopKind::Closed => info.max_in_flight.filter(|limit| Some(*limit) < info.concurrency),
        };
        let unknown = self.part.stage.end.is_none() && limit.is_some();
        unknown || self.part.capped_share() > 0.01
    }

    /// Whether the same load is wanted all the time.
    fn is_level(&self) -> bool {
        let info = &self.part.stage.info;
        match info.kind {
            LoopKind::Open => info.rate.is_some(),
            LoopKind::Closed => info.concurrency.is_some(),
        }
    }

    /// Logarithms of what its users waited for the first token, or for all of it, by when they
    /// asked.
    fn waits(&self) -> Vec<f64> {
        let of = |first: bool| {
            move |r: &Request| {
                let from = r.due.or(r.sent)?;
                let to = if first { r.tokens?.first } else { r.finished };
                Some(ms(from, to)).filter(|&wait| wait > 0.0).map(f64::ln)
            }
        };
        let values = |of: &dyn Fn(&Request) -> Option<f64>| -> Vec<f64> {
            self.part.measured().filter(|r| r.counts()).filter_map(of).collect()
        };
        let first = values(&of(true));
        if first.is_empty() { values(&of(false)) } else { first }
    }

    /// What each thread did, and for how long.
    fn threads(&self, value: fn(&ThreadSample) -> f64) -> BTreeMap<&str, Vec<(f64, f64)>> {
        let mut threads: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in &self.samples {
            for thread in &sample.threads {
                threads.entry(&thread.name).or_default().push((value(thread), length(sample)));
            }
        }
        threads
    }

    /// The mean of what samples tell, of several load generators the worst one's.
    pub(super) fn mean_of(&self, value: impl Fn(&ClientSample) -> Option<f64>) -> Found {
        let mut generators: BTreeMap<Option<u32>, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| length(sample) > 0.0) {
            let values = generators.entry(sample.generator).or_default();
            values.extend(value(sample).map(|value| (value, length(sample))));
        }
        worst(generators.into_values().filter_map(mean))
    }
}

fn worst(found: impl Iterator<Item = (f64, usize)>) -> Found {
    found.max_by(|a, b| a.0.total_cmp(&b.0))
}

/// When the time of which a sample tells began.
fn since(sample: &ClientSample) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    sample.since.unwrap_or(sample.at.saturating_sub(SECOND)).min(sample.at)
}

/// The middle of the time of which a sample tells.
fn middle(sample: &ClientSample) -> u64 {
    sample.at - (sample.at - since(sample)) / 2
}

/// Of how much time a sample tells, in nanoseconds.
fn length(sample: &ClientSample) -> f64 {
    (sample.at - since(sample)) as f64
}

/// How late the client itself was: the time to open a connection is judged by a rule of its own.
fn own_lateness(r: &Request) -> Option<f64> {
    Some(ms(r.due?, r.asked_at()?))
}

/// Over values and their weights.
fn mean(values: Vec<(f64, f64)>) -> Found {
    let all: f64 = values.iter().map(|(_, weight)| weight).sum();
    let sum: f64 = values.iter().map(|(value, weight)| value * weight).sum();
    (all > 0.0).then(|| (sum / all, values.len()))
}

/// The percentile that judges so many requests.
fn judging(n: usize) -> Percentile {
    if n < 100 { P90 } else { P99 }
}

pub(super) fn lateness(e: &Evidence) -> Found {
    if e.held_back() {
        return None;
    }
    let n = e.lateness.len();
    // Up to one arrival in a hundred may have waited for a limit: it does not move the p90.
    let p = if e.part.pace() == Pace::Capped { P90 } else { judging(n) };
    Some((p.of(&sorted(e.lateness.clone()))? / e.scale?, n))
}

/// A closed loop of C sessions starts the (C + k)-th when the k-th has ended: whichever slot that
/// was, so much later it was put to use again. Later turns of a session say when they were wanted.
pub(super) fn closed_loop_gap(e: &Evidence) -> Found {
    let info = &e.part.stage.info;
    if info.kind == LoopKind::Open {
        return None;
    }
    // Where the concurrency changes, a limit in flight leaves slots empty, or slots wait for a server that is down, only
    // turns tell.
    let n = e.part.requests.len() as f64;
    let down =
        e.part.requests.iter().filter(|r| r.failure.is_some_and(FailureKind::is_of_connecting));
    let is_down = down.count() as f64 > 0.01 * n;
    let steady = info.concurrency.filter(|_| !e.held_back() && !is_down);
    let slots = steady.map_or(usize::MAX, |slots| slots as usize);
    let (mut starts, mut ends): (Vec<u64>, Vec<u64>) = e.part.sessions().into_iter().unzip();
    starts.sort_unstable();
    ends.sort_unstable();
    let again = starts.iter().skip(slots).zip(&ends);
    let measured = again.filter(|(start, _)| **start >= e.part.window.0);
    let sessions = measured.map(|(&start, &end)| ms(end, start).max(0.0));
    let turns = e.part.requests.iter().filter(|request| request.started >= e.part.window.0);
    let turns = turns.filter_map(|turn| Some(ms(turn.wanted?, turn.asked_at()?).max(0.0)));
    let gaps: Vec<f64> = sessions.chain(turns).collect();
    let n = gaps.len();
    Some((judging(n).of(&sorted(gaps))? / e.scale?, n))
}

pub(super) fn lateness_growth(e: &Evidence) -> Found {
    if e.held_back() {
        return None;
    }
    let n = e.lateness.len();
    let median = |part: &[f64]| P50.of(&sorted(part.to_vec()));
    let growth = median(&e.lateness[n - n / 10..])? - median(&e.lateness[..n / 10])?;
    Some((growth / e.scale?, n))
}

pub(super) fn unsent(e: &Evidence) -> Found {
    const FREE: u64 = 2;
    if e.held_back() {
        return None;
    }
    let due = e.part.due();
    let missing = due.saturating_sub(e.part.due_and_started() + FREE);
    (due > 0).then(|| (missing as f64 / due as f64, due as usize))
}

pub(super) fn client_failed(e: &Evidence) -> Found {
    let n = e.part.measured().count();
    let failed = e.part.measured().filter(|r| r.failure == Some(FailureKind::Client)).count();
    (n > 0).then(|| (failed as f64 / n as f64, n))
}

pub(super) fn workload_ended(e: &Evidence) -> Found {
    e.part.stage.end.as_ref().filter(|end| end.exhausted).map(|_| (1.0, 0))
}

/// By what share the arrivals of a whole stage are more or fewer than its rate and length say.
pub(super) fn realised_rate(e: &Evidence) -> Found {
    let stage = e.part.stage;
    let (rate, length) = (stage.info.rate?, stage.info.length?);
    let scheduled = stage.end.as_ref().filter(|_| e.completed)?.scheduled?;
    let ended_by_time = e.part.window.1 >= stage.begin? + length;
    let nominal = rate * length as f64 / 1e9;
    let difference = (scheduled as f64 - nominal).abs() / nominal;
    (ended_by_time && nominal > 0.0).then_some((difference, scheduled as usize))
}

pub(super) fn stamp_lag(e: &Evidence) -> Found {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for &(longest, count) in e.samples.iter().flat_map(|sample| &sample.stamp_lag) {
        *counts.entry(longest).or_default() += count;
    }
    let n: u64 = counts.values().sum();
    let rank = P99.rank(n);
    let mut seen = 0;
    let lag = counts.into_iter().find_map(|(longest, count)| {
        seen += count;
        (seen >= rank).then_some(longest)
    })?;
    Some((ms(0, lag) / e.itl?, n as usize))
}

pub(super) fn thread_cpu(e: &Evidence) -> Found {
    let p95 = |cpu: Vec<(f64, f64)>| {
        let n = cpu.len();
        P95.of_weighted(cpu).map(|p95| (p95, n))
    };
    worst(e.threads(|thread| thread.cpu).into_values().filter_map(p95))
}

pub(super) fn thread_waiting(e: &Evidence) -> Found {
    worst(e.threads(|thread| thread.waiting).into_values().filter_map(mean))
}

/// Connecting counts where it takes a time that shows beside the TTFT: in an open loop it lies between
/// the due time and the moment of sending, in a closed one a place of the concurrency stands empty
/// meanwhile.
pub(super) fn new_connections(e: &Evidence, kind: LoopKind) -> Found {
    const SHOWS: f64 = 0.05;
    if e.part.stage.info.kind != kind {
        return None;
    }
    let counted: Vec<_> = e.part.measured().filter(|r| r.counts()).collect();
    let is_new = |r: &&&Request| r.connection == Connection::New;
    let opening = sorted(
        counted.iter().filter(is_new).filter_map(|r| Some(ms(r.started, r.sent?))).collect(),
    );
    // How long it took where a request was sent again is in its TTFT, and not known apart.
    let scale = e.scale?;
    let shows = P50.of(&opening).is_none_or(|p50| p50 > SHOWS * scale);
    let new = counted.iter().filter(|r| is_new(r) || r.is_again).count();
    let share = new as f64 / counted.len().max(1) as f64;
    Some((if shows { share } else { 0.0 }, counted.len()))
}

/// The share of the measured time in which the client stood still.
pub(super) fn stopped(e: &Evidence) -> Found {
    e.mean_of(|sample| {
        let measured = middle(sample) >= e.part.window.0;
        measured.then(|| sample.stopped as f64 / length(sample))
    })
}

/// By what share the waits change over a stage of level load. A change that may be chance is 0.
pub(super) fn drift(e: &Evidence) -> Found {
    if !e.is_level() {
        return None;
    }
    let waits = e.waits();
    let trend = steady::drift(&waits)?;
    let drifts = trend.t.abs() > Trend::TWO_SIDED;
    Some((if drifts { trend.rise.abs() } else { 0.0 }, waits.len()))
}

/// The share of the measured requests that comes before the steady state. One whose level differs
/// by 5 % or less is none.
pub(super) fn transient(e: &Evidence) -> Found {
    const SHOWS: f64 = 0.05;
    if !e.is_level() {
        return None;
    }
    let waits = e.waits();
    let cut = steady::transient(&waits)?;
    let level = |part: &[f64]| P50.of(&sorted(part.to_vec()));
    let shows = cut > 0 && (level(&waits[..cut])? - level(&waits[cut..])?).abs() > SHOWS;
    Some((if shows { cut as f64 / waits.len() as f64 } else { 0.0 }, waits.len()))
}

/// The share of the measured time that lies within twice the longest latencies (p95) of the stage's
/// begin. So long an open loop fills its server up, for a stage begins with nothing under way: one
/// behind a warm-up stage, too.
pub(super) fn filling_up(e: &Evidence) -> Found {
    let part = e.part;
    // The latencies of an overload grow with the stage: they say nothing of how it began.
    if part.pace() != Pace::Open || !e.is_level() || is_overloaded(part) {
        return None;
    }
    let of = |r: &Request| Some(ms(r.sent?, r.finished));
    let latencies = sorted(part.measured().filter(|r| r.counts()).filter_map(of).collect());
    let full_s = 2.0 * P95.of(&latencies)? / 1e3;
    let settle_s = part.stage.info.settle as f64 / 1e9;
    let share = ((full_s - settle_s) / part.seconds()).clamp(0.0, 1.0);
    (part.seconds() > 0.0).then_some((share, latencies.len()))
}

/// Whether a stage, what is left out of it included, was long enough to show a steady state.
pub(super) fn is_long(e: &Evidence) -> bool {
    e.part.window.1 - e.part.window.0 + e.part.stage.info.settle >= STEADY_FROM
}

/// The share of the planned load that was not sent as planned: of its parts, one for each stage and
/// load generator, those of a generator that was lost or began stages by itself.
pub(super) fn not_as_planned(whole: &Whole) -> Found {
    let stages = u32::try_from(whole.run.stages.len()).unwrap_or(u32::MAX);
    let of = whole.run.astray.iter().map(|part| part.of).max()?;
    let missing = whole.run.astray.iter().map(|part| stages.saturating_sub(part.stage));
    let all = f64::from(stages) * f64::from(of);
    (all > 0.0).then(|| ((f64::from(missing.sum::<u32>()) / all).min(1.0), 1))
}

/// 1, where no stage has a measured request.
pub(super) fn nothing_measured(whole: &Whole) -> Found {
    let measured = |e: &Evidence| e.part.measured().next().is_some();
    (!whole.evidence.iter().any(measured)).then_some((1.0, 1))
}

/// 1, where a thread of the load generator broke down.
pub(super) fn broken_down(whole: &Whole) -> Found {
    whole.run.broke_down.then_some((1.0, 1))
}

/// Entries that belong to no stage of the run.
pub(super) fn strays(whole: &Whole) -> Found {
    Some((whole.run.strays as f64, 1))
}

/// Records whose times cannot be.
pub(super) fn damaged(whole: &Whole) -> Found {
    Some((whole.run.damaged.count as f64, 1))
}

/// 1, where the server is on this machine.
pub(super) fn same_host(whole: &Whole) -> Found {
    whole.same_host.then_some((1.0, 1))
}

/// The largest share of the calibrated headroom that a stage took.
pub(super) fn headroom(whole: &Whole) -> Found {
    let load = |stage: &StageSummary| {
        let tokens = stage.single("output_token_throughput").map_or(0.0, |rate| rate.value);
        whole.calibration?.load(stage.achieved_rate?, tokens)
    };
    let heaviest = whole.stages.iter().filter_map(load).reduce(f64::max)?;
    Some((heaviest, 1))
}

/// 1, where the calibration found no rate that is sent without doubt.
pub(super) fn no_headroom(whole: &Whole) -> Found {
    whole.calibration?.without_headroom().map(|_| (1.0, 1))
}

/// Lateness against that of the calibration, over the stages in which no limit made any request late.
pub(super) fn lateness_calibrated(whole: &Whole) -> Found {
    let calibrated = whole.calibration?.lateness_p99;
    let free = |e: &&Evidence| !e.held_back() && e.part.pace() == Pace::Open;
    let own = whole.evidence.iter().filter(free).flat_map(|e| &e.lateness).copied().collect();
    let own = P99.of(&sorted(own))?;
    (calibrated > 0.0).then(|| (own / calibrated, 1))
}
