//! Reads the target's own metrics pages before, during and after the load, once a second, into
//! `results/server_metrics.jsonl`.

use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::plan::Target;
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
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// A page that is read.
#[derive(Debug)]
pub(crate) struct Page {
    url: String,
    request: RequestBuilder,
}

/// Where the target's metrics are: what the backend says, else `/metrics` beside the API. Pages
/// that do not answer, or have nothing that is known, are left out.
pub(crate) fn pages(
    target: &Target,
    experiment: &Experiment,
    secrets: &Secrets,
) -> Result<Vec<Page>> {
    let client = probe::client_of(&experiment.tls(), PATIENCE)?;
    let beside: Vec<String> = target
        .endpoints
        .iter()
        .filter_map(|url| Some(Endpoint::parse(url).ok()?.url("/metrics")))
        .collect();
    let named: Vec<String> = target.metrics.iter().map(|source| source.url.clone()).collect();
    let urls = if named.is_empty() { beside.clone() } else { named };
    let pages = urls.into_iter().map(|url| {
        let request = client.get(&url);
        // The user's key is for the API's own address and for no other.
        let is_beside = beside.contains(&url);
        let request = if is_beside { probe::signed(request, secrets) } else { request };
        Page { url, request }
    });
    Ok(pages.filter(|page| !read(page).is_empty()).collect())
}

/// Begins to read. `start` is when the run's clock reads 0. None: there is no page.
pub(crate) fn begin(
    pages: Vec<Page>,
    results: &Results,
    redaction: Redaction,
    start: Instant,
) -> Result<Option<Reading>> {
    if pages.is_empty() {
        return Ok(None);
    }
    let path = results.server_metrics();
    let file = File::create(&path).map_err(|error| {
        Error::unexpected(format!("cannot write `{}`", path.display())).because(error)
    })?;
    let (stop, stopped) = channel();
    let thread = std::thread::Builder::new()
        .name("server-metrics".into())
        .spawn(move || follow(&pages, file, &redaction, start, &stopped))
        .map_err(|error| Error::unexpected("cannot start a thread").because(error))?;
    Ok(Some(Reading { stop, thread }))
}

impl Reading {
    /// Reads once more and ends.
    pub(crate) fn end(self) {
        // A thread that has ended already has said all that it could.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn follow(
    pages: &[Page],
    mut file: File,
    redaction: &Redaction,
    start: Instant,
    stopped: &Receiver<()>,
) {
    let mut next = Instant::now();
    let mut is_last = false;
    loop {
        let at = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let series = pages.iter().flat_map(read).collect();
        let line = serde_json::to_string(&Line { at, series });
        // A file that cannot be written to loses readings of the server, and no measurement.
        let is_kept = line.is_ok_and(|line| writeln!(file, "{}", redaction.clean(&line)).is_ok());
        if is_last || !is_kept {
            return;
        }
        next = (next + EVERY).max(Instant::now());
        let wait = next.saturating_duration_since(Instant::now());
        is_last = !matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout));
    }
}

/// The known series of a page, those of several pages told apart by their address. Empty: it cannot
/// be had, or has none.
fn read(page: &Page) -> Vec<(String, f64)> {
    let request = page.request.try_clone();
    let answer = request.and_then(|request| request.send().ok()?.error_for_status().ok());
    let Some(text) = answer.and_then(|answer| answer.text().ok()) else { return Vec::new() };
    server::parse(&text)
        .into_iter()
        .filter(|series| server::is_known(&series.name) && series.value.is_finite())
        .map(|mut series| {
            series.labels.push(("page".to_owned(), page.url.clone()));
            (series.key(), series.value)
        })
        .collect()
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
