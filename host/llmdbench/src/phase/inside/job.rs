//! The objects by which agents come to be in a cluster: a Job with one pod for each, and a Secret where the target
//! wants secrets. Pure.

use crate::error::{Error, Result};
use crate::secrets::Secrets;
use crate::settings::Settings;
use plugin_host::merge;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

/// The container of an agent.
pub(crate) const CONTAINER: &str = "agent";

/// Where an agent works.
const WORK: &str = "/work";

/// What is known before the agents are there.
pub(crate) struct Agents<'a> {
    /// The name of the Job and of its Secret.
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) shards: u32,
    pub(crate) settings: &'a Settings,
}

/// A name for agents of a run by what they are for: what Kubernetes adds to it for pods must fit, too.
pub(crate) fn name(what: &str, run: &str) -> String {
    const MOST: usize = 52;
    let name = format!("{what}-{run}");
    match name.len().checked_sub(MOST) {
        // The end of a run's id tells it from others.
        Some(over) if over > 0 => format!("{what}-{}", run[over..].trim_start_matches('-')),
        _ => name,
    }
}

impl Agents<'_> {
    /// The Job. Its pods get no account's token, write only where they work, and are not replaced: what a lost one
    /// had measured would be gone, and its part of the schedule with it.
    pub(crate) fn job(&self, has_secrets: bool) -> Result<Value> {
        let text = |path: &str| self.settings.text(path).unwrap_or_default().to_owned();
        let environment = json!([
            // Compiled plugins and whatever looks for a home.
            {"name": "HOME", "value": WORK},
            {"name": "XDG_CACHE_HOME", "value": format!("{WORK}/cache")},
        ]);
        let secrets = match has_secrets {
            true => json!([{"secretRef": {"name": self.name}}]),
            false => json!([]),
        };
        let spec = json!({
            "serviceAccountName": text("fmperf.service_account"),
            "automountServiceAccountToken": false,
            // Names of Services would come as variables, some of them with the name of a setting.
            "enableServiceLinks": false,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 30,
            "securityContext": {
                "runAsNonRoot": true,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            // Agents on one node share its processors and its network.
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"batch.kubernetes.io/job-name": self.name}},
            }],
            "containers": [{
                "name": CONTAINER,
                "image": text("load.image"),
                "imagePullPolicy": "IfNotPresent",
                "command": ["llmdbench", "agent", "--dir", WORK, "serve"],
                "env": environment,
                "envFrom": secrets,
                // A limit of processor time makes a client late, and a share of a request makes it wait.
                "resources": {
                    "requests": {"cpu": text("load.cpu"), "memory": text("load.memory")},
                    "limits": {"memory": text("load.memory")},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "work", "mountPath": WORK},
                    {"name": "tmp", "mountPath": "/tmp"},
                ],
            }],
            "volumes": [{"name": "work", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        });
        let spec = merge(&spec, self.settings.get("load.pod_spec"));
        if spec["containers"]
            .as_array()
            .is_none_or(|all| all.iter().all(|c| c["name"] != CONTAINER))
        {
            return Err(Error::usage(format!(
                "`load.pod_spec` takes away the container `{CONTAINER}`, which makes the load"
            ))
            .hint("lists are replaced as a whole; leave `containers` out"));
        }
        Ok(json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": {"app": "llmdbench-agent"}},
            "spec": {
                "completionMode": "Indexed",
                "completions": self.shards,
                "parallelism": self.shards,
                "backoffLimitPerIndex": 0,
                "maxFailedIndexes": self.shards,
                "template": {
                    "metadata": {"labels": {"app": "llmdbench-agent"}},
                    "spec": spec,
                },
            },
        }))
    }

    /// What the target wants of agents. None: nothing secret.
    pub(crate) fn secret(&self, secrets: &Secrets) -> Option<Value> {
        let mut data = Map::new();
        if let Some(key) = &secrets.api_key {
            data.insert(Secrets::API_KEY_VARIABLE.into(), key.expose_secret().into());
        }
        if !secrets.headers.is_empty() {
            let headers: Map<String, Value> = secrets
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.expose_secret().into()))
                .collect();
            data.insert(
                Secrets::HEADERS_VARIABLE.into(),
                Value::Object(headers).to_string().into(),
            );
        }
        (!data.is_empty()).then(|| {
            json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "Opaque",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "stringData": data,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Layer, Source, resolve};

    fn settings(set: &[(&str, Value)]) -> Settings {
        let mut layer = Layer::named(Source::Flag);
        for (path, value) in set {
            layer.set(path, "--flag", value.clone());
        }
        resolve(vec![layer]).unwrap()
    }

    fn agents(settings: &Settings) -> Agents<'_> {
        Agents { name: "load-r", namespace: "ns", shards: 4, settings }
    }

    #[test]
    fn names_fit_and_keep_the_end_of_the_run() {
        let own = "quick-20260101-120000-1a2b";
        assert_eq!(name("load", own), "load-quick-20260101-120000-1a2b");
        let long = format!("{}-20260101-120000-1a2b", "x".repeat(40));
        for what in ["load", "smoketest"] {
            let name = name(what, &long);
            assert!(name.len() <= 52 && name.ends_with("x-20260101-120000-1a2b"), "{name}");
            assert!(name.starts_with(what));
        }
    }

    #[test]
    fn agents_can_do_nothing_but_their_work() {
        let settings = settings(&[]);
        let job = agents(&settings).job(true).unwrap();
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let own = &pod["containers"][0]["securityContext"];
        assert_eq!(own["readOnlyRootFilesystem"], true);
        assert_eq!(own["allowPrivilegeEscalation"], false);
        assert_eq!(own["capabilities"]["drop"][0], "ALL");
        assert_eq!(job["spec"]["backoffLimitPerIndex"], 0);
    }

    #[test]
    fn the_pod_can_be_patched_but_not_taken_away() {
        let patch = json!({"nodeSelector": {"pool": "load"}, "imagePullSecrets": [{"name": "s"}]});
        let patched = settings(&[("load.pod_spec", patch)]);
        let pod = agents(&patched).job(false).unwrap()["spec"]["template"]["spec"].clone();
        assert_eq!(pod["nodeSelector"]["pool"], "load");
        assert_eq!(pod["containers"][0]["name"], CONTAINER);
        let wrong = settings(&[("load.pod_spec", json!({"containers": []}))]);
        assert!(agents(&wrong).job(false).unwrap_err().to_string().contains("takes away"));
    }

    #[test]
    fn secrets_are_in_the_secret_and_nowhere_else() {
        let settings = settings(&[]);
        let secrets = Secrets {
            api_key: Some("sk-hidden".to_owned().into()),
            headers: vec![("x-tenant".into(), "t-hidden".to_owned().into())],
            by_name: [("hf-token".to_owned(), "hf_hidden".to_owned().into())].into(),
            cluster_token: Some("eyJ-hidden".to_owned().into()),
        };
        let agents = agents(&settings);
        assert!(!agents.job(true).unwrap().to_string().contains("hidden"));
        let secret = agents.secret(&secrets).unwrap();
        assert_eq!(secret["stringData"]["LLMDBENCH_API_KEY"], "sk-hidden");
        assert_eq!(secret["stringData"]["LLMDBENCH_TARGET_HEADERS"], r#"{"x-tenant":"t-hidden"}"#);
        let text = secret.to_string();
        assert!(!text.contains("hf_hidden") && !text.contains("eyJ-hidden"), "{text}");
        assert!(agents.secret(&Secrets::default()).is_none());
    }
}
