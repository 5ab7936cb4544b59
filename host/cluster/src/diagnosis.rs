//! What is wrong with objects, read off what they and their events say. Pure: it looks at what was observed.
//!
//! This finds the texts and what belongs to them; what a text means stands in [`crate::signals`].

use crate::condition::condition;
use crate::object::ObjectRef;
use crate::signals::{Patience, Place, Signal};
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// Of a log so many lines are shown.
const LINES: usize = 12;

/// What was seen of the objects of interest.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The objects: Deployments, pods, claims, Jobs, nodes, and the events of all of them.
    pub objects: Vec<Value>,
    /// Logs of containers that ended, or run and are not ready.
    pub logs: Vec<Log>,
}

/// The last lines of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The name of the pod.
    pub pod: String,
    /// The name of the container.
    pub container: String,
    /// The lines.
    pub text: String,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The name of its row in the table of signals.
    pub signal: &'static str,
    /// What it is about: "pod vllm-0, container vllm".
    pub subject: String,
    /// What the cluster says, in short: "ImagePullBackOff: ...: not found".
    pub reason: String,
    /// Further facts, one a line: what was asked for, what there is, the last lines of a log.
    pub facts: Vec<String>,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub advice: String,
    /// How long to hope.
    pub patience: Patience,
    /// Restarts of the container so far.
    pub restarts: u64,
}

/// "pod vllm-0: Unschedulable: 3 of 3 nodes Insufficient nvidia.com/gpu (requests 4)".
impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject.is_empty() {
            return f.write_str(&self.reason);
        }
        write!(f, "{}: {}", self.subject, self.reason)
    }
}

impl Diagnosis {
    /// Whether waiting on makes no sense when it has stood for so long.
    #[must_use]
    pub fn is_hopeless(&self, stood: Duration) -> bool {
        match self.patience {
            Patience::Endless => false,
            Patience::For(time) => stood >= time,
            Patience::Restarts(restarts) => self.restarts >= restarts,
        }
    }

    /// Everything about it, one a line: reason, facts, meaning.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.to_string()];
        lines.extend(self.facts.iter().cloned());
        lines.push(self.meaning.to_owned());
        lines
    }
}

/// What a text says that stands for itself: what helm or the API server wrote, an answer. None: nothing known.
#[must_use]
pub fn explain(place: Place, subject: &str, text: &str) -> Option<Diagnosis> {
    Signal::of(place, text).map(|signal| {
        let line = |line: &&str| {
            let line = line.to_lowercase();
            signal.texts.iter().any(|wanted| line.contains(&wanted.to_lowercase()))
        };
        let reason = text.lines().find(line).unwrap_or(text).trim();
        Symptom::new(place, subject, reason, text).diagnosis(signal)
    })
}

/// Everything that is wrong, causes before what follows from them.
#[must_use]
pub fn diagnose(observed: &Observed) -> Vec<Diagnosis> {
    let of_kind = |kind: &'static str| observed.objects.iter().filter(move |o| o["kind"] == kind);
    let mut symptoms = Vec::new();
    symptoms.extend(of_kind("PersistentVolumeClaim").flat_map(|claim| volume(claim, observed)));
    for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job"] {
        symptoms.extend(of_kind(kind).flat_map(|maker| creation(maker, observed)));
    }
    symptoms.extend(of_kind("Job").flat_map(|job| job_end(job, observed)));
    symptoms.extend(of_kind("Pod").flat_map(|pod| pod_symptoms(pod, observed)));
    for kind in ["Gateway", "HTTPRoute", "InferencePool"] {
        symptoms.extend(of_kind(kind).flat_map(route));
    }
    let mut found: Vec<Diagnosis> = symptoms.into_iter().filter_map(Symptom::read).collect();
    // A claim that cannot be had says more than the pods that wait for it.
    if found.iter().any(|d| d.subject.starts_with("claim ")) {
        found.retain(|d| d.signal != "volume-unbound");
    }
    // Replicas fail alike.
    let mut seen: Vec<(&str, String)> = Vec::new();
    found.retain(|d| {
        let key = (d.signal, d.reason.clone());
        let is_new = !seen.contains(&key);
        seen.push(key);
        is_new
    });
    found
}

/// A text at a place, and what belongs to it.
#[derive(Debug)]
struct Symptom {
    place: Place,
    subject: String,
    /// What is shown.
    reason: String,
    /// What is looked up.
    text: String,
    facts: Vec<String>,
    restarts: u64,
    /// Something is on the way that will mend it.
    is_mending: bool,
}

impl Symptom {
    fn new(place: Place, subject: &str, reason: &str, text: &str) -> Self {
        Self {
            place,
            subject: subject.to_owned(),
            reason: reason.to_owned(),
            text: text.to_owned(),
            facts: Vec::new(),
            restarts: 0,
            is_mending: false,
        }
    }

    fn read(self) -> Option<Diagnosis> {
        Signal::of(self.place, &self.text).map(|signal| self.diagnosis(signal))
    }

    fn diagnosis(self, signal: &'static Signal) -> Diagnosis {
        Diagnosis {
            signal: signal.id,
            subject: self.subject,
            reason: self.reason,
            facts: self.facts,
            meaning: signal.meaning,
            advice: signal.advice.to_owned(),
            patience: if self.is_mending { Patience::Endless } else { signal.patience },
            restarts: self.restarts,
        }
    }
}

fn volume(claim: &Value, observed: &Observed) -> Option<Symptom> {
    if claim["status"]["phase"] == "Bound" {
        return None;
    }
    let text = events(claim, observed)
        .into_iter()
        .rev()
        .find(|event| matches!(str_of(&event["reason"]), "ProvisioningFailed" | "FailedBinding"))
        .map(|event| str_of(&event["message"]).to_owned())?;
    let name = str_of(&claim["metadata"]["name"]);
    let mut symptom = Symptom::new(Place::Volume, &format!("claim {name}"), &text, &text);
    let class = claim["spec"]["storageClassName"].as_str().unwrap_or("(the default)");
    let modes: Vec<&str> = items(&claim["spec"]["accessModes"]).iter().map(str_of).collect();
    let size = str_of(&claim["spec"]["resources"]["requests"]["storage"]);
    symptom.facts.push(format!("asks class {class} for {size}, {}", modes.join(", ")));
    Some(symptom)
}

fn creation(maker: &Value, observed: &Observed) -> Option<Symptom> {
    let is_short = match str_of(&maker["kind"]) {
        "Job" => count(&maker["status"]["active"]) + count(&maker["status"]["succeeded"]) == 0,
        _ => {
            let wanted = maker["spec"]["replicas"].as_u64().unwrap_or(1);
            count(&maker["status"]["replicas"]) < wanted
        }
    };
    if !is_short {
        return None;
    }
    let of_condition = condition(maker, "ReplicaFailure")
        .filter(|entry| entry["status"] == "True")
        .map(|entry| str_of(&entry["message"]).to_owned());
    let of_event = || {
        let last = events(maker, observed).into_iter().rev();
        let mut failed = last.filter(|event| event["reason"] == "FailedCreate");
        failed.next().map(|event| str_of(&event["message"]).to_owned())
    };
    let text = of_condition.or_else(of_event)?;
    Some(Symptom::new(Place::Creation, &subject(maker), &text, &text))
}

fn job_end(job: &Value, observed: &Observed) -> Option<Symptom> {
    let failed = condition(job, "Failed").filter(|entry| entry["status"] == "True")?;
    let reason = format!("{}: {}", str_of(&failed["reason"]), str_of(&failed["message"]));
    let own = |pod: &&Value| {
        let owners = items(&pod["metadata"]["ownerReferences"]);
        owners
            .iter()
            .any(|owner| owner["kind"] == "Job" && owner["name"] == job["metadata"]["name"])
    };
    let pods = observed.objects.iter().filter(|object| object["kind"] == "Pod");
    let logs: Vec<&Log> = pods
        .filter(own)
        .flat_map(|pod| observed.logs.iter().filter(|log| pod["metadata"]["name"] == log.pod))
        .collect();
    let all: Vec<&str> = logs.iter().map(|log| log.text.as_str()).collect();
    let text = format!("{reason}\n{}", all.join("\n"));
    let mut symptom = Symptom::new(Place::Job, &subject(job), &reason, &text);
    symptom.facts = logs.last().map(|log| tail(&log.text)).unwrap_or_default();
    symptom.restarts = u64::MAX;
    Some(symptom)
}

fn pod_symptoms(pod: &Value, observed: &Observed) -> Vec<Symptom> {
    let status = &pod["status"];
    let mut found = Vec::new();
    if status["phase"] == "Failed" && !str_of(&status["reason"]).is_empty() {
        let text = format!("{}: {}", str_of(&status["reason"]), str_of(&status["message"]));
        found.push(Symptom::new(Place::Pod, &subject(pod), &text, &text));
    }
    found.extend(scheduling(pod, observed));
    for list in ["initContainerStatuses", "containerStatuses"] {
        let statuses = items(&status[list]);
        found.extend(
            statuses.iter().filter_map(|container| container_symptom(pod, container, observed)),
        );
    }
    found.extend(mounting(pod, observed));
    found
}

fn scheduling(pod: &Value, observed: &Observed) -> Option<Symptom> {
    let waits = condition(pod, "PodScheduled")
        .filter(|entry| entry["status"] == "False" && entry["reason"] == "Unschedulable")?;
    let text = str_of(&waits["message"]);
    let own = events(pod, observed);
    let (nodes, reasons) = scheduler_reasons(text);
    let mut reason = "Unschedulable: ".to_owned();
    let mut facts = Vec::new();
    let mut said = Vec::new();
    for why in &reasons {
        let (number, why) = match (why.split_once(' '), nodes) {
            (Some((number, rest)), Some(nodes)) if number.parse::<u64>().is_ok() => {
                (format!("{number} of {nodes} nodes "), rest)
            }
            _ => (String::new(), *why),
        };
        match why.strip_prefix("Insufficient ") {
            Some(resource) => {
                let asked = requests(pod, resource);
                said.push(format!("{number}{why} (requests {asked})"));
                facts.extend(offers(resource, observed));
            }
            None => said.push(format!("{number}{why}")),
        }
    }
    reason.push_str(&said.join(", "));
    if reasons.iter().any(|why| why.contains("affinity") || why.contains("selector")) {
        let wanted = [&pod["spec"]["nodeSelector"], &pod["spec"]["affinity"]["nodeAffinity"]];
        facts.extend(
            wanted.iter().filter(|w| !w.is_null()).map(|w| format!("the pod asks for {w}")),
        );
    }
    let mut symptom = Symptom::new(Place::Scheduling, &subject(pod), &reason, text);
    symptom.facts = facts;
    symptom.is_mending = own.iter().any(|event| event["reason"] == "TriggeredScaleUp");
    if symptom.is_mending {
        symptom.facts.push("the cluster is getting a further node".to_owned());
    }
    Some(symptom)
}

/// "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory. preemption: ..." as the number of nodes and the
/// reasons.
fn scheduler_reasons(text: &str) -> (Option<u64>, Vec<&str>) {
    let Some((head, reasons)) = text.split_once(" nodes are available: ") else {
        return (None, vec![text]);
    };
    let nodes = head.split_once('/').and_then(|(_, nodes)| nodes.parse().ok());
    // What follows the sentence is about making room.
    let reasons = reasons.split(". ").next().unwrap_or(reasons).trim_end_matches('.');
    (nodes, reasons.split(", ").collect())
}

/// What all containers of a pod ask of a resource.
fn requests(pod: &Value, resource: &str) -> String {
    let asked: Vec<String> = items(&pod["spec"]["containers"])
        .iter()
        .map(|container| &container["resources"])
        .filter_map(|resources| {
            [&resources["requests"][resource], &resources["limits"][resource]]
                .into_iter()
                .find(|value| !value.is_null())
        })
        .map(text_of)
        .collect();
    if asked.is_empty() { "some".to_owned() } else { asked.join(" + ") }
}

fn offers(resource: &str, observed: &Observed) -> Vec<String> {
    let nodes = observed.objects.iter().filter(|object| object["kind"] == "Node");
    nodes
        .map(|node| {
            let has = &node["status"]["allocatable"][resource];
            let has = if has.is_null() { "none".to_owned() } else { text_of(has) };
            format!("node {} offers {resource}: {has}", str_of(&node["metadata"]["name"]))
        })
        .collect()
}

fn container_symptom(pod: &Value, status: &Value, observed: &Observed) -> Option<Symptom> {
    let name = str_of(&status["name"]);
    let subject = format!("{}, container {name}", subject(pod));
    let restarts = count(&status["restartCount"]);
    let waiting = &status["state"]["waiting"];
    let why = str_of(&waiting["reason"]);
    let message = str_of(&waiting["message"]);
    let plain = |place, text: &str| {
        let mut symptom =
            Symptom::new(place, &subject, &format!("{why}: {text}"), &format!("{why}: {text}"));
        symptom.restarts = restarts;
        Some(symptom)
    };
    match why {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => {
            // The back-off only says that it waits; the failure itself was said before.
            let image = str_of(&status["image"]);
            let is_of_it =
                |text: &str| text.starts_with("Failed to pull image") && text.contains(image);
            let said =
                events(pod, observed).into_iter().rev().map(|event| str_of(&event["message"]));
            let mut said = said.filter(|text| is_of_it(text));
            plain(Place::Pull, said.next().unwrap_or(message))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            plain(Place::Container, message)
        }
        _ => ended(pod, status, &subject, observed)
            .or_else(|| unready(pod, status, &subject, observed)),
    }
}

/// A container that has ended with an error, and may have been started again.
fn ended(pod: &Value, status: &Value, subject: &str, observed: &Observed) -> Option<Symptom> {
    if status["ready"] == true {
        return None;
    }
    let end = [&status["state"]["terminated"], &status["lastState"]["terminated"]]
        .into_iter()
        .find(|end| !end.is_null())?;
    let code = end["exitCode"].as_i64().unwrap_or(0);
    let why = str_of(&end["reason"]);
    if code == 0 && why == "Completed" && status["state"]["waiting"].is_null() {
        return None;
    }
    // What a probe killed did not fail by itself.
    if let Some(symptom) = probes(pod, status, subject, observed)
        .filter(|s| Signal::of(s.place, &s.text).is_some_and(|signal| signal.id == "startup-probe"))
    {
        return Some(symptom);
    }
    let restarts = count(&status["restartCount"]);
    let log = log_of(pod, status, observed).unwrap_or_default();
    let state = str_of(&status["state"]["waiting"]["reason"]);
    let known = [state, why].into_iter().filter(|word| !word.is_empty() && *word != "Error");
    let known: Vec<&str> = known.collect();
    let head = if known.is_empty() { String::new() } else { format!("{}: ", known.join(", ")) };
    let reason = format!("{head}exit code {code}, {restarts} restarts");
    let message = str_of(&end["message"]);
    let text = format!("{reason}\n{message}\n{log}");
    let mut symptom = Symptom::new(Place::Exit, subject, &reason, &text);
    symptom.facts = tail(if log.is_empty() { message } else { log });
    symptom.restarts = restarts;
    Some(symptom)
}

/// A container that runs and is not ready.
fn unready(pod: &Value, status: &Value, subject: &str, observed: &Observed) -> Option<Symptom> {
    if status["ready"] == true || status["state"]["running"].is_null() {
        return None;
    }
    let log = log_of(pod, status, observed).unwrap_or_default();
    if let Some(line) = log.lines().find(|line| Signal::of(Place::Log, line).is_some()) {
        let mut symptom = Symptom::new(Place::Log, subject, line.trim(), line);
        symptom.restarts = count(&status["restartCount"]);
        return Some(symptom);
    }
    probes(pod, status, subject, observed)
}

/// What probes say of a container.
fn probes(pod: &Value, status: &Value, subject: &str, observed: &Observed) -> Option<Symptom> {
    let name = str_of(&status["name"]);
    let own = events(pod, observed);
    let of_it = |event: &&&Value| {
        let path = str_of(&event["involvedObject"]["fieldPath"]);
        path.is_empty() || path.ends_with(&format!("{{{name}}}"))
    };
    let last = |reason: &str| {
        let of_reason = own.iter().filter(of_it).filter(|event| event["reason"] == reason);
        of_reason.map(|event| str_of(&event["message"])).next_back()
    };
    let killed = last("Killing").filter(|text| text.contains("probe"));
    let failed = last("Unhealthy");
    let text = killed.or(failed)?;
    let mut symptom = Symptom::new(Place::Probe, subject, text, text);
    if killed.is_some() {
        symptom.facts.extend(failed.map(str::to_owned));
        symptom.facts.extend(tail(log_of(pod, status, observed).unwrap_or_default()));
    }
    symptom.restarts = count(&status["restartCount"]);
    Some(symptom)
}

fn mounting(pod: &Value, observed: &Observed) -> Option<Symptom> {
    if pod["status"]["phase"] != "Pending" {
        return None;
    }
    let last = events(pod, observed).into_iter().rev();
    let mut failed = last
        .filter(|event| matches!(str_of(&event["reason"]), "FailedMount" | "FailedAttachVolume"));
    let text = str_of(&failed.next()?["message"]);
    Some(Symptom::new(Place::Volume, &subject(pod), text, text))
}

fn route(object: &Value) -> Option<Symptom> {
    let parents = ["parents", "parent"].into_iter().flat_map(|name| items(&object["status"][name]));
    let conditions = items(&object["status"]["conditions"]).iter();
    let all = conditions.chain(parents.flat_map(|parent| items(&parent["conditions"])));
    let wanted = ["Accepted", "Programmed", "ResolvedRefs"];
    let mut refused =
        all.filter(|entry| entry["status"] == "False" && wanted.contains(&str_of(&entry["type"])));
    let entry = refused.next()?;
    let text = format!(
        "{} is False, {}: {}",
        str_of(&entry["type"]),
        str_of(&entry["reason"]),
        str_of(&entry["message"])
    );
    Some(Symptom::new(Place::Route, &subject(object), &text, &text))
}

/// The events of an object, the oldest first.
fn events<'a>(object: &Value, observed: &'a Observed) -> Vec<&'a Value> {
    let metadata = &object["metadata"];
    let is_own = |event: &&Value| {
        let about = &event["involvedObject"];
        event["kind"] == "Event"
            && about["kind"] == object["kind"]
            && about["name"] == metadata["name"]
            && (about["uid"].is_null()
                || metadata["uid"].is_null()
                || about["uid"] == metadata["uid"])
    };
    let mut own: Vec<&Value> = observed.objects.iter().filter(is_own).collect();
    own.sort_by_key(|event| {
        let times = [&event["lastTimestamp"], &event["eventTime"], &event["firstTimestamp"]];
        times.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
    });
    own
}

fn log_of<'a>(pod: &Value, status: &Value, observed: &'a Observed) -> Option<&'a str> {
    let is_own = |log: &&Log| pod["metadata"]["name"] == log.pod && status["name"] == log.container;
    observed.logs.iter().find(is_own).map(|log| log.text.as_str())
}

/// The last lines of a text.
fn tail(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| format!("| {line}")).collect()
}

/// "pod vllm-0", "Job download-model".
fn subject(object: &Value) -> String {
    let kind = match str_of(&object["kind"]) {
        "Pod" => "pod",
        kind => kind,
    };
    let name = ObjectRef::of(object).map(|reference| reference.name).unwrap_or_default();
    format!("{kind} {name}")
}

fn str_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
