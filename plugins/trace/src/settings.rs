//! The settings of the workload, as users write them.

use crate::time::Unit;
use llmdbench_plugin::{Duration, Error};
use serde::Deserialize;

/// What the experiment file says under `workload.settings`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The name of the attached input.
    pub(crate) file: String,
    #[serde(default)]
    pub(crate) format: Choice,
    #[serde(default)]
    pub(crate) time_unit: TimeUnit,
    #[serde(default)]
    pub(crate) window: Window,
    /// Most requests.
    pub(crate) limit: Option<u64>,
    pub(crate) max_input_tokens: Option<u32>,
    pub(crate) max_output_tokens: Option<u32>,
    #[serde(default = "block")]
    pub(crate) block_tokens: u32,
    /// None: exactly where the trace has lengths alone.
    pub(crate) exact_output: Option<bool>,
    #[serde(default = "yes")]
    pub(crate) streamed: bool,
    pub(crate) seed: Option<u64>,
}

/// How the file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Choice {
    /// As its first line says.
    #[default]
    Auto,
    #[serde(untagged)]
    Given(Format),
}

/// A format of traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// JSON Lines with lengths and blocks.
    Mooncake,
    /// CSV with lengths, times in seconds.
    Burstgpt,
    /// CSV with lengths, times with date.
    Azure,
    /// JSON Lines with what was asked.
    Messages,
}

/// What numbers that stand for times count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TimeUnit {
    /// What the format has.
    #[default]
    Auto,
    #[serde(untagged)]
    Given(Unit),
}

/// The part of the trace that is used, from the trace's start.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Window {
    #[serde(default)]
    pub(crate) from: Duration,
    pub(crate) to: Option<Duration>,
}

impl Format {
    /// As users know it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Mooncake => "Mooncake trace",
            Self::Burstgpt => "BurstGPT trace",
            Self::Azure => "Azure trace",
            Self::Messages => "trace of messages",
        }
    }

    /// What its numbers count where nobody says.
    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::Mooncake | Self::Messages => Unit::Ms,
            Self::Burstgpt | Self::Azure => Unit::S,
        }
    }
}

impl Settings {
    /// Refuses what the schema cannot.
    ///
    /// # Errors
    /// When a setting makes no sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (name, zero) in [
            ("limit", self.limit == Some(0)),
            ("max_input_tokens", self.max_input_tokens == Some(0)),
            ("max_output_tokens", self.max_output_tokens == Some(0)),
            ("block_tokens", self.block_tokens == 0),
        ] {
            if zero {
                let hint = format!("choose at least 1, or leave out `{name}`");
                return Err(Error::invalid_settings("the value is 0")
                    .at(format!("/{name}"))
                    .hint(hint));
            }
        }
        let from = self.window.from;
        match self.window.to {
            Some(to) if to <= from => Err(Error::invalid_settings(format!(
                "the window ends at {to}, and begins at {from}"
            ))
            .at("/window/to")
            .hint("both count from the start of the trace: choose a later `to`, or leave it out")),
            _ => Ok(()),
        }
    }
}

fn block() -> u32 {
    512
}

fn yes() -> bool {
    true
}
