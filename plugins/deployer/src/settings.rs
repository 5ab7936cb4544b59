//! The settings of the backend. Those that follow a variable of the original always come filled in
//! by the host.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What the experiment file says under `deploy.settings`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Settings {
    /// "KEY:VALUE" of a node label; empty: any node.
    #[serde(default)]
    pub(crate) affinity: String,
    pub(crate) gpu_nr: u32,
    pub(crate) accelerator_resource: String,
    pub(crate) pvc_name: String,
    pub(crate) hf_token_name: String,
    pub(crate) inference_port: u16,
    /// "fromenv", or the name of the attached input.
    pub(crate) values_file: String,
    pub(crate) release: String,
    #[serde(default)]
    pub(crate) base_config_map_ref_name: String,
    #[serde(default)]
    pub(crate) gateway_class_name: String,
    pub(crate) prefill_replicas: u32,
    #[serde(default)]
    pub(crate) prefill_extra_args: String,
    pub(crate) decode_replicas: u32,
    #[serde(default)]
    pub(crate) decode_extra_args: String,
    pub(crate) modelservice_replicas: u32,
    pub(crate) route: bool,
    pub(crate) platform: String,
    /// Seconds.
    pub(crate) wait_timeout: u64,
    #[serde(default)]
    pub(crate) values: Map<String, Value>,
    /// "kgateway", or "none".
    pub(crate) gateway: String,
    /// URLs, or names of attached inputs.
    pub(crate) definitions: Vec<String>,
    pub(crate) chart: String,
    pub(crate) chart_version: String,
    pub(crate) chart_repo: String,
    /// Name of the attached input.
    pub(crate) chart_archive: Option<String>,
    /// The variables of the endpoint picker, by the names that it knows in lower case.
    #[serde(flatten)]
    pub(crate) picker: Map<String, Value>,
}
