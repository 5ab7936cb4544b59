//! Harness, workload and analyzer: the load that llm-d-benchmark made through fmperf and
//! LMBenchmark.
//!
//! The harness reads a workload profile and plans the stages of every rate; the workload makes the
//! sessions of a stage, as the stage's settings say; the analyzer writes the CSV files that the
//! original wrote.

mod analyzer;
#[cfg(test)]
mod conformance;
mod csv;
mod plan;
mod profile;
mod schedule;
mod sessions;
mod settings;
mod sharegpt;
mod synthetic;

use llmdbench_plugin::harness::Execution;
use llmdbench_plugin::stages::LoadPlan;
use llmdbench_plugin::{Context, Error, Harness, Info, inputs};
use settings::HarnessSettings;
use std::io::Read;

/// The plan made of a profile.
struct Compat(LoadPlan);

impl Harness for Compat {
    type Settings = HarnessSettings;

    fn configure(settings: HarnessSettings, context: Context) -> Result<Self, Error> {
        let mut text = String::new();
        inputs::open(&settings.profile)?.read_to_string(&mut text)?;
        let profile = profile::parse(&text).map_err(|error| error.at("/profile"))?;
        let profile = settings.over(profile).for_model(&context.model);
        plan::plan(&profile, settings.mode).map(Self)
    }

    fn plan(&mut self) -> Result<Execution, Error> {
        Ok(Execution::Load(self.0.clone()))
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!().schema(include_str!("schema.json"))
}

llmdbench_plugin::export! {
    manifest: manifest,
    harness: Compat,
    workload: sessions::Compat,
    analyzer: analyzer::Compat,
}
