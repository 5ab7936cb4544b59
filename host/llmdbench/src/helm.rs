//! Helm, through its own program: found before anything is touched, led to the cluster of this program, bounded in time
//! and interruptible. What it is asked to do is decided elsewhere.

use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::unit;
use cluster::{Access, Place, explain};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The oldest that puts labels on releases.
const OLDEST: (u32, u32) = (3, 13);
/// Questions are answered within this.
const QUESTION: Duration = Duration::from_secs(60);
/// Beyond its own time limit helm gets so long, to fetch a chart and to say how it ended.
const GRACE: Duration = Duration::from_secs(60);
/// So long helm may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// The program, found and asked for its version.
#[derive(Debug)]
pub(crate) struct Helm {
    program: PathBuf,
    version: String,
}

/// Where helm is led: the API server that this program found, and how this program is known to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) access: &'a Access,
    pub(crate) server: &'a str,
}

impl Helm {
    /// Finds the program of this name, or at this path.
    ///
    /// # Errors
    /// When it is missing or too old, with what to do about it.
    pub(crate) fn find(program: &str) -> Result<Self> {
        // It is run in another folder than this one.
        let path = program.contains('/').then(|| std::path::absolute(program).ok()).flatten();
        let path = path.unwrap_or_else(|| PathBuf::from(program));
        let mut command = Command::new(&path);
        command.args(["version", "--short"]);
        let answer = Self::carry_out(&mut command, QUESTION, &mut |_| {}).map_err(|error| {
            Error::usage(format!("helm is missing: the program `{program}` cannot be run"))
                .cause(error)
                .hint("charts are installed by helm 3.13 or newer: https://helm.sh/docs/intro/install")
                .hint("put it on PATH, or name it with LLMDBENCH_CONTROL_HCMD; a dry run (-n) needs none")
        })?;
        let version = answer.output.trim().to_owned();
        match parsed(&version) {
            Some(found) if answer.status.success() && found >= OLDEST => {
                Ok(Self { program: path, version })
            }
            _ => Err(Error::usage(format!(
                "helm 3.13 or newer is needed, and `{program} version` says `{}`",
                if version.is_empty() { answer.errors.trim() } else { &version }
            ))
            .hint("put a newer one on PATH, or name it with LLMDBENCH_CONTROL_HCMD")),
        }
    }

    /// "v3.19.0".
    pub(crate) fn version(&self) -> &str {
        self.version.split('+').next().unwrap_or_default()
    }

    /// Runs it in a folder and gives what it printed. `what` says what fails when it fails, `limit` is its own time
    /// limit, and `waiting` is told how long it has been running.
    ///
    /// # Errors
    /// When it fails, with what it said and what that means; when it takes too long; when the user interrupts.
    pub(crate) fn run(
        &self,
        arguments: &[String],
        way: Way<'_>,
        folder: &Path,
        limit: Duration,
        what: &str,
        waiting: &mut dyn FnMut(Duration),
    ) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(folder);
        lead(&mut command, way);
        let failed = |why: String| Error::new(Exit::Standup, what.to_owned()).cause(why);
        let answer = Self::carry_out(&mut command, limit + GRACE, waiting).map_err(failed)?;
        if answer.is_interrupted {
            return Err(Error::new(Exit::Interrupted, "interrupted"));
        }
        if answer.is_late {
            let limit = unit::show(limit + GRACE);
            return Err(failed(format!("helm had not ended after {limit} and was stopped"))
                .cause(answer.errors));
        }
        if answer.status.success() {
            return Ok(answer.output);
        }
        let errors = answer.errors.trim();
        let errors = errors.strip_prefix("Error: ").unwrap_or(errors).to_owned();
        Err(match explain(Place::Request, "helm", &errors) {
            Some(known) => failed(errors).cause(known.meaning).hint(known.advice),
            None => failed(errors),
        })
    }

    /// Asks it something of the cluster.
    ///
    /// # Errors
    /// As [`Helm::run`].
    pub(crate) fn ask(&self, arguments: &[&str], way: Way<'_>, folder: &Path) -> Result<String> {
        let words: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let what = format!("failed to ask helm to {}", arguments.join(" "));
        self.run(&words, way, folder, QUESTION, &what, &mut |_| {})
    }

    fn carry_out(
        command: &mut Command,
        limit: Duration,
        waiting: &mut dyn FnMut(Duration),
    ) -> std::result::Result<Answer, String> {
        let text = |error: std::io::Error| error.to_string();
        // Files, for pipes would fill up while nobody reads.
        let mut output = tempfile::tempfile().map_err(text)?;
        let mut errors = tempfile::tempfile().map_err(text)?;
        command.stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(text)?);
        command.stderr(errors.try_clone().map_err(text)?);
        // A Ctrl-C of the terminal is for this program, which then ends helm in order.
        let mut child = command.process_group(0).spawn().map_err(text)?;
        let (before, begin) = (interrupt::count(), Instant::now());
        let mut told = 0;
        let (status, is_interrupted, is_late) = loop {
            if let Some(status) = child.try_wait().map_err(text)? {
                break (status, false, false);
            }
            let is_interrupted = interrupt::count() > before;
            if is_interrupted || begin.elapsed() > limit {
                break (end(&mut child).map_err(text)?, is_interrupted, !is_interrupted);
            }
            if begin.elapsed().as_secs() > told {
                told = begin.elapsed().as_secs();
                waiting(begin.elapsed());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let (output, errors) = (read(&mut output).map_err(text)?, read(&mut errors).map_err(text)?);
        Ok(Answer { status, output, errors, is_interrupted, is_late })
    }
}

struct Answer {
    status: ExitStatus,
    output: String,
    errors: String,
    is_interrupted: bool,
    is_late: bool,
}

/// Sees to it that helm goes where this program goes, and knows no secrets of it. A token is handed over in a variable:
/// arguments can be read by everybody, and a file could stay.
fn lead(command: &mut Command, way: Way<'_>) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let leads_astray = text.starts_with("HELM_KUBE")
            || ["HELM_NAMESPACE", "HELM_DEBUG"].contains(&text.as_ref());
        if leads_astray || text.starts_with("LLMDBENCH_") {
            command.env_remove(&name);
        }
    }
    // Releases are looked for where they are.
    command.env("HELM_DRIVER", "secret");
    match way.access {
        Access::Kubeconfig { file, context } => {
            let files = file.as_ref().map(|file| file.as_os_str().to_owned());
            if let Some(files) = files.or_else(|| std::env::var_os("KUBECONFIG")) {
                command.env("KUBECONFIG", absolute(&files));
            }
            if let Some(context) = context {
                command.env("HELM_KUBECONTEXT", context);
            }
        }
        Access::Server { token, authority, .. } => {
            command.env("KUBECONFIG", "/dev/null");
            command.env("HELM_KUBEAPISERVER", way.server);
            command.env("HELM_KUBETOKEN", token.expose_secret());
            if let Some(authority) = authority {
                command.env("HELM_KUBECAFILE", absolute(authority.as_os_str()));
            }
        }
        // Helm finds the account of its pod as this program does.
        Access::InCluster => {}
    }
}

/// A list of files of which each is found from every folder.
fn absolute(files: &OsStr) -> OsString {
    let files = std::env::split_paths(files).map(|file| match file.as_os_str().is_empty() {
        true => file,
        false => std::path::absolute(&file).unwrap_or(file),
    });
    std::env::join_paths(files).unwrap_or_default()
}

/// Asks it and what it started to end, and makes it end when it does not.
fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    if let Ok(pid) = i32::try_from(child.id()) {
        for (signal, patience) in [(Signal::SIGTERM, PATIENCE), (Signal::SIGKILL, PATIENCE)] {
            let _ = kill(Pid::from_raw(-pid), signal);
            let end = Instant::now() + patience;
            while Instant::now() < end {
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    child.wait()
}

fn read(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Major and minor of "v3.19.0+gabc".
fn parsed(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim().strip_prefix('v')?.split(['.', '+', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn versions_are_read_as_helm_writes_them() {
        let check = |text: &str, expected| assert_eq!(parsed(text), expected, "{text}");
        check("v3.19.0+g3d8990f\n", Some((3, 19)));
        check("v3.19", Some((3, 19)));
        check("v4.0.0-rc.1", Some((4, 0)));
        check("Client: v2", None);
        check("", None);
    }

    #[test]
    fn what_takes_too_long_is_ended_with_what_it_said() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo begun; echo why >&2; sleep 1000"]);
        let answer =
            Helm::carry_out(&mut command, Duration::from_millis(300), &mut |_| {}).unwrap();
        assert!(answer.is_late && !answer.is_interrupted && !answer.status.success());
        assert_eq!((answer.output.as_str(), answer.errors.as_str()), ("begun\n", "why\n"));
    }

    #[test]
    fn files_are_found_from_the_folder_of_the_run() {
        let here = std::env::current_dir().unwrap();
        let expected = format!("/etc/a:{}/b", here.display());
        assert_eq!(absolute(OsStr::new("/etc/a:b")), OsString::from(expected));
    }

    #[test]
    fn a_token_is_handed_over_in_a_variable_and_leads_to_no_other_cluster() {
        let mut command = Command::new("helm");
        let access = Access::Server {
            url: "https://api.example.org".into(),
            token: "hidden-token".to_owned().into(),
            authority: None,
        };
        lead(&mut command, Way { access: &access, server: "https://api.example.org:6443" });
        let variables: BTreeMap<&OsStr, Option<&OsStr>> = command.get_envs().collect();
        let variable = |name: &str| variables.get(OsStr::new(name)).copied().flatten();
        assert_eq!(variable("HELM_KUBETOKEN"), Some(OsStr::new("hidden-token")));
        assert_eq!(
            variable("HELM_KUBEAPISERVER"),
            Some(OsStr::new("https://api.example.org:6443"))
        );
        assert_eq!(variable("KUBECONFIG"), Some(OsStr::new("/dev/null")));
        assert_eq!(command.get_args().count(), 0);
    }
}
