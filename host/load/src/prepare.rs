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
    #[error("the header `{0}`: HTTP forbids its name or value, or the client sets it itself")]
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
    // What the target says goes before what a request says, as in bodies, and both before what is usual.
    let of_target = target.headers.iter().map(|(name, value)| (&**name, value.expose_secret()));
    let of_request = request.headers.iter().map(|(name, value)| (&**name, &**value));
    let others = of_request.filter(|(name, _)| !has(of_target.clone(), name));
    let given = of_target.clone().chain(others);
    let mut head = String::with_capacity(HEAD + body.len());
    let mut line = |parts: &[&str]| {
        parts.iter().for_each(|part| head.push_str(part));
        head.push_str("\r\n");
    };
    line(&["POST ", endpoint.prefix(), path, " HTTP/1.1"]);
    let authority = endpoint.authority();
    let usual = [
        ("host", authority.as_str()),
        ("user-agent", concat!("llmdbench/", env!("CARGO_PKG_VERSION"))),
        ("accept", accept),
        ("accept-encoding", "identity"),
        ("content-type", "application/json"),
    ];
    for (name, value) in usual {
        if !has(given.clone(), name) {
            line(&[name, ": ", value]);
        }
    }
    line(&["content-length: ", &body.len().to_string()]);
    if let Some(key) = target.api_key.as_ref().filter(|_| !has(given.clone(), "authorization")) {
        line(&["authorization: Bearer ", key.expose_secret()]);
    }
    for (name, value) in given.clone() {
        check_header(name, value)?;
        line(&[name, ": ", value]);
    }
    let number = (!has(given, "x-request-id")).then(|| {
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

/// Whether there is a header of this name.
fn has<'a>(mut headers: impl Iterator<Item = (&'a str, &'a str)>, name: &str) -> bool {
    headers.any(|(other, _)| other.eq_ignore_ascii_case(name))
}

/// Where the body ends, the client says itself.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// Whether a header may be sent.
pub(crate) fn check_header(name: &str, value: &str) -> Result<(), PrepareError> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let visible = |c: char| c == '\t' || !c.is_control();
    let is_ours = FRAMING.iter().any(|ours| name.eq_ignore_ascii_case(ours));
    if !name.is_empty() && !is_ours && name.chars().all(token) && value.chars().all(visible) {
        Ok(())
    } else {
        Err(PrepareError::Header(name.escape_default().to_string()))
    }
}
