//! Reads the target's own metrics pages, and those of its GPUs, before, during and after the load, once
//! a second and between stages, into `results/server_metrics.jsonl`.

use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::interrupt;
use crate::phase::nvidia_smi::NvidiaSmi;
use crate::plan::Target;
use crate::printer::Printer;
use crate::probe;
use crate::run_dir::Results;
use crate::secrets::{Redaction, Secrets};
use analysis::server::{self, Snapshot};
use load::Endpoint;
use reqwest::blocking::{RequestBuilder, Response};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From one reading to the next.
const EVERY: Duration = Duration::from_secs(1);
/// A page that takes longer is not in a reading.
const PATIENCE: Duration = Duration::from_secs(2);
/// From one asking to the next of pages that have not answered yet: first, doubled each time, and at
/// most.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);

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
    thread: JoinHandle<(Watched, Log, io::Result<()>)>,
    waiting: Option<Waiting>,
}

/// What was read before there is load.
#[derive(Debug)]
pub(crate) struct Before {
    watched: Watched,
    /// Pages that have not answered yet.
    silent: Vec<Page>,
    log: Log,
}

/// The file.
#[derive(Debug)]
struct Log {
    file: File,
    path: PathBuf,
    redaction: Redaction,
}

/// Pages that have not answered yet. They are asked apart, for what is read once a second is not to
/// wait for them.
#[derive(Debug)]
struct Waiting {
    /// Ends it when it is dropped.
    end: Sender<()>,
    thread: JoinHandle<Vec<Page>>,
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
    /// It has had series of an engine.
    is_of_engine: bool,
    state: State,
}

/// What became of asking for a page.
#[derive(Debug)]
enum State {
    /// It has not answered yet: why not.
    Silent(String),
    /// It has answered, and never had a series that is known.
    Empty,
    /// It has had series that are known.
    Known,
}

/// Who says that there is a page, in the order of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    User,
    Backend,
    /// It is beside the API.
    Api,
}

/// Where the target's metrics are: the pages that the user names, what the backend says, else
/// `/metrics` beside the API. Pages that have nothing yet are asked again while load runs. GPUs of this
/// machine are asked where the target runs on it.
pub(crate) fn watched(
    target: &Target,
    experiment: &Experiment,
    secrets: &Secrets,
    printer: &Printer,
) -> Result<Watched> {
    let endpoints: Vec<Endpoint> =
        target.endpoints.iter().filter_map(|url| Endpoint::parse(url).ok()).collect();
    let beside: Vec<String> = endpoints.iter().map(|endpoint| endpoint.url("/metrics")).collect();
    let wanted = &experiment.target.metrics;
    let by_backend = target.metrics.iter().map(|source| (&source.url, Source::Backend));
    let by_user = wanted.iter().map(|url| (url, Source::User));
    let by_api = beside.iter().filter(|_| target.metrics.is_empty()).map(|url| (url, Source::Api));
    let pages: Vec<(&String, Source)> = by_user.chain(by_backend).chain(by_api).collect();
    let urls: Vec<&str> = pages.iter().map(|(url, _)| url.as_str()).collect();
    let client = probe::client_of(&experiment.tls(), &urls, PATIENCE)?;
    let mut watched = Watched::default();
    for (url, source) in pages {
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
            is_of_engine: false,
            state: State::Silent(String::new()),
        });
    }
    watched.read();
    for page in watched.pages.iter().filter(|page| page.source == Source::User) {
        if let Some(why) = page.missing() {
            printer.warning(&format!("{} {why}: it is asked again while load runs", page.url));
        }
    }
    let is_all_here = target.endpoints_here() == target.endpoints.len();
    watched.gpus = if is_all_here { NvidiaSmi::start() } else { None };
    Ok(watched)
}

/// Reads for the first time, before there is load. None: there is no page, or nowhere to write what it says.
pub(crate) fn before(
    mut watched: Watched,
    results: &Results,
    redaction: Redaction,
    printer: &Printer,
) -> Option<Before> {
    if watched.pages.is_empty() && watched.gpus.is_none() {
        return None;
    }
    let path = results.server_metrics();
    let (silent, pages) = watched.pages.into_iter().partition(Page::is_silent);
    watched.pages = pages;
    let begun = File::create(&path).and_then(|file| {
        let mut log = Log { file, path: path.clone(), redaction };
        log.add(0, watched.read()).map(|()| log)
    });
    match begun {
        Ok(log) => Some(Before { watched, silent, log }),
        Err(error) => {
            printer.warning(&cannot_write(&path, &error));
            None
        }
    }
}

/// It loses readings of the server, and no measurement.
fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!(
        "cannot write `{}`, and what the server tells of itself is missing: {error}",
        path.display()
    )
}

/// Goes on reading. `start` is when the run's clock reads 0.
pub(crate) fn begin(before: Before, start: Instant) -> Result<Reading> {
    let Before { watched, silent, log } = before;
    let failed = |error| Error::unexpected("cannot start a thread").because(error);
    let thread = |name: &str| std::thread::Builder::new().name(name.into());
    let (answered, new) = channel();
    let waiting = if silent.is_empty() {
        None
    } else {
        let (end, ended) = channel();
        let thread = thread("silent-metrics")
            .spawn(move || ask_again(silent, &answered, &ended))
            .map_err(failed)?;
        Some(Waiting { end, thread })
    };
    let (wishes, wished) = channel();
    let thread = thread("server-metrics")
        .spawn(move || follow(watched, &new, log, start, &wished))
        .map_err(failed)?;
    Ok(Reading { wishes, thread, waiting })
}

impl Reading {
    /// Reads now as well: a stage has begun, of which counts shall hold nothing of the one before.
    pub(crate) fn now(&self) {
        // A thread that has ended already has said all that it could.
        let _ = self.wishes.send(Wish::Now);
    }

    /// Reads once more and ends, and tells what was never read.
    pub(crate) fn end(self, printer: &Printer) {
        let _ = self.wishes.send(Wish::End);
        let silent = self.waiting.and_then(|waiting| {
            drop(waiting.end);
            waiting.thread.join().ok()
        });
        let Ok((watched, log, outcome)) = self.thread.join() else { return };
        if let Err(error) = outcome {
            printer.warning(&cannot_write(&log.path, &error));
        }
        if log.file.metadata().is_ok_and(|file| file.len() == 0) {
            // Nothing was ever read. A file that cannot be removed is empty.
            let _ = fs::remove_file(&log.path);
        }
        let is_wanted = |page: &&Page| !watched.is_left_out(page);
        for page in watched.pages.iter().chain(silent.iter().flatten()).filter(is_wanted) {
            let Some(why) = page.missing() else { continue };
            let text = format!("the metrics page {} was never read: it {why}", page.url);
            if page.source == Source::User { printer.warning(&text) } else { printer.step(&text) }
        }
    }
}

/// Asks pages until they answer or the end comes; gives those that never did.
fn ask_again(mut silent: Vec<Page>, answered: &Sender<Page>, ended: &Receiver<()>) -> Vec<Page> {
    let mut wait = AGAIN;
    while !silent.is_empty() && ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        wait = (wait * 2).min(AGAIN_AT_MOST);
        let mut still = Vec::new();
        for mut page in silent {
            page.read();
            if page.is_silent() {
                still.push(page);
            } else {
                // Nobody reads any more: the end has come.
                let _ = answered.send(page);
            }
        }
        silent = still;
    }
    silent
}

/// Reads until it is told to end or the file cannot be written, and gives what became of the pages and the file.
fn follow(
    mut watched: Watched,
    answered: &Receiver<Page>,
    mut log: Log,
    start: Instant,
    wished: &Receiver<Wish>,
) -> (Watched, Log, io::Result<()>) {
    let mut next = Instant::now() + EVERY;
    loop {
        let now = Instant::now();
        let is_last = match wished.recv_timeout(next.saturating_duration_since(now)) {
            Ok(Wish::Now) | Err(RecvTimeoutError::Timeout) => false,
            Ok(Wish::End) | Err(RecvTimeoutError::Disconnected) => true,
        };
        let now = Instant::now();
        if now >= next {
            next = (next + EVERY).max(now);
        }
        let at = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        watched.pages.extend(answered.try_iter());
        watched.pages.sort_by_key(|page| page.source);
        let outcome = log.add(at, watched.read());
        if is_last || outcome.is_err() {
            return (watched, log, outcome);
        }
    }
}

impl Log {
    /// Adds a reading, if there is anything in it.
    fn add(&mut self, at: u64, series: BTreeMap<String, f64>) -> io::Result<()> {
        if series.is_empty() {
            return Ok(());
        }
        let line = serde_json::to_string(&Line { at, series }).unwrap_or_default();
        writeln!(self.file, "{}", self.redaction.clean(&line))
    }
}

impl Watched {
    /// One reading of everything. What the user names is first: where that is the page of an engine,
    /// the one beside the API is not read. Behind a gateway it would be one of those once more.
    fn read(&mut self) -> BTreeMap<String, f64> {
        let mut all: BTreeMap<String, f64> = self.gpus.iter().flat_map(NvidiaSmi::series).collect();
        for at in 0..self.pages.len() {
            if !self.is_left_out(&self.pages[at]) {
                all.extend(self.pages[at].read());
            }
        }
        all
    }

    fn is_left_out(&self, page: &Page) -> bool {
        let is_named = |page: &Page| page.source == Source::User && page.is_of_engine;
        page.source == Source::Api && self.pages.iter().any(is_named)
    }
}

impl Page {
    /// Its known series, those of several pages told apart by their address. Empty: it cannot be had,
    /// or has none.
    fn read(&mut self) -> Vec<(String, f64)> {
        let text = match self.fetch() {
            Ok(text) => text,
            Err(why) => {
                if self.is_silent() {
                    self.state = State::Silent(why);
                }
                return Vec::new();
            }
        };
        let mut known = Vec::new();
        for mut series in server::parse(&text) {
            if server::is_known(&series.name) && series.value.is_finite() {
                self.is_of_engine |= server::is_of_engine(&series.name);
                series.labels.push((server::PAGE.to_owned(), self.url.clone()));
                known.push((series.key(), series.value));
            }
        }
        let was_known = matches!(self.state, State::Known);
        self.state = if was_known || !known.is_empty() { State::Known } else { State::Empty };
        known
    }

    /// The page as it is now; or why it cannot be had.
    fn fetch(&self) -> std::result::Result<String, String> {
        let failed = |error: reqwest::Error| match error.status() {
            Some(status) => format!("answers with status {}", status.as_u16()),
            None => "does not answer".to_owned(),
        };
        let request = self.request.try_clone().ok_or("cannot be asked twice")?;
        let answer = request.send().and_then(Response::error_for_status).map_err(failed)?;
        answer.text().map_err(failed)
    }

    fn is_silent(&self) -> bool {
        matches!(self.state, State::Silent(_))
    }

    /// Why nothing is known of it. None: something is.
    fn missing(&self) -> Option<&str> {
        match &self.state {
            State::Silent(why) => Some(why),
            State::Empty => Some("has no metric that is known"),
            State::Known => None,
        }
    }
}

/// The readings of a run. Empty: there are none.
///
/// # Errors
/// When the user asked for an end more often than was heeded.
pub(crate) fn snapshots(results: &Results, heeded: usize) -> Result<Vec<Snapshot>> {
    let text = std::fs::read_to_string(results.server_metrics()).unwrap_or_default();
    // A last line that was cut off is left out.
    let snapshots = text
        .lines()
        .take_while(|_| interrupt::check_beyond(heeded).is_ok())
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
        .collect();
    interrupt::check_beyond(heeded)?;
    Ok(snapshots)
}
