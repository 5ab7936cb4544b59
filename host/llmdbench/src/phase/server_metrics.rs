//! Reads the target's own metrics pages before, during and after the load, once a second, into
//! `results/server_metrics.jsonl`.

use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::plan::Target;
use crate::probe;
use crate::run_dir::Results;
use analysis::server::{self, Snapshot};
use load::Endpoint;
use reqwest::blocking::Client;
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

/// Where the target's metrics are, if anywhere: what the backend says, else `/metrics` beside the
/// API. None: nothing that is known is there.
pub(crate) fn pages(
    target: &Target,
    experiment: &Experiment,
) -> Result<Option<(Client, Vec<String>)>> {
    let client = probe::client_of(&experiment.tls(), PATIENCE)?;
    let mut pages: Vec<String> = target.metrics.iter().map(|source| source.url.clone()).collect();
    if pages.is_empty() {
        let endpoints = target.endpoints.iter().filter_map(|url| Endpoint::parse(url).ok());
        pages = endpoints.map(|endpoint| endpoint.url("/metrics")).collect();
    }
    pages.retain(|page| !read(&client, page).is_empty());
    Ok((!pages.is_empty()).then_some((client, pages)))
}

/// Begins to read. `start` is when the run's clock reads 0.
pub(crate) fn begin(
    (client, pages): (Client, Vec<String>),
    results: &Results,
    start: Instant,
) -> Result<Reading> {
    let path = results.server_metrics();
    let file = File::create(&path).map_err(|error| {
        Error::unexpected(format!("cannot write `{}`", path.display())).because(error)
    })?;
    let (stop, stopped) = channel();
    let thread = std::thread::Builder::new()
        .name("server-metrics".into())
        .spawn(move || follow(&client, &pages, file, start, &stopped))
        .map_err(|error| Error::unexpected("cannot start a thread").because(error))?;
    Ok(Reading { stop, thread })
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
    client: &Client,
    pages: &[String],
    mut file: File,
    start: Instant,
    stopped: &Receiver<()>,
) {
    let mut next = Instant::now();
    let mut is_last = false;
    loop {
        let at = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let series = pages.iter().flat_map(|page| read(client, page)).collect();
        let line = serde_json::to_string(&Line { at, series });
        // A file that cannot be written to loses readings of the server, and no measurement.
        let is_kept = line.is_ok_and(|line| writeln!(file, "{line}").is_ok());
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
fn read(client: &Client, page: &str) -> Vec<(String, f64)> {
    let answer = client.get(page).send().and_then(|answer| answer.error_for_status());
    let Ok(text) = answer.and_then(|answer| answer.text()) else { return Vec::new() };
    server::parse(&text)
        .into_iter()
        .filter(|series| server::is_known(&series.name) && series.value.is_finite())
        .map(|mut series| {
            series.labels.push(("page".to_owned(), page.to_owned()));
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
