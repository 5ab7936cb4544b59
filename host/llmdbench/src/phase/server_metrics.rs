//! Reads the target's own metrics pages, and those of its GPUs, before, during and after the load, once
//! a second and between stages, into `results/server_metrics.jsonl`.

use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::phase::nvidia_smi::NvidiaSmi;
use crate::plan::Target;
use crate::printer::Printer;
use crate::probe;
use crate::run_dir::Results;
use crate::secrets::{Redaction, Secrets};
use analysis::server::{self, Snapshot};
use load::Endpoint;
use reqwest::blocking::RequestBuilder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From one reading to the next.
const EVERY: Duration = Duration::from_secs(1);
/// A page that takes longer is left out.
const PATIENCE: Duration = Duration::from_secs(2);

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// Nanoseconds since the run's start.
    at: u64,
    /// Name and labels of each series, and its value.
    series: BTreeMap<String, f64>,
}

/// The reading under way.
#[derive(Debug)]
pub(crate) struct Reading {
    wishes: Sender<Wish>,
    thread: JoinHandle<()>,
}

/// What is wanted of it.
enum Wish {
    /// To read once more than it would.
    Now,
    /// To read once more and end.
    End,
}

/// What is read.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pages: Vec<Page>,
    gpus: Option<NvidiaSmi>,
}

/// A page that is read.
#[derive(Debug)]
struct Page {
    url: String,
    request: RequestBuilder,
    source: Source,
    /// It has had series that are known.
    is_known: bool,
    /// It has had series of an engine.
    is_of_engine: bool,
}

/// Who says that there is a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    User,
    Backend,
    /// It is beside the API.
    Api,
}

/// Where the target's metrics are: the pages that the user names, what the backend says, else
/// `/metrics` beside the API. Pages that do not answer, or have nothing that is known, are left out,
/// which the user is told of his own. GPUs of this machine are asked where the target runs on it.
pub(crate) fn watched(
    target: &Target,
    experiment: &Experiment,
    secrets: &Secrets,
    printer: &Printer,
) -> Result<Watched> {
    let client = probe::client_of(&experiment.tls(), PATIENCE)?;
    let endpoints: Vec<Endpoint> =
        target.endpoints.iter().filter_map(|url| Endpoint::parse(url).ok()).collect();
    let beside: Vec<String> = endpoints.iter().map(|endpoint| endpoint.url("/metrics")).collect();
    let wanted = &experiment.target.metrics;
    let by_backend = target.metrics.iter().map(|source| (&source.url, Source::Backend));
    let by_user = wanted.iter().map(|url| (url, Source::User));
    let by_api = beside.iter().filter(|_| target.metrics.is_empty()).map(|url| (url, Source::Api));
    let mut watched = Watched::default();
    for (url, source) in by_user.chain(by_backend).chain(by_api) {
        if watched.pages.iter().any(|page| page.url == *url) {
            continue;
        }
        let request = client.get(url);
        // The user's key is for the API's own address and for no other.
        let is_beside = beside.contains(url);
        let request = if is_beside { probe::signed(request, secrets) } else { request };
        watched.pages.push(Page {
            url: url.clone(),
            request,
            source,
            is_known: false,
            is_of_engine: false,
        });
    }
    watched.read();
    watched.pages.retain(|page| {
        if !page.is_known && page.source == Source::User {
            printer.warning(&format!(
                "{} does not answer, or has no metric that is known: it is left out",
                page.url
            ));
        }
        page.is_known
    });
    let is_all_here = target.endpoints_here() == target.endpoints.len();
    watched.gpus = if is_all_here { NvidiaSmi::start() } else { None };
    Ok(watched)
}

/// Begins to read. `start` is when the run's clock reads 0. None: there is no page.
pub(crate) fn begin(
    watched: Watched,
    results: &Results,
    redaction: Redaction,
    start: Instant,
) -> Result<Option<Reading>> {
    if watched.pages.is_empty() && watched.gpus.is_none() {
        return Ok(None);
    }
    let path = results.server_metrics();
    let file = File::create(&path).map_err(|error| {
        Error::unexpected(format!("cannot write `{}`", path.display())).because(error)
    })?;
    let (wishes, wished) = channel();
    let thread = std::thread::Builder::new()
        .name("server-metrics".into())
        .spawn(move || follow(watched, file, &redaction, start, &wished))
        .map_err(|error| Error::unexpected("cannot start a thread").because(error))?;
    Ok(Some(Reading { wishes, thread }))
}

impl Reading {
    /// Reads now as well: a stage has begun, of which counts shall hold nothing of the one before.
    pub(crate) fn now(&self) {
        // A thread that has ended already has said all that it could.
        let _ = self.wishes.send(Wish::Now);
    }

    /// Reads once more and ends.
    pub(crate) fn end(self) {
        let _ = self.wishes.send(Wish::End);
        let _ = self.thread.join();
    }
}

fn follow(
    mut watched: Watched,
    mut file: File,
    redaction: &Redaction,
    start: Instant,
    wished: &Receiver<Wish>,
) {
    let mut next = Instant::now();
    let mut is_last = false;
    loop {
        let at = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let series = watched.read();
        let line = serde_json::to_string(&Line { at, series });
        // A file that cannot be written to loses readings of the server, and no measurement.
        let is_kept = line.is_ok_and(|line| writeln!(file, "{}", redaction.clean(&line)).is_ok());
        if is_last || !is_kept {
            return;
        }
        let now = Instant::now();
        if now >= next {
            next = (next + EVERY).max(now);
        }
        is_last = match wished.recv_timeout(next.saturating_duration_since(now)) {
            Ok(Wish::Now) | Err(RecvTimeoutError::Timeout) => false,
            Ok(Wish::End) | Err(RecvTimeoutError::Disconnected) => true,
        };
    }
}

impl Watched {
    /// One reading of everything. What the user names is first: where that is the page of an engine,
    /// the one beside the API is not read. Behind a gateway it would be one of those once more.
    fn read(&mut self) -> BTreeMap<String, f64> {
        let mut all: BTreeMap<String, f64> = self.gpus.iter().flat_map(NvidiaSmi::series).collect();
        let mut are_named = false;
        for page in &mut self.pages {
            if page.source == Source::Api && are_named {
                continue;
            }
            all.extend(page.read());
            are_named |= page.source == Source::User && page.is_of_engine;
        }
        all
    }
}

impl Page {
    /// Its known series, those of several pages told apart by their address. Empty: it cannot be had,
    /// or has none.
    fn read(&mut self) -> Vec<(String, f64)> {
        let request = self.request.try_clone();
        let answer = request.and_then(|request| request.send().ok()?.error_for_status().ok());
        let Some(text) = answer.and_then(|answer| answer.text().ok()) else { return Vec::new() };
        let mut known = Vec::new();
        for mut series in server::parse(&text) {
            if server::is_known(&series.name) && series.value.is_finite() {
                self.is_known = true;
                self.is_of_engine |= server::is_of_engine(&series.name);
                series.labels.push((server::PAGE.to_owned(), self.url.clone()));
                known.push((series.key(), series.value));
            }
        }
        known
    }
}

/// The readings of a run. Empty: there are none.
pub(crate) fn snapshots(results: &Results) -> Vec<Snapshot> {
    let text = std::fs::read_to_string(results.server_metrics()).unwrap_or_default();
    // A last line that was cut off is left out.
    text.lines()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .map(|line| Snapshot {
            at: line.at,
            series: line
                .series
                .iter()
                .filter_map(|(key, value)| server::parse_series(key, *value))
                .collect(),
        })
        .filter(|snapshot| !snapshot.series.is_empty())
        .collect()
}
