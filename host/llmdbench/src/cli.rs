//! What can be typed: commands and options, and how options become a layer of settings.

use crate::command::agent::AgentArgs;
use crate::command::analyze::AnalyzeArgs;
use crate::command::bench::BenchArgs;
use crate::command::calibrate::CalibrateArgs;
use crate::command::completions::CompletionsArgs;
use crate::command::download::DownloadArgs;
use crate::command::env::EnvArgs;
use crate::command::plan::PlanArgs;
use crate::command::plugin::PluginCommand;
use crate::command::reference::ReferenceArgs;
use crate::command::run::RunArgs;
use crate::command::scenario::ScenarioCommand;
use crate::command::sim::SimArgs;
use crate::command::smoketest::SmoketestArgs;
use crate::command::standup::StandupArgs;
use crate::command::teardown::TeardownArgs;
use crate::dataset;
use crate::error::{Error, Result};
use crate::settings::{Layer, Source, from_text};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Benchmarks LLM inference: stand up, load, analyse, tear down, repeat.
#[derive(Debug, Parser)]
#[command(name = "llmdbench", version, max_term_width = 110, after_help = after_help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Make a plugin known, and use it for each kind it exports unless the settings name another
    #[arg(long = "plugin", value_name = "FILE.wasm", global = true)]
    pub(crate) plugins: Vec<PathBuf>,
    /// Grant a plugin what it asks for, as the refusal spells it: process=vllm
    #[arg(long = "grant", value_name = "GRANT", global = true)]
    pub(crate) grants: Vec<String>,
    /// The folder of the run [default: a new one under workdir/, or the newest]
    #[arg(long, value_name = "DIR", global = true, value_parser = folder)]
    pub(crate) workdir: Option<String>,
    /// What standard output carries
    #[arg(long, value_enum, default_value_t, global = true)]
    pub(crate) output: Output,
    /// Say more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Behave as the script of the original that this call replaces
    #[arg(long, global = true, hide = true)]
    pub(crate) as_script: bool,
}

/// The scripts of the original and the commands that replace them.
const SCRIPTS: [(&str, &str); 3] =
    [("standup.sh", "standup"), ("run.sh", "run"), ("teardown.sh", "teardown")];

/// What was typed, the command put in where the program was called by a script's name.
pub(crate) fn typed(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let called = arguments.first().map(PathBuf::from);
    let called = called.as_ref().and_then(|path| path.file_name());
    if let Some((_, command)) = SCRIPTS.iter().find(|(script, _)| called == Some(script.as_ref())) {
        // Help and errors then show what can be typed under the program's own name.
        arguments.splice(..1, ["llmdbench", command, "--as-script"].map(OsString::from));
    }
    arguments
}

/// What standard output carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Text for people
    #[default]
    Human,
    /// JSON for programs
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Do it all: plan, standup, smoketest, run, analyze, report, teardown
    Bench(BenchArgs),
    /// Show everything that would happen; nothing is done
    Plan(PlanArgs),
    /// Stand the stack up
    Standup(StandupArgs),
    /// Ask the model for a completion and check the answer
    Smoketest(SmoketestArgs),
    /// Drive load into what stands, or into --endpoint URL
    Run(RunArgs),
    /// Analyse the records of a run again
    Analyze(AnalyzeArgs),
    /// Write the report of a run again
    Report(AnalyzeArgs),
    /// Take the stack down
    Teardown(TeardownArgs),
    /// Show every setting: value, source, default, meaning
    Env(EnvArgs),
    /// List and show scenarios
    #[command(subcommand)]
    Scenario(ScenarioCommand),
    /// List and inspect plugins
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Measure this machine's load generator: its error, its headroom, its scatter
    Calibrate(CalibrateArgs),
    /// Serve a simulated inference server with vLLM's API
    Sim(Box<SimArgs>),
    /// Download a model from the hub
    Download(DownloadArgs),
    /// Show what a run folder has standing, running and collected
    Status,
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Make load in a pod, and speak to what does
    #[command(hide = true)]
    Agent(AgentArgs),
    /// Print a page of the reference, made from the tables
    #[command(hide = true)]
    Reference(ReferenceArgs),
}

/// Options that name an experiment and its stack.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ExperimentArgs {
    /// An experiment file, or the name of a built-in one
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// The folder of the stack that is meant, where the command names none
    #[arg(skip)]
    pub(crate) standing: Option<PathBuf>,
    /// A scenario: a file, the name of one in scenarios/ or of a built-in one, or `none`
    #[arg(short = 'c', long, value_name = "NAME")]
    pub(crate) scenario: Option<String>,
    /// The model, an alias or a full id; several with commas
    #[arg(short = 'm', long, visible_alias = "models", value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// The backend plugin that stands the stack up; several with commas
    #[arg(short = 't', long, visible_aliases = ["methods", "types"], value_name = "PLUGIN")]
    pub(crate) method: Option<String>,
    /// What the cluster is: auto, kubernetes, openshift
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Names the experiment
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
}

/// Options that say how the target is spoken to.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetArgs {
    /// Base URL of an inference API that is up already, with or without /v1; sessions take turns
    /// over several, given with commas or by the option again
    #[arg(long = "endpoint", value_name = "URL", value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,
    /// The API: chat or completions
    #[arg(long, value_name = "API")]
    pub(crate) api: Option<String>,
    /// The environment variable that holds the API key
    #[arg(long, value_name = "NAME")]
    pub(crate) api_key_env: Option<String>,
    /// A further HTTP header, "NAME: VALUE"; its value counts as a secret
    #[arg(long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Fields added to the body of every request
    #[arg(long, value_name = "JSON")]
    pub(crate) extra_body: Option<String>,
    /// A request that takes longer fails as `timeout`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<String>,
    /// Whether the server takes ignore_eos and min_tokens: auto, true, false
    #[arg(long, value_name = "WHEN")]
    pub(crate) exact_output: Option<String>,
    /// A tokenizer.json, or the folder that holds one
    #[arg(long, value_name = "PATH")]
    pub(crate) tokenizer: Option<String>,
    /// A PEM file of certificate authorities to trust as well
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<String>,
    /// Check no TLS certificates
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Full URL of a further metrics page to read while load runs, such as a DCGM exporter's
    #[arg(long, value_name = "URL")]
    pub(crate) metrics: Vec<String>,
}

/// Options that say how load is made and what is asked.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Load and workload")]
pub(crate) struct LoadArgs {
    /// Requests (sessions) per second; a list makes stages: 1,2,4
    #[arg(long, value_name = "RATE", value_delimiter = ',', value_parser = number)]
    pub(crate) rate: Vec<f64>,
    /// Sessions under way; a list makes stages: 1,8,64. With --rate: the most at a time
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(crate) concurrency: Vec<u32>,
    /// Length of each stage
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Option<String>,
    /// Requests of each stage
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u64>,
    /// Warm-up in front, as a count of requests or a duration; 0: none
    #[arg(long, value_name = "N|DURATION")]
    pub(crate) warmup: Option<String>,
    /// How sessions arrive at a rate: constant, poisson, gamma; with `closed` a trace is sent in a
    /// closed loop of --concurrency, not at its own times
    #[arg(long, value_name = "PATTERN")]
    pub(crate) arrival: Option<String>,
    /// Tokens of each prompt
    #[arg(long, value_name = "N")]
    pub(crate) input_tokens: Option<u32>,
    /// Tokens of each answer
    #[arg(long, value_name = "N")]
    pub(crate) output_tokens: Option<u32>,
    /// Ask what this file holds: ShareGPT conversations, or a trace (Mooncake, BurstGPT, Azure)
    #[arg(long, value_name = "FILE")]
    pub(crate) dataset: Option<String>,
    /// Send a trace so many times as fast as it was recorded
    #[arg(long, value_name = "FACTOR", requires = "dataset", value_parser = number)]
    pub(crate) speed: Option<f64>,
    /// Make the load that a workload profile of the original describes: a name or a file
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// The harness plugin
    #[arg(long, value_name = "PLUGIN")]
    pub(crate) harness: Option<String>,
    /// The workload plugin
    #[arg(long, value_name = "PLUGIN")]
    pub(crate) workload: Option<String>,
    /// Service-level objectives of a request: ttft=500ms,tpot=50ms
    #[arg(long, value_name = "LIMITS")]
    pub(crate) slo: Option<String>,
    /// The server's prefix cache when load begins: cold, warm, as-is
    #[arg(long, value_name = "STATE")]
    pub(crate) cache: Option<String>,
    /// Threads that send and read
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u64>,
    /// Where load is made: auto, here, cluster
    #[arg(long, value_name = "PLACE")]
    pub(crate) load_from: Option<String>,
    /// Agents that make the load together in a cluster
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) shards: Option<u64>,
    /// Abort the run when a larger share of its requests has failed
    #[arg(long, value_name = "SHARE", value_parser = number)]
    pub(crate) max_error_rate: Option<f64>,
    /// Abort the run when requests, three at least, have failed over this long and none has ended well or brought output meanwhile
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) give_up_after: Option<String>,
}

impl ExperimentArgs {
    /// Puts the options into the layer of the command line.
    pub(crate) fn fill(&self, layer: &mut Layer) {
        put(layer, "scenario", "--scenario", self.scenario.as_deref());
        put(layer, "deploy.model", "--model", self.model.as_deref());
        put(layer, "deploy.method", "--method", self.method.as_deref());
        put(layer, "deploy.platform", "--platform", self.platform.as_deref());
        put(layer, "name", "--name", self.name.as_deref());
        if let Some(seed) = self.seed {
            layer.set("seed", "--seed", json!(seed));
        }
    }
}

impl ExperimentArgs {
    /// Whether they say which stack is meant, other than the one that stands.
    pub(crate) fn names_a_stack(&self) -> bool {
        let given = [&self.file, &self.scenario, &self.model, &self.method];
        given.into_iter().any(Option::is_some)
    }
}

impl TargetArgs {
    /// Puts the options into the layer of the command line.
    pub(crate) fn fill(&self, layer: &mut Layer) -> Result<()> {
        if !self.endpoints.is_empty() {
            layer.set("deploy.endpoint", "--endpoint", json!(self.endpoints));
        }
        put(layer, "target.api", "--api", self.api.as_deref());
        put(layer, "target.api_key_env", "--api-key-env", self.api_key_env.as_deref());
        put(layer, "target.extra_body", "--extra-body", self.extra_body.as_deref());
        put(layer, "target.timeout", "--timeout", self.timeout.as_deref());
        put(layer, "target.exact_output", "--exact-output", self.exact_output.as_deref());
        put(layer, "target.tokenizer", "--tokenizer", self.tokenizer.as_deref());
        put(layer, "target.ca_file", "--ca-file", self.ca_file.as_deref());
        if self.insecure {
            layer.set("target.insecure", "--insecure", json!(true));
        }
        if !self.metrics.is_empty() {
            layer.set("target.metrics", "--metrics", json!(self.metrics));
        }
        if !self.headers.is_empty() {
            let mut map = Map::new();
            for header in &self.headers {
                let (name, value) = header.split_once(':').ok_or_else(|| {
                    // The text may be a secret: only its name could be shown, and it has none.
                    Error::usage("--header takes \"NAME: VALUE\"")
                })?;
                map.insert(name.trim().to_ascii_lowercase(), json!(value.trim()));
            }
            layer.set("target.headers", "--header", Value::Object(map));
        }
        Ok(())
    }
}

impl LoadArgs {
    /// Puts the options into the layer of the command line.
    pub(crate) fn fill(&self, layer: &mut Layer) -> Result<()> {
        put(layer, "harness.plugin", "--harness", self.harness.as_deref());
        put(layer, "workload.plugin", "--workload", self.workload.as_deref());
        put(layer, "analyze.slo", "--slo", self.slo.as_deref());
        put(layer, "load.give_up_after", "--give-up-after", self.give_up_after.as_deref());
        put(layer, "cache", "--cache", self.cache.as_deref());
        put(layer, "load.from", "--load-from", self.load_from.as_deref());
        if let Some(shards) = self.shards {
            layer.set("load.shards", "--shards", json!(shards));
        }
        if let Some(threads) = self.threads {
            layer.set("load.threads", "--threads", json!(threads));
        }
        if let Some(rate) = self.max_error_rate {
            layer.set("load.max_error_rate", "--max-error-rate", json!(rate));
        }
        if let Some(stages) = self.stages()? {
            let name = match (self.rate.is_empty(), self.is_replay()) {
                (false, _) => "--rate",
                (true, true) => "--dataset",
                (true, false) => self.part_of_a_load().unwrap_or("--concurrency"),
            };
            layer.set("harness.settings.stages", name, Value::Array(stages));
        }
        if let Some(warmup) = &self.warmup {
            let value = match warmup.parse::<u64>() {
                // None takes away the one that a file asks for.
                Ok(0) => Value::Null,
                Ok(requests) => json!(requests),
                Err(_) => json!(warmup),
            };
            layer.set("harness.settings.warmup", "--warmup", value);
        }
        put(layer, "fmperf.experiment_profile", "--profile", self.profile.as_deref());
        if let Some(tokens) = self.input_tokens {
            layer.set("workload.settings.input_tokens", "--input-tokens", json!(tokens));
        }
        if let Some(tokens) = self.output_tokens {
            layer.set("workload.settings.output_tokens", "--output-tokens", json!(tokens));
        }
        Ok(())
    }

    /// Puts the data set into the layer of the command line, for the workload that reads it: the
    /// harness that reads profiles has one of its own.
    pub(crate) fn fill_dataset(&self, layer: &mut Layer, reads_profiles: bool) {
        let Some(file) = &self.dataset else { return };
        if reads_profiles {
            // A second file warms up.
            let mut files = file.split(',').map(str::trim);
            let settings = ["dataset", "warmup_dataset"];
            for (setting, file) in settings.iter().zip(&mut files) {
                layer.set(&format!("workload.settings.{setting}"), "--dataset", json!(file));
            }
            return;
        }
        if self.workload.is_none() {
            let workload = dataset::workload_of(Path::new(file));
            layer.set("workload.plugin", "--dataset", json!(workload));
        }
        layer.set("workload.settings.file", "--dataset", json!(file));
    }

    /// The flag that says something of a load and not how it is made. None: there is none, or
    /// another flag says the rest.
    pub(crate) fn part_of_a_load(&self) -> Option<&'static str> {
        if !self.rate.is_empty() || !self.concurrency.is_empty() || self.is_replay() {
            return None;
        }
        let parts = [
            // Of all parts an arrival is what most likely lacks a rate.
            ("--arrival", self.arrival.is_some()),
            ("--duration", self.duration.is_some()),
            ("--requests", self.requests.is_some()),
        ];
        parts.into_iter().find_map(|(flag, is_typed)| is_typed.then_some(flag))
    }

    /// Whether what is sent has times of its own, and nobody asks for others.
    fn is_replay(&self) -> bool {
        if self.arrival.as_ref().is_some_and(|arrival| arrival != "trace") {
            return false;
        }
        let named = self.workload.as_deref();
        let of_file = || self.dataset.as_deref().map(|f| dataset::workload_of(Path::new(f)));
        self.profile.is_none() && named.or_else(of_file) == Some("trace")
    }

    /// The stages that the options describe. None: they describe none.
    fn stages(&self) -> Result<Option<Vec<Value>>> {
        if self.speed.is_some() && !(self.rate.is_empty() && self.is_replay()) {
            return Err(Error::usage("--speed is for a trace that is sent at its own times"));
        }
        if self.rate.is_empty() && self.concurrency.len() < 2 && self.is_replay() {
            let mut stage = json!({"arrival": "trace"});
            let mut set = |name: &str, value: Option<Value>| {
                if let Some(value) = value {
                    stage[name] = value;
                }
            };
            set("speed", self.speed.map(|speed| json!(speed)));
            set("for", self.duration.as_ref().map(|duration| json!(duration)));
            set("requests", self.requests.map(|requests| json!(requests)));
            set("concurrency", self.concurrency.first().map(|n| json!(n)));
            return Ok(Some(vec![stage]));
        }
        if self.rate.is_empty() && self.concurrency.is_empty() && self.part_of_a_load().is_none() {
            return Ok(None);
        }
        if self.rate.len() > 1 && self.concurrency.len() > 1 {
            return Err(Error::usage("--rate and --concurrency are both lists")
                .hint("vary one of them, or write the stages into an experiment file"));
        }
        let mut stages = Vec::new();
        if self.rate.is_empty() {
            let concurrency =
                if self.concurrency.is_empty() { &[1][..] } else { &self.concurrency[..] };
            stages.extend(concurrency.iter().map(|n| json!({"concurrency": n})));
        } else {
            let limits: Vec<Option<u32>> = match self.concurrency.as_slice() {
                [] => vec![None],
                some => some.iter().copied().map(Some).collect(),
            };
            for rate in &self.rate {
                for (index, limit) in limits.iter().enumerate() {
                    let mut stage = json!({"rate": rate});
                    if let Some(limit) = limit {
                        stage["concurrency"] = json!(limit);
                        let before = limits[..index].iter().filter(|l| **l == Some(*limit)).count();
                        // The harness names stages by their rates, which here are the same.
                        match before {
                            _ if limits.len() == 1 => {}
                            0 => stage["name"] = json!(format!("rate-{rate}-max-{limit}")),
                            n => {
                                stage["name"] = json!(format!("rate-{rate}-max-{limit}-{}", n + 1))
                            }
                        }
                    }
                    stages.push(stage);
                }
            }
        }
        for stage in &mut stages {
            if let Some(duration) = &self.duration {
                stage["for"] = json!(duration);
            }
            if let Some(requests) = self.requests {
                stage["requests"] = json!(requests);
            }
            if self.duration.is_none() && self.requests.is_none() && self.dataset.is_some() {
                stage["whole_workload"] = json!(true);
            }
            if let Some(arrival) = &self.arrival {
                stage["arrival"] = json!(arrival);
            }
        }
        Ok(Some(stages))
    }
}

/// The layer of the command line, from the parts that a command has.
pub(crate) fn flags(
    experiment: &ExperimentArgs,
    target: &TargetArgs,
    load: &LoadArgs,
) -> Result<Layer> {
    let mut layer = Layer::named(Source::Flag);
    experiment.fill(&mut layer);
    target.fill(&mut layer)?;
    load.fill(&mut layer)?;
    Ok(layer)
}

fn put(layer: &mut Layer, path: &str, flag: &str, text: Option<&str>) {
    if let Some(text) = text {
        layer.set(path, flag, from_text(path, text));
    }
}

/// A number that can be meant: `nan` and `inf` can be read as well.
fn number(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("`{text}` is not a number: write for example `2` or `0.5`"))
}

/// The name of a folder.
fn folder(text: &str) -> std::result::Result<String, String> {
    match text.trim() {
        "" => Err("it names no folder: is a variable not set that it is made of?".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// A duration, as it was typed.
fn duration(text: &str) -> std::result::Result<String, String> {
    crate::unit::duration(text).map(|_| text.to_owned())
}

fn after_help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, meaning) in crate::error::Exit::ALL {
        text.push_str(&format!("  {:>3}  {meaning}\n", exit as i32));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SETTINGS;
    use clap::CommandFactory;

    #[test]
    fn every_flag_of_the_settings_table_exists() {
        let command = Cli::command();
        let mut known: Vec<String> = Vec::new();
        let mut stack = vec![&command];
        while let Some(command) = stack.pop() {
            known.extend(command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned));
            stack.extend(command.get_subcommands());
        }
        for setting in SETTINGS.iter().filter(|s| !s.flag.is_empty()) {
            let flag = setting.flag.trim_start_matches('-');
            assert!(known.iter().any(|name| name == flag), "{} has no option {flag}", setting.path);
        }
    }

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_make_stages() {
        let check = |args: LoadArgs, expected: Value| {
            assert_eq!(json!(args.stages().unwrap()), expected);
        };
        let for_5s = || LoadArgs { duration: Some("5s".into()), ..LoadArgs::default() };
        check(LoadArgs::default(), Value::Null);
        check(
            LoadArgs { rate: vec![1.0, 2.5], ..for_5s() },
            json!([{"rate": 1.0, "for": "5s"}, {"rate": 2.5, "for": "5s"}]),
        );
        check(
            LoadArgs { concurrency: vec![1, 8], ..for_5s() },
            json!([{"concurrency": 1, "for": "5s"}, {"concurrency": 8, "for": "5s"}]),
        );
        check(
            LoadArgs { rate: vec![3.0], concurrency: vec![8], ..for_5s() },
            json!([{"rate": 3.0, "concurrency": 8, "for": "5s"}]),
        );
        check(
            LoadArgs { rate: vec![4.0], concurrency: vec![2, 3, 2], ..for_5s() },
            json!([
                {"rate": 4.0, "concurrency": 2, "for": "5s", "name": "rate-4-max-2"},
                {"rate": 4.0, "concurrency": 3, "for": "5s", "name": "rate-4-max-3"},
                {"rate": 4.0, "concurrency": 2, "for": "5s", "name": "rate-4-max-2-2"},
            ]),
        );
        check(
            LoadArgs { requests: Some(1), ..LoadArgs::default() },
            json!([{"concurrency": 1, "requests": 1}]),
        );
        let trace =
            || LoadArgs { workload: Some("trace".into()), concurrency: vec![2], ..for_5s() };
        check(trace(), json!([{"arrival": "trace", "for": "5s", "concurrency": 2}]));
        check(
            LoadArgs { arrival: Some("closed".into()), ..trace() },
            json!([{"concurrency": 2, "for": "5s", "arrival": "closed"}]),
        );
        let both = LoadArgs { rate: vec![1.0, 2.0], concurrency: vec![1, 2], ..for_5s() };
        assert!(both.stages().is_err());
    }
}
