//! Names of objects, the order in which they go in, and whom they belong to.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;

/// Under this name fields are applied; those of a run under it and the run's id.
pub const MANAGER: &str = "llmdbench";
/// On everything that a run applies; its value is the run's id.
pub const RUN_LABEL: &str = "llmdbench.io/run";
/// On everything that outlives a run.
pub const PREPARED_LABEL: &str = "llmdbench.io/prepared";

/// An object of a cluster. Lists of these, in the order of their application, are the inventory of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// "apps/v1", "v1".
    pub api_version: String,
    /// "Deployment".
    pub kind: String,
    /// None: it is in no namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Which of all that ever had the name. None: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl ObjectRef {
    /// What an object says of itself. None: it is not complete.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let own = |name: &str| object["metadata"][name].as_str().map(str::to_owned);
        Some(Self {
            api_version: object["apiVersion"].as_str()?.to_owned(),
            kind: object["kind"].as_str()?.to_owned(),
            namespace: own("namespace"),
            name: own("name")?,
            uid: own("uid"),
        })
    }
}

/// "Deployment llmdbench/vllm".
impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Objects of one kind in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// "apps/v1", "v1".
    pub api_version: String,
    /// "Deployment".
    pub kind: String,
    /// Where they are, unless their kind is in no namespace.
    pub namespace: String,
    /// Which of them.
    pub which: Which,
}

/// Which objects of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one of this name.
    Name(String),
    /// Those with these labels: "app=vllm,role=decode". Empty: all.
    Labels(String),
}

impl Selection {
    /// The object of this name.
    #[must_use]
    pub fn named(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            which: Which::Name(name.to_owned()),
        }
    }

    /// The objects with these labels.
    #[must_use]
    pub fn labelled(api_version: &str, kind: &str, namespace: &str, labels: &str) -> Self {
        Self {
            which: Which::Labels(labels.to_owned()),
            ..Self::named(api_version, kind, namespace, "")
        }
    }
}

/// "Deployment llmdbench/vllm", "Pod llmdbench with role=decode".
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Name(name) => write!(f, "{} {}/{name}", self.kind, self.namespace),
            Which::Labels(labels) if labels.is_empty() => {
                write!(f, "every {} in {}", self.kind, self.namespace)
            }
            Which::Labels(labels) => {
                write!(f, "every {} in {} with {labels}", self.kind, self.namespace)
            }
        }
    }
}

/// Whom an object belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A run, by its id, which must be a value that labels can have.
    Run(String),
    /// What is prepared for all runs.
    Prepared,
    /// Somebody who is not this program.
    Stranger,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(id) => write!(f, "the run `{id}`"),
            Self::Prepared => f.write_str("what is prepared for all runs"),
            Self::Stranger => f.write_str("somebody else"),
        }
    }
}

impl Owner {
    /// Whom an object says that it belongs to.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let labels = &object["metadata"]["labels"];
        match (labels[RUN_LABEL].as_str(), labels[PREPARED_LABEL].as_str()) {
            (Some(id), _) => Self::Run(id.to_owned()),
            (None, Some(_)) => Self::Prepared,
            (None, None) => Self::Stranger,
        }
    }

    /// The label by which its objects are found. None: they have none.
    #[must_use]
    pub fn selector(&self) -> Option<String> {
        match self {
            Self::Run(id) => Some(format!("{RUN_LABEL}={id}")),
            Self::Prepared => Some(PREPARED_LABEL.to_owned()),
            Self::Stranger => None,
        }
    }

    /// The name under which its fields are applied. Of two runs that make an object at the same moment the API server
    /// tells the second that the label is another manager's.
    pub(crate) fn manager(&self) -> String {
        match self {
            Self::Run(id) => format!("{MANAGER}-{id}"),
            Self::Prepared | Self::Stranger => MANAGER.to_owned(),
        }
    }

    /// Puts the label on an object.
    pub(crate) fn mark(&self, object: &mut Value) -> Result<()> {
        let (label, value) = match self {
            Self::Run(id) if is_label_value(id) => (RUN_LABEL, id.as_str()),
            Self::Run(id) => {
                return Err(Error::Object(format!("`{id}` cannot be the value of a label")));
            }
            Self::Prepared => (PREPARED_LABEL, "true"),
            Self::Stranger => return Ok(()),
        };
        let labels = &mut object["metadata"]["labels"];
        if !labels.is_object() {
            *labels = json!({});
        }
        labels[label] = json!(value);
        Ok(())
    }
}

fn is_label_value(text: &str) -> bool {
    let is_end = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&text.len())
        && text.chars().all(|c| is_end(c) || "-_.".contains(c))
        && text.starts_with(is_end)
        && text.ends_with(is_end)
}

/// The kinds that others need, in the order in which they go in; all others come after them.
const FIRST: &[&str] = &[
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "StorageClass",
    "PersistentVolume",
    "ResourceQuota",
    "LimitRange",
    "NetworkPolicy",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "PersistentVolumeClaim",
    "Service",
];

/// The place of a kind in the order of application.
pub(crate) fn rank(kind: &str) -> usize {
    FIRST.iter().position(|first| *first == kind).unwrap_or(FIRST.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_names_itself() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "ns"}});
        assert_eq!(ObjectRef::of(&object).unwrap().to_string(), "Pod ns/a");
        assert_eq!(ObjectRef::of(&json!({"kind": "Pod"})), None);
    }

    #[test]
    fn owners_are_told_by_their_labels() {
        let mut object = json!({"metadata": {"labels": {"app": "x"}}});
        assert_eq!(Owner::of(&object), Owner::Stranger);
        Owner::Prepared.mark(&mut object).unwrap();
        assert_eq!(Owner::of(&object), Owner::Prepared);
        Owner::Run("r1".into()).mark(&mut object).unwrap();
        assert_eq!(Owner::of(&object), Owner::Run("r1".into()));
        assert_eq!(object["metadata"]["labels"]["app"], "x");
        for id in ["", "-a", "a b", &"x".repeat(64)] {
            assert!(Owner::Run(id.to_owned()).mark(&mut object).is_err(), "{id}");
        }
    }

    #[test]
    fn what_others_need_goes_in_first() {
        let mut kinds = ["Deployment", "Service", "Secret", "Namespace", "PersistentVolumeClaim"];
        kinds.sort_by_key(|kind| rank(kind));
        assert_eq!(
            kinds,
            ["Namespace", "Secret", "PersistentVolumeClaim", "Service", "Deployment"]
        );
    }
}
