//! `log`: lines of a plugin, cut to size and held to a rate.

use std::time::{Duration, Instant};

use crate::instance::{LogSink, State};
use crate::kind::Kind;
use crate::wit::log::{self, Level};
use crate::wit::types::Label;

/// Longest line with its fields, in bytes.
const MAX_LINE: usize = 16 << 10;
/// Lines per second, and how many may come at once.
const RATE: u32 = 1_000;

/// One line of a plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// The plugin's name.
    pub plugin: String,
    /// The kind of the instance. None: it was introducing itself.
    pub kind: Option<Kind>,
    /// How important it is.
    pub level: Level,
    /// The text.
    pub message: String,
    /// Fields.
    pub fields: Vec<(String, String)>,
    /// It comes from `configure` or `plan` and is for people (`info` and above): it belongs into plan
    /// and report.
    pub is_finding: bool,
}

/// The log of one instance.
pub(crate) struct Log {
    plugin: String,
    kind: Option<Kind>,
    level: Level,
    sink: LogSink,
    /// The call under way is `configure` or `plan`.
    is_planning: bool,
    last_panic: Option<String>,
    allowance: Allowance,
}

impl Log {
    pub(crate) fn new(plugin: &str, kind: Option<Kind>, level: Level, sink: LogSink) -> Self {
        let allowance = Allowance { left: RATE, dropped: 0, since: Instant::now() };
        Self {
            plugin: plugin.to_owned(),
            kind,
            level,
            sink,
            is_planning: false,
            last_panic: None,
            allowance,
        }
    }

    pub(crate) fn begin_call(&mut self, is_planning: bool) {
        self.is_planning = is_planning;
        self.last_panic = None;
    }

    /// The text of a panic in the call under way. Without an operating system a plugin cannot print it;
    /// the SDK logs it.
    pub(crate) fn last_panic(&self) -> Option<&str> {
        self.last_panic.as_deref()
    }

    fn write(&mut self, level: Level, message: String, fields: Vec<Label>, now: Instant) {
        if level == Level::Error && message.starts_with("panicked at ") {
            self.last_panic = Some(cut(message.clone(), MAX_LINE));
        }
        if (level as u8) < self.level as u8 {
            return;
        }
        let (is_allowed, dropped) = self.allowance.take(now);
        if dropped > 0 {
            self.emit(
                Level::Warn,
                format!("{dropped} lines were dropped: more than {RATE} in a second"),
                Vec::new(),
            );
        }
        if is_allowed {
            let mut room = MAX_LINE;
            let mut fit = |text: String| {
                let text = cut(text, room);
                room -= text.len().min(room);
                text
            };
            let message = fit(message);
            let fields = fields.into_iter().map(|field| (fit(field.key), fit(field.value)));
            let fields = fields.filter(|(key, _)| !key.is_empty()).collect();
            self.emit(level, message, fields);
        }
    }

    fn emit(&self, level: Level, message: String, fields: Vec<(String, String)>) {
        (self.sink)(LogLine {
            plugin: self.plugin.clone(),
            kind: self.kind,
            level,
            message,
            fields,
            is_finding: self.is_planning && level as u8 >= Level::Info as u8,
        });
    }
}

/// How many lines may still come in this second.
struct Allowance {
    left: u32,
    dropped: u64,
    since: Instant,
}

impl Allowance {
    /// Whether a line may come, and how many were dropped before it in the second that is over.
    fn take(&mut self, now: Instant) -> (bool, u64) {
        let mut dropped = 0;
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            dropped = std::mem::take(&mut self.dropped);
            (self.left, self.since) = (RATE, now);
        }
        let is_allowed = self.left > 0;
        if is_allowed {
            self.left -= 1;
        } else {
            self.dropped += 1;
        }
        (is_allowed, dropped)
    }
}

/// At most `most` bytes of a text, whole characters.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

impl log::Host for State {
    fn max_level(&mut self) -> wasmtime::Result<Level> {
        Ok(self.capabilities.log.level)
    }

    fn write(&mut self, level: Level, message: String, fields: Vec<Label>) -> wasmtime::Result<()> {
        self.capabilities.log.write(level, message, fields, Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn log(level: Level) -> (Log, Arc<Mutex<Vec<LogLine>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let log = Log::new(
            "p",
            Some(Kind::Workload),
            level,
            Arc::new(move |line| sink.lock().unwrap().push(line)),
        );
        (log, lines)
    }

    #[test]
    fn lines_over_the_rate_are_dropped_and_counted() {
        let (mut log, lines) = log(Level::Trace);
        let start = Instant::now();
        for number in 0..RATE + 5 {
            log.write(Level::Info, number.to_string(), Vec::new(), start);
        }
        assert_eq!(lines.lock().unwrap().len(), RATE as usize);
        log.write(Level::Info, "next".to_owned(), Vec::new(), start + Duration::from_secs(1));
        let lines = lines.lock().unwrap();
        assert_eq!(
            lines[RATE as usize].message,
            "5 lines were dropped: more than 1000 in a second"
        );
        assert_eq!(lines[RATE as usize + 1].message, "next");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let (mut log, lines) = log(Level::Trace);
        let field = Label { key: "k".to_owned(), value: "v".to_owned() };
        log.write(Level::Info, "x".to_owned() + &"ä".repeat(MAX_LINE), vec![field], Instant::now());
        let line = &lines.lock().unwrap()[0];
        assert_eq!(line.message.len(), MAX_LINE - 1);
        assert_eq!(line.fields, [("k".to_owned(), String::new())]);
    }

    #[test]
    fn lines_for_people_while_planning_are_findings() {
        let (mut log, lines) = log(Level::Info);
        log.begin_call(true);
        log.write(Level::Warn, "a".to_owned(), Vec::new(), Instant::now());
        log.write(Level::Info, "b".to_owned(), Vec::new(), Instant::now());
        log.write(Level::Debug, "not kept".to_owned(), Vec::new(), Instant::now());
        log.begin_call(false);
        log.write(Level::Error, "c".to_owned(), Vec::new(), Instant::now());
        let found: Vec<_> = lines
            .lock()
            .unwrap()
            .iter()
            .map(|line| (line.message.clone(), line.is_finding))
            .collect();
        assert_eq!(
            found,
            [("a".to_owned(), true), ("b".to_owned(), true), ("c".to_owned(), false)]
        );
    }
}
