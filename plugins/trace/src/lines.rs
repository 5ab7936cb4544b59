//! The lines of a file with their numbers, one at a time, so that memory does not grow with the file.

use llmdbench_plugin::Error;
use std::io::{BufRead, Read};

/// The longest line in bytes; a longer one is no row of a trace.
const LONGEST: u64 = 16 << 20;

/// A file that is read line by line.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    source: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, line: Vec::new(), number: 0 }
    }

    /// The number, from 1, and the words of the next line that is not empty, white space around it
    /// left out. None: the end.
    ///
    /// # Errors
    /// When the file cannot be read, or is no text.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &str)>, Error> {
        loop {
            self.line.clear();
            self.number += 1;
            let mut source = self.source.by_ref().take(LONGEST + 1);
            if source.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            if self.line.len() as u64 > LONGEST {
                return Err(self.unusable(format!("is longer than {} MiB", LONGEST >> 20)));
            }
            // Some programs write the mark of UTF-8 in front.
            if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3);
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        match str::from_utf8(&self.line) {
            Ok(line) => Ok(Some((self.number, line.trim_ascii()))),
            Err(_) => Err(self.unusable("is no text in UTF-8".to_owned())),
        }
    }

    fn unusable(&self, problem: String) -> Error {
        Error::invalid_data(format!("line {} {problem}", self.number))
            .at("/file")
            .hint("wanted: a text file with a row in each line, plain or compressed (.gz, .zst)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn lines(file: &[u8]) -> Result<Vec<(u64, String)>, Error> {
        let mut lines = Lines::new(BufReader::with_capacity(5, file));
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next()? {
            found.push((number, line.to_owned()));
        }
        Ok(found)
    }

    #[test]
    fn lines_keep_their_numbers_whatever_ends_them() {
        for file in ["a,b\n\n  1,2 \n", "\u{feff}a,b\r\n\r\n1,2", "a,b\n \n1,2\r\n\n"] {
            let found = lines(file.as_bytes()).unwrap();
            assert_eq!(found, [(1, "a,b".to_owned()), (3, "1,2".to_owned())], "{file:?}");
        }
        assert!(lines(b"").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_text_is_refused_by_its_line() {
        let error = lines(b"a\n\xff\xfe\n").unwrap_err();
        assert_eq!(error.message, "line 2 is no text in UTF-8");
        let error = lines(&vec![b'x'; LONGEST as usize + 2]).unwrap_err();
        assert_eq!(error.message, "line 1 is longer than 16 MiB");
    }
}
