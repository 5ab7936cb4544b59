//! What load is asked for: the target, the stages, and the sessions that fill them.
//!
//! These types mirror the plugin contract's `stages` and `requests` and know nothing of plugins.
//! Times are nanoseconds.

use secrecy::SecretString;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Nanoseconds.
pub type Nanos = u64;

/// Everything decided about the load of a run.
#[derive(Debug)]
pub struct Plan {
    /// Where requests go.
    pub target: Target,
    /// In order; at least one.
    pub stages: Vec<Stage>,
    /// A request that takes longer is broken off and recorded as `timeout`.
    pub request_timeout: Nanos,
    /// Seed of the schedules.
    pub seed: u64,
    /// When to give up.
    pub abort: Abort,
    /// Counts the tokens of answers whose server does not. None: they stay uncounted.
    pub count_tokens: Option<TokenCounter>,
    /// Threads that send and read. None: one for each core, at most eight.
    pub threads: Option<usize>,
    /// Others that make the load with it. None: it makes all of it.
    pub together: Option<crate::Together>,
}

/// Counts the tokens of a text, with the model's tokenizer as a rule.
#[derive(Clone)]
pub struct TokenCounter(Arc<Count>);

type Count = dyn Fn(&str) -> Option<u32> + Send + Sync;

impl TokenCounter {
    /// A counter from a function, which may be slow: no thread that times traffic calls it.
    /// It gives None for a text that it cannot count.
    pub fn new(count: impl Fn(&str) -> Option<u32> + Send + Sync + 'static) -> Self {
        Self(Arc::new(count))
    }

    pub(crate) fn count(&self, text: &str) -> Option<u32> {
        (self.0)(text)
    }
}

impl fmt::Debug for TokenCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCounter").finish_non_exhaustive()
    }
}

/// When to give up.
#[derive(Debug, Clone, Copy)]
pub struct Abort {
    /// Requests, three at least, have failed over this long, and meanwhile none has ended well or brought output.
    pub without_success: Option<Nanos>,
    /// Share of failed requests, judged once ten have ended. None: no limit.
    pub max_error_rate: Option<f64>,
}

/// Where requests go and what is common to all of them.
#[derive(Debug)]
pub struct Target {
    /// Base URLs as [`crate::Endpoint::parse`] understands them; sessions are spread evenly.
    pub endpoints: Vec<crate::Endpoint>,
    /// The API of requests that name none.
    pub api: Api,
    /// The model of requests that name none.
    pub model: String,
    /// Names the run in the header `x-request-id` of every request, `llmdbench-RUN-NUMBER`, where the
    /// number is the id of its record in 12 digits. Letters, digits and hyphens.
    pub run: String,
    /// Headers of every request. Their values are secrets.
    pub headers: Vec<(String, SecretString)>,
    /// Sent as bearer token.
    pub api_key: Option<SecretString>,
    /// Fields added to every body, over those of the request.
    pub extra_body: serde_json::Map<String, serde_json::Value>,
    /// How TLS certificates are checked.
    pub tls: Tls,
    /// Whether bodies may carry `ignore_eos` and `min_tokens` (vLLM, SGLang, llama.cpp; not
    /// OpenAI).
    pub exact_output: bool,
}

/// How TLS certificates are checked.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Trust the authorities in this PEM file as well as the system's.
    pub ca_file: Option<PathBuf>,
    /// Check nothing.
    pub insecure: bool,
}

/// An inference API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completions,
}

/// A stretch of load.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Unique within the plan.
    pub name: String,
    /// When sessions start.
    pub arrival: Arrival,
    /// Most sessions under way; one that waits between turns counts.
    pub concurrency: Option<u32>,
    /// Most requests under way.
    pub max_in_flight: Option<u32>,
    /// When it ends.
    pub stop: Stop,
    /// Its requests are left out of the results.
    pub warm_up: bool,
    /// Requests due in this first part are sent and not measured.
    pub settle: Nanos,
    /// Starts are rounded up to a multiple of this, counted from the stage's start.
    pub quantum: Option<Nanos>,
    /// How long requests under way may go on at the end, before they are cancelled. None: until
    /// they end.
    pub drain: Option<Nanos>,
    /// Pause after the stage.
    pub cool_down: Nanos,
    /// Kept with the stage's results.
    pub labels: BTreeMap<String, String>,
}

/// When sessions start.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrival {
    /// `concurrency` sessions are always under way.
    Closed,
    /// Evenly spaced, this many per second; the first at the start of the stage.
    Constant(f64),
    /// Exponential gaps, this many per second on average.
    Poisson(f64),
    /// Gamma-distributed gaps.
    Gamma {
        /// Mean arrivals per second.
        rate: f64,
        /// 1 is Poisson, below 1 burstier, above 1 more even.
        shape: f64,
    },
    /// A rate or a concurrency that changes.
    Ramp(Ramp),
    /// At the sessions' own `start`, divided by this factor. A session without one starts with
    /// the one before it.
    Trace(f64),
    /// At these times from the start of the stage, rising.
    Schedule(Vec<Nanos>),
}

/// A change from one value to another, which then stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// What changes.
    pub what: Ramped,
    /// Value at the start of the stage.
    pub start: f64,
    /// Value at the end of the ramp.
    pub end: f64,
    /// Length of the change.
    pub over: Nanos,
    /// By equal factors rather than equal steps.
    pub exponential: bool,
}

/// What a ramp changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ramped {
    /// The concurrency of a closed loop.
    Closed,
    /// The rate of even arrivals.
    Constant,
    /// The rate of Poisson arrivals.
    Poisson,
}

/// A stage ends at the first of these, or when there are no more sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stop {
    /// Time since the start of the stage. Nothing starts after it.
    pub after: Option<Nanos>,
    /// Sessions started.
    pub sessions: Option<u64>,
    /// Requests started.
    pub requests: Option<u64>,
    /// Requests failed.
    pub errors: Option<u64>,
}

/// What one user does.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Unique within the stage.
    pub id: u64,
    /// The user, stable over sessions.
    pub user: u64,
    /// When it starts, from the start of the stage; used by [`Arrival::Trace`].
    pub start: Option<Nanos>,
    /// Index of the endpoint that it talks to. None: endpoints take turns.
    pub endpoint: Option<usize>,
    /// In order; at least one. A turn that fails ends the session.
    pub turns: Vec<Turn>,
    /// Kept in the record of each of its requests.
    pub labels: BTreeMap<String, String>,
}

/// One exchange of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// What is asked.
    pub request: Request,
    /// When; for the first turn, the session's start stands for the turn before.
    pub pacing: Pacing,
}

/// When a turn starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    /// This long after the turn before ended.
    AfterPreviousEnd(Nanos),
    /// This long after the turn before started, but not before it ended.
    AfterPreviousStart(Nanos),
    /// This long after the session started, but not before the turn before ended.
    At(Nanos),
}

/// One call of the inference API.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// None: the target's.
    pub api: Option<Api>,
    /// With a raw prompt: the path to post to. None: the API's.
    pub path: Option<String>,
    /// None: the target's.
    pub model: Option<String>,
    /// What is asked.
    pub prompt: Prompt,
    /// Send the session's earlier prompts and real answers before this prompt.
    pub history: bool,
    /// Have the answer streamed.
    pub streamed: bool,
    /// Most tokens to be generated.
    pub max_output_tokens: Option<u32>,
    /// Generate exactly that many.
    pub exact_output: bool,
    /// Break the connection this long after the start.
    pub cancel_after: Option<Nanos>,
    /// Tokens that the prompt is meant to have.
    pub asked_input_tokens: Option<u32>,
    /// Further fields of the body.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Further HTTP headers.
    pub headers: Vec<(String, String)>,
    /// Kept in the record.
    pub labels: BTreeMap<String, String>,
}

/// What the model is asked, in words: whoever makes sessions has turned synthetic prompts into
/// text.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// These words. The chat API gets them as one user message.
    Text(String),
    /// These tokens; the completions API only.
    TokenIds(Vec<u32>),
    /// A chat. The completions API gets lines "ROLE: text", roles in capitals.
    Messages(Vec<Message>),
    /// The whole body; nothing is changed.
    Raw(String),
}

/// A message of a chat.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// "system", "user", "assistant", "tool".
    pub role: String,
    /// Its contents, joined in order.
    pub parts: Vec<Part>,
    /// Further fields of the message.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// These words.
    Text(String),
    /// The answer to an earlier turn of the session, by its index.
    OutputOf(u32),
}
