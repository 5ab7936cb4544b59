//! The only place that writes to the terminal.
//!
//! Results go to standard output, everything about the work to standard error. Secrets are
//! blotted out of both.

use crate::error::{Error, Result};
use crate::secrets::Redaction;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How the program talks.
#[derive(Debug)]
pub(crate) struct Printer {
    /// Standard output carries JSON.
    json: bool,
    /// Details are told as well.
    verbose: AtomicBool,
    redaction: Mutex<Redaction>,
    /// Results that are part of a larger one.
    set_apart: Mutex<Option<Vec<Value>>>,
    /// Why a result did not reach standard output.
    lost: Mutex<Option<std::io::Error>>,
}

impl Printer {
    /// A printer for people or, with `json`, for programs.
    pub(crate) fn new(json: bool, verbose: bool) -> Self {
        Self {
            json,
            verbose: verbose.into(),
            redaction: Mutex::default(),
            set_apart: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Blots out these texts from now on.
    pub(crate) fn redact(&self, redaction: Redaction) {
        *self.redaction.lock().unwrap_or_else(PoisonError::into_inner) = redaction;
    }

    /// Tells details from now on.
    pub(crate) fn say_more(&self) {
        self.verbose.store(true, Ordering::Relaxed);
    }

    /// The table of a run: as the analysis made it, colours included.
    pub(crate) fn table(&self, text: impl FnOnce() -> String, value: impl FnOnce() -> Value) {
        if self.json {
            return self.document(value());
        }
        self.write(&self.redacted(&text()));
    }

    /// A result: for people as text, for programs as JSON.
    pub(crate) fn result(&self, text: impl FnOnce() -> String, value: impl FnOnce() -> Value) {
        if self.json {
            self.document(value());
        } else {
            self.to_stdout(&text());
        }
    }

    /// A result that people were told of step by step.
    pub(crate) fn facts(&self, value: impl FnOnce() -> Value) {
        if self.json {
            self.document(value());
        }
    }

    /// Does a part of the work, and gives the results that programs would read of it rather than
    /// print them. What is for people is printed.
    pub(crate) fn set_apart<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<Value>) {
        *self.parts() = Some(Vec::new());
        let done = work();
        let parts = self.parts().take();
        (done, parts.unwrap_or_default())
    }

    /// A text that is the result in itself: a page, a script.
    pub(crate) fn text(&self, text: &str) {
        self.to_stdout(text);
    }

    /// What is being done.
    pub(crate) fn step(&self, text: &str) {
        self.to_stderr(text);
    }

    /// A detail, told when asked for.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose.load(Ordering::Relaxed) {
            self.to_stderr(text);
        }
    }

    /// Something that may mislead.
    pub(crate) fn warning(&self, text: &str) {
        self.to_stderr(&format!("warning: {text}"));
    }

    /// Asks a question on the terminal. Where there is none, the answer is no.
    pub(crate) fn ask(&self, question: &str) -> bool {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return false;
        }
        let _ = write!(std::io::stderr(), "{} [y/N] ", self.clean(question));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }

    /// What failed.
    pub(crate) fn error(&self, error: &Error) {
        if self.json {
            let problems: Vec<Value> = error
                .problems
                .iter()
                .map(|p| {
                    json!({"place": p.place, "message": p.message, "causes": p.causes, "hints": p.hints})
                })
                .collect();
            self.to_stderr(&json!({"exit": error.exit as i32, "problems": problems}).to_string());
        } else {
            self.to_stderr(&error.to_string());
        }
    }

    /// An error when a result did not reach standard output.
    pub(crate) fn check(&self) -> Result<()> {
        match self.lost.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(Error::unexpected("cannot write to standard output").because(error)),
            None => Ok(()),
        }
    }

    /// A line that changes while something lasts.
    pub(crate) fn progress(&self) -> Progress<'_> {
        let live = std::io::stderr().is_terminal() && !self.json;
        let bar = live.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
            bar.set_style(
                ProgressStyle::with_template("{spinner} {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar
        });
        Progress { printer: self, bar, last: None }
    }

    /// How wide a table may be.
    pub(crate) fn width(&self) -> usize {
        terminal_size::terminal_size().map_or(120, |(width, _)| usize::from(width.0)).max(80)
    }

    /// Whether colours may be used on standard output.
    pub(crate) fn colour(&self) -> bool {
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() && !self.json
    }

    fn document(&self, value: Value) {
        match &mut *self.parts() {
            Some(parts) => parts.push(value),
            None => self.to_stdout(&format!("{value:#}")),
        }
    }

    fn parts(&self) -> MutexGuard<'_, Option<Vec<Value>>> {
        self.set_apart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_stdout(&self, text: &str) {
        self.write(&self.clean(text));
    }

    fn write(&self, text: &str) {
        let written = writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n'));
        if let Err(error) = written {
            // A reader that went away (`| head`) is no reason to fail; a full disk is one.
            if error.kind() != ErrorKind::BrokenPipe {
                *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
    }

    fn to_stderr(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{}", self.clean(text).trim_end_matches('\n'));
    }

    fn redacted(&self, text: &str) -> String {
        self.redaction.lock().unwrap_or_else(PoisonError::into_inner).clean(text)
    }

    /// Secrets are blotted out, and control characters that a plugin or a server may have put into
    /// a text do not reach the terminal.
    fn clean(&self, text: &str) -> String {
        let text = self.redacted(text);
        if text.chars().any(is_unwanted) { text.replace(is_unwanted, "\u{fffd}") } else { text }
    }
}

fn is_unwanted(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// A line that changes while something lasts; where standard error is no terminal, a plain line
/// every ten seconds.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    printer: &'a Printer,
    bar: Option<ProgressBar>,
    last: Option<Instant>,
}

impl Progress<'_> {
    const PLAIN_EVERY: Duration = Duration::from_secs(10);

    /// Shows the state of things.
    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(self.printer.clean(&text()));
                bar.tick();
            }
            None => {
                let last = *self.last.get_or_insert_with(Instant::now);
                if last.elapsed() >= Self::PLAIN_EVERY {
                    self.last = Some(Instant::now());
                    self.printer.step(&text());
                }
            }
        }
    }

    /// Takes the line away.
    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let printer = Printer::new(false, false);
        assert_eq!(
            printer.clean("a\x1b[31mb\r\u{9b}c\td\n"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}c\td\n"
        );
    }
}
