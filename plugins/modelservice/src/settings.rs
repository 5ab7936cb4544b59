//! The settings of the backend. Those that follow a variable of the original always come filled in
//! by the host.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What the experiment file says under `deploy.settings`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) service_account: String,
    /// "KEY:VALUE" of a node label; empty: any node.
    #[serde(default)]
    pub(crate) affinity: String,
    pub(crate) replicas: u32,
    pub(crate) gpu_nr: u32,
    pub(crate) gpu_mem_util: String,
    pub(crate) accelerator_resource: String,
    pub(crate) cpu_nr: u32,
    pub(crate) cpu_mem: String,
    pub(crate) max_model_len: u32,
    pub(crate) pvc_name: String,
    pub(crate) hf_token_name: String,
    pub(crate) inference_port: u16,
    pub(crate) platform: String,
    /// Seconds.
    pub(crate) wait_timeout: u64,
    pub(crate) image: String,
    /// "pvc" or "hf".
    pub(crate) model_source: String,
    pub(crate) model_size: String,
    pub(crate) extra_args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) image_pull_secrets: Vec<String>,
    pub(crate) pod_spec: Map<String, Value>,
    pub(crate) container_spec: Map<String, Value>,
    /// Empty: no sidecar.
    pub(crate) sidecar_image: String,
    pub(crate) router_image: String,
    pub(crate) inference_pool: bool,
    /// URLs, or names of attached inputs.
    pub(crate) definitions: Vec<String>,
    pub(crate) router_chart: String,
    pub(crate) router_chart_version: String,
    /// Name of the attached input.
    pub(crate) router_chart_archive: Option<String>,
    pub(crate) router_values: Map<String, Value>,
    pub(crate) server_chart: String,
    pub(crate) server_chart_repo: String,
    pub(crate) server_chart_version: String,
    /// Name of the attached input.
    pub(crate) server_chart_archive: Option<String>,
    pub(crate) server_values: Map<String, Value>,
}
