//! What there is to see of the objects of an owner: their pods with logs and images, the nodes under them, events.

use crate::connection::Cluster;
use crate::object::{ObjectRef, Selection};
use crate::pod::LogOptions;
use serde_json::{Value, json};
use std::collections::HashSet;

/// So many last lines of a log are read.
const LINES: u32 = 20_000;

/// What was seen. What the account may not see is missing, and named.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Pods that the objects made, or are.
    pub pods: Vec<Value>,
    /// What their containers said, and what they said before their last restart.
    pub logs: Vec<ContainerLog>,
    /// Events of the objects, and of all that they made.
    pub events: Vec<Value>,
    /// The nodes on which the pods are.
    pub nodes: Vec<Value>,
    /// What could not be read, and why.
    pub missing: Vec<String>,
}

/// A container's log.
#[derive(Debug)]
pub struct ContainerLog {
    /// The name of the pod.
    pub pod: String,
    /// The name of the container.
    pub container: String,
    /// It is that of the container before the last restart.
    pub is_previous: bool,
    /// Its last lines.
    pub text: String,
}

impl Cluster {
    /// Looks at what these objects made.
    pub async fn evidence(&self, objects: &[ObjectRef]) -> Evidence {
        let mut seen = Evidence::default();
        let mut family = Family::new(objects);
        let mut namespaces: Vec<&str> =
            objects.iter().filter_map(|object| object.namespace.as_deref()).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        for namespace in &namespaces {
            let pods = self.all("Pod", namespace, &mut seen.missing).await;
            for pod in pods {
                if family.has(self, &pod).await {
                    self.read_logs(namespace, &pod, &mut seen).await;
                    seen.pods.push(pod);
                }
            }
            let events = self.all("Event", namespace, &mut seen.missing).await;
            let is_own = |event: &Value| family.knows(&event["involvedObject"]);
            seen.events.extend(events.into_iter().filter(is_own));
        }
        let nodes = seen.pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str());
        let mut nodes: Vec<&str> = nodes.collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            match self.get(&Selection::named("v1", "Node", "", node)).await {
                Ok(found) => seen.nodes.extend(found),
                Err(error) => seen.missing.push(error.to_string()),
            }
        }
        seen
    }

    async fn all(&self, kind: &str, namespace: &str, missing: &mut Vec<String>) -> Vec<Value> {
        let all = self.get(&Selection::labelled("v1", kind, namespace, "")).await;
        all.unwrap_or_else(|error| {
            missing.push(error.to_string());
            Vec::new()
        })
    }

    async fn read_logs(&self, namespace: &str, pod: &Value, seen: &mut Evidence) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let lists = ["initContainerStatuses", "containerStatuses"];
        let statuses =
            lists.iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
        for status in statuses {
            let container = status["name"].as_str().unwrap_or_default();
            let has_restarted = status["restartCount"].as_u64().unwrap_or(0) > 0;
            let has_begun = status["state"]["waiting"].is_null() || has_restarted;
            for is_previous in [false, true] {
                if !has_begun || (is_previous && !has_restarted) {
                    continue;
                }
                let options = LogOptions {
                    container: Some(container.to_owned()),
                    previous: is_previous,
                    tail: Some(LINES),
                };
                match self.logs(namespace, name, &options).await {
                    Ok(text) => seen.logs.push(ContainerLog {
                        pod: name.to_owned(),
                        container: container.to_owned(),
                        is_previous,
                        text,
                    }),
                    Err(error) => seen.missing.push(error.to_string()),
                }
            }
        }
    }
}

/// The objects, and what they made: known by their uids.
struct Family {
    known: HashSet<String>,
    strangers: HashSet<String>,
}

impl Family {
    fn new(objects: &[ObjectRef]) -> Self {
        let known = objects.iter().filter_map(|object| object.uid.clone()).collect();
        Self { known, strangers: HashSet::new() }
    }

    fn knows(&self, reference: &Value) -> bool {
        reference["uid"].as_str().is_some_and(|uid| self.known.contains(uid))
    }

    /// Whether an object is one of them, or made by one of them through however many others.
    async fn has(&mut self, cluster: &Cluster, object: &Value) -> bool {
        let mut line = Vec::new();
        let mut next = Some(object.clone());
        while let Some(object) = next {
            if self.knows(&object["metadata"]) {
                self.known.extend(line);
                return true;
            }
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            if self.strangers.contains(&uid) {
                break;
            }
            line.push(uid);
            next = self.maker(cluster, &object).await;
        }
        self.strangers.extend(line);
        false
    }

    /// What made an object. None: nothing did, or it cannot be seen.
    async fn maker(&self, cluster: &Cluster, object: &Value) -> Option<Value> {
        let owners = object["metadata"]["ownerReferences"].as_array()?;
        let owner = owners.iter().find(|owner| owner["controller"] == true)?;
        if self.knows(owner) {
            return Some(json!({"metadata": owner}));
        }
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let text = |key: &str| owner[key].as_str().unwrap_or_default();
        let of = Selection::named(text("apiVersion"), text("kind"), namespace, text("name"));
        cluster.get(&of).await.ok()?.into_iter().next()
    }
}
