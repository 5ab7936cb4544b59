//! The rows of a file in the order of the file, whatever its format.

use crate::csv::Columns;
use crate::lines::Lines;
use crate::settings::{Choice, Format, Settings, TimeUnit};
use crate::time::{self, Unit};
use crate::{csv, json};
use llmdbench_plugin::Error;
use llmdbench_plugin::requests::Message;
use std::io::BufRead;

/// Longest prompt or answer, in tokens: more than any model takes.
const MOST_TOKENS: u32 = 10_000_000;

/// A recorded request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Line in the file, from 1.
    pub(crate) line: u64,
    /// When, in nanoseconds from any origin.
    pub(crate) time: i64,
    /// Tokens of the prompt.
    pub(crate) input: u32,
    /// Tokens of the answer. None: not recorded.
    pub(crate) output: Option<u32>,
    pub(crate) asked: Asked,
}

/// What is known of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    /// Its length alone.
    Length,
    /// Its length and which blocks it consists of.
    Blocks(Vec<u64>),
    Text(String),
    Messages(Vec<Message>),
}

/// The rows of a file.
#[derive(Debug)]
pub(crate) struct Rows<R> {
    lines: Lines<R>,
    format: Format,
    unit: Unit,
    block: u32,
    /// Where the columns stand, in CSV.
    columns: Option<Columns>,
    /// The first row, which was read to learn the format.
    first: Option<(u64, String)>,
}

impl<R: BufRead> Rows<R> {
    /// Learns the format from the settings or the first line.
    ///
    /// # Errors
    /// When the file is empty, or has another format.
    pub(crate) fn new(source: R, settings: &Settings) -> Result<Self, Error> {
        let mut lines = Lines::new(source);
        let Some((number, line)) = lines.next()? else {
            return Err(Error::invalid_data("the file is empty").at("/file").hint(WANTED));
        };
        let format = match settings.format {
            Choice::Given(format) => format,
            Choice::Auto => json::format(line).or_else(|| csv::format(line)).ok_or_else(|| {
                Error::invalid_data(format!(
                    "line {number} is of none of the formats that are known: {:?}",
                    beginning(line)
                ))
                .at("/file")
                .hint(WANTED)
            })?,
        };
        let columns = match format {
            Format::Mooncake | Format::Messages => None,
            Format::Burstgpt | Format::Azure => {
                Some(Columns::find(line, format).map_err(|problem| bad(number, &problem, format))?)
            }
        };
        let unit = match settings.time_unit {
            TimeUnit::Given(unit) => unit,
            TimeUnit::Auto => format.unit(),
        };
        let first = columns.is_none().then(|| (number, line.to_owned()));
        Ok(Self { lines, format, unit, block: settings.block_tokens, columns, first })
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn unit(&self) -> Unit {
        self.unit
    }

    /// The next row and the bytes it has in the file. None: the end.
    ///
    /// # Errors
    /// When a line is no row; says which and why.
    pub(crate) fn next(&mut self) -> Result<Option<(Row, usize)>, Error> {
        let first = self.first.take();
        let (number, line) = match &first {
            Some((number, line)) => (*number, line.as_str()),
            None => match self.lines.next()? {
                Some(line) => line,
                None => return Ok(None),
            },
        };
        let row = match (&self.columns, self.format) {
            (Some(columns), _) => columns.read(line),
            (None, Format::Messages) => json::message(line),
            (None, _) => json::mooncake(line, self.block),
        };
        let row = row.and_then(|fields| fields.into_row(number, self.unit));
        match row {
            Ok(row) => Ok(Some((row, line.len()))),
            Err(problem) => Err(bad(number, &problem, self.format)),
        }
    }
}

/// What a line says, before its time is understood.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) time: &'a str,
    pub(crate) input: u32,
    pub(crate) output: Option<u32>,
    pub(crate) asked: Asked,
}

impl Fields<'_> {
    fn into_row(self, line: u64, unit: Unit) -> Result<Row, String> {
        let time = time::parse(self.time, unit).ok_or_else(|| {
            format!("{:?} is no time: a number of {} or a date", beginning(self.time), unit.name())
        })?;
        for (what, tokens) in [("prompt", self.input), ("answer", self.output.unwrap_or(0))] {
            if tokens > MOST_TOKENS {
                return Err(format!("a {what} of {tokens} tokens is longer than any model takes"));
            }
        }
        Ok(Row { line, time, input: self.input, output: self.output, asked: self.asked })
    }
}

/// As much of a text as fits into an error.
pub(crate) fn beginning(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { short + "..." } else { short }
}

const WANTED: &str = "wanted: JSON Lines with `timestamp` and `input_length` (Mooncake) or `messages`, or CSV \
     whose first line names `Timestamp`, `Request tokens` and `Response tokens` (BurstGPT) or \
     `TIMESTAMP`, `ContextTokens` and `GeneratedTokens` (Azure)";

fn bad(line: u64, problem: &str, format: Format) -> Error {
    let wanted = match format {
        Format::Mooncake => {
            r#"{"timestamp": 3000, "input_length": 600, "output_length": 40, "hash_ids": [0, 4]}"#
        }
        Format::Burstgpt => {
            "7,ChatGPT,400,20,420,API log below Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
        }
        Format::Azure => {
            "2023-11-16 18:15:46.6805900,374,44 below TIMESTAMP,ContextTokens,GeneratedTokens"
        }
        Format::Messages => {
            r#"{"timestamp": 3000, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40}"#
        }
    };
    Error::invalid_data(format!("line {line}: {problem}"))
        .at("/file")
        .hint(format!("wanted ({}): {wanted}", format.title()))
}
