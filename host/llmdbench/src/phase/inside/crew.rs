//! Speaks to the agents of a Job through the API server: hands them their work, compares clocks, follows their journals
//! over broken connections, collects what they have.

mod orders;

use crate::agent::follow::{self, Frame, PULSE};
use crate::agent::meeting::COME;
use crate::agent::{Report, State, lock, unix_ns};
use crate::outcome::Outcome;
use crate::phase::inside::asking::exchange;
use crate::phase::inside::job::CONTAINER;
use crate::run_dir;
use cluster::{Cluster, LogOptions, Selection};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::{sleep, timeout};

/// A connection that says nothing for so long is broken.
const SILENT: Duration = Duration::from_secs(5 * PULSE.as_secs());
/// An order to an agent takes at most so long.
pub(super) const ORDER: Duration = Duration::from_secs(20);
/// So long one tries to reach an agent whose pod nobody can tell of.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);
/// Times that clocks are compared; the quickest answer counts.
const COMPARED: usize = 9;
/// So long before the first agent stops waiting for others it is too late to send one to it.
const MARGIN: Duration = Duration::from_secs(10);

/// Written when everything that an agent had is here: its last state.
const COLLECTED: &str = "collected.json";

/// What of an agent is told in `results/agents.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Which part of the load it made.
    pub(crate) shard: u32,
    pub(crate) pod: String,
    /// What tells its pod from others of that name, also when it is gone.
    #[serde(default)]
    pub(crate) uid: String,
    pub(crate) node: String,
    /// The image with its digest.
    pub(crate) image: String,
    /// How far the clock of its node is ahead of the controller's, in milliseconds.
    pub(crate) clock_offset_ms: Option<f64>,
    /// How wrong that may be, in milliseconds.
    pub(crate) clock_error_ms: Option<f64>,
    /// Times that the connection to it broke and was made again.
    pub(crate) reconnected: u32,
    /// Why what it measured is not complete. None: it is.
    pub(crate) lost: Option<String>,
    /// The first stage that it began without the others. None: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) alone_from: Option<u32>,
    /// It could not be asked any more, and may still have what is missing here.
    #[serde(default)]
    pub(crate) may_have_more: bool,
}

/// What is known of an agent.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) facts: Facts,
    /// Where its pod is reached by others.
    address: String,
    pub(crate) state: Option<State>,
    pub(crate) report: Report,
    /// Why it cannot be asked just now.
    pub(crate) trouble: Option<String>,
    /// Why it does not hear that it shall end.
    pub(crate) deaf: Option<String>,
    /// When it said something last.
    heard: Option<Instant>,
    /// Nothing more comes from it.
    pub(crate) is_over: bool,
}

/// The agents of a Job.
#[derive(Clone)]
pub(crate) struct Crew {
    cluster: Cluster,
    namespace: String,
    /// Where their journals go: `N/records.jsonl`.
    folder: PathBuf,
    agents: Arc<Vec<Mutex<Seen>>>,
}

/// What is wanted of an agent.
#[derive(Clone, Copy)]
enum Errand<'a> {
    HandOver(&'a Path),
    CompareClocks,
    Listen,
    Collect,
}

/// Why an agent is given up.
struct Loss {
    why: String,
    /// Its pod has ended, and what was in it is gone.
    is_gone: bool,
}

/// Why an agent cannot be asked just now.
pub(super) type Trouble = String;

impl Crew {
    /// The agents of a Job as its pods are now, with what was known of them before.
    pub(crate) async fn of(
        cluster: &Cluster,
        namespace: &str,
        job: &str,
        shards: u32,
        folder: &Path,
        known: &[Facts],
    ) -> cluster::Result<Self> {
        let labels = format!("batch.kubernetes.io/job-name={job}");
        let pods = cluster.get(&Selection::labelled("v1", "Pod", namespace, &labels)).await?;
        let seen = (0..shards).map(|shard| {
            let index = shard.to_string();
            let pod = pods.iter().find(|pod| {
                pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == index
            });
            let mut seen = seen(shard, pod);
            if let Some(known) = known.iter().find(|known| known.shard == shard) {
                // One that could not be asked may be asked again; what is gone stays lost.
                let lost = known.lost.clone().filter(|_| !known.may_have_more);
                let pod = std::mem::take(&mut seen.facts.pod);
                seen.facts = Facts { pod, lost, may_have_more: false, ..known.clone() };
            }
            Mutex::new(seen)
        });
        Ok(Self {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
            folder: folder.to_owned(),
            agents: Arc::new(seen.collect()),
        })
    }

    /// What is known of each of them.
    pub(crate) fn seen(&self) -> impl Iterator<Item = MutexGuard<'_, Seen>> {
        self.agents.iter().map(lock)
    }

    /// Where the journal of an agent lies.
    pub(crate) fn journal(folder: &Path, shard: u32) -> PathBuf {
        folder.join(shard.to_string()).join("records.jsonl")
    }

    /// Attends to an agent until it has ended and everything is collected, or it is lost. `bundle` is handed over
    /// first, unless it has been before.
    pub(crate) async fn attend(self, shard: u32, bundle: Option<PathBuf>) {
        let lost = self.try_attend(shard, bundle.as_deref()).await.err();
        if lost.is_some() {
            self.keep_log(shard).await;
        }
        let mut seen = self.agent(shard);
        seen.facts.may_have_more = lost.as_ref().is_some_and(|lost| !lost.is_gone);
        seen.facts.lost = lost.map(|lost| lost.why);
        seen.is_over = true;
    }

    async fn try_attend(&self, shard: u32, bundle: Option<&Path>) -> Result<(), Loss> {
        if let Some(why) = self.agent(shard).facts.lost.clone() {
            return Err(Loss { why, is_gone: true });
        }
        if let Some(state) = collected(&self.folder, shard) {
            // Another process had everything, and ended before it was put together.
            self.agent(shard).state = Some(state);
            return Ok(());
        }
        if self.pod(shard).is_empty() {
            return Err(Loss { why: "its pod is not there".to_owned(), is_gone: true });
        }
        if let Some(bundle) = bundle {
            self.insist(shard, Errand::HandOver(bundle)).await?;
        }
        if self.agent(shard).facts.clock_offset_ms.is_none() {
            self.insist(shard, Errand::CompareClocks).await?;
        }
        self.insist(shard, Errand::Listen).await?;
        self.insist(shard, Errand::Collect).await?;
        self.keep_log(shard).await;
        Ok(())
    }

    /// Goes on an errand until it succeeds, the agent is lost, or nobody has answered for too long.
    async fn insist(&self, shard: u32, errand: Errand<'_>) -> Result<(), Loss> {
        let begin = Instant::now();
        loop {
            let done = match errand {
                Errand::HandOver(bundle) => self.hand_over(shard, bundle).await,
                Errand::CompareClocks => self.compare_clocks(shard).await,
                Errand::Listen => self.listen(shard).await,
                Errand::Collect => self.collect(shard).await,
            };
            let Err(trouble) = done else { return Ok(()) };
            if let Fate::Lost(why) = self.fate(shard).await {
                return Err(Loss { why, is_gone: true });
            }
            let quiet = self.agent(shard).heard.map_or(begin, |heard| heard.max(begin)).elapsed();
            if quiet >= PATIENCE {
                let why = format!("it cannot be asked any more: {trouble}");
                return Err(Loss { why, is_gone: false });
            }
            self.agent(shard).trouble = Some(trouble);
            sleep(AGAIN).await;
        }
    }

    async fn hand_over(&self, shard: u32, bundle: &Path) -> Result<(), Trouble> {
        let mut file = tokio::fs::File::open(bundle).await.map_err(|error| error.to_string())?;
        let length = file.metadata().await.map_err(|error| error.to_string())?.len().to_string();
        let (index, count) = (shard.to_string(), self.agents.len().to_string());
        let order = ["take", "--bytes", &length, "--shard", &index, "--shards", &count];
        exchange(self.pipe(shard, &order).await?, &mut file, ORDER).await.map(drop)
    }

    /// How far an agent's clock is ahead: of several questions the one answered quickest, in whose middle the answer
    /// was given, half its time more or less.
    async fn compare_clocks(&self, shard: u32) -> Result<(), Trouble> {
        let pipe = self.pipe(shard, &["clock"]).await?;
        let (mut input, mut output) = (pipe.input, BufReader::new(pipe.output));
        let mut best: Option<(f64, f64)> = None;
        for _ in 0..COMPARED {
            let before = SystemTime::now();
            let mut line = String::new();
            let asked = async {
                input.write_all(b"\n").await?;
                input.flush().await?;
                output.read_line(&mut line).await
            };
            let answered = timeout(ORDER, asked).await;
            answered
                .map_err(|_| "it does not say what time it is".to_owned())?
                .map_err(|error| error.to_string())?;
            let after = SystemTime::now();
            let there: f64 = line
                .trim()
                .parse()
                .map_err(|_| format!("it says the time is `{}`", line.trim()))?;
            let (before, after) = (unix_ns(before) as f64, unix_ns(after) as f64);
            let error = (after - before) / 2e6;
            if best.is_none_or(|(_, least)| error < least) {
                best = Some(((there - (before + after) / 2.0) / 1e6, error));
            }
        }
        let mut seen = self.agent(shard);
        (seen.facts.clock_offset_ms, seen.facts.clock_error_ms) = best.unzip();
        Ok(())
    }

    /// Follows an agent to its end, from where the journal here ends.
    async fn listen(&self, shard: u32) -> Result<(), Trouble> {
        let path = Self::journal(&self.folder, shard);
        let said = |error: std::io::Error| format!("`{}`: {error}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(said)?;
        }
        let mut journal = OpenOptions::new().create(true).append(true).open(&path).map_err(said)?;
        let from = journal.metadata().map_err(said)?.len().to_string();
        let pipe = self.pipe(shard, &["follow", "--from", &from]).await?;
        let mut output = BufReader::new(pipe.output);
        loop {
            let heard = timeout(SILENT, follow::hear(&mut output)).await;
            let heard = heard.map_err(|_| "the connection fell silent".to_owned())?;
            let Some((frame, bytes)) = heard.map_err(|error| error.to_string())? else {
                return Err("the connection ended".to_owned());
            };
            let mut seen = self.agent(shard);
            seen.heard = Some(Instant::now());
            if seen.trouble.take().is_some() {
                seen.facts.reconnected += 1;
            }
            drop(seen);
            match frame {
                Frame::Journal(_) => journal.write_all(&bytes).map_err(said)?,
                Frame::Report(report) => self.agent(shard).report = report,
                Frame::State(state) => {
                    let has_ended = matches!(state, State::Ended { .. });
                    self.agent(shard).state = Some(state);
                    if has_ended {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Gets the rest of an agent's results.
    async fn collect(&self, shard: u32) -> Result<(), Trouble> {
        let mut pipe = self.pipe(shard, &["results"]).await?;
        let mut archive = Vec::new();
        let read = timeout(PATIENCE, pipe.output.read_to_end(&mut archive)).await;
        read.map_err(|_| "its results do not come".to_owned())?
            .map_err(|error| error.to_string())?;
        if !matches!(timeout(ORDER, pipe.end()).await, Ok(Some(0))) {
            return Err("its results did not come whole".to_owned());
        }
        let folder = self.folder.join(shard.to_string());
        let unpacked = tar::Archive::new(archive.as_slice()).unpack(&folder);
        unpacked.map_err(|error| format!("its results are broken: {error}"))?;
        let state = self.agent(shard).state.clone();
        run_dir::write_json(&folder.join(COLLECTED), &state).map_err(|error| error.to_string())
    }

    /// Keeps what the agent printed, as far as it can be had.
    async fn keep_log(&self, shard: u32) {
        let options = LogOptions::default();
        let pod = self.pod(shard);
        let read = self.cluster.logs(&self.namespace, &pod, &options);
        if let Ok(Ok(log)) = timeout(ORDER, read).await {
            let path = self.folder.join(shard.to_string()).join("agent.log");
            // A log that cannot be kept is no reason to lose a result.
            let _ = run_dir::write(&path, log.as_bytes());
        }
    }

    /// Whether each has made ready what it was given, or never will.
    pub(crate) fn has_settled(&self) -> bool {
        self.seen().all(|seen| {
            let makes_ready = matches!(seen.state, None | Some(State::Waiting | State::Preparing));
            seen.is_over || !makes_ready
        })
    }

    /// Whether one of them was given no work yet.
    pub(crate) fn has_no_work(&self) -> bool {
        self.seen().any(|seen| !seen.is_over && matches!(seen.state, Some(State::Waiting)))
    }

    /// Whether one of them makes load, or has made some.
    pub(crate) fn has_begun(&self) -> bool {
        let begun = |state: &Option<State>| matches!(state, Some(State::Running { .. }));
        self.seen().any(|seen| begun(&seen.state) || seen.report.sent > 0)
    }

    /// Those that wait for the order to begin.
    pub(crate) fn waiting(&self) -> Vec<u32> {
        let waits = |seen: &MutexGuard<Seen>| matches!(seen.state, Some(State::Ready { .. }));
        self.seen().filter(waits).map(|seen| seen.facts.shard).collect()
    }

    /// Whether those that wait can still begin with those that have begun.
    pub(crate) fn can_still_meet(&self) -> bool {
        // Asked before the first one is looked at, which it looks at, too.
        let zero = self.zero();
        match &self.agent(0).state {
            // The others wait for the first one.
            Some(State::Ready { .. }) => true,
            Some(State::Running { .. }) => zero.is_some_and(|zero| {
                let since = Duration::from_nanos(unix_ns(SystemTime::now()).saturating_sub(zero));
                since < COME - MARGIN
            }),
            _ => false,
        }
    }

    /// When the run's clock reads 0 by the controller's, in nanoseconds of the epoch. None: nobody has begun.
    fn zero(&self) -> Option<u64> {
        self.seen().find_map(|seen| match seen.state {
            Some(State::Running { zero, .. }) => Some(zero.saturating_add_signed(-seen.ahead())),
            _ => None,
        })
    }

    pub(super) async fn pipe(&self, shard: u32, order: &[&str]) -> Result<cluster::Pipe, Trouble> {
        let (pod, command) = (self.pod(shard), command(order));
        let asked = self.cluster.pipe(&self.namespace, &pod, Some(CONTAINER), &command);
        let pipe = timeout(ORDER, asked).await.map_err(|_| "it does not answer".to_owned())?;
        pipe.map_err(|error| error.to_string())
    }

    async fn fate(&self, shard: u32) -> Fate {
        let pod = self.pod(shard);
        let selection = Selection::named("v1", "Pod", &self.namespace, &pod);
        match timeout(ORDER, self.cluster.get(&selection)).await {
            Ok(Ok(found)) => match found.first() {
                None => Fate::Lost(format!("its pod {pod} was deleted")),
                Some(found) => fate(found),
            },
            _ => Fate::Unknown,
        }
    }

    fn agent(&self, shard: u32) -> MutexGuard<'_, Seen> {
        lock(&self.agents[shard as usize])
    }

    fn pod(&self, shard: u32) -> String {
        self.agent(shard).facts.pod.clone()
    }

    /// How many there are.
    pub(crate) fn shards(&self) -> u32 {
        u32::try_from(self.agents.len()).unwrap_or(u32::MAX)
    }
}

/// The last state of an agent of which everything is here. None: something may be missing.
pub(super) fn collected(folder: &Path, shard: u32) -> Option<State> {
    run_dir::read_json(&folder.join(shard.to_string()).join(COLLECTED)).ok()?
}

impl Seen {
    /// By how much its clock is ahead of the controller's, in nanoseconds.
    fn ahead(&self) -> i64 {
        (self.facts.clock_offset_ms.unwrap_or(0.0) * 1e6) as i64
    }

    /// What the agent says went wrong. None: it has not ended.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            Some(State::Ended { outcome, .. }) => Some(outcome),
            _ => None,
        }
    }
}

/// What became of an agent.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Runs,
    Lost(String),
    /// Nobody says.
    Unknown,
}

fn fate(pod: &Value) -> Fate {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let status = &pod["status"];
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    let phase = status["phase"].as_str().unwrap_or_default();
    if ended.is_null() && phase != "Failed" && phase != "Succeeded" {
        return Fate::Runs;
    }
    let text = |value: &Value| value.as_str().map(str::to_owned).filter(|text| !text.is_empty());
    let mut why = format!("its pod {name} has ended");
    if let Some(reason) = text(&status["reason"]).or_else(|| text(&ended["reason"])) {
        why.push_str(&format!(": {reason}"));
    }
    if let Some(code) = ended["exitCode"].as_i64() {
        why.push_str(&format!(", exit code {code}"));
    }
    if let Some(message) = text(&status["message"]).or_else(|| text(&ended["message"])) {
        why.push_str(&format!(" ({message})"));
    }
    Fate::Lost(why)
}

fn seen(shard: u32, pod: Option<&Value>) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let Some(pod) = pod else {
        return Seen { facts: Facts { shard, ..Facts::default() }, ..Seen::default() };
    };
    Seen {
        facts: Facts {
            shard,
            pod: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
            node: text(&pod["spec"]["nodeName"]),
            image: text(&pod["status"]["containerStatuses"][0]["imageID"]),
            ..Facts::default()
        },
        address: text(&pod["status"]["podIP"]),
        ..Seen::default()
    }
}

fn command<'a>(order: &[&'a str]) -> Vec<&'a str> {
    ["llmdbench", "agent"].into_iter().chain(order.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_ended_is_lost_and_says_why() {
        let pod = |status: Value| json!({"metadata": {"name": "p"}, "status": status});
        let check = |status: Value, why: Option<&str>| {
            let expected = why.map_or(Fate::Runs, |why| Fate::Lost(why.to_owned()));
            assert_eq!(fate(&pod(status)), expected);
        };
        check(json!({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}), None);
        let killed = json!({"reason": "OOMKilled", "exitCode": 137});
        check(
            json!({"phase": "Running", "containerStatuses": [{"state": {"terminated": killed}}]}),
            Some("its pod p has ended: OOMKilled, exit code 137"),
        );
        check(
            json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}),
            Some("its pod p has ended: Evicted (low on memory)"),
        );
    }
}
