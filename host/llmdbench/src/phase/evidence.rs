//! What can be seen of a stack in a cluster, kept in the run folder: `setup/logs`, `setup/events.json`,
//! `setup/pods.json` with the images' digests, `environment/cluster.json` with the nodes, and the way to the cluster
//! without credentials, `environment/context.ctx`. Of agents the same is kept beside their results.
//!
//! It is collected when a standup ends, however it does, before a teardown, and before agents are removed. What was
//! there then and is gone now stays in the files, and so does what was kept by a command that knew more secrets than this
//! one.

use crate::error::Result;
use crate::kubernetes::{Inventory, Kubernetes};
use crate::phase::hidden::Hidden;
use crate::printer::Printer;
use crate::run_dir::{self, Results, RunDir};
use crate::secrets::Secrets;
use cluster::{ContainerLog, Evidence, ObjectRef};
use serde_json::{Value, json};
use std::path::Path;

/// Has the number of an agent's pod among those of its Job.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Collects it. What cannot be seen makes no command fail. `secrets` are what this command was given.
pub(crate) fn collect(kubernetes: &Kubernetes, dir: &RunDir, secrets: &Secrets, printer: &Printer) {
    if let Err(error) = write(kubernetes, dir, secrets, printer) {
        printer.warning(&format!("what stands in the cluster could not be collected: {error}"));
    }
}

/// Collects what there is to see of agents, their lost ones included. `objects` are their Job and their pods: one that
/// is gone has events nevertheless.
pub(crate) fn collect_agents(
    kubernetes: &Kubernetes,
    objects: &[ObjectRef],
    dir: &RunDir,
    results: &Results,
    secrets: &Secrets,
    printer: &Printer,
) {
    let kept = Hidden::of(kubernetes, dir, secrets).and_then(|hidden| {
        let seen = kubernetes.look_at(objects)?;
        write_agents(&seen, results, &hidden)
    });
    if let Err(error) = kept {
        printer.warning(&format!("what is to be seen of the agents could not be kept: {error}"));
    }
}

fn write(
    kubernetes: &Kubernetes,
    dir: &RunDir,
    secrets: &Secrets,
    printer: &Printer,
) -> Result<()> {
    let inventory = Inventory::read(dir)?;
    run_dir::write_json(&dir.environment("context.ctx"), kubernetes.context())?;
    let hidden = Hidden::of(kubernetes, dir, secrets)?;
    let seen = kubernetes.evidence(&inventory)?;
    if let (Some(why), false) = (hidden.why_not(), seen.logs.is_empty()) {
        printer.warning(&why);
    }
    for log in logs(&seen, &hidden) {
        let end = if log.is_previous { ".previous" } else { "" };
        let file = dir.process_log(&format!("{}_{}{end}", log.pod, log.container));
        run_dir::write(&file, hidden.redaction.clean(&log.text).as_bytes())?;
    }
    keep(&dir.events(), &[], "events", events(&seen, &hidden), &hidden)?;
    let names = [("hidden", json!(hidden.names))];
    keep(&dir.pods(), &names, "pods", pods(&seen, &hidden), &hidden)?;
    let facts = [
        ("server", json!(kubernetes.server())),
        ("version", json!(kubernetes.version().ok())),
        ("missing", json!(seen.missing)),
    ];
    let nodes = seen.nodes.iter().map(node).collect();
    keep(&dir.environment("cluster.json"), &facts, "nodes", nodes, &hidden)
}

fn write_agents(seen: &Evidence, results: &Results, hidden: &Hidden) -> Result<()> {
    for log in logs(seen, hidden) {
        let pod = seen.pods.iter().find(|pod| pod["metadata"]["name"] == log.pod.as_str());
        let agent = pod.and_then(|pod| pod["metadata"]["labels"][INDEX].as_str());
        let file = results.agent(agent.unwrap_or(&log.pod)).join(format!("{}.log", log.container));
        // The agent's own was kept when it ended.
        if !log.is_previous && !file.exists() {
            run_dir::write(&file, hidden.redaction.clean(&log.text).as_bytes())?;
        }
    }
    let missing = [("missing", json!(seen.missing))];
    keep(&results.agents_events(), &missing, "events", events(seen, hidden), hidden)?;
    keep(&results.agents_pods(), &[], "pods", pods(seen, hidden), hidden)
}

/// The logs of which no secret can be read.
fn logs<'a>(seen: &'a Evidence, hidden: &Hidden) -> &'a [ContainerLog] {
    if hidden.missing.is_empty() { &seen.logs } else { &[] }
}

fn events(seen: &Evidence, hidden: &Hidden) -> Vec<Value> {
    seen.events.iter().map(|seen| clean(event(seen), hidden)).collect()
}

fn pods(seen: &Evidence, hidden: &Hidden) -> Vec<Value> {
    seen.pods.iter().map(|seen| clean(pod(seen), hidden)).collect()
}

/// The same without secrets, and without messages where one of them is not known.
fn clean(mut value: Value, hidden: &Hidden) -> Value {
    scrub(&mut value, hidden);
    value
}

fn scrub(value: &mut Value, hidden: &Hidden) {
    match value {
        Value::String(text) => *text = hidden.redaction.clean(text),
        Value::Array(items) => items.iter_mut().for_each(|item| scrub(item, hidden)),
        Value::Object(fields) => {
            for (name, field) in fields {
                // A container that fails may say in its message what it printed last.
                if name == "message" && field.is_string() && !hidden.missing.is_empty() {
                    *field = json!("not kept, for it may show a secret");
                }
                scrub(field, hidden);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Writes facts and a list into a file, in which those entries stay that were there before and are not seen any more;
/// and all of them where the new ones may show secrets.
fn keep(
    file: &Path,
    facts: &[(&str, Value)],
    list: &str,
    entries: Vec<Value>,
    hidden: &Hidden,
) -> Result<()> {
    let before: Value = run_dir::read_json(file)?.unwrap_or_default();
    let before = before[list].as_array().cloned().unwrap_or_default();
    let lacks = |list: &[Value], entry: &Value| list.iter().all(|own| own["uid"] != entry["uid"]);
    let all: Vec<Value> = if hidden.missing.is_empty() {
        let old = before.into_iter().filter(|old| lacks(&entries, old));
        old.collect::<Vec<_>>().into_iter().chain(entries).collect()
    } else {
        let new: Vec<_> = entries.into_iter().filter(|new| lacks(&before, new)).collect();
        before.into_iter().chain(new).collect()
    };
    let mut whole = json!({});
    for (name, value) in facts {
        whole[*name] = value.clone();
    }
    whole[list] = Value::Array(all);
    run_dir::write_json(file, &whole)
}

fn event(event: &Value) -> Value {
    let times = [&event["lastTimestamp"], &event["eventTime"], &event["firstTimestamp"]];
    let about = &event["involvedObject"];
    json!({
        "uid": event["metadata"]["uid"],
        "time": times.into_iter().find(|time| !time.is_null()),
        "type": event["type"],
        "object": format!("{} {}", text(&about["kind"]), text(&about["name"])),
        "reason": event["reason"],
        "message": event["message"],
        "count": event["count"],
    })
}

fn pod(pod: &Value) -> Value {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses =
        lists.iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    let containers = statuses.map(|status| {
        json!({
            "name": status["name"],
            "image": status["image"],
            "digest": status["imageID"],
            "ready": status["ready"],
            "restarts": status["restartCount"],
            "state": status["state"],
        })
    });
    json!({
        "uid": pod["metadata"]["uid"],
        "namespace": pod["metadata"]["namespace"],
        "name": pod["metadata"]["name"],
        "node": pod["spec"]["nodeName"],
        "phase": pod["status"]["phase"],
        "containers": containers.collect::<Vec<_>>(),
    })
}

/// Labels that say what a node is, by their beginning.
const TELLING: [&str; 5] = [
    "nvidia.com/",
    "amd.com/",
    "gpu.intel.com/",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/",
];

fn node(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let telling = labels.filter(|(name, _)| TELLING.iter().any(|start| name.starts_with(start)));
    let telling = telling.map(|(name, value)| (name.clone(), value.clone()));
    json!({
        "uid": node["metadata"]["uid"],
        "name": node["metadata"]["name"],
        "labels": telling.collect::<serde_json::Map<_, _>>(),
        "system": node["status"]["nodeInfo"],
        "capacity": node["status"]["capacity"],
        "allocatable": node["status"]["allocatable"],
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_once_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pods.json");
        let entry = |uid: &str, phase: &str| json!({"uid": uid, "phase": phase});
        let mut hidden = Hidden {
            redaction: Secrets::default().redaction(),
            names: [].into(),
            missing: [].into(),
        };
        let first = vec![entry("1", "Running"), entry("2", "Pending")];
        keep(&file, &[], "pods", first, &hidden).unwrap();
        keep(&file, &[], "pods", vec![entry("2", "Running")], &hidden).unwrap();
        // What may show a secret takes the place of nothing.
        hidden.missing.insert("target.api_key".to_owned());
        keep(&file, &[], "pods", vec![entry("2", "Failed: sk-abcdef")], &hidden).unwrap();
        let kept: Value = run_dir::read_json(&file).unwrap().unwrap();
        assert_eq!(kept, json!({"pods": [entry("1", "Running"), entry("2", "Running")]}));
    }

    #[test]
    fn secrets_are_hidden_whatever_json_makes_of_them_and_messages_where_one_is_not_known() {
        let secret = r#"sk-"quoted"\key"#;
        let redaction = Secrets::default().redaction().and([secret.to_owned().into()]);
        let mut hidden = Hidden { redaction, names: [].into(), missing: [].into() };
        let seen = json!({"message": format!("it is {secret}"), "reason": "Error", "count": 2});
        let kept = clean(seen.clone(), &hidden);
        assert!(!kept["message"].as_str().unwrap().contains(secret), "{kept}");
        assert_eq!((&kept["reason"], &kept["count"]), (&json!("Error"), &json!(2)));
        hidden.missing.insert("target.api_key".to_owned());
        let kept = clean(json!({"state": {"terminated": seen}}), &hidden);
        let message = &kept["state"]["terminated"]["message"];
        assert_eq!(message, "not kept, for it may show a secret");
    }

    #[test]
    fn images_are_known_by_their_digests_and_nodes_by_their_accelerators() {
        let status = json!({"name": "c", "image": "h/x:1", "imageID": "h/x@sha256:ab"});
        let seen = pod(&json!({"status": {"containerStatuses": [status]}}));
        assert_eq!(seen["containers"][0]["digest"], "h/x@sha256:ab");
        let labels = json!({"nvidia.com/gpu.product": "H100", "kubernetes.io/hostname": "n"});
        let seen = node(&json!({"metadata": {"labels": labels}}));
        assert_eq!(seen["labels"], json!({"nvidia.com/gpu.product": "H100"}));
    }
}
