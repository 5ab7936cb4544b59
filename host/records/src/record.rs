//! [`Record`]: what happened to one request.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// What happened to one request. Times are nanoseconds since the run's start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Record {
    /// Number of the request in the run, in the order in which requests were started.
    pub id: u64,
    /// The session it belongs to: unique within its stage.
    pub session: u64,
    /// The user who asks: stable over sessions and stages.
    pub user: u64,
    /// Index of the turn in its session.
    pub turn: u32,
    /// Index of the stage in [`crate::Header::stages`].
    pub stage: u32,
    /// Sent, but left out of the results.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warmup: bool,
    /// When the schedule wanted the request out. None in a closed loop, where nobody wanted it at
    /// a certain time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<u64>,
    /// When a later turn of a closed loop was to start: at the end of the turn before and its pause.
    /// None: no such turn, or one that was kept waiting on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<u64>,
    /// When the client began to send it, a new connection included.
    pub started: u64,
    /// Just before the write that handed its last byte to the socket. None: it never got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// When the first byte of the answer's body arrived: of what one read brought, the kernel's receive time
    /// of its last packet, or the return of the read where the kernel gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<u64>,
    /// When each output chunk arrived, likewise. In the file the first is absolute, the others are
    /// differences.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "write_differences",
        deserialize_with = "read_differences"
    )]
    pub tokens: Vec<u64>,
    /// Tokens in each chunk of `tokens` by the server's count. Empty: one each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunk_tokens: Vec<u32>,
    /// When the first output arrived that was not reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_answer: Option<u64>,
    /// When the last byte of the answer arrived, or the failure.
    pub finished: u64,
    /// HTTP status. 0: no answer.
    pub status: u16,
    /// What went wrong. None: it went well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Tokens of the prompt. None: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u32>,
    /// Tokens of the answer, reasoning included. None: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,
    /// Of the input tokens, those that the server had in its prefix cache. None: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u32>,
    /// Of the output tokens, those that were reasoning. None: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u32>,
    /// Who counted the tokens.
    #[serde(default)]
    pub usage: UsageSource,
    /// Tokens that the prompt was meant to have. None: nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_input_tokens: Option<u32>,
    /// Output tokens asked for (`max_tokens`). None: left to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_output_tokens: Option<u32>,
    /// Times that the request was sent again because a kept connection was closed before any byte
    /// of an answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// Which connection it went over.
    pub connection: Connection,
    /// The model asked, where it is not the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Labels of the request and of its session.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Record {
    /// What cannot be in its times, for something reads earlier than what came before it. None: they can be, as far as
    /// they tell by themselves. All are of one clock, on which things may happen in the same moment.
    #[must_use]
    pub fn contradiction(&self) -> Option<&'static str> {
        // A refusal may come while a long request is still being sent.
        let asked = self.sent.filter(|_| self.error.is_none()).unwrap_or(self.started);
        let (first, last) = (self.tokens.first().copied(), self.tokens.last().copied());
        let before = |at: Option<u64>, other: u64| at.is_some_and(|at| at < other);
        let after_its_end = |at: Option<u64>| at.is_some_and(|at| at > self.finished);
        [
            (before(self.sent, self.started), "it was sent before it was started"),
            (before(self.first_byte, self.started), "its answer began before it was started"),
            (before(first, asked), "its first token arrived before it was sent"),
            (
                before(first, self.first_byte.unwrap_or(0)),
                "its first token arrived before its answer began",
            ),
            (before(self.first_answer, asked), "its first token arrived before it was sent"),
            (after_its_end(Some(self.started)), "it ended before it was started"),
            (after_its_end(self.sent), "it ended before it was sent"),
            (after_its_end(self.first_byte), "it ended before its answer began"),
            // A sum of differences that is too large is the largest number.
            (after_its_end(last.max(self.first_answer)), "it ended before its last token arrived"),
        ]
        .into_iter()
        .find_map(|(is_so, what)| is_so.then_some(what))
    }
}

/// Who counted the tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The server, in its `usage` object.
    Server,
    /// The client's tokenizer.
    Tokenizer,
    /// Nobody.
    #[default]
    None,
}

/// Which connection a request went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// One that was open already.
    Reused,
    /// One that was opened between `started` and `sent`.
    #[default]
    New,
}

impl Connection {
    /// When the client had done what is its own of sending a request: the time to open a connection, from
    /// `started` to `sent`, is the network's and the server's.
    #[must_use]
    pub fn asked_at(self, started: u64, sent: Option<u64>) -> Option<u64> {
        match self {
            Self::Reused => sent,
            Self::New => sent.map(|_| started),
        }
    }
}

/// What went wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure.
    pub kind: FailureKind,
    /// What the server or the operating system said. Cut to 2 KiB.
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No connection could be opened.
    Connect,
    /// No TLS session could be made.
    Tls,
    /// It took longer than allowed.
    Timeout,
    /// The status was not 2xx.
    HttpStatus,
    /// The answer ended before it was complete.
    StreamCut,
    /// The answer could not be understood.
    BadStream,
    /// The server reported an error inside a stream that had begun well.
    ServerError,
    /// A good status and an ended stream without one output token.
    EmptyAnswer,
    /// The load generator lacked what a connection needs: open files, ports, memory.
    Client,
    /// The client broke it off: at the end of a stage's drain, on interrupt, or as the workload
    /// asked.
    Cancelled,
}

impl FailureKind {
    /// Every kind, in the order of reports.
    pub const ALL: [FailureKind; 10] = [
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::HttpStatus,
        Self::StreamCut,
        Self::BadStream,
        Self::ServerError,
        Self::EmptyAnswer,
        Self::Client,
        Self::Cancelled,
    ];

    /// Whether there was no connection to send a request over.
    #[must_use]
    pub fn is_of_connecting(self) -> bool {
        matches!(self, Self::Connect | Self::Tls | Self::Client)
    }

    /// The kind's name in files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::HttpStatus => "http_status",
            Self::StreamCut => "stream_cut",
            Self::BadStream => "bad_stream",
            Self::ServerError => "server_error",
            Self::EmptyAnswer => "empty_answer",
            Self::Client => "client",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Failure {
    const LONGEST_MESSAGE: usize = 2048;

    /// A failure.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// As it is recorded: with a message of bounded length. What is to be hidden in it, is to be hidden before, for half
    /// of it would not be found any more.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.message.truncate(self.message.floor_char_boundary(Self::LONGEST_MESSAGE));
        self
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn write_differences<S: Serializer>(times: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    let mut before = 0;
    serializer.collect_seq(times.iter().map(|&time| {
        let difference = time.saturating_sub(before);
        before = time;
        difference
    }))
}

fn read_differences<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    Vec::deserialize(deserializer).map(summed)
}

/// Times, of differences.
pub(crate) fn summed(mut times: Vec<u64>) -> Vec<u64> {
    let mut sum: u64 = 0;
    for time in &mut times {
        sum = sum.saturating_add(*time);
        *time = sum;
    }
    times
}
