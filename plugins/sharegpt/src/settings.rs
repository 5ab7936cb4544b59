//! The settings of the workload, as users write them.

use llmdbench_plugin::Duration;
use serde::Deserialize;

/// What the experiment file says under `workload.settings`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The name of the attached input.
    pub(crate) file: String,
    #[serde(default)]
    pub(crate) mode: Mode,
    pub(crate) max_input_tokens: Option<u32>,
    pub(crate) max_output_tokens: Option<u32>,
    #[serde(default)]
    pub(crate) output: Output,
    #[serde(default)]
    pub(crate) exact_output: bool,
    #[serde(default = "yes")]
    pub(crate) streamed: bool,
    #[serde(default = "yes")]
    pub(crate) shuffle: bool,
    pub(crate) sessions: Option<u64>,
    #[serde(default)]
    pub(crate) repeat: bool,
    #[serde(default)]
    pub(crate) think_time: Duration,
    pub(crate) seed: Option<u64>,
}

/// How much of a conversation is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// All its turns, in one session.
    #[default]
    Conversations,
    /// The first turn alone.
    FirstTurn,
}

/// How long answers may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Output {
    /// This many tokens.
    Tokens(u32),
    /// As long as the answer in the data set.
    Recorded(AsRecorded),
}

/// The one word that `output` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AsRecorded {
    AsRecorded,
}

impl Default for Output {
    fn default() -> Self {
        Self::Recorded(AsRecorded::AsRecorded)
    }
}

fn yes() -> bool {
    true
}
