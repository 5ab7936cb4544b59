//! [`Note`]: what the reader of a report should know, and the notes that the records themselves
//! give rise to: token accounting, a file that was cut, a server that could not keep up.

use crate::analysis::Options;
use crate::cache::{self, CacheSummary};
use crate::collector::{Counts, Run};
use crate::server::{QUANTITIES, ServerView};
use crate::summarise::Part;
use crate::summary::StageSummary;
use records::EndReason;
use serde::{Deserialize, Serialize};

/// Something that the reader should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// How grave it is.
    pub severity: Severity,
    /// Who says so: a plugin's name, or "analysis".
    pub source: String,
    /// What it is.
    pub text: String,
}

/// How grave a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// The result may mislead.
    Warning,
    /// The result is not to be trusted, or an objective was missed.
    Problem,
}

impl Severity {
    /// Its name in files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// The caller's notes and those of the records, the gravest first.
pub(crate) fn collect(
    run: &Run,
    parts: &[Part],
    total: &StageSummary,
    server: &[ServerView],
    cache: Option<&CacheSummary>,
    options: &Options,
) -> Vec<Note> {
    let mut notes = options.notes.clone();
    notes.extend(options.plugins.iter().flat_map(|found| found.results.notes()));
    let mut say = |severity, text: String| {
        notes.push(Note { severity, source: "analysis".to_owned(), text });
    };
    course(run, options, &mut say);
    load(total, &mut say);
    let mut counts = Counts::default();
    parts.iter().for_each(|part| counts.add(&part.stage.counts));
    tokens(&counts, total.succeeded, &mut say);
    set_back(server, &mut say);
    if let Some(cache) = cache {
        cache::notes(cache, &mut say);
    }
    notes.sort_by_key(|note| std::cmp::Reverse(note.severity));
    notes
}

/// How the run went.
fn course(run: &Run, options: &Options, say: &mut impl FnMut(Severity, String)) {
    let because = |message: &str| match message {
        "" => String::new(),
        message => format!(": {message}"),
    };
    match &run.end {
        Some((EndReason::Completed, _)) => {}
        Some((EndReason::Interrupted, message)) => say(
            Severity::Warning,
            format!(
                "the run was interrupted{}; these are its results up to there",
                because(message)
            ),
        ),
        Some((EndReason::Aborted, message)) => say(
            Severity::Problem,
            format!("the run was aborted{}; these are its results up to there", because(message)),
        ),
        Some((EndReason::PluginFailed, message)) => say(
            Severity::Problem,
            format!("a plugin failed{}; these are the results up to there", because(message)),
        ),
        None => {
            let under_way = run.samples.last().map_or_else(String::new, |sample| {
                format!(
                    "; at {:.1} s, when the load generator last looked, {} requests were under way, \
                     and those that had not ended are not counted",
                    sample.at as f64 / 1e9,
                    sample.in_flight
                )
            });
            let text = "the records stop without an end: the run was killed, or is still going on";
            say(Severity::Problem, format!("{text}{under_way}"));
        }
    }
    if options.truncated {
        let text = "the records end in the middle of a line, which was left out";
        say(Severity::Warning, text.to_owned());
    }
}

/// What became of the requests.
fn load(total: &StageSummary, say: &mut impl FnMut(Severity, String)) {
    if total.excluded > 0 {
        let text = format!("{} warm-up requests were sent and left out", total.excluded);
        say(Severity::Info, text);
    }
    if let Some(cancelled) = total.errors.get("cancelled") {
        let text =
            format!("{cancelled} requests had not ended and were broken off; they count as failed");
        say(Severity::Warning, text);
    }
}

/// Counts of the server that went back.
fn set_back(server: &[ServerView], say: &mut impl FnMut(Severity, String)) {
    let views = || server.iter().filter(|view| !view.set_back.is_empty());
    let stages: Vec<&str> = views().map(|view| view.stage.as_str()).collect();
    let is_set_back = |name: &str| views().any(|view| view.set_back.iter().any(|n| n == name));
    let counts: Vec<&str> =
        QUANTITIES.iter().filter(|q| is_set_back(q.name)).map(|q| q.title).collect();
    if let Some((last, rest)) = stages.split_last() {
        let stages = match rest {
            [] => (*last).to_owned(),
            rest => format!("{} and {last}", rest.join(", ")),
        };
        let text = format!(
            "the server's own counts went back from one reading to the next ({}), and are left out in \
             {stages}: it was started anew, or several servers answer in turn behind the address of its \
             metrics page; name the page of each with --metrics",
            counts.join(", ")
        );
        say(Severity::Warning, text);
    }
}

/// Whether tokens are what they seem.
fn tokens(counts: &Counts, succeeded: u64, say: &mut impl FnMut(Severity, String)) {
    let [n, asked, got] = counts.asked_input;
    if asked > 0 {
        let deviation = (got as f64 / asked as f64 - 1.0) * 100.0;
        let grave = if deviation.abs() > 2.0 { Severity::Warning } else { Severity::Info };
        let mean = |sum: u64| sum as f64 / n as f64;
        say(
            grave,
            format!(
                "prompts were meant to have {:.1} tokens and had {:.1} on average ({deviation:+.1} %)",
                mean(asked),
                mean(got)
            ),
        );
    }
    let [n, reached] = counts.asked_output;
    if n > 0 {
        let share = reached as f64 / n as f64 * 100.0;
        say(Severity::Info, format!("{share:.1} % of the answers had all tokens asked for"));
    }
    let (tokenizer, nobody) = (counts.tokenizer, counts.nobody);
    if tokenizer > 0 {
        let text = format!(
            "the server did not report the tokens of {tokenizer} of {succeeded} answers; the \
             tokenizer counted them"
        );
        say(Severity::Warning, text);
    }
    if nobody > 0 {
        let text = format!(
            "nobody counted the tokens of {nobody} of {succeeded} answers: they are missing from \
             everything per token"
        );
        say(Severity::Warning, text);
    }
    if counts.uncounted > 0 {
        say(
            Severity::Warning,
            format!(
                "{} answers have another number of output tokens than of chunks, and the server \
                 did not count tokens chunk by chunk: their ITL is that of chunks",
                counts.uncounted
            ),
        );
    }
    if counts.several > 0 {
        let share = counts.several as f64 / counts.chunks as f64 * 100.0;
        let mut text = format!(
            "{} of {} chunks ({share:.1} %) carried several tokens",
            counts.several, counts.chunks
        );
        if counts.several_first > 0 {
            text.push_str(
                "; where several came with the first chunk, TPOT counts them and ITL has no gap \
                 for them, so that the two differ",
            );
        }
        say(Severity::Info, text);
    }
    if counts.one_chunk > 0 {
        let text = format!(
            "{} answers of several tokens came in one chunk: they have no TPOT and no ITL",
            counts.one_chunk
        );
        say(Severity::Warning, text);
    }
    if counts.retries > 0 {
        let text = format!(
            "{} requests were sent again because the server had closed a kept connection",
            counts.retries
        );
        say(Severity::Info, text);
    }
}
