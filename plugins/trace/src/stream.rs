//! The requests of a trace that are sent: those of the window that can be sent and are not too long,
//! up to the limit.

use crate::order::InOrder;
use crate::rows::{Row, Rows};
use crate::settings::{Format, Settings};
use crate::time::Unit;
use llmdbench_plugin::Error;
use std::fmt;
use std::io::BufRead;

/// Why a row is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// It failed when it was recorded; no server takes a request for no token.
    NoAnswer,
    NoPrompt,
    LongPrompt,
    LongAnswer,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAnswer => "no answer at the source",
            Self::NoPrompt => "no prompt at the source",
            Self::LongPrompt => "longer prompt than max_input_tokens",
            Self::LongAnswer => "longer answer than max_output_tokens",
        })
    }
}

/// A row of the window.
#[derive(Debug, PartialEq)]
pub(crate) enum Picked {
    /// It is sent, so many nanoseconds after the first one.
    Sent(u64, Row),
    LeftOut(Reason),
}

/// The rows of the window, in order of time.
#[derive(Debug)]
pub(crate) struct Stream<R> {
    rows: InOrder<R>,
    format: Format,
    unit: Unit,
    from: u64,
    to: u64,
    limit: u64,
    longest_input: u32,
    longest_output: u32,
    /// Time of the trace's first row.
    start: Option<i64>,
    /// Time of the first row that is sent.
    first: Option<i64>,
    sent: u64,
}

impl<R: BufRead> Stream<R> {
    /// A stream from the start of the trace.
    ///
    /// # Errors
    /// When the file is no trace.
    pub(crate) fn new(source: R, settings: &Settings) -> Result<Self, Error> {
        let rows = Rows::new(source, settings)?;
        Ok(Self {
            format: rows.format(),
            unit: rows.unit(),
            rows: InOrder::new(rows),
            from: settings.window.from.nanos(),
            to: settings.window.to.map_or(u64::MAX, u64::from),
            limit: settings.limit.unwrap_or(u64::MAX),
            longest_input: settings.max_input_tokens.unwrap_or(u32::MAX),
            longest_output: settings.max_output_tokens.unwrap_or(u32::MAX),
            start: None,
            first: None,
            sent: 0,
        })
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn unit(&self) -> Unit {
        self.unit
    }

    /// The next row of the window. None: the end of the window or the trace, or the limit.
    ///
    /// # Errors
    /// When a line is no row, or stands too far from its place.
    pub(crate) fn next(&mut self) -> Result<Option<Picked>, Error> {
        if self.sent == self.limit {
            return Ok(None);
        }
        while let Some(row) = self.rows.next()? {
            let at = row.time.abs_diff(*self.start.get_or_insert(row.time));
            if at >= self.to {
                return Ok(None);
            }
            if at < self.from {
                continue;
            }
            if let Some(reason) = self.refuse(&row) {
                return Ok(Some(Picked::LeftOut(reason)));
            }
            self.sent += 1;
            let due = row.time.abs_diff(*self.first.get_or_insert(row.time));
            return Ok(Some(Picked::Sent(due, row)));
        }
        Ok(None)
    }

    fn refuse(&self, row: &Row) -> Option<Reason> {
        let output = row.output.unwrap_or(1);
        [
            (output == 0, Reason::NoAnswer),
            (row.input == 0, Reason::NoPrompt),
            (row.input > self.longest_input, Reason::LongPrompt),
            (output > self.longest_output, Reason::LongAnswer),
        ]
        .into_iter()
        .find_map(|(applies, reason)| applies.then_some(reason))
    }
}
