//! [`Header`]: the first line of a records file, and the rule by which versions are read.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name of the format, in every file's header.
pub const FORMAT: &str = "llmdbench.records";

/// The version that is written: major, minor. A reader takes every minor version of its major.
pub const VERSION: &str = "1.0";

/// The first line of a records file: what the lines after it are about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Always [`FORMAT`].
    pub format: String,
    /// "MAJOR.MINOR".
    pub version: String,
    /// The run's id.
    pub run: String,
    /// Wall clock at the run's start, RFC 3339.
    pub started: String,
    /// What times mean, for people who open the file.
    pub clock: String,
    /// The model asked.
    pub model: String,
    /// Where it answers.
    pub endpoint: String,
    /// The seed of everything random.
    pub seed: u64,
    /// What was planned.
    pub stages: Vec<StageInfo>,
    /// Service-level objectives, by metric name, in milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slo: BTreeMap<String, f64>,
}

/// What a stage was planned to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageInfo {
    /// Unique within the run.
    pub name: String,
    /// Its requests are left out of the results.
    pub warmup: bool,
    /// Whether the schedule or the server sets the pace.
    pub kind: LoopKind,
    /// Mean sessions per second that the stage asks for. None: a closed loop, or not known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Most sessions under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Most requests under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// Length in nanoseconds, where time ends the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Requests due in this first part, in nanoseconds, are sent and not measured.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub settle: u64,
    /// Labels of the stage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Who sets the pace of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoopKind {
    /// The schedule: requests leave when they are due, whatever the server does.
    Open,
    /// The server: a session starts when one has ended.
    Closed,
}

/// Why a file cannot be read by this version of the program.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VersionError {
    /// It is something else.
    #[error("not a records file: its first line names the format `{0}`, not `{FORMAT}`")]
    Format(String),
    /// It was written by a newer program.
    #[error(
        "the records have version {0}; this llmdbench reads {VERSION} and older. Update llmdbench"
    )]
    Newer(String),
    /// Its version is no version.
    #[error("the records have the version `{0}`, which is not of the form MAJOR.MINOR")]
    Malformed(String),
}

impl Header {
    /// Whether this version of the program can read what comes after the header.
    pub fn check(&self) -> Result<(), VersionError> {
        if self.format != FORMAT {
            return Err(VersionError::Format(self.format.clone()));
        }
        let major = |version: &str| -> Option<u32> {
            let (major, minor) = version.split_once('.')?;
            minor.parse::<u32>().ok()?;
            major.parse().ok()
        };
        let found =
            major(&self.version).ok_or_else(|| VersionError::Malformed(self.version.clone()))?;
        if Some(found) > major(VERSION) {
            return Err(VersionError::Newer(self.version.clone()));
        }
        Ok(())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
pub(crate) fn is_zero(n: &u64) -> bool {
    *n == 0
}
