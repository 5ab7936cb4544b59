//! Whether the load generator can be believed: valid, suspect or invalid, by one table of rules.
//!
//! A rule measures something in each stage and has two limits. The worst rule decides. Rules about
//! lateness do not judge a stage whose limit in flight held requests back: there the limit is the
//! cause, and another rule says so.

use crate::analysis::{peak_in_flight, values};
use crate::cache::{self, CacheSummary, CacheView, CacheWish};
use crate::collector::Run;
use crate::metric::ms;
use crate::statistics::{P50, P90, P95, P99};
use crate::summarise::{Part, limit_in_flight};
use crate::summary::{Pace, StageSummary};
use records::{ClientSample, LoopKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How far the results can be believed, and why no further.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The worst of the reasons' verdicts.
    pub verdict: Verdict,
    /// Rules that fired, the worst first.
    pub reasons: Vec<Reason>,
}

/// How far results can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The load generator did what it was asked.
    Valid,
    /// It may have bent the results.
    Suspect,
    /// It bent the results: they are not the server's.
    Invalid,
}

/// A rule that fired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// Name of the rule.
    pub rule: String,
    /// Where it fired.
    pub stage: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was measured.
    pub value: f64,
    /// The limit that it broke.
    pub limit: f64,
    /// All of it in one sentence, with the cure.
    pub text: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Suspect => "suspect",
            Self::Invalid => "invalid",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A rule of health.
struct Rule {
    name: &'static str,
    /// What is measured, as the beginning of a sentence.
    what: &'static str,
    /// More than this is suspect.
    suspect: f64,
    /// More than this is invalid.
    invalid: f64,
    /// Fewest requests or samples on which it judges.
    least: usize,
    shown: Shown,
    measure: fn(&Evidence) -> Option<(f64, usize)>,
    cure: &'static str,
}

/// How a rule's value is written.
#[derive(Clone, Copy)]
enum Shown {
    Percent,
    Count,
}

const NEVER: f64 = f64::INFINITY;
const FEWER_REQUESTS: &str = "lower the rate, give the load generator more cores, or leave it a \
    machine with nothing else on it";

/// Every rule.
const RULES: &[Rule] = &[
    Rule {
        name: "lateness",
        what: "lateness (p99; p90 below 100 requests) against the TTFT p50",
        suspect: 0.05,
        invalid: 0.20,
        least: 10,
        shown: Shown::Percent,
        measure: lateness,
        cure: FEWER_REQUESTS,
    },
    Rule {
        name: "lateness_growing",
        what: "growth of the median lateness from the first tenth to the last against the TTFT p50",
        suspect: 0.05,
        invalid: 0.20,
        least: 100,
        shown: Shown::Percent,
        measure: lateness_growth,
        cure: "the load generator cannot hold this rate and falls behind further the longer the \
            stage is: lower the rate or give it more cores",
    },
    Rule {
        name: "unsent",
        what: "requests due in the window that did not leave in it (two are free)",
        suspect: 0.005,
        invalid: 0.02,
        least: 10,
        shown: Shown::Percent,
        measure: unsent,
        cure: FEWER_REQUESTS,
    },
    Rule {
        name: "limit_in_flight",
        what: "arrivals that waited for the limit of requests in flight",
        suspect: 0.01,
        invalid: NEVER,
        least: 1,
        shown: Shown::Percent,
        measure: |e| Some((e.part.capped_share(), e.part.measured().count())),
        cure: "the limit in flight made them late, not a slow client: raise the limit, lower the \
            rate, or read the stage as a closed loop",
    },
    Rule {
        name: "thread_cpu",
        what: "CPU use of the busiest load thread (p95 of samples of one second)",
        suspect: 0.70,
        invalid: 0.90,
        least: 10,
        shown: Shown::Percent,
        measure: thread_cpu,
        cure: "spread the load over more threads, lower the rate, or shorten the answers",
    },
    Rule {
        name: "thread_waiting",
        what: "time in which a load thread could have run and did not",
        suspect: 0.01,
        invalid: 0.05,
        least: 10,
        shown: Shown::Percent,
        measure: thread_waiting,
        cure: "other work takes its processors: move that away, or give the load generator a \
            machine of its own",
    },
    Rule {
        name: "starved",
        what: "due sessions for which the workload had nothing ready",
        suspect: 0.0,
        invalid: 0.0,
        least: 0,
        shown: Shown::Count,
        measure: |e| Some((e.starved as f64, 0)),
        cure: "the load was not the load asked for: use a faster workload plugin, or a lower rate",
    },
    Rule {
        name: "new_connections",
        what: "requests that opened a connection beyond those that the load needs",
        suspect: 0.005,
        invalid: 0.05,
        least: 10,
        shown: Shown::Percent,
        measure: new_connections,
        cure: "the server closes connections between requests: let it keep them, or take scheduled \
            latencies as those of new connections",
    },
    Rule {
        name: "cache_not_cold",
        what: "prompt tokens that the server had cached and nothing sent in this run explains",
        suspect: cache::UNEXPLAINED,
        invalid: NEVER,
        least: 1,
        shown: Shown::Percent,
        measure: |e| e.cache(CacheWish::Cold, CacheView::unexplained),
        cure: "`cache: cold` was asked for and the server's cache was not: keep others away from the \
            server, start it anew, or ask for `cache: as-is`",
    },
    Rule {
        name: "cache_not_warm",
        what: "hits that the prompts explain and the server's prefix cache did not have",
        suspect: cache::MISSING,
        invalid: NEVER,
        least: 1,
        shown: Shown::Percent,
        measure: |e| e.cache(CacheWish::Warm, CacheView::missing),
        cure: "`cache: warm` was asked for: give the server a larger cache and switch it on, or ask for \
            `cache: as-is`",
    },
];

/// What rules look at: a stage.
struct Evidence<'a> {
    part: &'a Part<'a>,
    /// In order of time, in milliseconds.
    lateness: Vec<f64>,
    /// TTFT p50 in milliseconds; the latency's, where no answer was streamed.
    scale: Option<f64>,
    samples: &'a [ClientSample],
    starved: u64,
    cache: Option<(CacheWish, &'a CacheView)>,
}

/// The verdict on a run.
pub(crate) fn judge(
    run: &Run,
    parts: &[Part],
    summaries: &[StageSummary],
    cache: Option<&CacheSummary>,
) -> Health {
    let mut reasons: Vec<Reason> = Vec::new();
    for (part, summary) in parts.iter().zip(summaries) {
        let mut evidence = Evidence::of(run, part, summary);
        evidence.cache = cache.and_then(|cache| Some((cache.asked, cache.stage(&summary.name)?)));
        reasons.extend(RULES.iter().filter_map(|rule| rule.judge(&evidence)));
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.verdict));
    let verdict = reasons.first().map_or(Verdict::Valid, |reason| reason.verdict);
    Health { verdict, reasons }
}

impl Rule {
    fn judge(&self, evidence: &Evidence) -> Option<Reason> {
        let (value, n) = (self.measure)(evidence)?;
        if n < self.least || value <= self.suspect {
            return None;
        }
        let (verdict, limit) = if value > self.invalid {
            (Verdict::Invalid, self.invalid)
        } else {
            (Verdict::Suspect, self.suspect)
        };
        let limit_in_flight = match limit_in_flight(evidence.part) {
            Some(limit) if self.name == "limit_in_flight" => format!(" ({limit})"),
            _ => String::new(),
        };
        let stage = evidence.part.stage.info.name.clone();
        let text = format!(
            "stage {stage}: {}{limit_in_flight}: {}, limit {}: {}",
            self.what,
            self.shown.write(value),
            self.shown.write(limit),
            self.cure
        );
        Some(Reason { rule: self.name.to_owned(), stage, verdict, value, limit, text })
    }
}

impl Shown {
    fn write(self, value: f64) -> String {
        match self {
            Self::Percent if value >= 0.1 => format!("{:.0} %", value * 100.0),
            Self::Percent => format!("{:.1} %", value * 100.0),
            Self::Count => format!("{value:.0}"),
        }
    }
}

impl<'a> Evidence<'a> {
    fn of(run: &'a Run, part: &'a Part<'a>, summary: &StageSummary) -> Self {
        let median = |metric| summary.distribution(metric).and_then(|d| d.p50);
        let begin = part.stage.begin.unwrap_or(part.window.0);
        let end = part.stage.end.as_ref().map_or(run.last_seen, |end| end.at);
        // A sample tells of the second before it.
        let from = run.samples.partition_point(|sample| sample.at <= begin);
        let to = run.samples.partition_point(|sample| sample.at <= end);
        let samples = &run.samples[from..to.max(from)];
        let starved_by = |end: usize| run.samples[..end].last().map_or(0, |s| s.starved);
        // The first sample after the end still tells of the stage.
        let after = (to + 1).min(run.samples.len()).max(from);
        Self {
            part,
            lateness: part.measured().filter_map(|r| Some(ms(r.due?, r.sent?))).collect(),
            scale: median("ttft").or(median("latency")).filter(|&scale| scale > 0.0),
            samples,
            starved: starved_by(after).saturating_sub(starved_by(from)),
            cache: None,
        }
    }

    /// What a rule measures of the prefix cache, where this was asked of it.
    fn cache(
        &self,
        asked: CacheWish,
        measure: fn(&CacheView) -> Option<f64>,
    ) -> Option<(f64, usize)> {
        let (_, view) = self.cache.filter(|(wish, _)| *wish == asked)?;
        Some((measure(view)?, view.requests as usize))
    }

    /// Whether requests were late because a limit in flight held them back, or may have been.
    fn held_back(&self) -> bool {
        let unknown = self.part.stage.end.is_none() && limit_in_flight(self.part).is_some();
        unknown || self.part.capped_share() > 0.01
    }

    fn threads(&self, value: fn(&records::ThreadSample) -> f64) -> BTreeMap<&str, Vec<f64>> {
        let mut threads: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for thread in self.samples.iter().flat_map(|sample| &sample.threads) {
            threads.entry(&thread.name).or_default().push(value(thread));
        }
        threads
    }
}

fn lateness(e: &Evidence) -> Option<(f64, usize)> {
    if e.held_back() {
        return None;
    }
    let n = e.lateness.len();
    let mut sorted = e.lateness.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    // Up to one arrival in a hundred may have waited for a limit: it does not move the p90.
    let p = if n < 100 || e.part.pace() == Pace::Capped { P90 } else { P99 };
    Some((p.of(&sorted)? / e.scale?, n))
}

fn lateness_growth(e: &Evidence) -> Option<(f64, usize)> {
    if e.held_back() {
        return None;
    }
    let n = e.lateness.len();
    let median = |part: &[f64]| {
        let mut part = part.to_vec();
        part.sort_unstable_by(f64::total_cmp);
        P50.of(&part)
    };
    let growth = median(&e.lateness[n - n / 10..])? - median(&e.lateness[..n / 10])?;
    Some((growth / e.scale?, n))
}

fn unsent(e: &Evidence) -> Option<(f64, usize)> {
    const FREE: u64 = 2;
    if e.held_back() {
        return None;
    }
    let due = e.part.due();
    let missing = due.saturating_sub(e.part.due_and_started() + FREE);
    (due > 0).then(|| (missing as f64 / due as f64, due as usize))
}

fn thread_cpu(e: &Evidence) -> Option<(f64, usize)> {
    let p95 = |mut cpu: Vec<f64>| {
        cpu.sort_unstable_by(f64::total_cmp);
        P95.of(&cpu).map(|p95| (p95, cpu.len()))
    };
    let threads = e.threads(|thread| thread.cpu).into_values();
    threads.filter_map(p95).max_by(|a, b| a.0.total_cmp(&b.0))
}

fn thread_waiting(e: &Evidence) -> Option<(f64, usize)> {
    let mean =
        |waiting: Vec<f64>| (waiting.iter().sum::<f64>() / waiting.len() as f64, waiting.len());
    let threads = e.threads(|thread| thread.waiting).into_values();
    threads.map(mean).max_by(|a, b| a.0.total_cmp(&b.0))
}

/// Every request under way needs a connection, which somebody has to open, and each load thread,
/// of which there are at most eight, keeps connections of its own: so many are free, and one for each
/// failure, which may have taken its connection along. Where opening one takes no time that shows
/// beside the TTFT, any number is.
fn new_connections(e: &Evidence) -> Option<(f64, usize)> {
    const SHOWS: f64 = 0.05;
    let succeeded: Vec<_> = e.part.measured().filter(|r| r.counts()).collect();
    let n = succeeded.len();
    let new = || succeeded.iter().filter(|r| r.new_connection);
    let mut opening: Vec<f64> = new().filter_map(|r| Some(ms(r.started, r.sent?))).collect();
    opening.sort_unstable_by(f64::total_cmp);
    if P50.of(&opening)? <= SHOWS * e.scale? {
        return Some((0.0, n));
    }
    let failed = e.part.measured().count() - n;
    let needed = 2 * peak_in_flight(succeeded.iter().copied()) + 8 + failed;
    Some((new().count().saturating_sub(needed) as f64 / n as f64, n))
}

/// Whether an open stage's server ended clearly fewer requests than arrived.
///
/// Requests under way at the end are no backlog: their number is expected to be the rate times the
/// latency that the first tenth saw, give or take three times its root.
pub(crate) fn is_overloaded(part: &Part) -> bool {
    const LEAST: usize = 50;
    const SHARE: f64 = 0.02;
    if part.stage.info.kind == LoopKind::Closed || part.pace() == Pace::Capped {
        return false;
    }
    let latencies = values(part, |r| Some(ms(r.due?, r.finished)));
    let arrivals = part.due();
    if latencies.len() < LEAST || part.seconds() <= 0.0 {
        return false;
    }
    let mut first = latencies[..latencies.len() / 10].to_vec();
    first.sort_unstable_by(f64::total_cmp);
    let Some(light) = P50.of(&first) else { return false };
    let ended = part.measured().filter(|r| r.due.is_some() && r.finished <= part.window.1).count();
    let backlog = arrivals as f64 - ended as f64;
    let expected = arrivals as f64 / part.seconds() * light / 1e3;
    let excess = backlog - expected;
    excess > SHARE * arrivals as f64 && excess > 3.0 * (expected + 1.0).sqrt()
}

/// The reference table of all rules, for the documentation.
#[must_use]
pub fn health_markdown() -> String {
    let mut table = String::from(
        "| rule | measured | suspect above | invalid above | cure |\n| --- | --- | --- | --- | --- |\n",
    );
    for rule in RULES {
        let limit = |limit: f64| {
            if limit == NEVER { "-".to_owned() } else { rule.shown.write(limit) }
        };
        table.push_str(&format!(
            "| `{}` | {} | {} | {} | {} |\n",
            rule.name,
            rule.what,
            limit(rule.suspect),
            limit(rule.invalid),
            rule.cure
        ));
    }
    table
}
