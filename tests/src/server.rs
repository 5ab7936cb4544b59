//! [`Server`]: the program's simulated server as a process of its own.

use crate::program::{Running, program};
use crate::stub::get;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A simulated server. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    running: Option<Running>,
    /// Where it answers: "http://127.0.0.1:4711".
    pub url: String,
    dir: TempDir,
}

/// What the server says of a request, times in nanoseconds of its own.
#[derive(Debug)]
pub struct TruthLine {
    /// The record's number that the request bore. None: it is no request of the load.
    pub id: Option<u64>,
    /// The number of its connection, in the order of acceptance.
    pub connection: u64,
    /// The HTTP status of its answer.
    pub status: u64,
    /// When it had been read.
    pub read: u64,
    /// When each event with text was written: as a rule, each token.
    pub tokens: Vec<u64>,
    /// When the last byte was written. None: the answer was not completed.
    pub finished: Option<u64>,
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// The fault that it acted out: "http:503".
    pub fault: Option<String>,
}

impl Server {
    /// Starts `llmdbench sim` with these options. It serves the model `m` and keeps a truth log.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        Self::with_env(args, &[])
    }

    /// The same with variables.
    #[must_use]
    pub fn with_env(args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let truth = dir.path().join("truth.jsonl");
        let mut command = Command::new(program());
        command.args(["sim", "--port", "0", "--model", "m", "--truth-log"]).arg(truth).args(args);
        command.envs(env.iter().copied());
        let mut running = Running::start(&mut command);
        let line = running.wait_for("simulated server: ");
        let url = line.rsplit_once(" at ").unwrap().1.to_owned();
        Self { running: Some(running), url, dir }
    }

    /// Plays these scripted streams, in turn.
    #[must_use]
    pub fn play(scripts: &[impl AsRef<Path>]) -> Self {
        let mut args = Vec::new();
        for script in scripts {
            args.extend(["--script".to_owned(), script.as_ref().display().to_string()]);
        }
        Self::start(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What it has answered so far.
    #[must_use]
    pub fn truth(&self) -> Vec<TruthLine> {
        let text = std::fs::read_to_string(self.truth_log()).unwrap();
        truth(&text)
    }

    /// Where the truth log lies.
    #[must_use]
    pub fn truth_log(&self) -> PathBuf {
        self.dir.path().join("truth.jsonl")
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(Signal::SIGKILL);
            running.wait();
        }
    }

    /// The value of a line of `/metrics`.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        metric(&self.url, name)
    }
}

/// The sum over the lines of `/metrics` whose name, labels apart, is this.
#[track_caller]
#[must_use]
pub fn metric(url: &str, name: &str) -> f64 {
    let page = get(&format!("{url}/metrics"));
    let values: Vec<f64> = page
        .lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse().ok())?
        })
        .collect();
    assert!(!values.is_empty(), "no {name} in\n{page}");
    values.iter().sum()
}

/// Lines that were whole when they were read.
fn truth(text: &str) -> Vec<TruthLine> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().skip(1).map(|line| truth_line(&serde_json::from_str(line).unwrap())).collect()
}

fn truth_line(line: &Value) -> TruthLine {
    let name = line["x_request_id"].as_str();
    TruthLine {
        id: name.and_then(|name| name.rsplit_once('-')?.1.parse().ok()),
        connection: line["connection"].as_u64().unwrap(),
        status: line["status"].as_u64().unwrap(),
        read: line["read_ns"].as_u64().unwrap(),
        tokens: line["tokens_ns"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect(),
        finished: line["finished_ns"].as_u64(),
        input_tokens: line["input_tokens"].as_u64().unwrap(),
        output_tokens: line["output_tokens"].as_u64().unwrap(),
        fault: line["fault"].as_str().map(str::to_owned),
    }
}
