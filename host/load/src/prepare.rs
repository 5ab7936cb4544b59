//! Puts requests into the bytes that go over the wire, ahead of the time at which they are due.

use crate::api::{self, BodyError, Past};
use crate::endpoint::Endpoint;
use crate::plan::{Request, Target};
use secrecy::ExposeSecret;
use std::fmt::Write;

/// Why a request cannot be sent: the workload asked for something impossible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PrepareError {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the header `{0}` has a name or value that HTTP does not allow")]
    Header(String),
    #[error("the path {0:?} has characters that HTTP does not allow there")]
    Path(String),
    #[error("the session has no turns")]
    Empty,
}

/// A request as it is written to the socket, except for its number.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    /// Where the digits of the number begin. None: the request has an `x-request-id` of its own.
    number: Option<usize>,
}

/// Digits of a request's number: enough for a million requests a second over eleven days.
const DIGITS: usize = 12;
/// Room for a head without headers of others.
const HEAD: usize = 320;
const TAKES_ALL: &str = "a string takes everything";

impl Message {
    /// The bytes to write, with this number in them.
    pub(crate) fn numbered(mut self, id: u64) -> Vec<u8> {
        if let Some(at) = self.number {
            let mut rest = id;
            for digit in self.bytes[at..at + DIGITS].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        self.bytes
    }
}

/// Makes a request ready.
pub(crate) fn message(
    target: &Target,
    endpoint: &Endpoint,
    request: &Request,
    past: Past<'_>,
) -> Result<Message, PrepareError> {
    let body = api::body(target, request, past)?;
    let path = api::path(target, request);
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(PrepareError::Path(path.to_owned()));
    }
    let accept = if request.streamed { "text/event-stream" } else { "application/json" };
    let mut head = String::with_capacity(HEAD + body.len());
    write!(
        head,
        "POST {}{} HTTP/1.1\r\nhost: {}\r\nuser-agent: llmdbench/{}\r\naccept: {accept}\r\n\
         accept-encoding: identity\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        endpoint.prefix(),
        path,
        endpoint.authority(),
        env!("CARGO_PKG_VERSION"),
        body.len(),
    )
    .expect(TAKES_ALL);
    let mut add = |name: &str, value: &str| {
        check_header(name, value)?;
        write!(head, "{name}: {value}\r\n").expect(TAKES_ALL);
        Ok::<_, PrepareError>(())
    };
    if let Some(key) = &target.api_key {
        add("authorization", &format!("Bearer {}", key.expose_secret()))?;
    }
    for (name, value) in &target.headers {
        add(name, value.expose_secret())?;
    }
    for (name, value) in &request.headers {
        add(name, value)?;
    }
    let own = target.headers.iter().map(|(name, _)| name);
    let is_named = own
        .chain(request.headers.iter().map(|(name, _)| name))
        .any(|name| name.eq_ignore_ascii_case("x-request-id"));
    let number = (!is_named).then(|| {
        write!(head, "x-request-id: llmdbench-{}-", target.run).expect(TAKES_ALL);
        let at = head.len();
        write!(head, "{:0DIGITS$}\r\n", 0).expect(TAKES_ALL);
        at
    });
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&body);
    Ok(Message { bytes, number })
}

/// Whether HTTP allows a header.
pub(crate) fn check_header(name: &str, value: &str) -> Result<(), PrepareError> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let visible = |c: char| c == '\t' || !c.is_control();
    if !name.is_empty() && name.chars().all(token) && value.chars().all(visible) {
        Ok(())
    } else {
        Err(PrepareError::Header(name.escape_default().to_string()))
    }
}
