//! A workload and harness that does what no plugin should: each setting `how` is one way to misbehave.
//! Until the batch `after` it is a decent workload.

use llmdbench_plugin::harness::Execution;
use llmdbench_plugin::requests::{Request, Session, Turn};
use llmdbench_plugin::stages::{Arrival, LoadPlan, Stage};
use llmdbench_plugin::{Context, Error, Harness, Info, Workload, inputs, log};

/// What is done wrong, and when.
#[derive(Debug, serde::Deserialize)]
pub struct Settings {
    how: How,
    after: u64,
    input: Option<String>,
}

/// Ways to misbehave.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Do not.
    Behave,
    /// Never return.
    Loop,
    /// Take memory without end.
    Allocate,
    /// Panic with a text.
    Panic,
    /// Return a hundred thousand sessions or stages.
    Flood,
    /// Answer with an error of the plugin's own.
    Refuse,
    /// Read an attached file again and again.
    Reread,
    /// Log without end.
    Chatter,
}

/// A workload and harness in one.
#[derive(Debug)]
pub struct Misbehave {
    settings: Settings,
    batches: u64,
    sessions: u64,
}

impl Misbehave {
    fn new(settings: Settings) -> Self {
        log::warn("this plugin misbehaves on purpose");
        Self { settings, batches: 0, sessions: 0 }
    }

    /// How many items to return where one was asked for; most ways to misbehave do not return.
    fn misbehave(&self) -> Result<u64, Error> {
        match self.settings.how {
            How::Behave => Ok(1),
            How::Loop => loop {
                std::hint::black_box(self.batches);
            },
            How::Allocate => {
                let mut all: Vec<Vec<u8>> = Vec::new();
                loop {
                    all.push(std::hint::black_box(vec![1; 1 << 20]));
                }
            }
            How::Panic => panic!("the workload lost its {}", "marbles"),
            How::Flood => Ok(100_000),
            How::Refuse => Err(Error::invalid_settings("I would rather not")
                .at("/how")
                .hint("ask somebody else")),
            How::Reread => loop {
                let mut reader = inputs::open(self.settings.input.as_deref().unwrap_or_default())?;
                while !reader.next_lines(100)?.is_empty() {}
            },
            How::Chatter => loop {
                log::info("and another thing");
            },
        }
    }
}

impl Workload for Misbehave {
    type Settings = Settings;

    fn configure(settings: Settings, _: Context) -> Result<Self, Error> {
        Ok(Self::new(settings))
    }

    fn next_batch(&mut self, _stage: u32, max: u32) -> Result<Vec<Session>, Error> {
        let is_decent = self.batches < self.settings.after;
        let count = if is_decent { u64::from(max) } else { self.misbehave()? };
        self.batches += 1;
        let ids = self.sessions..self.sessions + count;
        self.sessions = ids.end;
        // A flood is not to break the memory limit first.
        let turns = || {
            if count <= u64::from(max) {
                vec![Turn::new(Request::text("Hello!"))]
            } else {
                Vec::new()
            }
        };
        Ok(ids.map(|id| Session::new(id, turns())).collect())
    }
}

impl Harness for Misbehave {
    type Settings = Settings;

    fn configure(settings: Settings, _: Context) -> Result<Self, Error> {
        Ok(Self::new(settings))
    }

    fn plan(&mut self) -> Result<Execution, Error> {
        let count = self.misbehave()?;
        let stage = |number: u64| Stage::new(number.to_string(), Arrival::Constant(1.0));
        let stages = (0..count).map(stage).collect();
        Ok(Execution::Load(LoadPlan { stages, request_timeout: None, tick_every: None }))
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!().schema(include_str!("schema.json")).memory_mib(256)
}

llmdbench_plugin::export! { manifest: manifest, workload: Misbehave, harness: Misbehave }
