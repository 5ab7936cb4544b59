//! Whether objects are as they should be. Pure: it looks at what was observed.

use crate::object::ObjectRef;
use serde_json::Value;

/// What objects must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The value at a path has this text; None: it has any.
    Value {
        /// As kubectl has it: "{.status.loadBalancer.ingress[0].ip}".
        path: String,
        /// The text.
        value: Option<String>,
    },
    /// An entry of `status.conditions` has this status.
    Status {
        /// "Complete".
        name: String,
        /// "True".
        status: String,
    },
    /// What it stands for runs as it was last asked for, and is ready.
    Rollout,
    /// It is gone.
    Deleted,
}

impl Condition {
    /// None: there are so many of these objects, and all of them meet it. Otherwise what keeps the first that does not.
    pub(crate) fn unmet(&self, objects: &[Value], wanted: u64) -> Option<String> {
        if *self == Self::Deleted {
            return objects.first().map(|object| format!("{} is still there", name(object)));
        }
        if objects.is_empty() && wanted == 0 {
            return Some("it is not there yet".to_owned());
        }
        let lack =
            |object: &Value| self.lacks(object).map(|lack| format!("{}: {lack}", name(object)));
        objects.iter().find_map(lack).or_else(|| {
            let stay = objects.iter().filter(|o| o["metadata"]["deletionTimestamp"].is_null());
            let there = stay.count() as u64;
            (there < wanted).then(|| format!("{there} of {wanted} are there"))
        })
    }

    fn lacks(&self, object: &Value) -> Option<String> {
        match self {
            Self::Deleted => None,
            Self::Value { path, value } => {
                let found = at_path(object, path).map(text);
                let is_met = match value {
                    Some(value) => found.as_ref() == Some(value),
                    None => found.as_ref().is_some_and(|text| !text.is_empty()),
                };
                (!is_met).then(|| match found {
                    Some(found) => format!("{path} is `{found}`"),
                    None => format!("{path} is not set yet"),
                })
            }
            Self::Status { name, status } => lacks_status(object, name, status),
            Self::Rollout => lacks_rollout(object),
        }
    }
}

fn lacks_status(object: &Value, name: &str, status: &str) -> Option<String> {
    let Some(entry) = condition(object, name) else { return Some(format!("not {name} yet")) };
    if entry["status"] == status {
        return None;
    }
    let why = [&entry["reason"], &entry["message"]].into_iter().filter_map(Value::as_str);
    let why: Vec<&str> = why.filter(|text| !text.is_empty()).collect();
    Some(format!("{name} is {}, {}", text(&entry["status"]), why.join(": ")))
}

fn lacks_rollout(object: &Value) -> Option<String> {
    let number = |path: &str| object.pointer(path).and_then(Value::as_u64);
    let status = |name: &str| number(&format!("/status/{name}")).unwrap_or(0);
    if let Some(generation) = number("/metadata/generation")
        && number("/status/observedGeneration").is_some_and(|seen| seen < generation)
    {
        return Some("the change is not seen yet".to_owned());
    }
    let wanted = number("/spec/replicas").unwrap_or(1);
    let counted = |ready: u64, updated: u64, wanted: u64| {
        let count = ready.min(updated);
        (count < wanted).then(|| format!("{count} of {wanted} ready"))
    };
    match object["kind"].as_str().unwrap_or_default() {
        "Deployment" => {
            let old = status("replicas").saturating_sub(status("updatedReplicas"));
            counted(status("availableReplicas"), status("updatedReplicas"), wanted)
                .or_else(|| (old > 0).then(|| format!("{old} of the old ones are still there")))
        }
        "StatefulSet" => counted(status("readyReplicas"), status("updatedReplicas"), wanted),
        "ReplicaSet" => counted(status("readyReplicas"), status("readyReplicas"), wanted),
        "DaemonSet" => counted(
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("desiredNumberScheduled"),
        ),
        "Job" => lacks_status(object, "Complete", "True"),
        "Pod" | "Node" => lacks_status(object, "Ready", "True"),
        "PersistentVolumeClaim" => {
            let phase = object["status"]["phase"].as_str().unwrap_or("Pending");
            (phase != "Bound").then(|| format!("it is {phase}"))
        }
        "CustomResourceDefinition" => lacks_status(object, "Established", "True"),
        "Gateway" => lacks_status(object, "Programmed", "True"),
        // What states no condition has nothing to come up for.
        _ => ["Available", "Ready"]
            .into_iter()
            .find(|name| condition(object, name).is_some())
            .and_then(|name| lacks_status(object, name, "True")),
    }
}

/// An entry of `status.conditions`.
pub(crate) fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|entry| entry["type"] == name)
}

/// The value at a path of kubectl's kind: names, `['name.with.dots']` and `[number]`.
fn at_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let path = path.trim();
    let mut rest = path.strip_prefix('{').and_then(|p| p.strip_suffix('}')).unwrap_or(path);
    let mut found = object;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (step, after) = inside.split_once(']')?;
            let step = step.trim_matches(['\'', '"']);
            found = match found {
                Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
                other => other.get(step)?,
            };
            rest = after;
        } else {
            let name = rest.trim_start_matches('.');
            let end = name.find(['.', '[']).unwrap_or(name.len());
            if end == 0 {
                return None;
            }
            found = found.get(&name[..end])?;
            rest = &name[end..];
        }
    }
    Some(found)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn name(object: &Value) -> String {
    ObjectRef::of(object).map_or_else(
        || "an object".to_owned(),
        |reference| format!("{} {}", reference.kind, reference.name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(condition: &Condition, object: Value, unmet: Option<&str>) {
        assert_eq!(condition.lacks(&object).as_deref(), unmet, "{object}");
    }

    #[test]
    fn a_rollout_is_done_when_all_that_is_asked_for_is_new_and_ready() {
        let deployment = |status: Value| json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
        let rollout = Condition::Rollout;
        check(&rollout, deployment(json!({})), Some("0 of 2 ready"));
        let old = json!({"observedGeneration": 1, "availableReplicas": 2, "updatedReplicas": 2});
        check(&rollout, deployment(old), Some("the change is not seen yet"));
        let half = json!({"observedGeneration": 2, "replicas": 3, "availableReplicas": 2, "updatedReplicas": 1});
        check(&rollout, deployment(half), Some("1 of 2 ready"));
        let surplus = json!({"observedGeneration": 2, "replicas": 3, "availableReplicas": 2, "updatedReplicas": 2});
        check(&rollout, deployment(surplus), Some("1 of the old ones are still there"));
        let done = json!({"observedGeneration": 2, "replicas": 2, "availableReplicas": 2, "updatedReplicas": 2});
        check(&rollout, deployment(done), None);
        check(&rollout, json!({"kind": "Service"}), None);
        let pod = json!({"kind": "Pod", "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]}});
        check(&rollout, pod, Some("Ready is False, ContainersNotReady"));
    }

    #[test]
    fn values_are_found_by_kubectls_paths() {
        let object = json!({"status": {"phase": "Bound", "list": [{"ip": "10.0.0.1"}], "a.b": 3}});
        let value = |path: &str, value: Option<&str>| Condition::Value {
            path: path.to_owned(),
            value: value.map(str::to_owned),
        };
        check(&value("{.status.phase}", Some("Bound")), object.clone(), None);
        check(&value(".status.list[0].ip", None), object.clone(), None);
        check(&value("{.status['a.b']}", Some("3")), object.clone(), None);
        let lacks = "{.status.phase} is `Bound`";
        check(&value("{.status.phase}", Some("Lost")), object.clone(), Some(lacks));
        let lacks = "{.status.list[1].ip} is not set yet";
        check(&value("{.status.list[1].ip}", None), object, Some(lacks));
    }

    #[test]
    fn only_objects_that_are_there_can_be_ready_and_only_none_are_deleted() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
        assert_eq!(Condition::Rollout.unmet(&[], 0).as_deref(), Some("it is not there yet"));
        assert_eq!(Condition::Deleted.unmet(&[], 0), None);
        assert_eq!(Condition::Deleted.unmet(&[object], 0).as_deref(), Some("Pod a is still there"));
    }

    #[test]
    fn as_many_are_waited_for_as_are_wanted() {
        let pod = |ready: &str, going: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "deletionTimestamp": going}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let unmet = |pods: &[Value]| Condition::Rollout.unmet(pods, 2);
        let ready = pod("True", Value::Null);
        assert_eq!(unmet(&[]).as_deref(), Some("0 of 2 are there"));
        assert_eq!(unmet(std::slice::from_ref(&ready)).as_deref(), Some("1 of 2 are there"));
        let going = pod("True", json!("2026-01-01T00:00:00Z"));
        assert_eq!(unmet(&[ready.clone(), going]).as_deref(), Some("1 of 2 are there"));
        let other = unmet(&[ready.clone(), pod("False", Value::Null)]);
        assert_eq!(other.as_deref(), Some("Pod a: Ready is False, "));
        assert_eq!(unmet(&[ready.clone(), ready]), None);
    }
}
