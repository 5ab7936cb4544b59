//! [`Plan`]: everything decided before anything is done, as it stands in `plan.json`.

use crate::action::Action;
use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::run_dir::{self, RunDir};
use load::Endpoint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The name of the format.
const FORMAT: &str = "llmdbench.plan";
/// The version that is written.
const VERSION: &str = "1.0";

/// Everything decided before anything is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) format: String,
    pub(crate) version: String,
    /// The run's id, fit for a label of Kubernetes.
    pub(crate) run: String,
    /// When the plan was made, RFC 3339.
    pub(crate) created: String,
    /// What the user wants, validated.
    pub(crate) experiment: Experiment,
    /// The plugins, by kind.
    pub(crate) plugins: Vec<PluginUse>,
    /// The namespace of the run's objects. None: it uses no cluster.
    #[serde(default)]
    pub(crate) namespace: Option<String>,
    /// How the stack is stood up. Empty: it stands already.
    pub(crate) steps: Vec<Step>,
    /// The load, for people; it is made again from the harness when it runs.
    pub(crate) stages: Vec<StageOutline>,
    /// What is asked, as far as it is known.
    pub(crate) workload: WorkloadOutline,
    /// What plugins had to say.
    pub(crate) findings: Vec<Finding>,
}

/// A plugin and what it is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PluginUse {
    /// "backend", "harness", "workload".
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// SHA-256 of the component.
    pub(crate) digest: String,
    /// The file it came from. None: it is built in.
    pub(crate) file: Option<PathBuf>,
    /// Files that it reads: the setting's pointer and the path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) inputs: BTreeMap<String, PathBuf>,
}

/// A part of the deployment that can be selected, skipped or repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// 0 to 99.
    pub(crate) number: u8,
    /// Lower-case words with underscores.
    pub(crate) name: String,
    /// One line for people.
    pub(crate) title: String,
    /// In this order.
    pub(crate) actions: Vec<Action>,
}

/// A stage, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StageOutline {
    pub(crate) name: String,
    /// "constant, 2/s", "closed, 8 sessions".
    pub(crate) arrival: String,
    /// "20s", "100 requests".
    pub(crate) until: String,
    pub(crate) warm_up: bool,
    /// Limits, pauses and settings of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
}

/// What is asked, as far as it is known beforehand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct WorkloadOutline {
    pub(crate) sessions: Option<u64>,
    pub(crate) requests: Option<u64>,
    pub(crate) mean_input_tokens: Option<f64>,
    pub(crate) mean_output_tokens: Option<f64>,
    /// What the data held and is left out: the reason and its count.
    pub(crate) skipped: Vec<(String, String)>,
}

/// Something a plugin had to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// "note", "warning" or "problem".
    pub(crate) severity: String,
    /// The plugin.
    pub(crate) plugin: String,
    pub(crate) text: String,
}

/// The system under test, as it stands in `target.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// Base URLs.
    pub(crate) endpoints: Vec<String>,
    /// The model's name as the API wants it.
    pub(crate) model: String,
    /// Where it can be watched.
    pub(crate) metrics: Vec<MetricsSource>,
    /// What the report says about the system.
    pub(crate) facts: BTreeMap<String, String>,
    /// What the endpoint leads to, where its URL works inside a cluster only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) within: Option<Within>,
    /// The pods in a cluster that serve the model, where the endpoint leads to something in front of them. Empty: it
    /// leads to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) servers: Vec<Servers>,
}

/// Pods that serve the model, known by their labels: which these are may change at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Servers {
    pub(crate) namespace: String,
    /// "app=vllm,role=decode".
    pub(crate) selector: String,
    pub(crate) port: u16,
    /// The path of their metrics pages.
    pub(crate) metrics: String,
}

/// A port in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Within {
    /// "Service" or "Pod".
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// Where metrics in the Prometheus format are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetricsSource {
    /// What is measured there: "server".
    pub(crate) component: String,
    /// Full URL, path included.
    pub(crate) url: String,
}

impl Target {
    /// How many of its endpoints are on this machine. What is in a cluster is not, whatever address the
    /// port has through which it is reached.
    pub(crate) fn endpoints_here(&self) -> usize {
        let is_here = |url: &&String| {
            let Ok(endpoint) = Endpoint::parse(url) else { return false };
            let host = endpoint.host();
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        if self.within.is_some() { 0 } else { self.endpoints.iter().filter(is_here).count() }
    }
}

impl Plan {
    /// A plan of this version's format.
    pub(crate) fn new(run: String, created: String, experiment: Experiment) -> Self {
        Self {
            format: FORMAT.into(),
            version: VERSION.into(),
            run,
            created,
            experiment,
            plugins: Vec::new(),
            namespace: None,
            steps: Vec::new(),
            stages: Vec::new(),
            workload: WorkloadOutline::default(),
            findings: Vec::new(),
        }
    }

    /// Reads the plan of a run folder.
    pub(crate) fn read(dir: &RunDir) -> Result<Self> {
        Self::read_file(&dir.plan())?.ok_or_else(|| {
            Error::usage(format!(
                "`{}` is not the folder of a run: it has no plan.json",
                dir.root().display()
            ))
            .hint("name the folder with --workdir DIR; `llmdbench bench FILE` makes one")
        })
    }

    /// Reads a plan. None: there is no such file.
    pub(crate) fn read_file(path: &Path) -> Result<Option<Self>> {
        let Some(plan) = run_dir::read_json::<Self>(path)? else { return Ok(None) };
        if plan.version.split('.').next() != VERSION.split('.').next() {
            return Err(Error::usage(format!(
                "`{}` has version {}; this llmdbench reads {VERSION}",
                path.display(),
                plan.version
            ))
            .hint("use the llmdbench that wrote it"));
        }
        Ok(Some(plan))
    }

    /// Writes it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        run_dir::write_json(path, self)
    }

    /// Whether only a cluster can do what its steps say.
    pub(crate) fn needs_cluster(&self) -> bool {
        self.steps.iter().flat_map(|step| &step.actions).any(Action::needs_cluster)
    }

    /// The plugin used for a kind.
    pub(crate) fn plugin(&self, kind: &str) -> Option<&PluginUse> {
        self.plugins.iter().find(|used| used.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_forwarded_into_a_cluster_is_not_on_this_machine() {
        let here = |urls: &[&str], within: Option<Within>| {
            let target = Target {
                endpoints: urls.iter().map(|url| (*url).to_owned()).collect(),
                model: "m".into(),
                metrics: Vec::new(),
                facts: BTreeMap::new(),
                within,
                servers: Vec::new(),
            };
            target.endpoints_here()
        };
        let local = ["http://localhost:8000", "https://127.1.2.3/v1", "http://[::1]:8000"];
        assert_eq!(here(&local, None), 3);
        assert_eq!(here(&["http://127.0.0.1.example.org", "http://10.0.0.1:8000"], None), 0);
        assert_eq!(here(&["http://10.0.0.1:8000", "http://localhost:8000"], None), 1);
        let service =
            Within { kind: "Service".into(), namespace: "n".into(), name: "s".into(), port: 80 };
        assert_eq!(here(&["http://127.0.0.1:40123"], Some(service)), 0);
    }
}
