//! [`Bench`]: a folder in which the program runs, and what it left there.

use crate::program::{Ended, Running, program};
use crate::server::Server;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use records::{ClientSample, EndReason, Entry, Event, Header, Reader, Record, StagePhase};
use serde_json::Value;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A folder in which the program runs. The run folder is `w` in it.
#[derive(Debug)]
pub struct Bench {
    dir: TempDir,
    env: Vec<(String, String)>,
}

/// What a records file holds.
#[derive(Debug)]
pub struct Log {
    /// Its first line.
    pub header: Header,
    /// Requests, by their numbers.
    pub records: Vec<Record>,
    /// How the load generator fared.
    pub samples: Vec<ClientSample>,
    /// Why load ended. None: it was killed.
    pub end: Option<EndReason>,
    /// Sessions that schedules had, and that were not sent before the clock ended their stage.
    pub unsent: u64,
    /// It ends in the middle of a line.
    pub truncated: bool,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    /// An empty folder.
    #[must_use]
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), env: Vec::new() }
    }

    /// Sets a variable of every command.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Reads a text from the folder.
    #[track_caller]
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Reads JSON from the folder.
    #[track_caller]
    #[must_use]
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Starts the program.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_as(&program(), args)
    }

    /// Runs the program through a link of this name to its end.
    #[track_caller]
    pub fn run_as(&self, link: &str, args: &[&str]) -> Ended {
        let path = self.path(link);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(program(), &path).unwrap();
        self.start_as(&path, args).wait()
    }

    /// Starts the program with further variables.
    pub fn start_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Running {
        self.start_program(&program(), variables, args)
    }

    /// Runs the program with further variables to its end.
    #[track_caller]
    pub fn run_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Ended {
        self.start_with(variables, args).wait()
    }

    fn start_as(&self, program: &Path, args: &[&str]) -> Running {
        self.start_program(program, &[], args)
    }

    fn start_program(&self, program: &Path, more: &[(&str, &str)], args: &[&str]) -> Running {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).args(args);
        // Settings of the person who runs the tests are not part of them.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LLMDBENCH_") {
                command.env_remove(name);
            }
        }
        command.env("LLMDBENCH_CONTROL_WORK_DIR", "w");
        // What the machine's owner has measured is no part of a test.
        command.env("LLMDBENCH_CONTROL_DATA_DIR", "data");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.envs(more.iter().copied());
        Running::start(&mut command)
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Ended {
        self.start(args).wait()
    }

    /// Drives load into a server whose model is `m`, with these further options.
    #[track_caller]
    pub fn load(&self, server: &Server, options: &[&str]) -> Ended {
        self.run(&[&["run", "--endpoint", &server.url, "--model", "m"], options].concat())
    }

    /// The newest summary.
    #[track_caller]
    #[must_use]
    pub fn summary(&self) -> Value {
        self.json("w/analysis/data/summary.json")
    }

    /// The records of the first run.
    #[track_caller]
    #[must_use]
    pub fn log(&self) -> Log {
        Log::read(&self.path("w/results/records.jsonl"))
    }

    /// Every file below the folder.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    files.push(entry.path());
                }
            }
        }
        files.sort();
        files
    }

    /// Process ids of what stands.
    #[must_use]
    pub fn standing(&self) -> Vec<i32> {
        let Ok(text) = fs::read_to_string(self.path("w/setup/processes.json")) else {
            return Vec::new();
        };
        let processes: Value = serde_json::from_str(&text).unwrap();
        let list = processes["processes"].as_array().unwrap();
        list.iter().map(|p| i32::try_from(p["pid"].as_i64().unwrap()).unwrap()).collect()
    }
}

impl Drop for Bench {
    /// A test that failed leaves no server behind.
    fn drop(&mut self) {
        for pid in self.standing() {
            // It leads a group; where it has ended already nobody is hit.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Log {
    /// Reads a records file.
    #[track_caller]
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut reader = Reader::new(BufReader::new(file)).unwrap();
        let mut log = Self {
            header: reader.header().clone(),
            records: Vec::new(),
            samples: Vec::new(),
            end: None,
            unsent: 0,
            truncated: false,
        };
        while let Some(entry) = reader.next_entry().unwrap() {
            match entry {
                Entry::Record(record) => {
                    assert_eq!(record.contradiction(), None, "{record:?}");
                    log.records.push(*record);
                }
                Entry::Event(Event::Client(sample)) => log.samples.push(sample),
                Entry::Event(Event::End { reason, .. }) => log.end = Some(reason),
                Entry::Event(Event::Stage(StagePhase::End(end))) => log.unsent += end.unsent,
                Entry::Event(Event::Stage(_) | Event::Astray(_) | Event::BrokeDown(_)) => {}
            }
        }
        log.truncated = reader.truncated();
        log.records.sort_by_key(|record| record.id);
        log
    }

    /// Requests, of one turn each, that schedules which the clock ended had: those that were sent,
    /// and the very last, which a busy machine may have had no time for.
    #[track_caller]
    #[must_use]
    pub fn scheduled(&self) -> usize {
        assert!(self.unsent <= 2, "{} were not sent", self.unsent);
        self.records.len() + self.unsent as usize
    }
}

/// Milliseconds from one time of a record to another.
#[must_use]
pub fn ms(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}
