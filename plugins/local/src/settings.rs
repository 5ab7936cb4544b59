//! The settings of the backend, as users write them.

use llmdbench_plugin::Duration;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What the experiment file says under `deploy.settings`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// None: the simulator.
    pub(crate) command: Option<Vec<String>>,
    pub(crate) simulator: Option<Simulator>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) secrets: BTreeMap<String, String>,
    pub(crate) port: Option<u16>,
    pub(crate) ready_path: String,
    pub(crate) ready_timeout: Duration,
    pub(crate) working_dir: Option<String>,
    pub(crate) metrics_path: String,
    pub(crate) model: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            command: None,
            simulator: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            port: None,
            ready_path: "/health".to_owned(),
            ready_timeout: Duration::from_secs(60),
            working_dir: None,
            metrics_path: "/metrics".to_owned(),
            model: None,
        }
    }
}

/// How the simulated server behaves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Simulator {
    pub(crate) ttft: Duration,
    pub(crate) itl: Duration,
    pub(crate) prefill_per_token: Duration,
    pub(crate) max_running: Option<u32>,
    pub(crate) tokens_per_chunk: Option<u32>,
    pub(crate) jitter: f64,
    pub(crate) seed: Option<u64>,
    pub(crate) cache_blocks: Option<u32>,
    pub(crate) truth_log: Option<String>,
    pub(crate) faults: BTreeMap<String, f64>,
}

impl Default for Simulator {
    fn default() -> Self {
        Self {
            ttft: Duration::from_millis(200),
            itl: Duration::from_millis(10),
            prefill_per_token: Duration::default(),
            max_running: None,
            tokens_per_chunk: None,
            jitter: 0.0,
            seed: None,
            cache_blocks: None,
            truth_log: None,
            faults: BTreeMap::new(),
        }
    }
}
