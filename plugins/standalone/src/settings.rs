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
    pub(crate) affinity: String,
    pub(crate) replicas: u32,
    pub(crate) gpu_nr: u32,
    pub(crate) gpu_mem_util: String,
    pub(crate) accelerator_resource: String,
    pub(crate) cpu_nr: u32,
    pub(crate) cpu_mem: String,
    pub(crate) max_model_len: u32,
    pub(crate) pvc_name: String,
    pub(crate) pvc_mountpoint: String,
    pub(crate) hf_token_name: String,
    pub(crate) inference_port: u16,
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) args: String,
    pub(crate) route: bool,
    pub(crate) httproute: bool,
    #[serde(default)]
    pub(crate) cluster_url: String,
    pub(crate) platform: String,
    /// Seconds.
    pub(crate) wait_timeout: u64,
    #[serde(default)]
    pub(crate) disable_log_requests: bool,
    #[serde(default)]
    pub(crate) extra_args: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) image_pull_secrets: Vec<String>,
    #[serde(default)]
    pub(crate) pod_spec: Map<String, Value>,
    #[serde(default)]
    pub(crate) container_spec: Map<String, Value>,
}
