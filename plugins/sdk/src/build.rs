//! Short ways to make the larger records of the contract; fields that matter are then set by
//! `..` or one by one.

use crate::requests::{Pacing, Prompt, Request, Session, Turn};
use crate::stages::{Arrival, Stage, Stop};
use crate::types::Label;
use crate::workload::Size;

/// A label.
pub fn label(key: impl Into<String>, value: impl Into<String>) -> Label {
    Label { key: key.into(), value: value.into() }
}

impl Request {
    /// A streamed request with this prompt and no wishes beyond it.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            api: None,
            model: None,
            prompt,
            history: false,
            streamed: true,
            max_output_tokens: None,
            exact_output: false,
            cancel_after: None,
            expected_output_tokens: None,
            extra: None,
            headers: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// A streamed request that asks these words.
    pub fn text(words: impl Into<String>) -> Self {
        Self::new(Prompt::Text(words.into()))
    }
}

impl Turn {
    /// A turn that starts as soon as the one before it has ended.
    pub fn new(request: Request) -> Self {
        Self { request, pacing: Pacing::AfterPreviousEnd(0), after: Vec::new() }
    }
}

impl Session {
    /// A session of these turns, without a start of its own, whose user is its id.
    pub fn new(id: u64, turns: Vec<Turn>) -> Self {
        Self { id, user: id, start: None, turns, open_ended: false, labels: Vec::new() }
    }

    /// A plain request.
    pub fn single(id: u64, request: Request) -> Self {
        Self::new(id, vec![Turn::new(request)])
    }
}

impl Stage {
    /// A stage without limits, which ends when the workload has no more.
    pub fn new(name: impl Into<String>, arrival: Arrival) -> Self {
        Self {
            name: name.into(),
            arrival,
            concurrency: None,
            max_in_flight: None,
            stop: Stop { after: None, sessions: None, requests: None, errors: None },
            warm_up: false,
            quantum: None,
            drain: None,
            cool_down: 0,
            workload_settings: None,
            labels: Vec::new(),
        }
    }
}

/// Nothing known.
impl Default for Size {
    fn default() -> Self {
        Self {
            sessions: None,
            requests: None,
            mean_input_tokens: None,
            mean_output_tokens: None,
            skipped: Vec::new(),
        }
    }
}
