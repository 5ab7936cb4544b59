//! The program as a process: found, started, waited for, and killed when it takes too long.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than this no command of a test takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The folder of the workspace.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The program under test: the one that lies beside the tests.
#[must_use]
pub fn program() -> PathBuf {
    // target/debug/deps/cases-0123 -> target/debug/llmdbench
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("llmdbench");
    assert!(program.is_file(), "{} is missing: run `cargo build -p llmdbench`", program.display());
    program
}

/// A component that `cargo xtask plugins` builds, by its folder below `target` and its name.
#[must_use]
pub fn plugin(folder: &str, name: &str) -> String {
    let file = root().join("target").join(folder).join(name).with_extension("wasm");
    assert!(file.is_file(), "{} is missing: run `cargo xtask plugins`", file.display());
    file.display().to_string()
}

/// Whether a process is there and no zombie.
#[must_use]
pub fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

/// Waits, 30 s at most, for something that a command under way does.
#[track_caller]
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_at_most(30, Duration::from_millis(10), what, holds);
}

/// Waits, 90 s at most, for something that happens in a cluster.
#[track_caller]
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    wait_at_most(90, Duration::from_millis(50), what, holds);
}

#[track_caller]
fn wait_at_most(seconds: u64, pause: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {seconds} s");
        std::thread::sleep(pause);
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; -1 where a signal ended it.
    pub code: i32,
    /// What it said as result.
    pub stdout: String,
    /// What it said about its work.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
    /// The most memory that it had, in MiB, by samples of the kernel's own high-water mark.
    pub peak_mib: f64,
}

impl Ended {
    /// Fails unless this is the exit code. Where all went well, the verdict that the load
    /// generator was the limit is accepted too: on a machine with much else to do it is right.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        const LIMITED: &str = "the load generator was the limit";
        let limited = code == 0 && self.code == 7 && self.stderr.contains(LIMITED);
        assert!(
            self.code == code || limited,
            "exit code {}, not {code}\n{}\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails unless the program said this about its work.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "nothing about `{text}` in\n{}", self.stderr);
        self
    }

    /// Everything that it said.
    #[must_use]
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// The first line of every error.
    #[must_use]
    pub fn errors(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with("error: ")).collect()
    }
}

/// A command under way. Killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    began: Instant,
    stdout: Option<JoinHandle<String>>,
    lines: Receiver<String>,
    stderr: String,
    peak_mib: f64,
}

impl Running {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                // A test that waits for nothing more has dropped the other end.
                let _ = send.send(line);
            }
        });
        let began = Instant::now();
        let stdout = Some(stdout);
        Self { child, began, stdout, lines, stderr: String::new(), peak_mib: 0.0 }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for a line on standard error that has this text, and gives it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            let left = PATIENCE.saturating_sub(self.began.elapsed());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("it never said `{text}`, but:\n{}", self.stderr);
            };
            self.stderr.push_str(&line);
            self.stderr.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let status = self.wait_status();
        let took = self.began.elapsed();
        let stdout = self.stdout.take().unwrap().join().unwrap();
        while let Ok(line) = self.lines.recv() {
            self.stderr.push_str(&line);
            self.stderr.push('\n');
        }
        Ended {
            code: status.code().unwrap_or(-1),
            stdout,
            stderr: std::mem::take(&mut self.stderr),
            took,
            peak_mib: self.peak_mib,
        }
    }

    #[track_caller]
    fn wait_status(&mut self) -> ExitStatus {
        loop {
            if let Some(peak) = peak_mib(self.pid()) {
                self.peak_mib = self.peak_mib.max(peak);
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if self.began.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let said: Vec<String> = self.lines.try_iter().collect();
                panic!("it does not end; it said\n{}{}", self.stderr, said.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The most memory that a process ever had.
fn peak_mib(pid: i32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}
