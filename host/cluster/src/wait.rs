//! Watching objects until they are as they should be, saying what keeps them, and giving up when hope is lost.

use crate::condition::Condition;
use crate::connection::{Cluster, Kind};
use crate::diagnosis::{Diagnosis, Log, Observed, diagnose};
use crate::error::{Error, Result, cause};
use crate::object::{Selection, Which};
use crate::pod::LogOptions;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// How often logs and patience are looked at when nothing changes.
const LOOK: Duration = Duration::from_secs(1);
/// The log of what runs and is not ready is read again after so long.
const STALE: Duration = Duration::from_secs(10);
/// A log that takes longer is done without.
const LOG: Duration = Duration::from_secs(5);

/// So long a wait that has become hopeless takes in what else is told before it says why.
const AFTERMATH: Duration = Duration::from_secs(1);

/// How a wait stands.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Since the wait began.
    pub elapsed: Duration,
    /// What is still missing: "Deployment vllm: 0 of 1 ready".
    pub state: &'a str,
    /// What may be the cause, hopeless or not.
    pub diagnoses: &'a [Diagnosis],
}

impl Cluster {
    /// Waits until objects are as they should be, and gives them. What may keep them is told to `progress` whenever it
    /// changes, and each second.
    ///
    /// # Errors
    /// [`Error::Hopeless`] when it cannot come to that any more, [`Error::TimedOut`] when it takes too long; when their
    /// kind is not known, or may not be watched. While the API server does not answer it waits on.
    pub async fn wait(
        &self,
        selection: &Selection,
        condition: &Condition,
        timeout: Duration,
        progress: &mut (dyn FnMut(&Progress<'_>) + Send),
    ) -> Result<Vec<Value>> {
        let begin = Instant::now();
        let deadline = begin + timeout;
        let mut view = View::new(self, selection, condition).await?;
        let mut patience = Since::default();
        let mut state = "it is not known yet".to_owned();
        let mut diagnoses: Vec<Diagnosis> = Vec::new();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some((index, event)) = view.changes.next() => view.take(index, event)?,
                _ = look.tick() => view.read_logs(self, selection).await,
                () = sleep_until(deadline) => {
                    let what = selection.to_string();
                    return Err(Error::TimedOut { what, after: timeout, state, diagnoses });
                }
            }
            if view.is_known() {
                let objects = view.targets();
                match condition.unmet(&objects, view.wanted()) {
                    None => return Ok(objects),
                    Some(lack) => state = lack,
                }
                if let Some(line) = view.last_line() {
                    state = format!("{state}; {line}");
                }
                diagnoses = diagnose(&view.related());
            }
            if let Some(trouble) = &view.trouble {
                state.clone_from(trouble);
            }
            let mut hopeless = patience.lost(&diagnoses);
            if !hopeless.is_empty() {
                // A Job may be told of before its pods. The logs of what ended just now belong to the answer.
                view.catch_up(AFTERMATH).await?;
                view.read_logs(self, selection).await;
                diagnoses = diagnose(&view.related());
                hopeless = patience.lost(&diagnoses);
            }
            progress(&Progress { elapsed: begin.elapsed(), state: &state, diagnoses: &diagnoses });
            if !hopeless.is_empty() {
                return Err(Error::Hopeless { what: selection.to_string(), diagnoses: hopeless });
            }
        }
    }
}

/// Since when each diagnosis stands, by its signal and subject.
#[derive(Default)]
struct Since(HashMap<(&'static str, String), Instant>);

impl Since {
    /// Those for which patience is lost.
    fn lost(&mut self, diagnoses: &[Diagnosis]) -> Vec<Diagnosis> {
        let now = Instant::now();
        let key = |diagnosis: &Diagnosis| (diagnosis.signal, diagnosis.subject.clone());
        self.0.retain(|known, _| diagnoses.iter().any(|diagnosis| key(diagnosis) == *known));
        let is_lost = |diagnosis: &&Diagnosis| {
            let since = *self.0.entry(key(diagnosis)).or_insert(now);
            diagnosis.is_hopeless(now.duration_since(since))
        };
        diagnoses.iter().filter(is_lost).cloned().collect()
    }
}

type Change = (usize, watcher::Result<Event<DynamicObject>>);

/// What is watched: the objects of interest, and what may say why they are not ready.
struct View {
    kinds: Vec<Kind>,
    changes: SelectAll<BoxStream<'static, Change>>,
    /// For each kind its objects by their uid.
    objects: Vec<BTreeMap<String, Value>>,
    /// For each kind those of a list that is on its way. None: there is none.
    incoming: Vec<Option<BTreeMap<String, Value>>>,
    is_listed: Vec<bool>,
    /// The place among the kinds of the ReplicaSets that make the pods which are waited for by their labels: they have
    /// these labels, too. None: something else is waited for.
    makers: Option<usize>,
    nodes: Option<Vec<Value>>,
    logs: HashMap<(String, String), ReadLog>,
    trouble: Option<String>,
}

struct ReadLog {
    text: String,
    restarts: u64,
    has_ended: bool,
    at: Instant,
}

/// What may say why something is not ready.
const RELATED: [(&str, &str); 4] =
    [("v1", "Pod"), ("v1", "Event"), ("apps/v1", "ReplicaSet"), ("v1", "PersistentVolumeClaim")];

impl View {
    async fn new(cluster: &Cluster, selection: &Selection, condition: &Condition) -> Result<Self> {
        let target = cluster.kind(&selection.api_version, &selection.kind).await?;
        let config = match &selection.which {
            Which::Name(name) => {
                watcher::Config::default().fields(&format!("metadata.name={name}"))
            }
            Which::Labels(labels) => watcher::Config::default().labels(labels),
        };
        let mut kinds = vec![target];
        if kinds[0].is_namespaced && *condition != Condition::Deleted {
            for (api_version, kind) in RELATED {
                kinds.push(cluster.kind(api_version, kind).await?);
            }
        }
        let makers = match &selection.which {
            Which::Labels(_) if selection.kind == "Pod" => {
                kinds.iter().position(|kind| kind.resource.kind == "ReplicaSet")
            }
            _ => None,
        };
        let mut changes = SelectAll::new();
        for (index, kind) in kinds.iter().enumerate() {
            let is_selected = index == 0 || makers == Some(index);
            let config = if is_selected { config.clone() } else { watcher::Config::default() };
            let api = cluster.api(kind, Some(&selection.namespace));
            let stream = watcher(api, config).default_backoff();
            changes.push(stream.map(move |event| (index, event)).boxed());
        }
        let number = kinds.len();
        Ok(Self {
            kinds,
            changes,
            objects: vec![BTreeMap::new(); number],
            incoming: vec![None; number],
            is_listed: vec![false; number],
            makers,
            nodes: None,
            logs: HashMap::new(),
            trouble: None,
        })
    }

    fn take(&mut self, index: usize, event: watcher::Result<Event<DynamicObject>>) -> Result<()> {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.failed(index, error),
        };
        self.trouble = None;
        let key = |object: &DynamicObject| object.metadata.uid.clone().unwrap_or_default();
        match event {
            Event::Init => self.incoming[index] = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let key = key(&object);
                let value = self.kinds[index].value(object);
                self.incoming[index].get_or_insert_default().insert(key, value);
            }
            Event::InitDone => {
                self.objects[index] = self.incoming[index].take().unwrap_or_default();
                self.is_listed[index] = true;
            }
            Event::Apply(object) => {
                let key = key(&object);
                let value = self.kinds[index].value(object);
                self.objects[index].insert(key, value);
            }
            Event::Delete(object) => {
                // A Job that fails takes its pods along, whose logs say why.
                let owners = object.metadata.owner_references.iter().flatten();
                if index == 0 || !owners.into_iter().any(|owner| owner.kind == "Job") {
                    self.objects[index].remove(&key(&object));
                }
            }
        }
        Ok(())
    }

    /// What was waited for must be seen; of the rest one goes without what one may not see.
    fn failed(&mut self, index: usize, error: watcher::Error) -> Result<()> {
        let source = match error {
            watcher::Error::InitialListFailed(source)
            | watcher::Error::WatchStartFailed(source)
            | watcher::Error::WatchFailed(source) => source,
            // The watch is taken up again.
            watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => return Ok(()),
        };
        match &source {
            kube::Error::Api(status) if status.code == 401 || status.code == 403 => {
                if index > 0 {
                    self.is_listed[index] = true;
                    return Ok(());
                }
                let what = self.kinds[0].resource.plural.clone();
                Err(Error::Request { verb: "watch", what, source: Box::new(source) })
            }
            // Between two versions of a list, or while a kind is being defined.
            kube::Error::Api(_) => Ok(()),
            other => {
                self.trouble = Some(format!("the API server does not answer: {}", cause(other)));
                Ok(())
            }
        }
    }

    fn is_known(&self) -> bool {
        self.is_listed[0] && self.makers.is_none_or(|index| self.is_listed[index])
    }

    /// What makes the objects of interest.
    fn makers(&self) -> impl Iterator<Item = &Value> {
        self.makers.into_iter().flat_map(|index| self.objects[index].values())
    }

    /// So many objects of interest there are to be. 0: nobody says.
    fn wanted(&self) -> u64 {
        self.makers().map(|set| set["spec"]["replicas"].as_u64().unwrap_or(1)).sum()
    }

    fn targets(&self) -> Vec<Value> {
        self.objects[0].values().cloned().collect()
    }

    /// What a Job that is waited for said last: how far it is.
    fn last_line(&self) -> Option<&str> {
        if self.kinds[0].resource.kind != "Job" {
            return None;
        }
        let newest = self.logs.values().max_by_key(|log| log.at)?;
        newest.text.split(['\n', '\r']).map(str::trim).rfind(|line| !line.is_empty())
    }

    /// The objects of interest and their makers, what they own, the claims of their pods, and the events of all these.
    fn related(&self) -> Observed {
        let mut found: Vec<&Value> = self.objects[0].values().chain(self.makers()).collect();
        let mut uids: HashSet<&str> = found.iter().filter_map(|object| uid(object)).collect();
        let others = || self.objects.iter().skip(1).flat_map(BTreeMap::values);
        loop {
            let owned: Vec<&Value> = others()
                .filter(|object| object["kind"] != "Event")
                .filter(|object| uid(object).is_some_and(|own| !uids.contains(own)))
                .filter(|object| owners(object).any(|owner| uids.contains(owner)))
                .collect();
            if owned.is_empty() {
                break;
            }
            uids.extend(owned.iter().filter_map(|object| uid(object)));
            found.extend(owned);
        }
        let claims: HashSet<&str> = found.iter().flat_map(|object| claims(object)).collect();
        let claims = others().filter(|object| {
            object["kind"] == "PersistentVolumeClaim"
                && object["metadata"]["name"].as_str().is_some_and(|name| claims.contains(name))
                && uid(object).is_some_and(|own| !uids.contains(own))
        });
        let claims: Vec<&Value> = claims.collect();
        uids.extend(claims.iter().filter_map(|object| uid(object)));
        found.extend(claims);
        let is_own = |event: &&Value| {
            event["kind"] == "Event"
                && event["involvedObject"]["uid"].as_str().is_some_and(|about| uids.contains(about))
        };
        found.extend(others().filter(is_own));
        found.extend(self.nodes.iter().flatten());
        let logs = self.logs.iter().map(|((pod, container), log)| Log {
            pod: pod.clone(),
            container: container.clone(),
            text: log.text.clone(),
        });
        Observed { objects: found.into_iter().cloned().collect(), logs: logs.collect() }
    }

    /// Takes the changes that arrive within this time.
    async fn catch_up(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            tokio::select! {
                () = sleep_until(end) => return Ok(()),
                Some((index, event)) = self.changes.next() => self.take(index, event)?,
            }
        }
    }

    /// Reads the logs of containers that ended, are not ready, or are a Job's, and what nodes offer where a pod finds none.
    async fn read_logs(&mut self, cluster: &Cluster, selection: &Selection) {
        let observed = self.related();
        let pods = observed.objects.iter().filter(|object| object["kind"] == "Pod");
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            if self.nodes.is_none() && is_unschedulable(pod) {
                let nodes = Selection::labelled("v1", "Node", "", "");
                self.nodes = Some(cluster.get(&nodes).await.unwrap_or_default());
            }
            for status in statuses(pod) {
                let container = status["name"].as_str().unwrap_or_default();
                let restarts = status["restartCount"].as_u64().unwrap_or(0);
                let has_ended = !status["state"]["terminated"].is_null();
                let runs = !status["state"]["running"].is_null();
                // What a Job says is its progress.
                let is_quiet = status["ready"] == true && self.kinds[0].resource.kind != "Job";
                if is_quiet || (restarts == 0 && !has_ended && !runs) {
                    continue;
                }
                let key = (name.to_owned(), container.to_owned());
                let is_fresh = self.logs.get(&key).is_some_and(|log| {
                    log.restarts == restarts
                        && log.has_ended == has_ended
                        && (log.has_ended || !runs || restarts > 0 || log.at.elapsed() < STALE)
                });
                if is_fresh {
                    continue;
                }
                // After a restart the one before is what ended.
                let options = LogOptions {
                    container: Some(container.to_owned()),
                    previous: restarts > 0 && !has_ended,
                    tail: Some(100),
                };
                let read = cluster.logs(&selection.namespace, name, &options);
                let text = tokio::time::timeout(LOG, read).await;
                if let Ok(Ok(text)) = text {
                    let at = Instant::now();
                    self.logs.insert(key, ReadLog { text, restarts, has_ended, at });
                }
            }
        }
    }
}

fn uid(object: &Value) -> Option<&str> {
    object["metadata"]["uid"].as_str()
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.filter_map(|owner| owner["uid"].as_str())
}

fn claims(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    lists.into_iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten())
}

fn is_unschedulable(pod: &Value) -> bool {
    crate::condition::condition(pod, "PodScheduled")
        .is_some_and(|entry| entry["reason"] == "Unschedulable")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Reply, kinds, list};
    use kube::api::{ApiResource, GroupVersionKind};
    use serde_json::json;

    fn kind(api_version: &str, kind: &str) -> Kind {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Kind { resource, is_namespaced: true }
    }

    /// A wait for pods by their labels that has seen these.
    fn view(seen: Vec<Value>) -> View {
        let mut kinds = vec![kind("v1", "Pod")];
        kinds.extend(RELATED.iter().map(|(api_version, name)| kind(api_version, name)));
        let of = |kind: &Kind| {
            let own = seen.iter().filter(|object| object["kind"] == kind.resource.kind);
            own.map(|object| (uid(object).unwrap_or_default().to_owned(), object.clone())).collect()
        };
        View {
            objects: kinds.iter().map(of).collect(),
            incoming: vec![None; kinds.len()],
            is_listed: vec![true; kinds.len()],
            makers: Some(3),
            kinds,
            changes: SelectAll::new(),
            nodes: None,
            logs: HashMap::new(),
            trouble: None,
        }
    }

    #[test]
    fn pods_that_nobody_could_make_are_known_by_their_replica_sets() {
        let set = |name: &str, replicas: u64| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "uid": name}, "spec": {"replicas": replicas}});
        let denied = |set: &str| {
            json!({
                "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "FailedCreate",
                "metadata": {"name": set, "uid": format!("event-{set}")},
                "involvedObject": {"kind": "ReplicaSet", "name": set, "uid": set},
                "message": "pods \"decode-1\" is forbidden: exceeded quota: of-the-admin, requested: pods=1, used: pods=0, limited: pods=0",
            })
        };
        let view = view(vec![set("new", 2), set("old", 0), denied("new"), denied("old")]);
        assert_eq!(view.wanted(), 2);
        let found = diagnose(&view.related());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].reason.contains("exceeded quota: of-the-admin"), "{found:?}");
        let mut unlisted = view;
        unlisted.is_listed[3] = false;
        assert!(!unlisted.is_known());
    }

    #[tokio::test]
    async fn a_job_that_is_told_of_before_its_pods_is_explained_by_their_logs() {
        let failed = json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"});
        let job = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"}, "status": {"conditions": [failed]}});
        let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j"});
        let ended = json!({"name": "c", "restartCount": 0, "ready": false, "state": {"terminated": {"exitCode": 1}}});
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "p", "ownerReferences": [owner]},
            "status": {"phase": "Failed", "containerStatuses": [ended]},
        });
        let fake = Fake::new(move |path| {
            let body = match path {
                "/api/v1" => kinds(
                    "v1",
                    &[
                        ("pods", "Pod", true),
                        ("events", "Event", true),
                        ("persistentvolumeclaims", "PersistentVolumeClaim", true),
                    ],
                ),
                "/apis/apps/v1" => kinds("apps/v1", &[("replicasets", "ReplicaSet", true)]),
                "/apis/batch/v1" => kinds("batch/v1", &[("jobs", "Job", true)]),
                "/apis/batch/v1/namespaces/ns/jobs" => list(std::slice::from_ref(&job)),
                "/api/v1/namespaces/ns/pods" => {
                    let pods = Reply::of(200, list(std::slice::from_ref(&pod)));
                    return Reply::After(AFTERMATH / 5, Box::new(pods));
                }
                "/api/v1/namespaces/ns/pods/p/log" => {
                    return Reply::Of(200, "no such model: x/y".to_owned());
                }
                path => return Fake::usual(path),
            };
            Reply::of(200, body)
        })
        .await;
        let what = Selection::named("batch/v1", "Job", "ns", "j");
        let complete = Condition::Status { name: "Complete".to_owned(), status: "True".to_owned() };
        let limit = Duration::from_secs(60);
        let ended = fake.connect().await.wait(&what, &complete, limit, &mut |_| {}).await;
        let Err(Error::Hopeless { diagnoses, .. }) = ended else { panic!("{ended:?}") };
        let said = diagnoses[0].lines().join("\n");
        assert!(
            said.contains("BackoffLimitExceeded") && said.contains("no such model: x/y"),
            "{said}"
        );
    }
}
