//! What a step does, as data: what the plan holds, a dry run shows, and standup carries out.

use cluster::Owner;
use saphyr::{LoadableYamlNode, Yaml};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub(crate) enum Action {
    /// Start a process on this machine.
    Process(Process),
    /// Ask the model for a completion and check the answer.
    Smoketest,
    /// Apply Kubernetes objects.
    Apply(Manifest),
    /// Fetch Kubernetes objects and apply them.
    ApplyRemote(RemoteManifest),
    /// Wait for Kubernetes objects.
    Wait(Wait),
    /// Install or upgrade a Helm release.
    Helm(Release),
    /// Uninstall a Helm release.
    Uninstall(ReleaseRef),
    /// Make a Secret of secrets of the user.
    Secret(Secret),
    /// Read objects, for the backend to find the target.
    Observe(Objects),
    /// Delete objects.
    Delete(Objects),
}

/// A process that runs until teardown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<Variable>,
    pub(crate) files: Vec<ProcessFile>,
    pub(crate) working_dir: Option<String>,
    /// Ready once this URL answers with 2xx. None: ready once it runs.
    pub(crate) ready_url: Option<String>,
    pub(crate) ready_timeout: Duration,
}

/// An environment variable of a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Variable {
    pub(crate) name: String,
    /// Its value. Empty where a secret gives it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) text: String,
    /// The name of the secret that gives its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
}

/// A file that a process finds when it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessFile {
    pub(crate) path: String,
    pub(crate) contents: Vec<u8>,
    pub(crate) expand: bool,
}

/// Kubernetes objects of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Its file in `setup/yamls`, the step's number in front: "06_a_deployment_llama-8b.yaml".
    pub(crate) file: String,
    /// One or more YAML documents.
    pub(crate) yaml: String,
}

/// Kubernetes objects that somebody else publishes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemoteManifest {
    /// As [`Manifest::file`].
    pub(crate) file: String,
    /// An https URL, or the path of a file of the user.
    pub(crate) source: String,
    /// It is a file of the user.
    #[serde(default)]
    pub(crate) is_file: bool,
    /// SHA-256 of what must come. None: not checked.
    pub(crate) sha256: Option<String>,
}

/// One object, or all that match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Objects {
    /// "apps/v1", "v1".
    pub(crate) api_version: String,
    /// "Deployment".
    pub(crate) kind: String,
    /// None: the run's namespace.
    pub(crate) namespace: Option<String>,
    /// Which of them.
    pub(crate) which: Which,
}

/// Which objects of a kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Which {
    /// The one of this name.
    Name(String),
    /// Those with these labels. Empty: all.
    Selector(String),
}

/// A wait for objects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wait {
    pub(crate) objects: Objects,
    pub(crate) until: Condition,
    pub(crate) timeout: Duration,
}

/// What objects must be like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    /// A JSONPath has a value; None: any.
    Value { path: String, value: Option<String> },
    /// An entry of `status.conditions` has a status.
    Status { name: String, status: String },
    /// It is rolled out.
    Rollout,
    /// It is gone.
    Deleted,
}

/// A Helm release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) name: String,
    /// A chart's name, an OCI reference, or a path.
    pub(crate) chart: String,
    pub(crate) version: Option<String>,
    /// URL of the chart repository.
    pub(crate) repo: Option<String>,
    /// The values. None: the chart's own.
    pub(crate) values: Option<Manifest>,
    /// None: the run's namespace.
    pub(crate) namespace: Option<String>,
    pub(crate) timeout: Duration,
}

/// An installed Helm release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReleaseRef {
    pub(crate) name: String,
    /// None: the run's namespace.
    pub(crate) namespace: Option<String>,
}

/// A Secret; its values are the user's secrets, which stand in no plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Secret {
    pub(crate) name: String,
    /// None: the run's namespace.
    pub(crate) namespace: Option<String>,
    /// Key in the Secret, and name of the user's secret.
    pub(crate) entries: Vec<(String, String)>,
}

impl Action {
    /// Whether only a cluster can do it.
    pub(crate) fn needs_cluster(&self) -> bool {
        !matches!(self, Self::Process(_) | Self::Smoketest)
    }

    /// The files that it keeps in `setup/yamls`.
    pub(crate) fn files(&self) -> Option<&Manifest> {
        match self {
            Self::Apply(manifest) => Some(manifest),
            Self::Helm(release) => release.values.as_ref(),
            _ => None,
        }
    }

    /// As [`Action::files`], to be renamed.
    pub(crate) fn files_mut(&mut self) -> Option<&mut Manifest> {
        match self {
            Self::Apply(manifest) => Some(manifest),
            Self::Helm(release) => release.values.as_mut(),
            _ => None,
        }
    }

    /// The command that does the same by hand, in the run folder, for an owner of what it makes. None: there is none.
    pub(crate) fn command(&self, namespace: &str, owner: &Owner) -> Option<String> {
        let within = |own: &Option<String>| own.as_deref().unwrap_or(namespace).to_owned();
        Some(match self {
            Self::Process(_) | Self::Smoketest => return None,
            Self::Apply(manifest) => {
                format!("kubectl apply --server-side{}", manifest.argument(namespace))
            }
            Self::ApplyRemote(remote) => {
                format!("kubectl apply --server-side --filename {}", remote.source)
            }
            Self::Wait(wait) => {
                let (kind, ns) = (&wait.objects.kind, within(&wait.objects.namespace));
                let which = wait.objects.which.argument();
                let timeout = format!("--timeout {}s", wait.timeout.as_secs());
                match &wait.until {
                    Condition::Rollout => {
                        format!("kubectl rollout status {kind} {which} --namespace {ns} {timeout}")
                    }
                    other => format!(
                        "kubectl wait {kind} {which} --namespace {ns} --for {} {timeout}",
                        other.argument()
                    ),
                }
            }
            Self::Helm(release) => helm(&release.arguments(namespace, owner)),
            Self::Uninstall(release) => helm(&release.arguments(namespace)),
            Self::Secret(secret) => {
                let entries: Vec<String> = secret
                    .entries
                    .iter()
                    .map(|(key, source)| format!("--from-literal={key}=<the secret {source}>"))
                    .collect();
                format!(
                    "kubectl create secret generic {} --namespace {} {} --dry-run=client --output yaml | kubectl apply --server-side --filename -",
                    secret.name,
                    within(&secret.namespace),
                    entries.join(" ")
                )
            }
            Self::Observe(objects) => objects.command("get", namespace),
            Self::Delete(objects) => {
                format!("{} --ignore-not-found", objects.command("delete", namespace))
            }
        })
    }

    /// The command that undoes it, in the run folder. None: there is nothing to undo.
    pub(crate) fn undo(&self, namespace: &str) -> Option<String> {
        match self {
            Self::Apply(manifest) => {
                Some(format!("kubectl delete --ignore-not-found{}", manifest.argument(namespace)))
            }
            Self::Helm(release) => {
                let installed =
                    ReleaseRef { name: release.name.clone(), namespace: release.namespace.clone() };
                Some(helm(&installed.arguments(namespace)))
            }
            Self::Secret(secret) => Some(format!(
                "kubectl delete secret {} --namespace {} --ignore-not-found",
                secret.name,
                secret.namespace.as_deref().unwrap_or(namespace)
            )),
            _ => None,
        }
    }
}

/// So long an uninstallation may take.
pub(crate) const UNINSTALL: Duration = Duration::from_secs(300);

impl Release {
    /// The arguments of helm that install or upgrade it, in the run folder. It is not waited for
    /// what it makes: the steps do that, and see why it does not come up.
    pub(crate) fn arguments(&self, namespace: &str, owner: &Owner) -> Vec<String> {
        let mut arguments = words(&["upgrade", "--install", &self.name, &self.chart]);
        let mut option = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                arguments.extend(words(&[name, value]));
            }
        };
        option("--repo", self.repo.as_deref());
        option("--version", self.version.as_deref());
        option("--namespace", Some(self.namespace.as_deref().unwrap_or(namespace)));
        let values = self.values.as_ref().map(|values| format!("{YAMLS}/{}", values.file));
        option("--values", values.as_deref());
        option("--timeout", Some(&format!("{}s", self.timeout.as_secs())));
        if self.namespace.is_some() {
            arguments.push("--create-namespace".to_owned());
        }
        if let Some(label) = owner.selector() {
            arguments.extend(["--labels".to_owned(), label]);
        }
        arguments
    }
}

impl ReleaseRef {
    /// The arguments of helm that uninstall it and wait until everything of it is gone.
    pub(crate) fn arguments(&self, namespace: &str) -> Vec<String> {
        let mut arguments = words(&["uninstall", &self.name, "--namespace"]);
        arguments.push(self.namespace.as_deref().unwrap_or(namespace).to_owned());
        arguments.extend(words(&["--ignore-not-found", "--wait", "--cascade", "foreground"]));
        arguments.extend(words(&["--timeout", &format!("{}s", UNINSTALL.as_secs())]));
        arguments
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The command that runs helm with these arguments.
pub(crate) fn helm(arguments: &[String]) -> String {
    format!("helm {}", arguments.join(" "))
}

/// Where the files of a plan lie, from the run folder.
const YAMLS: &str = "setup/yamls";

/// What an object of a manifest says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// "apps/v1".
    pub(crate) api_version: String,
    /// "Deployment".
    pub(crate) kind: String,
    /// None: the API server is to make one up.
    pub(crate) name: Option<String>,
    /// None: the run's namespace, or that of no object of its kind.
    pub(crate) namespace: Option<String>,
}

impl Manifest {
    /// Its objects.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub(crate) fn objects(&self) -> Result<Vec<Identity>, String> {
        let documents = Yaml::load_from_str(&self.yaml)
            .map_err(|error| format!("`{}` is no YAML: {error}", self.file))?;
        let text = |value: Option<&Yaml<'_>>| value.and_then(Yaml::as_str).map(str::to_owned);
        documents
            .iter()
            .filter(|document| !document.is_null())
            .map(|document| {
                let field = |name: &str| text(document.as_mapping_get(name));
                let metadata = document.as_mapping_get("metadata");
                let own = |name: &str| text(metadata.and_then(|all| all.as_mapping_get(name)));
                let (Some(api_version), Some(kind)) = (field("apiVersion"), field("kind")) else {
                    return Err(format!(
                        "`{}` holds a document without apiVersion or kind",
                        self.file
                    ));
                };
                Ok(Identity { api_version, kind, name: own("name"), namespace: own("namespace") })
            })
            .collect()
    }

    /// The file, and the namespace of objects that name none; kubectl refuses another one than
    /// theirs.
    fn argument(&self, namespace: &str) -> String {
        let objects = self.objects().unwrap_or_default();
        let is_named = objects.iter().any(|object| object.namespace.is_some());
        let within = if is_named { String::new() } else { format!(" --namespace {namespace}") };
        format!("{within} --filename {YAMLS}/{}", self.file)
    }
}

impl Objects {
    fn command(&self, verb: &str, namespace: &str) -> String {
        format!(
            "kubectl {verb} {} {} --namespace {}",
            self.kind,
            self.which.argument(),
            self.namespace.as_deref().unwrap_or(namespace)
        )
    }
}

impl Which {
    fn argument(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Selector(selector) if selector.is_empty() => "--all".to_owned(),
            Self::Selector(selector) => format!("--selector {selector}"),
        }
    }
}

impl Condition {
    fn argument(&self) -> String {
        match self {
            Self::Value { path, value: Some(value) } => format!("jsonpath='{path}'={value}"),
            Self::Value { path, value: None } => format!("jsonpath='{path}'"),
            Self::Status { name, status } => format!("condition={name}={status}"),
            Self::Rollout => "condition=Available=True".to_owned(),
            Self::Deleted => "delete".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_of_a_cluster_has_the_command_that_does_it_by_hand() {
        let objects = || Objects {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: None,
            which: Which::Selector("role=decode".into()),
        };
        let check = |action: Action, command: &str, undo: Option<&str>| {
            let owner = Owner::Run("r".to_owned());
            assert_eq!(action.command("ns", &owner).as_deref(), Some(command));
            assert_eq!(action.undo("ns").as_deref(), undo);
            assert!(action.needs_cluster());
        };
        check(
            Action::Apply(Manifest { file: "06_a.yaml".into(), yaml: String::new() }),
            "kubectl apply --server-side --namespace ns --filename setup/yamls/06_a.yaml",
            Some(
                "kubectl delete --ignore-not-found --namespace ns --filename setup/yamls/06_a.yaml",
            ),
        );
        check(
            Action::Wait(Wait {
                objects: objects(),
                until: Condition::Status { name: "Ready".into(), status: "True".into() },
                timeout: Duration::from_secs(900),
            }),
            "kubectl wait Pod --selector role=decode --namespace ns --for condition=Ready=True --timeout 900s",
            None,
        );
        check(
            Action::Helm(Release {
                name: "llm-d".into(),
                chart: "llm-d".into(),
                version: Some("1.0.17".into()),
                repo: None,
                values: None,
                namespace: Some("other".into()),
                timeout: Duration::from_secs(60),
            }),
            "helm upgrade --install llm-d llm-d --version 1.0.17 --namespace other --timeout 60s --create-namespace --labels llmdbench.io/run=r",
            Some(
                "helm uninstall llm-d --namespace other --ignore-not-found --wait --cascade foreground --timeout 300s",
            ),
        );
        check(
            Action::Secret(Secret {
                name: "s".into(),
                namespace: None,
                entries: vec![("HF_TOKEN".into(), "hf-token".into())],
            }),
            "kubectl create secret generic s --namespace ns --from-literal=HF_TOKEN=<the secret hf-token> --dry-run=client --output yaml | kubectl apply --server-side --filename -",
            Some("kubectl delete secret s --namespace ns --ignore-not-found"),
        );
        check(
            Action::Observe(objects()),
            "kubectl get Pod --selector role=decode --namespace ns",
            None,
        );
    }
}
