//! Workload: conversations in the ShareGPT format.

mod conversation;
mod dataset;
mod items;
mod lengths;
mod settings;
mod survey;

use dataset::{Dataset, Host};
use lengths::Tokenizer;
use llmdbench_plugin::requests::Session;
use llmdbench_plugin::workload::Size;
use llmdbench_plugin::{Context, Error, Info, Workload, env, inputs, tokenizer};
use settings::Settings;

/// Most memory wanted, in MiB: two windows, a piece of the file and an item, with room to grow.
const MEMORY_MIB: u32 = 128;

/// Conversations of an attached file.
struct ShareGpt(Dataset<Imports>);

impl Workload for ShareGpt {
    type Settings = Settings;

    fn configure(settings: Settings, _: Context) -> Result<Self, Error> {
        Dataset::new(settings, env::seed(), Imports).map(Self)
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

impl Tokenizer for Imports {
    fn count(&self, texts: &[String]) -> Result<Vec<u32>, Error> {
        tokenizer::count(texts)
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!().schema(include_str!("schema.json")).memory_mib(MEMORY_MIB)
}

llmdbench_plugin::export! { manifest: manifest, workload: ShareGpt }
