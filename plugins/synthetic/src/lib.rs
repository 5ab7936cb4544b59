//! Workload: prompts of chosen lengths, made of words without meaning.

mod distribution;
mod sessions;
mod settings;

use llmdbench_plugin::requests::Session;
use llmdbench_plugin::workload::Size;
use llmdbench_plugin::{Context, Error, Info, Workload, env};
use sessions::Sessions;
use settings::Settings;

/// The host makes the words; only lengths and seeds cross.
struct SyntheticWords(Sessions);

impl Workload for SyntheticWords {
    type Settings = Settings;

    fn configure(settings: Settings, _: Context) -> Result<Self, Error> {
        Sessions::new(settings, env::seed()).map(Self)
    }

    fn size(&self) -> Size {
        self.0.size()
    }

    fn next_batch(&mut self, stage: u32, max: u32) -> Result<Vec<Session>, Error> {
        Ok(self.0.next_batch(stage, max))
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!().schema(include_str!("schema.json"))
}

llmdbench_plugin::export! { manifest: manifest, workload: SyntheticWords }
