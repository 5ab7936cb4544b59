//! Writing and reading a records file.

use crate::{Entry, Event, Header, Record, VersionError, quick};
use serde::Deserialize;
use std::io::{self, BufRead, Write};

/// Appends entries to a records file.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Starts a file with its header.
    pub fn new(mut out: W, header: &Header) -> io::Result<Self> {
        write_line(&mut out, header)?;
        out.flush()?;
        Ok(Self { out })
    }

    /// Appends a request's record.
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        write_line(&mut self.out, record)
    }

    /// Appends an event.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        write_line(&mut self.out, event)
    }

    /// What it wrote to.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Hands everything to the operating system, so that it survives this process.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_line<W: Write>(out: &mut W, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Why a records file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system failed.
    #[error("failed to read: {0}")]
    Io(#[from] io::Error),
    /// There is no whole first line.
    #[error("the file has no header: it is empty, or was cut off in its first line")]
    Empty,
    /// A line is not what it should be. The last line of a file may be cut off; this is another.
    #[error("line {line}: {source}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Another format or a newer version.
    #[error(transparent)]
    Version(#[from] VersionError),
}

/// Reads a records file, entry by entry.
///
/// A last line without its line end is left out: the writer was killed in the middle of it.
/// [`Reader::truncated`] says so.
#[derive(Debug)]
pub struct Reader<R> {
    header: Header,
    input: R,
    buffer: Vec<u8>,
    line: u64,
    truncated: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header and checks its version.
    pub fn new(mut input: R) -> Result<Self, ReadError> {
        let mut buffer = Vec::new();
        input.read_until(b'\n', &mut buffer)?;
        if buffer.pop() != Some(b'\n') {
            return Err(ReadError::Empty);
        }
        let at_line_1 = |source| ReadError::Line { line: 1, source };
        let value: serde_json::Value = serde_json::from_slice(&buffer).map_err(at_line_1)?;
        // The version is judged before the rest, which a newer major may have changed.
        let text = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or("").to_owned();
        let probe = Header {
            format: text("format"),
            version: text("version"),
            run: String::new(),
            started: String::new(),
            clock: String::new(),
            model: String::new(),
            endpoint: String::new(),
            seed: 0,
            stages: Vec::new(),
            slo: std::collections::BTreeMap::new(),
        };
        probe.check()?;
        let header = Header::deserialize(value).map_err(at_line_1)?;
        Ok(Self { header, input, buffer, line: 1, truncated: false })
    }

    /// The file's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether the file ended in the middle of a line. Known once the last entry was read.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// The number of the line that was read last, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The next entry. None: the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        loop {
            self.buffer.clear();
            if self.input.read_until(b'\n', &mut self.buffer)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.pop() != Some(b'\n') {
                self.truncated = true;
                return Ok(None);
            }
            if self.buffer.is_empty() {
                continue;
            }
            let at_line = |source| ReadError::Line { line: self.line, source };
            if self.buffer.starts_with(b"{\"event\"") {
                match serde_json::from_slice(&self.buffer) {
                    Ok(event) => return Ok(Some(Entry::Event(event))),
                    // A newer minor version may know more events than this reader.
                    Err(source) if is_unknown_event(&self.buffer) => drop(source),
                    Err(source) => return Err(at_line(source)),
                }
            } else {
                let record = match quick::record(&self.buffer) {
                    Some(record) => record,
                    None => serde_json::from_slice(&self.buffer).map_err(at_line)?,
                };
                return Ok(Some(Entry::Record(Box::new(record))));
            }
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}

fn is_unknown_event(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Name {
        event: String,
    }
    let known = ["stage", "client", "astray", "broke_down", "end"];
    serde_json::from_slice::<Name>(line).is_ok_and(|name| !known.contains(&name.event.as_str()))
}
