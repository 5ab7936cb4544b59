//! Reading server-sent events: counted, or parsed with a time for each token.

use crate::clock::now;
use anyhow::{Context, Result};
use memchr::memmem;

/// How much is done with events.
#[derive(Clone, Copy, PartialEq)]
pub enum Parse {
    /// Their ends are counted.
    Count,
    /// Each is parsed as JSON, and the times of those with text are kept.
    Full,
}

/// One answer, as far as it has come.
pub struct Stream {
    parse: Parse,
    /// Bytes after the last end of an event.
    rest: Vec<u8>,
    pub events: u64,
    /// When the first and the last event came, or those with text where events are parsed.
    pub first: Option<u64>,
    pub last: Option<u64>,
    pub tokens: Vec<u64>,
}

impl Stream {
    pub fn new(parse: Parse) -> Self {
        Self { parse, rest: Vec::new(), events: 0, first: None, last: None, tokens: Vec::new() }
    }

    /// Takes the next bytes, which have just come.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        let at = now();
        match self.parse {
            Parse::Count => self.count(bytes, at),
            Parse::Full => self.parse(bytes, at)?,
        }
        Ok(())
    }

    fn count(&mut self, bytes: &[u8], at: u64) {
        // An end that is split between two reads.
        if self.rest == b"\n" && bytes.first() == Some(&b'\n') {
            self.events += 1;
        }
        self.events += memmem::find_iter(bytes, b"\n\n").count() as u64;
        self.rest.clear();
        if bytes.ends_with(b"\n") && !bytes.ends_with(b"\n\n") {
            self.rest.push(b'\n');
        }
        self.first.get_or_insert(at);
        self.last = Some(at);
    }

    fn parse(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(length) = memmem::find(&rest[from..], b"\n\n") {
            self.event(&rest[from..from + length], at)?;
            from += length + 2;
        }
        rest.drain(..from);
        self.rest = rest;
        Ok(())
    }

    fn event(&mut self, event: &[u8], at: u64) -> Result<()> {
        self.events += 1;
        let data = event.strip_prefix(b"data: ").context("an event that is no data")?;
        if data == b"[DONE]" {
            return Ok(());
        }
        let json: serde_json::Value =
            serde_json::from_slice(data).context("an event that is no JSON")?;
        let text = json.pointer("/choices/0/delta/content").and_then(|text| text.as_str());
        if text.is_some_and(|text| !text.is_empty()) {
            self.first.get_or_insert(at);
            self.last = Some(at);
            self.tokens.push(at);
        }
        Ok(())
    }
}
