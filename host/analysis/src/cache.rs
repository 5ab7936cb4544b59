//! The server's prefix cache: what was asked of it, which hits the prompts themselves explain, what
//! the server says, and where these contradict each other.
//!
//! Hits are shares of the prompts' tokens. The expectation is that of a cache without end which held
//! nothing before the run; real ones keep whole blocks only, and the chat template puts tokens of its
//! own in front of all prompts, so that it comes with two bounds.

use crate::collector::Counts;
use crate::notes::Severity;
use crate::server::ServerView;
use crate::summarise::Part;
use records::Record;
use serde::{Deserialize, Serialize};

/// The label of a request that says which share of its prompt earlier prompts of the run begin with,
/// too: 0.000 to 1.000. Without it: none.
pub const EXPECTED_CACHED: &str = "expected_cached";

/// What a user asks of the prefix cache before the load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheWish {
    /// It holds nothing of before the run.
    Cold,
    /// It holds the beginnings that prompts share.
    Warm,
    /// Whatever it holds.
    #[default]
    AsIs,
}

impl CacheWish {
    /// Its name in files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::AsIs => "as-is",
        }
    }
}

/// What was asked of the prefix cache, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CacheState {
    /// What was asked.
    pub asked: CacheWish,
    /// What was done, in a sentence.
    pub done: String,
}

/// The prefix cache in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheSummary {
    /// What was asked.
    pub asked: CacheWish,
    /// What was done, in a sentence.
    pub done: String,
    /// Hits in each measured stage, and in all of them where there are several.
    pub stages: Vec<CacheView>,
}

/// Hits of the prefix cache in a stage, as shares of the prompts' tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheView {
    /// The stage, or "total".
    pub stage: String,
    /// Requests that ended well and whose prompts' tokens are known.
    pub requests: u64,
    /// What the prompts explain.
    pub expected: f64,
    /// The least that this leaves when whole blocks are kept only.
    pub at_least: f64,
    /// The most that this becomes with the tokens of chat templates.
    pub at_most: f64,
    /// What the server says. None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<f64>,
    /// Where it says so: "usage" of the answers, or "metrics".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// What the requests of a stage add up to, in tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CacheCounts {
    requests: u64,
    input: u64,
    expected: f64,
    at_least: f64,
    at_most: f64,
    /// Requests whose usage counts cached tokens. Servers may leave out the count where it is 0.
    counted: u64,
    cached: u64,
}

/// Tokens of a block of the cache: as large as those of most servers.
const BLOCK: f64 = 16.0;
/// Tokens that a chat template may put in front, where the prompt's own length is not known.
const TEMPLATE: f64 = 64.0;

impl CacheCounts {
    /// Takes a request that ended well.
    pub(crate) fn take(&mut self, record: &Record) {
        let Some(input) = record.input_tokens else { return };
        let tokens = f64::from(input);
        let share = record.labels.get(EXPECTED_CACHED).and_then(|text| text.parse::<f64>().ok());
        let expected = share.unwrap_or(0.0).clamp(0.0, 1.0) * tokens;
        let template = record
            .asked_input_tokens
            .map_or(TEMPLATE, |asked| f64::from(input.saturating_sub(asked)));
        self.requests += 1;
        self.input += u64::from(input);
        self.expected += expected;
        self.at_least += (expected - 2.0 * BLOCK).max(0.0);
        self.at_most += (expected + template + BLOCK).min(tokens);
        self.counted += u64::from(record.cached_tokens.is_some());
        self.cached += u64::from(record.cached_tokens.unwrap_or(0));
    }

    /// Adds another stage's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.input += other.input;
        self.expected += other.expected;
        self.at_least += other.at_least;
        self.at_most += other.at_most;
        self.counted += other.counted;
        self.cached += other.cached;
    }

    fn view(&self, stage: &str, server: &[ServerView]) -> Option<CacheView> {
        let share = |tokens: f64| tokens / self.input as f64;
        let metrics = || {
            let view = server.iter().find(|view| view.stage == stage)?;
            Some((view.prefix_cache_hit_rate?, "metrics"))
        };
        let reported = match self.counted {
            0 => metrics(),
            _ => Some((share(self.cached as f64), "usage")),
        };
        (self.input > 0).then(|| CacheView {
            stage: stage.to_owned(),
            requests: self.requests,
            expected: share(self.expected),
            at_least: share(self.at_least),
            at_most: share(self.at_most),
            reported: reported.map(|(share, _)| share),
            source: reported.map(|(_, source)| source.to_owned()),
        })
    }
}

/// The prefix cache in a run. None: nobody knows what was asked of it.
pub(crate) fn summarise(
    state: Option<&CacheState>,
    parts: &[Part],
    server: &[ServerView],
) -> Option<CacheSummary> {
    let state = state?;
    let mut stages: Vec<CacheView> = parts
        .iter()
        .filter_map(|part| part.stage.counts.cache.view(&part.stage.info.name, server))
        .collect();
    if parts.len() > 1 {
        let mut counts = Counts::default();
        parts.iter().for_each(|part| counts.add(&part.stage.counts));
        stages.extend(counts.cache.view("total", server));
    }
    Some(CacheSummary { asked: state.asked, done: state.done.clone(), stages })
}

impl CacheSummary {
    /// The hits of a stage.
    pub(crate) fn stage(&self, name: &str) -> Option<&CacheView> {
        self.stages.iter().find(|view| view.stage == name)
    }
}

impl CacheView {
    /// Hits that neither the prompts nor templates explain: the cache held something before.
    pub(crate) fn unexplained(&self) -> Option<f64> {
        Some((self.reported? - self.at_most).max(0.0))
    }

    /// Share of the hits to be expected that did not come; none where hardly any were.
    pub(crate) fn missing(&self) -> Option<f64> {
        const HARDLY_ANY: f64 = 0.02;
        let short = (self.at_least - self.reported?).max(0.0);
        Some(if self.at_least > HARDLY_ANY { short / self.at_least } else { 0.0 })
    }
}

/// Share of the prompts' tokens from which on a difference is told: more would move a TTFT.
pub(crate) const UNEXPLAINED: f64 = 0.05;
/// Share of the expected hits from which on it is told that they did not come.
pub(crate) const MISSING: f64 = 0.25;

/// What the reader should know of the cache, with both figures.
pub(crate) fn notes(cache: &CacheSummary, say: &mut impl FnMut(Severity, String)) {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let asked = cache.asked;
    if asked != CacheWish::AsIs && cache.stages.iter().any(|view| view.reported.is_none()) {
        let text = format!(
            "cache: {} was asked for and cannot be checked: the server counts cached tokens neither in its \
             answers nor on a metrics page",
            asked.name()
        );
        say(Severity::Warning, text);
    }
    if asked == CacheWish::Cold
        && let Some((warmer, colder)) = unlike(&cache.stages)
    {
        let text = format!(
            "cache: cold holds for the begin of the run only: {} of the tokens of stage {} were sent before in the \
             run, {} of stage {}'s. Compare stages with this in mind, or measure each as a run of its own",
            percent(warmer.expected),
            warmer.stage,
            percent(colder.expected),
            colder.stage
        );
        say(Severity::Warning, text);
    }
    for view in &cache.stages {
        let Some(reported) = view.reported else { continue };
        let both = format!(
            "stage {}: cache: {}: the server found {} of the prompts' tokens in its prefix cache, the prompts \
             sent explain {}",
            view.stage,
            asked.name(),
            percent(reported),
            percent(view.expected)
        );
        if view.unexplained() > Some(UNEXPLAINED) {
            let grave = if asked == CacheWish::Cold { Severity::Problem } else { Severity::Info };
            say(grave, format!("{both}: it held prompts of before, or others use the server, too"));
        } else if view.missing() > Some(MISSING) {
            let grave = if asked == CacheWish::Warm { Severity::Problem } else { Severity::Info };
            say(
                grave,
                format!(
                    "{both}: it is too small and drops what it held, it is off, or requests went to servers with \
                     caches of their own"
                ),
            );
        }
    }
}

/// The stages whose prompts share the most and the least with what was sent before, if that differs by more
/// than would be told of a server.
fn unlike(stages: &[CacheView]) -> Option<(&CacheView, &CacheView)> {
    let order = |a: &&CacheView, b: &&CacheView| a.expected.total_cmp(&b.expected);
    let (most, least) = (stages.iter().max_by(order)?, stages.iter().min_by(order)?);
    (most.expected - least.expected > UNEXPLAINED).then_some((most, least))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: &[(u32, Option<u32>, &str, Option<u32>)]) -> CacheCounts {
        let mut counts = CacheCounts::default();
        for (input, asked, share, cached) in requests {
            counts.take(&Record {
                input_tokens: Some(*input),
                asked_input_tokens: *asked,
                cached_tokens: *cached,
                labels: [(EXPECTED_CACHED.to_owned(), (*share).to_owned())].into(),
                ..Record::default()
            });
        }
        counts
    }

    #[test]
    fn the_expectation_has_bounds_for_blocks_and_templates() {
        // 256 tokens asked for, 5 of a template.
        let view = counts(&[(261, Some(256), "0.500", Some(128))]).view("s", &[]).unwrap();
        let tokens = |share: f64| (share * 261.0 * 10.0).round() / 10.0;
        assert_eq!(tokens(view.expected), 130.5);
        assert_eq!((tokens(view.at_least), tokens(view.at_most)), (98.5, 151.5));
        assert_eq!((view.unexplained(), view.missing()), (Some(0.0), Some(0.0)));
        // Of a prompt of unknown length the template may be longer, but not than the prompt.
        let view = counts(&[(70, None, "0", None)]).view("s", &[]).unwrap();
        assert_eq!((view.at_most, view.at_least, view.reported), (1.0, 0.0, None));
    }

    #[test]
    fn the_usage_of_answers_goes_before_the_metrics_page() {
        let server = [ServerView {
            stage: "s".to_owned(),
            prefix_cache_hit_rate: Some(0.25),
            ..ServerView::default()
        }];
        let said = |cached: [Option<u32>; 2]| {
            let both = cached.map(|cached| (100, Some(100), "0", cached));
            let view = counts(&both).view("s", &server).unwrap();
            (view.reported.unwrap(), view.source.unwrap())
        };
        // A server that leaves out a count of 0 has still counted.
        assert_eq!(said([None, Some(50)]), (0.25, "usage".to_owned()));
        assert_eq!(said([None, None]), (0.25, "metrics".to_owned()));
        assert_eq!(said([Some(0), Some(0)]), (0.0, "usage".to_owned()));
        assert!(CacheCounts::default().view("s", &server).is_none());
    }

    #[test]
    fn contradictions_are_told_with_both_figures() {
        let told = |asked: CacheWish, expected: f64, reported: Option<f64>| {
            let view = CacheView {
                stage: "s".to_owned(),
                requests: 100,
                expected,
                at_least: expected - 0.05,
                at_most: expected + 0.05,
                reported,
                source: None,
            };
            let done = String::new();
            let mut said = Vec::new();
            notes(&CacheSummary { asked, done, stages: vec![view] }, &mut |severity, text| {
                said.push((severity, text));
            });
            assert!(said.len() < 2, "{said:?}");
            said.pop()
        };
        use CacheWish::{AsIs, Cold, Warm};
        let check = |asked, expected, reported, severity: Option<Severity>| {
            let said = told(asked, expected, Some(reported));
            assert_eq!(said.as_ref().map(|said| said.0), severity, "{said:?}");
            let both = [format!("{:.1} %", reported * 100.0), format!("{:.1} %", expected * 100.0)];
            assert!(said.is_none_or(|said| both.iter().all(|figure| said.1.contains(figure))));
        };
        check(Cold, 0.5, 0.5, None);
        check(Cold, 0.5, 0.59, None);
        check(Cold, 0.5, 0.9, Some(Severity::Problem));
        check(Cold, 0.6, 0.1, Some(Severity::Info));
        check(Warm, 0.5, 0.9, Some(Severity::Info));
        check(Warm, 0.6, 0.1, Some(Severity::Problem));
        check(AsIs, 0.5, 0.9, Some(Severity::Info));
        check(AsIs, 0.6, 0.1, Some(Severity::Info));
        assert_eq!(told(Cold, 0.5, None).unwrap().0, Severity::Warning);
        assert_eq!(told(AsIs, 0.5, None), None);
    }

    #[test]
    fn stages_of_a_cold_run_that_begin_with_another_cache_are_told_apart() {
        let told = |asked: CacheWish, shares: [f64; 2]| {
            let stage = |(name, share): (&str, f64)| {
                let (text, cached) = (share.to_string(), (share * 100.0) as u32);
                counts(&[(100, Some(100), &*text, Some(cached)); 2]).view(name, &[]).unwrap()
            };
            let stages = ["slow", "fast"].into_iter().zip(shares).map(stage).collect();
            let mut said = Vec::new();
            notes(&CacheSummary { asked, done: String::new(), stages }, &mut |severity, text| {
                said.push((severity, text));
            });
            said
        };
        let said = told(CacheWish::Cold, [0.1, 0.75]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].0, Severity::Warning);
        for part in ["75.0 % of the tokens of stage fast", "10.0 % of stage slow's"] {
            assert!(said[0].1.contains(part), "{said:?}");
        }
        assert_eq!(told(CacheWish::Cold, [0.5, 0.54]), []);
        assert_eq!(told(CacheWish::AsIs, [0.1, 0.75]), []);
    }
}
