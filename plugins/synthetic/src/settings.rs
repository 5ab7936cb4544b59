//! The settings of the workload, as users write them.

use crate::distribution::{Amount, Pause};
use serde::Deserialize;

/// What the experiment file says under `workload.settings`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) input_tokens: Amount,
    pub(crate) output_tokens: Amount,
    pub(crate) shared_prefix_tokens: u32,
    pub(crate) prefix_groups: u64,
    pub(crate) turns: Amount,
    pub(crate) think_time: Pause,
    pub(crate) users: Option<u64>,
    pub(crate) sessions: Option<u64>,
    pub(crate) exact_output: bool,
    pub(crate) streamed: bool,
    pub(crate) seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            input_tokens: Amount::Fixed(256),
            output_tokens: Amount::Fixed(64),
            shared_prefix_tokens: 0,
            prefix_groups: 1,
            turns: Amount::Fixed(1),
            think_time: Pause::default(),
            users: None,
            sessions: None,
            exact_output: true,
            streamed: true,
            seed: None,
        }
    }
}
