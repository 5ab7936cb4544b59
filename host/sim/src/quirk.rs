//! The quirks of real servers that the server can have: right answers in shapes that clients trip over.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A quirk. All but [`Close`](Self::Close), [`CloseReused`](Self::CloseReused) and
/// [`Redirect`](Self::Redirect) are about streamed answers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quirk {
    /// See [`QUIRKS`], as of all others.
    EarlyRole,
    /// An event without choices before all others.
    FilterResults,
    /// Tokens that are no whole character.
    PartialUtf8,
    /// Several events in a write.
    JoinedEvents,
    /// Several writes for an event.
    SplitEvents,
    /// Lines that end in CRLF.
    Crlf,
    /// Comments between events.
    Comments,
    /// Usage in every event.
    ContinuousUsage,
    /// Usage with the finish reason.
    UsageInLast,
    /// No usage.
    NoUsage,
    /// The finish reason in an event of its own.
    FinishAlone,
    /// Reasoning, as newer vLLM spells it.
    Reasoning,
    /// Reasoning, as others spell it.
    ReasoningContent,
    /// Tool calls.
    ToolCalls,
    /// Probabilities of tokens.
    Logprobs,
    /// An event of a megabyte.
    LongLine,
    /// A body that ends with its connection.
    UntilClose,
    /// Connections that are not kept.
    Close,
    /// Kept connections that turn out to be closed.
    CloseReused,
    /// A wrong content type.
    TextType,
    /// A worse one.
    JsonType,
    /// Compression that nobody asked for.
    Gzip,
    /// Another place.
    Redirect,
}

/// A row of [`QUIRKS`].
pub struct QuirkKind {
    /// Which one it is.
    pub quirk: Quirk,
    /// As written in [`Behavior::quirks`](crate::Behavior::quirks).
    pub name: &'static str,
    /// What the server does.
    pub doc: &'static str,
}

const fn row(quirk: Quirk, name: &'static str, doc: &'static str) -> QuirkKind {
    QuirkKind { quirk, name, doc }
}

/// All quirks. What is said of chats only leaves completions as they are.
pub const QUIRKS: &[QuirkKind] = &[
    row(
        Quirk::EarlyRole,
        "early_role",
        "sends the role with `content: null`, in completions an empty text, long before the first token",
    ),
    row(
        Quirk::FilterResults,
        "filter_results",
        "sends an event with empty choices long before the first token",
    ),
    row(
        Quirk::PartialUtf8,
        "partial_utf8",
        "sends every other token, the first one too, as an event with empty text: its bytes are no whole character, and the next event has it",
    ),
    row(Quirk::JoinedEvents, "joined_events", "sends the events of two tokens in one write"),
    row(
        Quirk::SplitEvents,
        "split_events",
        "sends an event in four writes 1 ms apart: cut inside the chunk's size, inside a character, and inside the empty line after it",
    ),
    row(Quirk::Crlf, "crlf", "ends lines with CRLF"),
    row(Quirk::Comments, "comments", "sends a comment before every event"),
    row(
        Quirk::ContinuousUsage,
        "continuous_usage",
        "sends the usage so far in every event without being asked",
    ),
    row(
        Quirk::UsageInLast,
        "usage_in_last",
        "sends the usage together with the finish reason, not in an event of its own",
    ),
    row(Quirk::NoUsage, "no_usage", "sends no usage, though it was asked for"),
    row(Quirk::FinishAlone, "finish_alone", "sends the finish reason in an event of its own"),
    row(
        Quirk::Reasoning,
        "reasoning",
        "sends the first half of a chat's tokens as `reasoning`, and their number in the usage",
    ),
    row(Quirk::ReasoningContent, "reasoning_content", "the same as `reasoning_content`"),
    row(
        Quirk::ToolCalls,
        "tool_calls",
        "sends the second half of a chat's tokens as the arguments of a tool call",
    ),
    row(Quirk::Logprobs, "logprobs", "sends the probability of each token"),
    row(Quirk::LongLine, "long_line", "sends an event of 1 MB half-way"),
    row(
        Quirk::UntilClose,
        "until_close",
        "ends the body with the connection instead of coding it in chunks",
    ),
    row(Quirk::Close, "close", "sends `Connection: close` and closes after every answer"),
    row(
        Quirk::CloseReused,
        "close_reused",
        "closes a kept connection without an answer when the next request has come; such a request is in no log",
    ),
    row(Quirk::TextType, "text_type", "calls the stream `text/plain`"),
    row(Quirk::JsonType, "json_type", "calls the stream `application/json`"),
    row(Quirk::Gzip, "gzip", "compresses the stream, though nobody asked for it"),
    row(Quirk::Redirect, "redirect", "answers 307 with the location `/elsewhere`"),
];

/// The text names no quirk.
#[derive(Debug, thiserror::Error)]
#[error("read `{text}` as a quirk; use one of {}", names())]
pub struct QuirkError {
    text: String,
}

impl FromStr for Quirk {
    type Err = QuirkError;

    fn from_str(text: &str) -> Result<Self, QuirkError> {
        let found = QUIRKS.iter().find(|kind| kind.name == text);
        found.map(|kind| kind.quirk).ok_or_else(|| QuirkError { text: text.to_owned() })
    }
}

impl fmt::Display for Quirk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = QUIRKS.iter().find(|kind| kind.quirk == *self);
        out.write_str(found.map_or("", |kind| kind.name))
    }
}

fn names() -> String {
    QUIRKS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_read_and_written_back() {
        for kind in QUIRKS {
            assert_eq!(kind.name.parse::<Quirk>().unwrap(), kind.quirk);
            assert_eq!(kind.quirk.to_string(), kind.name);
            assert_eq!(serde_json::to_value(kind.quirk).unwrap(), kind.name);
        }
        let error = "odd".parse::<Quirk>().unwrap_err().to_string();
        assert!(error.contains("`odd`") && error.contains("early_role"), "{error}");
    }
}
