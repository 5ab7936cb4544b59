//! Rows in order of time, with little memory: a window moves over the file, within which rows may
//! stand in any order. Rows of the same time keep the order of the file.

use crate::rows::{Row, Rows};
use llmdbench_plugin::Error;
use std::collections::VecDeque;
use std::io::BufRead;

/// Rows of the window.
const ROWS: usize = 4096;

/// Bytes of the file in the window, for rows of whole conversations.
const BYTES: usize = 16 << 20;

/// The rows of a file, in order of time.
#[derive(Debug)]
pub(crate) struct InOrder<R> {
    rows: Rows<R>,
    /// Read and not given yet, in order, each with its bytes.
    window: VecDeque<(Row, usize)>,
    bytes: usize,
    /// Time and line of the last row given.
    last: Option<(i64, u64)>,
}

impl<R: BufRead> InOrder<R> {
    pub(crate) fn new(rows: Rows<R>) -> Self {
        Self { rows, window: VecDeque::new(), bytes: 0, last: None }
    }

    /// The next row. None: the end.
    ///
    /// # Errors
    /// When a line is no row, or stands too far from its place.
    pub(crate) fn next(&mut self) -> Result<Option<Row>, Error> {
        while self.window.len() < ROWS && self.bytes < BYTES {
            let Some((row, bytes)) = self.rows.next()? else { break };
            self.insert(row, bytes)?;
        }
        let Some((row, bytes)) = self.window.pop_front() else { return Ok(None) };
        self.bytes -= bytes;
        self.last = Some((row.time, row.line));
        Ok(Some(row))
    }

    fn insert(&mut self, row: Row, bytes: usize) -> Result<(), Error> {
        if let Some((_, line)) = self.last.filter(|(last, _)| row.time < *last) {
            return Err(Error::invalid_data(format!(
                "line {} has an earlier time than line {line}, {} lines before it",
                row.line,
                row.line.abs_diff(line)
            ))
            .at("/file")
            .hint(format!(
                "rows may stand in any order within {ROWS} rows or {} MiB: sort the file by its times",
                BYTES >> 20
            )));
        }
        self.bytes += bytes;
        // Nearly all rows come in order.
        let is_latest = self.window.back().is_none_or(|(back, _)| back.time <= row.time);
        if is_latest {
            self.window.push_back((row, bytes));
        } else {
            let place = self.window.partition_point(|(other, _)| other.time <= row.time);
            self.window.insert(place, (row, bytes));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    /// Lines and times of a file with these times.
    fn ordered(times: impl IntoIterator<Item = u64>) -> Result<Vec<(u64, i64)>, Error> {
        let mut file = String::from("TIMESTAMP,ContextTokens,GeneratedTokens\n");
        for time in times {
            writeln!(file, "{time},1,1").unwrap();
        }
        let settings = serde_json::from_str(r#"{"file": "data", "time_unit": "ns"}"#).unwrap();
        let mut rows = InOrder::new(Rows::new(file.as_bytes(), &settings)?);
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            assert!(rows.window.len() <= ROWS);
            found.push((row.line, row.time));
        }
        Ok(found)
    }

    #[test]
    fn rows_come_in_order_of_time_and_ties_in_that_of_the_file() {
        assert_eq!(
            ordered([5, 3, 9, 3, 5, 1]).unwrap(),
            [(7, 1), (3, 3), (5, 3), (2, 5), (6, 5), (4, 9)]
        );
    }

    #[test]
    fn disorder_within_the_window_is_no_matter_of_length() {
        let count = 3 * ROWS as u64;
        // Each row changes places with one that is nearly a window away.
        let far = ROWS as u64 - 2;
        let times = (0..count).map(|i| if i % far == 0 { i + far - 1 } else { i - 1 });
        let found = ordered(times).unwrap();
        assert_eq!(found.len() as u64, count);
        assert!(found.is_sorted_by_key(|(_, time)| *time));
    }

    #[test]
    fn a_row_too_far_from_its_place_is_refused_by_its_line() {
        let count = ROWS as u64 + 1;
        let error = ordered((10..10 + count).chain([3])).unwrap_err();
        assert_eq!(
            error.message,
            "line 4099 has an earlier time than line 3, 4096 lines before it"
        );
        assert!(error.hint.unwrap().contains("sort the file"));
    }
}
