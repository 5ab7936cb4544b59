//! Processes on this machine that are part of a stack: started, waited for, found again, stopped.
//!
//! A process leads a group of its own, so that it survives the command that started it and a
//! Ctrl-C meant for that command. It is known by its id and start time together, so that a later
//! teardown never hits another process that got the same id.

use crate::action::{Process, Variable};
use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::run_dir::{self, RunDir};
use crate::secrets::Secrets;
use crate::unit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that standup started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Started {
    /// Its name in the plan.
    pub(crate) name: String,
    /// Its process id, which is also the id of its group.
    pub(crate) pid: i32,
    /// When it started, in the kernel's clock ticks since boot.
    start_ticks: u64,
    /// The TCP port that it was given.
    pub(crate) port: u16,
    /// What was run, with its variables filled in.
    pub(crate) command: Vec<String>,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

impl Started {
    /// Whether it still runs.
    pub(crate) fn runs(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.zombie)
    }

    /// As `locate` of a backend sees it.
    pub(crate) fn observed(&self) -> serde_json::Value {
        serde_json::json!({
            "apiVersion": "llmdbench/v1", "kind": "Process",
            "metadata": {"name": self.name},
            "status": {
                "port": self.port,
                "running": self.runs(),
                "output": tail(&self.log, 64 * 1024),
            },
        })
    }

    /// Asks it and everything in its group to end, and makes it end when it does not.
    pub(crate) fn stop(&self) -> Result<Stopped> {
        if !self.runs() {
            return Ok(Stopped::WasGone);
        }
        for (signal, patience) in
            [(Signal::SIGTERM, Duration::from_secs(10)), (Signal::SIGKILL, Duration::from_secs(5))]
        {
            // The group; the process leads it.
            let _ = kill(Pid::from_raw(-self.pid), signal);
            let end = Instant::now() + patience;
            while Instant::now() < end {
                if !self.runs() {
                    return Ok(if signal == Signal::SIGTERM {
                        Stopped::Cleanly
                    } else {
                        Stopped::Killed
                    });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Err(Error::new(
            Exit::Teardown,
            format!("the process `{}` (pid {}) does not end", self.name, self.pid),
        )
        .hint(format!("look at it with `ps -fp {}`", self.pid)))
    }
}

/// How a process came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stopped {
    /// On request.
    Cleanly,
    /// By force.
    Killed,
    /// Before it was asked.
    WasGone,
}

/// The processes that the commands on a run folder started.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Inventory {
    pub(crate) processes: Vec<Started>,
}

impl Inventory {
    /// Reads it. Empty where nothing was started.
    pub(crate) fn read(dir: &RunDir) -> Result<Self> {
        Ok(run_dir::read_json(&dir.processes())?.unwrap_or_default())
    }

    /// Writes it.
    pub(crate) fn write(&self, dir: &RunDir) -> Result<()> {
        run_dir::write_json(&dir.processes(), self)
    }
}

/// The variables that every process of the stack can name as `$(NAME)`.
pub(crate) fn host_variables(run: &str, model: &str, port: u16) -> BTreeMap<String, String> {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("llmdbench"));
    [
        ("LLMDBENCH_SELF", own.display().to_string()),
        ("LLMDBENCH_PORT", port.to_string()),
        ("LLMDBENCH_MODEL", model.to_owned()),
        ("LLMDBENCH_RUN_ID", run.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Fills in `$(NAME)` as Kubernetes does: a name that is not known stays as it stands, and
/// `$$(NAME)` gives `$(NAME)`.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
            if let Some(end) = rest.strip_prefix('(').and_then(|inner| inner.find(')')) {
                out.push_str(&rest[..end + 2]);
                rest = &rest[end + 2..];
            }
            continue;
        }
        let name = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, _)| variables.get_key_value(name)) {
            Some((name, value)) => {
                out.push_str(value);
                rest = &rest[name.len() + 3..];
            }
            None => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Starts a process, notes it in the inventory, and waits until it is ready.
pub(crate) fn start(
    process: &Process,
    run: &str,
    model: &str,
    dir: &RunDir,
    secrets: &Secrets,
    waiting: &mut dyn FnMut(String),
) -> Result<Started> {
    let port = free_port()?;
    let mut variables = host_variables(run, model, port);
    let mut environment = Vec::new();
    for Variable { name, text, secret } in &process.env {
        let value = match secret {
            Some(source) => secrets
                .by_name
                .get(source)
                .ok_or_else(|| {
                    Error::new(
                        Exit::Standup,
                        format!("the process `{}` needs the secret `{source}`", process.name),
                    )
                    .hint(hint_for_secret(source))
                })?
                .expose_secret()
                .to_owned(),
            None => expand(text, &variables),
        };
        if secret.is_none() {
            variables.insert(name.clone(), value.clone());
        }
        environment.push((name.clone(), value));
    }
    let program = expand(&process.program, &variables);
    let args: Vec<String> = process.args.iter().map(|arg| expand(arg, &variables)).collect();
    let folder = match &process.working_dir {
        Some(folder) => PathBuf::from(expand(folder, &variables)),
        None => dir.process_folder(&process.name),
    };
    if process.working_dir.is_none() {
        run_dir::make(&folder)?;
    }
    for file in &process.files {
        let contents = if file.expand {
            expand(&String::from_utf8_lossy(&file.contents), &variables).into_bytes()
        } else {
            file.contents.clone()
        };
        run_dir::write(&folder.join(&file.path), &contents)?;
    }
    let log = dir.process_log(&process.name);
    run_dir::make(log.parent().unwrap_or(Path::new(".")))?;
    let output = File::create(&log).map_err(|error| {
        Error::unexpected(format!("cannot write `{}`", log.display())).because(error)
    })?;
    let errors = output
        .try_clone()
        .map_err(|error| Error::unexpected("cannot share the log file").because(error))?;

    let mut command = Command::new(&program);
    command.args(&args).current_dir(&folder).env_clear();
    for name in ["PATH", "HOME", "LANG", "TMPDIR", "USER", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(host_variables(run, model, port)).envs(environment);
    command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
    let child = command.spawn().map_err(|error| {
        Error::new(Exit::Standup, format!("cannot start `{program}`")).because(error).hint(
            "the program is named by the `command` of the backend's settings; it must be on PATH or a path",
        )
    })?;
    let pid = i32::try_from(child.id())
        .map_err(|_| Error::unexpected(format!("the process id {} is too large", child.id())))?;
    let started = Started {
        name: process.name.clone(),
        pid,
        start_ticks: stat(pid).map_or(0, |stat| stat.start_ticks),
        port,
        command: std::iter::once(program).chain(args).collect(),
        log,
    };
    let mut inventory = Inventory::read(dir)?;
    inventory.processes.retain(Started::runs);
    inventory.processes.push(started.clone());
    inventory.write(dir)?;
    let ready_url = process.ready_url.as_deref().map(|url| expand(url, &variables));
    wait_ready(&started, child, ready_url.as_deref(), process.ready_timeout, waiting)?;
    Ok(started)
}

fn wait_ready(
    started: &Started,
    mut child: Child,
    url: Option<&str>,
    timeout: Duration,
    waiting: &mut dyn FnMut(String),
) -> Result<()> {
    let begin = Instant::now();
    let client = crate::probe::client(url.as_slice(), Duration::from_secs(2))?;
    loop {
        interrupt::check()?;
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Error::new(
                Exit::Standup,
                format!("the process `{}` ended before it was ready: {status}", started.name),
            )
            .cause(last_lines(&started.log))
            .hint(format!("its whole output is in {}", started.log.display())));
        }
        let Some(url) = url else { return Ok(()) };
        let last = match client.get(url).send() {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => format!("{url} answers {}", answer.status()),
            Err(error) if error.is_connect() => format!("nothing listens at {url} yet"),
            Err(error) if error.is_timeout() => format!("{url} does not answer within 2s"),
            Err(error) => format!("{url}: {error}"),
        };
        if begin.elapsed() > timeout {
            return Err(Error::new(
                Exit::Standup,
                format!(
                    "the process `{}` was not ready within {}",
                    started.name,
                    unit::show(timeout)
                ),
            )
            .cause(last)
            .cause(last_lines(&started.log))
            .hint("raise `ready_timeout` in the backend's settings if it only needs longer"));
        }
        waiting(format!("{} ({last}, {})", started.name, unit::show(begin.elapsed())));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How the user gives a secret.
fn hint_for_secret(name: &str) -> String {
    crate::settings::SETTINGS
        .iter()
        .find(|setting| setting.path == format!("secrets.{name}"))
        .map_or_else(
            || "there is no such secret; `llmdbench env` lists them under `secrets.`".to_owned(),
            |setting| format!("set the environment variable {}", setting.variable),
        )
}

/// A TCP port that nothing uses now.
fn free_port() -> Result<u16> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Error::unexpected("cannot find a free TCP port").because(error))
}

struct Stat {
    start_ticks: u64,
    zombie: bool,
}

/// Field 22 of /proc/PID/stat is the start time; the second field may hold spaces.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { start_ticks, zombie: state == "Z" || state == "X" })
}

/// The end of a log, for people.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = tail(log, 4096);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(12);
    if lines.is_empty() {
        return "it wrote nothing".to_owned();
    }
    format!("its last lines were:\n{}", lines[from..].join("\n"))
}

/// The end of a file.
fn tail(path: &Path, bytes: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut buffer = Vec::new();
        file.read_to_end(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
impl Started {
    /// The process of this test, as if it had been stood up.
    pub(crate) fn this_program(name: &str) -> Self {
        let pid = i32::try_from(std::process::id()).unwrap();
        let start_ticks = stat(pid).unwrap().start_ticks;
        Self { pid, start_ticks, ..Self::ended(name) }
    }

    /// A process that has ended.
    pub(crate) fn ended(name: &str) -> Self {
        let (command, log) = (Vec::new(), PathBuf::new());
        Self { name: name.into(), pid: 1, start_ticks: u64::MAX, port: 1, command, log }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_dollar_brackets_are_filled_in_as_kubernetes_does() {
        let variables =
            [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x y".to_owned())].into();
        let check = |text: &str, expected: &str| assert_eq!(expand(text, &variables), expected);
        check("$(A)/$(B)", "1/x y");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$(C) $A $ $(", "$(C) $A $ $(");
        check("100$", "100$");
    }

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let mut started = Started::this_program("self");
        assert!(started.runs());
        started.start_ticks += 1;
        assert!(!started.runs());
        assert_eq!(started.stop().unwrap(), Stopped::WasGone);
    }
}
