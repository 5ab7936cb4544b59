//! Whether a run can be believed: valid, suspect or invalid, by one table of rules.
//!
//! A rule measures something in each stage, or in the run, and has limits. The worst rule decides.
//! A rule that touches certain metrics marks those; any other marks the run. Rules about lateness
//! do not judge a stage whose limit in flight held requests back: there the limit is the cause,
//! and another rule says so.

mod evidence;
mod overload;
mod rules;

use crate::analysis::Options;
use crate::cache::CacheSummary;
use crate::collector::Run;
use crate::statistics::PERCENTILES;
use crate::summarise::{Part, limit_in_flight};
use crate::summary::{Measured, StageSummary};
use evidence::{Evidence, Whole};
pub(crate) use overload::is_overloaded;
use rules::{Measure, RULES, Rule, Shown};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How far the results can be believed, and why no further.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// The worst of the reasons' verdicts: valid, suspect or invalid.
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
    /// Of a reason only: good to know, and no reason for doubt.
    Note,
    /// Something may have bent the results.
    Suspect,
    /// Something bent the results: they are not what they seem.
    Invalid,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The load generator and its machine.
    Client,
    /// The server.
    Server,
    /// The load that was asked for.
    Load,
}

/// A rule that fired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// Name of the rule.
    pub rule: String,
    /// What it is about.
    pub about: About,
    /// Where it fired. Empty: the whole run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// The metrics that it touches. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<String>,
    /// What was measured.
    pub value: f64,
    /// The limit that it broke.
    pub limit: f64,
    /// All of it in one sentence, with the cure.
    pub text: String,
}

/// Why a metric's values are doubtful, though others of the stage may not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// Name of the rule.
    pub rule: String,
    /// How bad it is.
    pub verdict: Verdict,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Note => "note",
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

impl Health {
    /// The verdict in a sentence without a full stop.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        let decisive = || self.reasons.iter().filter(|reason| reason.verdict == self.verdict);
        let client = decisive().any(|reason| reason.about == About::Client);
        if decisive().any(|reason| reason.rule == rules::NOTHING_MEASURED) {
            return "nothing was measured";
        }
        match self.verdict {
            Verdict::Valid | Verdict::Note => "the load generator did what it was asked",
            Verdict::Suspect if client => "the load generator may have bent the results",
            Verdict::Suspect => "the load generator did what it was asked, but mind the reasons",
            Verdict::Invalid if client => {
                "the load generator bent the results; they are not the server's"
            }
            Verdict::Invalid => "the results are not what they seem: mind the reasons",
        }
    }
}

/// Nanoseconds from which on a stage is long enough to show a steady state: it gets a warm-up of its
/// own, and is judged by whether that was enough.
pub const STEADY_FROM: u64 = 120_000_000_000;

/// The verdict on a run.
pub(crate) fn judge(
    run: &Run,
    parts: &[Part],
    summaries: &[StageSummary],
    cache: Option<&CacheSummary>,
    options: &Options,
) -> Health {
    let evidence: Vec<Evidence> = parts
        .iter()
        .zip(summaries)
        .map(|(part, summary)| Evidence::of(run, part, summary, cache))
        .collect();
    let calibration = options.calibration.as_ref();
    let same_host = options.same_host;
    let whole = Whole { run, same_host, stages: summaries, evidence: &evidence, calibration };
    let mut reasons: Vec<Reason> = Vec::new();
    for rule in RULES {
        match rule.measure {
            Measure::Stage(measure) => {
                reasons.extend(
                    evidence
                        .iter()
                        .filter_map(|stage| rule.judge(measure(stage)?, Some(stage.part), run)),
                );
            }
            Measure::Run(measure) => {
                reasons.extend(measure(&whole).and_then(|found| rule.judge(found, None, run)));
            }
        }
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.verdict));
    let worst = reasons.first().map_or(Verdict::Valid, |reason| reason.verdict);
    let verdict = if worst == Verdict::Note { Verdict::Valid } else { worst };
    Health { verdict, reasons }
}

/// Marks the metrics that rules touch, in their stages and in the total.
pub(crate) fn mark(health: &Health, stages: &mut [StageSummary], total: &mut StageSummary) {
    let doubts = health.reasons.iter().filter(|reason| reason.verdict > Verdict::Note);
    for reason in doubts {
        let touched = stages.iter_mut().filter(|stage| stage.name == reason.stage);
        for stage in touched.chain([&mut *total]) {
            for metric in &reason.metrics {
                if let Some(Measured::Distribution(distribution)) = stage.metrics.get_mut(metric) {
                    distribution.take_doubt(reason);
                }
            }
        }
    }
}

impl crate::Distribution {
    fn take_doubt(&mut self, reason: &Reason) {
        let known = self.doubts.iter_mut().find(|doubt| doubt.rule == reason.rule);
        match known {
            Some(known) => known.verdict = known.verdict.max(reason.verdict),
            None => {
                self.doubts.push(Doubt { rule: reason.rule.clone(), verdict: reason.verdict });
            }
        }
        if !RULES.iter().any(|rule| rule.name == reason.rule && rule.withholds) {
            return;
        }
        for p in PERCENTILES.into_iter().filter(|p| reason.value > 1.0 - p.share()) {
            *self.slot(p.name) = None;
            self.interval.remove(p.name);
            if let Some(all) = &mut self.all_sent {
                all.percentiles.remove(p.name);
            }
            if !self.withheld.iter().any(|name| name == p.name) {
                self.withheld.push(p.name.to_owned());
            }
        }
    }
}

impl Rule {
    fn judge(&self, (value, n): (f64, usize), part: Option<&Part>, run: &Run) -> Option<Reason> {
        if n < self.least {
            return None;
        }
        let limits = [
            (self.invalid, Verdict::Invalid),
            (self.suspect, Verdict::Suspect),
            (self.note, Verdict::Note),
        ];
        let (limit, verdict) = limits.into_iter().find(|(limit, _)| value > *limit)?;
        let more = match part.and_then(limit_in_flight) {
            Some(limit) if self.name == "limit_in_flight" => format!(" ({limit})"),
            _ if self.name == rules::DAMAGED => format!(" (the first is {})", run.damaged.first),
            _ => String::new(),
        };
        let stage = part.map_or_else(String::new, |part| part.stage.info.name.clone());
        let place = if stage.is_empty() { String::new() } else { format!("stage {stage}: ") };
        let measured = match self.shown {
            Shown::Fact => String::new(),
            shown => {
                format!(": {}, limit {}", shown.write_over(value, limit), shown.write(limit))
            }
        };
        let text = format!("{place}{}{more}{measured}: {}", self.what, self.cure);
        Some(Reason {
            rule: self.name.to_owned(),
            about: self.about,
            stage,
            verdict,
            metrics: self.touches.iter().map(|&metric| metric.to_owned()).collect(),
            value,
            limit,
            text,
        })
    }
}

/// The reference table of all rules, for the documentation.
#[must_use]
pub fn health_markdown() -> String {
    let mut table = String::from(
        "| rule | measured | note above | suspect above | invalid above | judges from | marks | cure |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for rule in RULES {
        let limit = |limit: f64| match rule.shown {
            _ if limit == rules::NEVER => "-".to_owned(),
            Shown::Fact => "when it is so".to_owned(),
            shown => shown.write(limit),
        };
        let marks = if rule.suspect == rules::NEVER {
            "-".to_owned()
        } else if rule.touches.is_empty() {
            "the run".to_owned()
        } else {
            rule.touches.iter().map(|metric| format!("`{metric}`")).collect::<Vec<_>>().join(", ")
        };
        let least =
            if rule.least > 1 { format!("{} {}", rule.least, rule.of) } else { "-".to_owned() };
        table.push_str(&format!(
            "| `{}` | {} | {} | {} | {} | {least} | {marks} | {} |\n",
            rule.name,
            rule.what,
            limit(rule.note),
            limit(rule.suspect),
            limit(rule.invalid),
            rule.cure
        ));
    }
    table
}
