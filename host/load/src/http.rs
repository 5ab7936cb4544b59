//! Reads an HTTP/1.1 response from bytes as they come: the head, then the body where it lies.
//! Pure; sockets are `client`'s.

/// The longest head that is read.
const LONGEST_HEAD: usize = 64 * 1024;
const MOST_HEADERS: usize = 100;
/// The headers that matter.
const MATTER: [&str; 7] = [
    "content-type",
    "transfer-encoding",
    "content-length",
    "connection",
    "content-encoding",
    "location",
    "retry-after",
];

/// The parts of a response's head that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// The media type in lower case, without parameters.
    pub(crate) content_type: String,
    /// Where it redirects to.
    pub(crate) location: Option<String>,
    /// When it is to be tried again: seconds, or a date.
    pub(crate) retry_after: Option<String>,
    /// How the body is compressed.
    pub(crate) content_encoding: Option<String>,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Head(Box<Head>),
    Body(&'a [u8]),
    /// The response is complete.
    End,
    /// The bytes are used up and the response goes on.
    More,
}

/// The bytes are no HTTP response.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Malformed {
    #[error("the answer is not HTTP: {0}")]
    Head(httparse::Error),
    #[error("the answer's head is longer than {LONGEST_HEAD} bytes")]
    LongHead,
    #[error("the answer's content-length is not a number")]
    Length,
    #[error("the answer's chunked coding is broken")]
    Chunk,
    /// Of what comes and does not end.
    #[error("{0} is longer than 64 MiB")]
    Endless(&'static str),
}

/// Reads one response.
#[derive(Debug)]
pub(crate) struct Reader {
    state: State,
    /// The beginning of a head whose end has not come.
    head: Box<[u8]>,
    keep_alive: bool,
    begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    UntilClose,
    ChunkSize {
        size: u64,
        digits: u8,
    },
    /// What follows a chunk's size in its line.
    ChunkExtension(u64),
    ChunkBody(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// A line of the trailer, of which this many bytes were seen.
    Trailer(usize),
    End,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { state: State::Head, head: Box::default(), keep_alive: true, begun: false }
    }

    /// Whether any byte has come.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// Whether the connection may be used again, once the response is complete.
    pub(crate) fn keep_alive(&self) -> bool {
        self.keep_alive && self.state == State::End
    }

    /// The data of a chunk that begins here and lies whole in `input`, and what comes after it.
    pub(crate) fn whole_chunk<'a>(&self, input: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let begins = self.state == State::ChunkSize { size: 0, digits: 0 };
        if begins { whole_chunk(input) } else { None }
    }

    /// Takes the next part off the front of `input`.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Part<'a>, Malformed> {
        self.begun |= !input.is_empty();
        loop {
            if self.state == State::End {
                // Bytes beyond the end belong to no request: the connection is not trusted again.
                self.keep_alive &= input.is_empty();
                return Ok(Part::End);
            }
            if input.is_empty() {
                return Ok(Part::More);
            }
            if let Some(part) = self.step(input)? {
                return Ok(part);
            }
        }
    }

    /// The connection was closed. Whether the response is complete.
    pub(crate) fn closed(&mut self) -> bool {
        self.keep_alive = false;
        if self.state == State::UntilClose {
            self.state = State::End;
        }
        self.state == State::End
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, Malformed> {
        match self.state {
            State::Head => return Ok(self.head(input)?.map(Part::Head)),
            State::Length(left) => {
                let body = take(input, left);
                let left = left - body.len() as u64;
                self.state = if left == 0 { State::End } else { State::Length(left) };
                return Ok(Some(Part::Body(body)));
            }
            State::UntilClose => return Ok(Some(Part::Body(std::mem::take(input)))),
            State::ChunkSize { size, digits } => {
                if digits == 0
                    && let Some((data, rest)) = whole_chunk(input)
                {
                    *input = rest;
                    return Ok(Some(Part::Body(data)));
                }
                self.chunk_size(next(input), size, digits)?;
            }
            State::ChunkExtension(size) => {
                if next(input) == b'\n' {
                    self.state = chunk(size);
                }
            }
            State::ChunkBody(left) => {
                let body = take(input, left);
                let left = left - body.len() as u64;
                self.state = if left == 0 { State::ChunkEnd } else { State::ChunkBody(left) };
                return Ok(Some(Part::Body(body)));
            }
            State::ChunkEnd => match next(input) {
                b'\r' => {}
                b'\n' => self.state = State::ChunkSize { size: 0, digits: 0 },
                _ => return Err(Malformed::Chunk),
            },
            State::Trailer(seen) => match next(input) {
                b'\r' => {}
                b'\n' if seen == 0 => self.state = State::End,
                b'\n' => self.state = State::Trailer(0),
                _ if seen > LONGEST_HEAD => return Err(Malformed::LongHead),
                _ => self.state = State::Trailer(seen + 1),
            },
            State::End => {}
        }
        Ok(None)
    }

    fn chunk_size(&mut self, byte: u8, size: u64, digits: u8) -> Result<(), Malformed> {
        self.state = match (byte, (byte as char).to_digit(16)) {
            (_, Some(digit)) if digits < 15 => {
                State::ChunkSize { size: size * 16 + u64::from(digit), digits: digits + 1 }
            }
            (b'\n', _) if digits > 0 => chunk(size),
            (b'\r' | b';' | b' ' | b'\t', _) if digits > 0 => State::ChunkExtension(size),
            _ => return Err(Malformed::Chunk),
        };
        Ok(())
    }

    /// Reads a head, 1xx ones over.
    fn head(&mut self, input: &mut &[u8]) -> Result<Option<Box<Head>>, Malformed> {
        let mut joined = std::mem::take(&mut self.head).into_vec();
        let before = joined.len();
        if before > 0 {
            joined.extend_from_slice(input);
        }
        let bytes: &[u8] = if before > 0 { &joined } else { input };
        let is_long = bytes.len() > LONGEST_HEAD;
        let bytes = &bytes[..bytes.len().min(LONGEST_HEAD)];
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes).map_err(Malformed::Head)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial if is_long => return Err(Malformed::LongHead),
            httparse::Status::Partial => {
                self.head = if before > 0 { joined.into() } else { (*input).into() };
                *input = &[];
                return Ok(None);
            }
        };
        let framing = Framing::of(&response)?;
        *input = &input[length - before..];
        if (100..200).contains(&framing.head.status) {
            return Ok(None);
        }
        self.keep_alive = framing.keep_alive;
        self.state = framing.state;
        Ok(Some(framing.head.into()))
    }
}

/// What a response's headers say, of its body's end and else.
struct Framing {
    keep_alive: bool,
    state: State,
    head: Head,
}

impl Framing {
    fn of(response: &httparse::Response<'_, '_>) -> Result<Self, Malformed> {
        let mut keep_alive = response.version == Some(1);
        let mut head = Head { status: response.code.unwrap_or(0), ..Head::default() };
        let mut length = None;
        let mut chunked = false;
        for header in response.headers.iter() {
            let is = |name: &&str| header.name.eq_ignore_ascii_case(name);
            let Some(name) = MATTER.iter().copied().find(is) else { continue };
            let written = String::from_utf8_lossy(header.value);
            let value = written.trim();
            let has = |word| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(word));
            match name {
                "content-type" => {
                    let kind = value.split(';').next().unwrap_or("").trim();
                    head.content_type = kind.to_ascii_lowercase();
                }
                "content-encoding" => {
                    let coding = value.to_ascii_lowercase();
                    head.content_encoding =
                        Some(coding).filter(|c| !["identity", ""].contains(&&**c));
                }
                "location" => head.location = Some(written.into_owned()),
                "retry-after" => head.retry_after = Some(written.into_owned()),
                "content-length" => {
                    length = Some(value.parse::<u64>().map_err(|_| Malformed::Length)?);
                }
                "transfer-encoding" => chunked = has("chunked"),
                // `connection`, the last that matters.
                _ => keep_alive = !has("close") && (keep_alive || has("keep-alive")),
            }
        }
        let state = match length {
            _ if matches!(response.code, Some(204 | 304)) => State::End,
            _ if chunked => State::ChunkSize { size: 0, digits: 0 },
            Some(0) => State::End,
            Some(length) => State::Length(length),
            None => State::UntilClose,
        };
        Ok(Self { keep_alive, state, head })
    }
}

fn chunk(size: u64) -> State {
    if size == 0 { State::Trailer(0) } else { State::ChunkBody(size) }
}

/// The data of a chunk that lies whole in `input` and is written in the plainest way, as nearly every one
/// of a stream is, and what comes after it.
fn whole_chunk(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut size = 0;
    let mut digits = 0;
    // A size of more digits is larger than what can be read at once.
    while digits < 8 {
        let Some(digit) = (*input.get(digits)? as char).to_digit(16) else { break };
        size = size * 16 + digit as usize;
        digits += 1;
    }
    let rest = input[digits..].strip_prefix(b"\r\n")?;
    let (data, rest) = rest.split_at_checked(size).filter(|_| size > 0)?;
    Some((data, rest.strip_prefix(b"\r\n")?))
}

fn take<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let (front, rest) = input.split_at(most.min(input.len() as u64) as usize);
    *input = rest;
    front
}

/// Takes a byte off; there is one.
fn next(input: &mut &[u8]) -> u8 {
    let byte = input[0];
    *input = &input[1..];
    byte
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Status, media type, body, whether complete, whether the connection may be used again.
    type Answer = (u16, String, String, bool, bool);

    fn read<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> Result<Answer, Malformed> {
        let mut reader = Reader::new();
        let mut head = Box::<Head>::default();
        let mut body = Vec::new();
        for mut input in reads {
            loop {
                match reader.next(&mut input)? {
                    Part::Head(found) => head = found,
                    Part::Body(bytes) => body.extend_from_slice(bytes),
                    Part::End | Part::More => break,
                }
            }
        }
        let keep_alive = reader.keep_alive();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok((head.status, head.content_type, body, reader.closed(), keep_alive))
    }

    fn check(response: &str, expected: (u16, &str, &str, bool, bool)) {
        let (status, kind, body, complete, keep_alive) = expected;
        let expected = Ok((status, kind.to_owned(), body.to_owned(), complete, keep_alive));
        assert_eq!(read([response.as_bytes()]), expected, "{response:?}");
        assert_eq!(read(response.as_bytes().chunks(1)), expected, "{response:?}, byte by byte");
    }

    #[test]
    fn bodies_of_every_framing_are_read() {
        let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n";
        check(
            &format!("{json}Content-Length: 2\r\n\r\nhi"),
            (200, "application/json", "hi", true, true),
        );
        check(
            &format!("{json}Content-Length: 3\r\n\r\nhi"),
            (200, "application/json", "hi", false, false),
        );
        check(
            &format!("{json}Content-Length: 0\r\n\r\n"),
            (200, "application/json", "", true, true),
        );
        check(&format!("{json}\r\nhi"), (200, "application/json", "hi", true, false));
        check(
            &format!("{json}Connection: close\r\nContent-Length: 2\r\n\r\nhi"),
            (200, "application/json", "hi", true, false),
        );
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{chunked}2\r\nhi\r\n0\r\n\r\n"), (200, "", "hi", true, true));
        check(
            &format!("{chunked}2;x=1\r\nhi\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n"),
            (200, "", "hi0123456789", true, true),
        );
        check(&format!("{chunked}2\r\nhi\r\n"), (200, "", "hi", false, false));
        check(&format!("{chunked}5\r\nhi"), (200, "", "hi", false, false));
        check("HTTP/1.1 204 No Content\r\n\r\n", (204, "", "", true, true));
        check("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", (200, "", "hi", true, false));
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            (200, "", "hi", true, true),
        );
        check("HTTP/1.1 200 OK\r\nContent-L", (0, "", "", false, false));
    }

    #[test]
    fn what_a_failure_needs_of_the_head_is_kept() {
        let head = |headers: &str| {
            let response = format!("HTTP/1.1 307 X\r\n{headers}\r\n\r\n");
            match Reader::new().next(&mut response.as_bytes()) {
                Ok(Part::Head(head)) => head,
                other => panic!("{other:?}"),
            }
        };
        let redirect = head("location: http://Host/V1");
        assert_eq!(redirect.location.as_deref(), Some("http://Host/V1"));
        assert_eq!(head("Retry-After: 7").retry_after.as_deref(), Some("7"));
        assert_eq!(head("Content-Encoding: GZIP").content_encoding.as_deref(), Some("gzip"));
        assert_eq!(head("content-encoding: identity").content_encoding, None);
    }

    #[test]
    fn a_head_is_too_long_whether_it_comes_at_once_or_in_pieces() {
        let response = format!("HTTP/1.1 204 X\r\na: {}\r\n\r\n", "x".repeat(LONGEST_HEAD));
        for size in [response.len(), 1000] {
            assert_eq!(read(response.as_bytes().chunks(size)), Err(Malformed::LongHead));
        }
    }

    #[test]
    fn bytes_after_the_end_spoil_the_connection() {
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhix";
        assert_eq!(read([&response[..]]).unwrap(), (200, String::new(), "hi".into(), true, false));
    }

    #[test]
    fn what_is_no_http_is_refused() {
        let check = |response: &str| assert!(read([response.as_bytes()]).is_err(), "{response:?}");
        check("SSH-2.0-OpenSSH_9.6\r\n");
        check("HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhiXX");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n");
        check(&format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(LONGEST_HEAD)));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_body(
            chunks in prop::collection::vec("[a-z\\r\\n]{1,40}", 0..8),
            cuts in prop::collection::vec(0..500_usize, 0..30),
        ) {
            let mut response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
            for chunk in &chunks {
                response += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
            }
            response += "0\r\n\r\n";
            let bytes = response.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&c| c < bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let reads = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]);
            prop_assert_eq!(read(reads).unwrap(), (200, String::new(), chunks.concat(), true, true));
        }
    }
}
