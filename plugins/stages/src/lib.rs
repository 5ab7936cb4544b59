//! Harness: stages of load.

mod arrival;
mod plan;
mod settings;

use llmdbench_plugin::harness::Execution;
use llmdbench_plugin::{Context, Error, Harness, Info};
use settings::Settings;

/// The plan made of the settings.
struct Stages(Execution);

impl Harness for Stages {
    type Settings = Settings;

    fn configure(settings: Settings, _: Context) -> Result<Self, Error> {
        plan::plan(&settings).map(|plan| Self(Execution::Load(plan)))
    }

    fn plan(&mut self) -> Result<Execution, Error> {
        Ok(self.0.clone())
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!().schema(include_str!("schema.json"))
}

llmdbench_plugin::export! { manifest: manifest, harness: Stages }
