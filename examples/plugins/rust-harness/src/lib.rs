//! Harness: a staircase of concurrency, 1, 2, 4, ... up to a limit, so many requests on each step.

use llmdbench_plugin::harness::Execution;
use llmdbench_plugin::stages::{Arrival, LoadPlan, Stage};
use llmdbench_plugin::{Context, Error, Harness, Info, label};

/// What the user may set; `schema.json` says it to the host.
#[derive(Debug, serde::Deserialize)]
pub struct Settings {
    up_to: u32,
    requests: u64,
}

/// The staircase.
#[derive(Debug)]
pub struct Staircase {
    settings: Settings,
}

impl Harness for Staircase {
    type Settings = Settings;

    fn configure(settings: Settings, _: Context) -> Result<Self, Error> {
        if !settings.up_to.is_power_of_two() {
            let message = format!("{} is no power of two", settings.up_to);
            return Err(Error::invalid_settings(message).at("/up_to").hint("take 1, 2, 4, 8, ..."));
        }
        Ok(Self { settings })
    }

    fn plan(&mut self) -> Result<Execution, Error> {
        let steps = (0..=self.settings.up_to.ilog2()).map(|step| self.stage(1 << step));
        Ok(Execution::Load(LoadPlan {
            stages: steps.collect(),
            request_timeout: None,
            tick_every: None,
        }))
    }
}

impl Staircase {
    fn stage(&self, concurrency: u32) -> Stage {
        let mut stage = Stage::new(format!("users-{concurrency}"), Arrival::Closed);
        stage.concurrency = Some(concurrency);
        stage.stop.requests = Some(self.settings.requests);
        stage.labels = vec![label("users", concurrency.to_string())];
        stage
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!().schema(include_str!("schema.json"))
}

llmdbench_plugin::export! { manifest: manifest, harness: Staircase }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrency_doubles_up_to_the_limit() {
        let mut staircase = Staircase { settings: Settings { up_to: 8, requests: 20 } };
        let Execution::Load(plan) = staircase.plan().unwrap() else { panic!("no load plan") };
        let steps: Vec<_> =
            plan.stages.iter().map(|stage| (stage.concurrency, stage.stop.requests)).collect();
        assert_eq!(steps, [1, 2, 4, 8].map(|users| (Some(users), Some(20))));
    }
}
