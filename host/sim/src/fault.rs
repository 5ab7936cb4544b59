//! The faults the server can act out: their names, arguments and meanings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A row of [`FAULTS`].
pub struct FaultKind {
    /// As written in the header `x-sim-fault` and in [`FaultRule::fault`].
    pub name: &'static str,
    /// What follows after a colon, with its unit; `None` if nothing may.
    pub argument: Option<&'static str>,
    /// What the server does.
    pub doc: &'static str,
}

/// All faults. "Half-way" is after half of the answer's tokens, and at least one.
pub const FAULTS: &[FaultKind] = &[
    FaultKind {
        name: "http",
        argument: Some("400, 429, 500 or 503"),
        doc: "answers with this status and an error body; 429 has `Retry-After: 1`",
    },
    FaultKind {
        name: "stall",
        argument: Some("milliseconds"),
        doc: "pauses half-way, then goes on; a plain answer comes that much later",
    },
    FaultKind {
        name: "cut",
        argument: None,
        doc: "closes the connection half-way, inside a chunk or inside the body",
    },
    FaultKind { name: "reset", argument: None, doc: "resets the connection (RST) half-way" },
    FaultKind {
        name: "slow_headers",
        argument: Some("milliseconds"),
        doc: "holds back the response head, and everything after it, for this long",
    },
    FaultKind {
        name: "stream_error",
        argument: None,
        doc: "sends an error event half-way, then [DONE]; a plain answer becomes status 500",
    },
    FaultKind {
        name: "no_done",
        argument: None,
        doc: "ends a complete stream without [DONE]; a plain answer is not changed",
    },
    FaultKind { name: "empty", argument: None, doc: "answers 200 with no token" },
    FaultKind {
        name: "close_idle",
        argument: None,
        doc: "closes the kept-alive connection after the answer without announcing it",
    },
    FaultKind {
        name: "crash",
        argument: None,
        doc: "stops the whole server half-way; all connections end",
    },
];

/// A day: times are reckoned in nanoseconds, which have an end.
const LONGEST_PAUSE_MS: u64 = 24 * 3600 * 1000;

/// One fault with its argument, written `NAME` or `NAME:ARGUMENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fault {
    /// This HTTP status.
    Http(u16),
    /// A pause of so many milliseconds.
    Stall(u64),
    /// The end of the connection inside a chunk.
    Cut,
    /// A connection reset.
    Reset,
    /// A response head that is so many milliseconds late.
    SlowHeaders(u64),
    /// An error event in the stream.
    StreamError,
    /// A stream without `[DONE]`.
    NoDone,
    /// An answer without tokens.
    Empty,
    /// A connection closed while idle.
    CloseIdle,
    /// The end of the server.
    Crash,
}

/// A fault for a share of the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Which fault, for example `stall:500`.
    pub fault: Fault,
    /// The share of requests it befalls, 0 to 1; drawn per request from the seed.
    pub rate: f64,
}

/// The text names no fault, or its argument is wrong.
#[derive(Debug, thiserror::Error)]
#[error("read `{text}` as a fault; use one of {}", usage())]
pub struct FaultError {
    text: String,
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let number = || argument.and_then(|argument| argument.parse::<u64>().ok());
        let pause = || number().filter(|ms| *ms <= LONGEST_PAUSE_MS);
        let fault = match name {
            "http" => number().and_then(|code| match code {
                400 | 429 | 500 | 503 => Some(Self::Http(code as u16)),
                _ => None,
            }),
            "stall" => pause().map(Self::Stall),
            "slow_headers" => pause().map(Self::SlowHeaders),
            _ if argument.is_some() => None,
            "cut" => Some(Self::Cut),
            "reset" => Some(Self::Reset),
            "stream_error" => Some(Self::StreamError),
            "no_done" => Some(Self::NoDone),
            "empty" => Some(Self::Empty),
            "close_idle" => Some(Self::CloseIdle),
            "crash" => Some(Self::Crash),
            _ => None,
        };
        fault.ok_or_else(|| FaultError { text: text.to_owned() })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(code) => write!(out, "http:{code}"),
            Self::Stall(ms) => write!(out, "stall:{ms}"),
            Self::Cut => out.write_str("cut"),
            Self::Reset => out.write_str("reset"),
            Self::SlowHeaders(ms) => write!(out, "slow_headers:{ms}"),
            Self::StreamError => out.write_str("stream_error"),
            Self::NoDone => out.write_str("no_done"),
            Self::Empty => out.write_str("empty"),
            Self::CloseIdle => out.write_str("close_idle"),
            Self::Crash => out.write_str("crash"),
        }
    }
}

impl TryFrom<String> for Fault {
    type Error = FaultError;

    fn try_from(text: String) -> Result<Self, FaultError> {
        text.parse()
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.to_string()
    }
}

fn usage() -> String {
    let names = FAULTS.iter().map(|kind| match kind.argument {
        Some(argument) => format!("{}:<{argument}>", kind.name),
        None => kind.name.to_owned(),
    });
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_read_and_written_back() {
        for kind in FAULTS {
            let text = match kind.name {
                "http" => "http:429".to_owned(),
                name if kind.argument.is_some() => format!("{name}:25"),
                name => name.to_owned(),
            };
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_texts_are_refused_with_the_names() {
        let far = &format!("stall:{}", LONGEST_PAUSE_MS + 1);
        for text in
            ["", "http", "http:404", "stall", "stall:x", "stall:-1", far, "cut:3", "Cut", "no"]
        {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains("slow_headers:<milliseconds>"), "{text}: {error}");
        }
    }
}
