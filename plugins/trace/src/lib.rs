//! Workload: requests as they were recorded, by time and length.
//!
//! The way of a row: `lines` splits the file, `rows` reads a row of one of the formats, `order`
//! puts rows in order of time, `stream` takes those that are wanted, and `replay` makes sessions
//! of them; `survey` goes the same way once beforehand and counts.

mod csv;
mod json;
mod lines;
mod order;
mod replay;
mod rows;
mod settings;
mod stream;
mod survey;
mod time;

use llmdbench_plugin::requests::Session;
use llmdbench_plugin::workload::Size;
use llmdbench_plugin::{Context, Error, Info, Workload, env, inputs};
use replay::{Host, Replay};
use settings::Settings;

/// Most memory wanted, in MiB: rows that wait for their turn, and the blocks whose reuse is counted.
const MEMORY_MIB: u32 = 128;

/// The requests of an attached file.
struct Trace(Replay<Imports>);

impl Workload for Trace {
    type Settings = Settings;

    fn configure(settings: Settings, _: Context) -> Result<Self, Error> {
        Replay::new(settings, env::seed(), Imports).map(Self)
    }

    fn size(&self) -> Size {
        self.0.size()
    }

    fn next_batch(&mut self, stage: u32, max: u32) -> Result<Vec<Session>, Error> {
        self.0.next_batch(stage, max)
    }
}

/// The real host.
struct Imports;

impl Host for Imports {
    type Source = inputs::Reader;

    fn open(&self, name: &str) -> Result<inputs::Reader, Error> {
        inputs::open(name)
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!().schema(include_str!("schema.json")).memory_mib(MEMORY_MIB)
}

llmdbench_plugin::export! { manifest: manifest, workload: Trace }
