//! Puts requests into the bytes that go over the wire, ahead of the time at which they are due.

use crate::api::{self, BodyError, Past};
use crate::endpoint::Endpoint;
use crate::plan::{Request, Session, Target};
use secrecy::ExposeSecret;
use std::fmt::Write;

/// Why a request cannot be sent: the workload asked for something impossible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PrepareError {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the header `{0}` has a name or value that HTTP does not allow")]
    Header(String),
    #[error("the session has no turns")]
    Empty,
}

/// A request as it is written to the socket.
pub(crate) fn bytes(
    target: &Target,
    endpoint: &Endpoint,
    request: &Request,
    past: Past<'_>,
) -> Result<Vec<u8>, PrepareError> {
    let body = api::body(target, request, past)?;
    let path = endpoint.path(&api::path(target, request));
    let accept = if request.streamed { "text/event-stream" } else { "application/json" };
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: llmdbench/{}\r\naccept: {accept}\r\n\
         accept-encoding: identity\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        endpoint.authority(),
        env!("CARGO_PKG_VERSION"),
        body.len(),
    );
    let mut add = |name: &str, value: &str| {
        check_header(name, value)?;
        write!(head, "{name}: {value}\r\n").expect("a string takes everything");
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
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The first request of a session.
pub(crate) fn first(
    target: &Target,
    endpoint: &Endpoint,
    session: &Session,
) -> Result<Vec<u8>, PrepareError> {
    let turn = session.turns.first().ok_or(PrepareError::Empty)?;
    bytes(target, endpoint, &turn.request, Past { turns: &[], answers: &[] })
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
