//! The first pass over a trace: how much it asks, how fast, and how much of it a perfect prefix cache
//! would save.

use crate::replay::{blocks, mix};
use crate::rows::Asked;
use crate::settings::{Format, Settings, TimeUnit};
use crate::stream::{Picked, Reason, Stream};
use crate::time::Unit;
use llmdbench_plugin::workload::Size;
use llmdbench_plugin::{Error, label};
use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;

/// Requests per second below which a server is hardly ever busy: one in ten seconds.
const SPARSE: f64 = 0.1;

/// Requests that make the head of a trace.
const HEAD: u64 = 100;

/// How much slower than the whole a head is that misleads.
const SLOW_HEAD: f64 = 5.0;

/// What is in a trace.
#[derive(Debug)]
pub(crate) struct Survey {
    format: Format,
    unit: Unit,
    /// Requests that are sent.
    pub(crate) sent: u64,
    input: u64,
    /// None: not all rows say it.
    output: Option<u64>,
    /// Time of the last request after the first one, in nanoseconds.
    span: u64,
    /// Time of the last request of the head.
    head: Option<u64>,
    left_out: BTreeMap<Reason, u64>,
    reuse: Reuse,
    /// Some times have parts of a millisecond, though nobody said what they count.
    fractions: bool,
}

impl Survey {
    /// Reads a trace to its end, or that of the window.
    ///
    /// # Errors
    /// When it cannot be read or holds nothing that can be sent.
    pub(crate) fn of(source: impl BufRead, settings: &Settings) -> Result<Self, Error> {
        let mut stream = Stream::new(source, settings)?;
        let mut survey = Self {
            format: stream.format(),
            unit: stream.unit(),
            sent: 0,
            input: 0,
            output: Some(0),
            span: 0,
            head: None,
            left_out: BTreeMap::new(),
            reuse: Reuse::default(),
            fractions: false,
        };
        let guessed = settings.time_unit == TimeUnit::Auto && survey.unit == Unit::Ms;
        while let Some(picked) = stream.next()? {
            match picked {
                Picked::LeftOut(reason) => *survey.left_out.entry(reason).or_default() += 1,
                Picked::Sent(due, row) => {
                    survey.sent += 1;
                    survey.input += u64::from(row.input);
                    survey.output =
                        survey.output.zip(row.output).map(|(sum, more)| sum + u64::from(more));
                    survey.span = due;
                    if survey.sent == HEAD {
                        survey.head = Some(due);
                    }
                    survey.fractions |= guessed && due % Unit::Ms.nanos().unsigned_abs() != 0;
                    if let Asked::Blocks(ids) = &row.asked {
                        survey.reuse.add(ids, row.input, settings.block_tokens);
                    }
                }
            }
        }
        if survey.sent == 0 {
            return Err(survey.nothing(settings));
        }
        Ok(survey)
    }

    /// How much is asked in a stage.
    pub(crate) fn size(&self) -> Size {
        let mean = |tokens: u64| tokens as f64 / self.sent as f64;
        Size {
            sessions: Some(self.sent),
            requests: Some(self.sent),
            mean_input_tokens: Some(mean(self.input)),
            mean_output_tokens: self.output.map(mean),
            skipped: self
                .left_out
                .iter()
                .map(|(reason, count)| label(reason.to_string(), count.to_string()))
                .collect(),
        }
    }

    /// What a reader of the plan wants to know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let pace = match self.rate() {
            Some(rate) => {
                format!("{} in {} s = {}/s", grouped(self.sent), seconds(self.span), digits(rate))
            }
            None => format!("{} at once", grouped(self.sent)),
        };
        let about = if self.format == Format::Messages { "about " } else { "" };
        let output = match self.output {
            Some(tokens) => format!("{} output tokens", grouped(tokens)),
            None => "an unknown number of output tokens".to_owned(),
        };
        let times = match self.format {
            // They have dates.
            Format::Azure => String::new(),
            _ => format!(", numeric times in {}", self.unit.name()),
        };
        let mut notes = vec![format!(
            "{}{times}: {pace} as recorded, with {about}{} input and {output}",
            self.format.title(),
            grouped(self.input),
        )];
        if !self.reuse.longest.is_empty() {
            notes.push(format!(
                "best possible prefix reuse: {}{} of {} tokens = {:.1} %",
                if self.reuse.is_full { "at least " } else { "" },
                grouped(self.reuse.tokens),
                grouped(self.input),
                100.0 * self.reuse.tokens as f64 / self.input as f64
            ));
        }
        notes
    }

    /// Why the result may not be what the user thinks.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.fractions {
            warnings.push(
                "times have parts of a millisecond, and are taken for milliseconds: should they be \
                 seconds, set `time_unit: s`"
                    .to_owned(),
            );
        }
        warnings.extend(self.sparse());
        warnings
    }

    /// Requests per second as recorded. None: all of them at once.
    fn rate(&self) -> Option<f64> {
        (self.span > 0).then(|| self.sent as f64 / (self.span as f64 / 1e9))
    }

    /// A trace, or its head, that offers so little load that every system looks equal.
    fn sparse(&self) -> Option<String> {
        const ADVICE: &str = "choose a busier part by `window`, or raise the stage's `speed`";
        let rate = self.rate()?;
        if rate < SPARSE {
            return Some(format!(
                "the trace is very sparse: {} requests/s leave a server idle, and every system looks \
                 equal; {ADVICE}",
                digits(rate)
            ));
        }
        let head = HEAD as f64 / (self.head? as f64 / 1e9);
        (head * SLOW_HEAD < rate).then(|| {
            format!(
                "the trace starts very sparsely: its first {HEAD} requests come at {}/s, all of them \
                 at {}/s, and a run over the start alone says little; {ADVICE}",
                digits(head),
                digits(rate)
            )
        })
    }

    fn nothing(&self, settings: &Settings) -> Error {
        let reasons: Vec<String> =
            self.left_out.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let error = match (reasons.is_empty(), settings.window.from.nanos()) {
            (false, _) => Error::invalid_data(format!(
                "none of the requests can be sent: {}",
                reasons.join(", ")
            ))
            .hint("use another trace, another `window`, or higher limits"),
            (true, 0) => Error::invalid_data("the file holds no request")
                .hint("below the first line, which names the columns, there should be rows"),
            (true, _) => {
                return Error::invalid_settings("no request of the trace lies in the window")
                    .at("/window")
                    .hint(match settings.time_unit {
                        TimeUnit::Auto => format!(
                            "numeric times are taken for {}: choose an earlier window, or set `time_unit`",
                            self.unit.name()
                        ),
                        TimeUnit::Given(_) => "choose an earlier window".to_owned(),
                    });
            }
        };
        error.at("/file")
    }
}

/// Which tokens of prompts were in an earlier prompt, at the same place after the same beginning:
/// what a prefix cache of any size and with blocks of any size can save at best.
#[derive(Debug, Default)]
pub(crate) struct Reuse {
    /// By a hash of a block and all before it: the most tokens of the block that were seen.
    longest: HashMap<u64, u32>,
    tokens: u64,
    /// Further blocks are not remembered, and what is counted is a lower bound.
    is_full: bool,
}

impl Reuse {
    /// Blocks that are remembered: about 40 MiB.
    const MOST: usize = 1_800_000;

    fn add(&mut self, ids: &[u64], input: u32, block: u32) {
        let mut beginning = 0;
        let mut is_shared = true;
        for (id, tokens) in blocks(ids, input, block) {
            // What has no id is like nothing else.
            let Some(id) = id else { return };
            beginning = mix(beginning, id);
            let is_full = self.longest.len() >= Self::MOST;
            let seen = match self.longest.get_mut(&beginning) {
                Some(longest) => {
                    let seen = *longest;
                    *longest = seen.max(tokens);
                    seen
                }
                None if is_full => {
                    self.is_full = true;
                    return;
                }
                None => {
                    self.longest.insert(beginning, tokens);
                    0
                }
            };
            if is_shared {
                self.tokens += u64::from(seen.min(tokens));
                is_shared = seen >= tokens;
            }
        }
    }
}

/// "3,748".
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Seconds: to the millisecond, or three digits of what is less than one.
fn seconds(nanos: u64) -> String {
    let seconds = nanos as f64 / 1e9;
    if seconds < 1.0 { digits(seconds) } else { without_zeros(format!("{seconds:.3}")) }
}

/// Three digits that count: "0.0195", "1.5", "418".
fn digits(number: f64) -> String {
    let behind = (2 - number.log10().floor() as i32).clamp(0, 9) as usize;
    without_zeros(format!("{number:.behind$}"))
}

/// A number without the zeros at its end that say nothing.
fn without_zeros(number: String) -> String {
    if !number.contains('.') {
        return number;
    }
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
