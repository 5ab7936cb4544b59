//! Splits a stream of server-sent events into events, however the network cut it. Pure.
//!
//! Lines end in LF or CRLF; the lone CR that the standard allows too is sent by no server of this
//! field and would cost a second scan.

use memchr::memchr;

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    /// Its type says that it is an error.
    pub(crate) error: bool,
    /// Its data lines, joined by LF.
    pub(crate) data: &'a [u8],
}

/// What is known of the event under way. Holds bytes only where a read ended inside an event.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// Data of the event so far, each line followed by LF; behind it the beginning of a line whose
    /// end has not come.
    held: Vec<u8>,
    /// How much of `held` is data.
    data: u32,
    error: bool,
}

impl Splitter {
    /// Takes the next bytes and hands every event that they complete to `on_event`.
    pub(crate) fn feed(&mut self, mut input: &[u8], mut on_event: impl FnMut(Event<'_>)) {
        while let Some(end) = memchr(b'\n', input) {
            let (line, rest) = (&input[..end], &input[end + 1..]);
            input = rest;
            // By far the commonest event is one data line and the empty line after it, both
            // in one read: its data is handed out where it lies.
            if self.held.is_empty()
                && let Some(data) = field(without_cr(line), b"data")
                && let Some(rest) = after_empty_line(input)
            {
                on_event(Event { error: self.error, data });
                self.error = false;
                input = rest;
            } else {
                self.held.extend_from_slice(line);
                self.line(&mut on_event);
            }
        }
        self.held.extend_from_slice(input);
    }

    /// Whether nothing of the next event has come.
    pub(crate) fn is_between(&self) -> bool {
        self.held.is_empty() && !self.error
    }

    /// Bytes that are held, since the event that they belong to has not ended.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Hands out an event that lacks only the empty line after it: the stream has ended.
    pub(crate) fn end(&mut self, mut on_event: impl FnMut(Event<'_>)) {
        self.feed(b"\n\n", &mut on_event);
    }

    /// Takes the line at the end of `held`, which is whole.
    fn line(&mut self, on_event: &mut impl FnMut(Event<'_>)) {
        let begin = self.data as usize;
        let line = without_cr(&self.held[begin..]);
        let length = line.len();
        if line.is_empty() {
            if let Some(data) = self.held[..begin].strip_suffix(b"\n") {
                on_event(Event { error: self.error, data });
            }
            self.held.clear();
            self.data = 0;
            self.error = false;
            return;
        }
        if let Some(data) = field(line, b"data") {
            let name = length - data.len();
            self.held.truncate(begin + length);
            self.held.drain(begin..begin + name);
            self.held.push(b'\n');
            self.data = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
            return;
        }
        if let Some(name) = field(line, b"event") {
            self.error = name == b"error";
        }
        // Comments, `id` and `retry` say nothing about the answer.
        self.held.truncate(begin);
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?;
    if value.is_empty() {
        return Some(value);
    }
    let value = value.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

fn after_empty_line(input: &[u8]) -> Option<&[u8]> {
    input.strip_prefix(b"\n").or_else(|| input.strip_prefix(b"\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> Vec<(bool, String)> {
        let mut splitter = Splitter::default();
        let mut events = Vec::new();
        let mut keep = |event: Event<'_>| {
            events.push((event.error, String::from_utf8_lossy(event.data).into_owned()));
        };
        for read in reads {
            splitter.feed(read, &mut keep);
        }
        splitter.end(&mut keep);
        events
    }

    fn check(stream: &str, expected: &[&str]) {
        let data: Vec<String> = events([stream.as_bytes()]).into_iter().map(|e| e.1).collect();
        assert_eq!(data, expected, "{stream:?}");
        let bytes: Vec<String> =
            events(stream.as_bytes().chunks(1)).into_iter().map(|e| e.1).collect();
        assert_eq!(bytes, expected, "{stream:?}, byte by byte");
    }

    #[test]
    fn events_are_found_in_every_form() {
        check("data: a\n\ndata: b\n\n", &["a", "b"]);
        check("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]);
        check("data:a\n\ndata:  b\n\n", &["a", " b"]);
        check(": ping\n\ndata: a\n\n: ping\r\n\r\n", &["a"]);
        check("data: a\ndata: b\n\n", &["a\nb"]);
        check("data: a\ndata\ndata: b\n\n", &["a\n\nb"]);
        check("id: 1\nretry: 5\ndata: a\nid: 2\n\n", &["a"]);
        check("\n\n\ndata: 日本\n\n\n", &["日本"]);
        check("dataset: a\n\n", &[]);
        check("data: last", &["last"]);
        check("data: last\n", &["last"]);
        check("data: \n\ndata: a\n\n", &["", "a"]);
    }

    #[test]
    fn an_error_event_is_told_from_the_others() {
        let stream = b"event: error\ndata: x\n\ndata: y\n\nevent: message\ndata: z\n\n";
        let error = |flag, text: &str| (flag, text.to_owned());
        let expected = [error(true, "x"), error(false, "y"), error(false, "z")];
        assert_eq!(events([&stream[..]]), expected);
        assert_eq!(events(stream.chunks(1)), expected);
    }

    #[test]
    fn a_line_of_a_megabyte_comes_whole() {
        let stream = format!("data: {}\n\n", "x".repeat(1 << 20));
        let found = events(stream.as_bytes().chunks(1500));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.len(), 1 << 20);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            lines in prop::collection::vec(
                prop_oneof![
                    Just(String::new()), Just(": c".into()), Just("event: error".into()),
                    "data:? ?[a-z日\\{\\}]{0,20}", "[a-z: ]{0,9}",
                ],
                0..30,
            ),
            crlf: bool,
            cuts in prop::collection::vec(0..600_usize, 0..40),
        ) {
            let stream = lines.join(if crlf { "\r\n" } else { "\n" });
            let stream = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&c| c < stream.len()).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let reads = cuts.windows(2).map(|w| &stream[w[0]..w[1]]);
            prop_assert_eq!(events(reads), events([stream]));
        }
    }
}
