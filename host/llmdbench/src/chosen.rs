//! [`Chosen`]: the plugins of a plan with their complete settings, and the instances made of them.

use crate::error::{Error, Problem, Result};
use crate::experiment::{self, Experiment};
use crate::plan::{Plan, Target};
use crate::plugins::{Plugins, check_settings, plugin_error};
use crate::printer::Printer;
use crate::settings::{self, Settings};
use crate::translate::{self, PlannedStage};
use plugin_host::{Grant, Input, Kind, LogLine, Plugin, Setup, wit};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokenizers::Tokenizer;

/// The plugins of a plan, with their settings complete and what they may use.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) backend: Option<Use>,
    pub(crate) harness: Use,
    pub(crate) workload: Use,
    tokenizer: Option<Arc<Tokenizer>>,
    /// What plugins said.
    pub(crate) log: PluginLog,
}

/// What the harness wants sent.
#[derive(Debug)]
pub(crate) struct PlannedLoad {
    pub(crate) stages: Vec<PlannedStage>,
    /// How long a request may take, in nanoseconds. None: as the experiment says.
    pub(crate) request_timeout: Option<u64>,
}

/// A plugin with its settings.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub(crate) plugin: Plugin,
    /// Checked, defaults filled in.
    pub(crate) settings: Value,
    inputs: BTreeMap<String, PathBuf>,
    /// What it may do.
    grants: Vec<Grant>,
}

impl Use {
    /// The files that its settings name, by JSON pointer.
    pub(crate) fn inputs(&self) -> &BTreeMap<String, PathBuf> {
        &self.inputs
    }

    /// What it may do.
    pub(crate) fn grants(&self) -> &[Grant] {
        &self.grants
    }
}

/// What plugins said, in the order in which they said it.
#[derive(Debug, Clone, Default)]
pub(crate) struct PluginLog {
    lines: Arc<Mutex<Vec<LogLine>>>,
}

impl PluginLog {
    /// The lines since the last call.
    pub(crate) fn take(&self) -> Vec<LogLine> {
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sink(&self) -> Arc<dyn Fn(LogLine) + Send + Sync> {
        let lines = Arc::clone(&self.lines);
        Arc::new(move |line| {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        })
    }
}

/// Chooses the plugins that the settings name, checks their settings, and finds their files. None:
/// some cannot be used, and the problems say why.
pub(crate) fn choose(
    plugins: &Plugins,
    settings: &Settings,
    wanted: &Experiment,
    printer: &Printer,
    problems: &mut Vec<Problem>,
) -> Option<Chosen> {
    let needs_backend = wanted.deploy.endpoint.is_none();
    if needs_backend
        && settings.text("deploy.method").is_none()
        && !plugins.given().iter().any(|plugin| plugin.kinds().contains(&Kind::Backend))
    {
        problems.push(
            Problem::new("neither `deploy.endpoint` nor `deploy.method` is given: what shall be benchmarked?")
                .hint("give the URL of a server with --endpoint, or a backend with --method, for example --method local"),
        );
    }
    let backend = if needs_backend {
        plugins.choose(Kind::Backend, "deploy.method", settings, problems)
    } else {
        None
    };
    let harness = plugins.choose(Kind::Harness, "harness.plugin", settings, problems);
    // A harness whose component is a workload as well uses that one unless another is named.
    let own = harness.as_ref().filter(|plugin| {
        !settings.is_set("workload.plugin") && plugin.kinds().contains(&Kind::Workload)
    });
    let workload = match own {
        Some(plugin) => Some(plugin.clone()),
        None => plugins.choose(Kind::Workload, "workload.plugin", settings, problems),
    };
    let named = settings.get("analyze.plugins").as_array().into_iter().flatten();
    let named = named.filter_map(Value::as_str);
    let given = plugins.given().iter().filter(|plugin| plugin.kinds() == [Kind::Analyzer]);
    for name in named.chain(given.map(Plugin::name)) {
        problems.push(Problem::new(format!("unsupported: the analyzer `{name}`")).hint(
            "this version of llmdbench checks analyzers and does not run them yet; leave it out",
        ));
    }
    // One that is not there is a problem of the experiment already.
    let there = wanted.target.tokenizer.as_ref().filter(|path| path.exists());
    let tokenizer = there.and_then(|path| match tokenizer(path) {
        Ok(tokenizer) => Some(Arc::new(tokenizer)),
        Err(error) => {
            problems.extend(error.problems);
            None
        }
    });
    let mut complete = |plugin: Option<Plugin>, kind: Kind, path: &str| -> Option<Use> {
        let plugin = plugin?;
        let given = settings;
        let settings = check_settings(&plugin, kind, path, given, problems);
        let inputs = inputs(&plugin, kind, path, &settings, given);
        for (pointer, file) in inputs.iter().filter(|(_, file)| !file.is_file()) {
            let at = format!("{}{pointer}", settings::pointer(path));
            problems.push(missing(&at, file, given));
        }
        let grants = plugins.granted(&plugin, printer).unwrap_or_else(|error| {
            problems.extend(error.problems);
            Vec::new()
        });
        Some(Use { plugin, settings, inputs, grants })
    };
    let backend = complete(backend, Kind::Backend, "deploy.settings");
    let harness = complete(harness, Kind::Harness, "harness.settings");
    let workload = complete(workload, Kind::Workload, "workload.settings");
    Some(Chosen {
        backend,
        harness: harness?,
        workload: workload?,
        tokenizer,
        log: PluginLog::default(),
    })
}

impl Chosen {
    /// What a plugin gets to work with. `override_settings` replaces its settings.
    pub(crate) fn setup(
        &self,
        used: &Use,
        plan: &Facts,
        target: Option<&Target>,
        override_settings: Option<Value>,
    ) -> Setup {
        let mut settings = override_settings.unwrap_or_else(|| used.settings.clone());
        let mut inputs = Vec::new();
        for (pointer, file) in &used.inputs {
            // The plugin gets the input's name, never the path.
            let name = pointer.trim_start_matches('/').replace('/', ".");
            if let Some(value) = settings.pointer_mut(pointer) {
                *value = Value::String(name.clone());
            }
            inputs.push(Input { name, path: file.clone() });
        }
        Setup {
            seed: plan.seed,
            inputs,
            grants: used.grants.clone(),
            log: self.log.sink(),
            facts: vec![
                ("llmdbench".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
                ("experiment".to_owned(), plan.experiment.clone()),
                ("created".to_owned(), plan.created.clone()),
            ],
            tokenizer: self.tokenizer.clone(),
            ..Setup::new(settings, context(plan, target))
        }
    }

    /// The model's tokenizer, where the user gave one.
    pub(crate) fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_deref()
    }

    /// The load that the harness plans for this target.
    pub(crate) fn load(&self, facts: &Facts, target: Option<&Target>) -> Result<PlannedLoad> {
        let name = self.harness.plugin.name();
        let setup = self.setup(&self.harness, facts, target, None);
        let mut harness =
            self.harness.plugin.harness(setup).map_err(|error| plugin_error(&error))?;
        match harness.plan().map_err(|error| plugin_error(&error))? {
            wit::harness::Execution::Load(load) => {
                if load.tick_every.is_some() {
                    return Err(Error::usage(format!(
                        "unsupported: the harness `{name}` wants to steer the load while it runs (the interface `steering`)"
                    )));
                }
                let stages = translate::stages(name, load.stages, self.warm_up_rule())?;
                Ok(PlannedLoad { stages, request_timeout: load.request_timeout })
            }
            wit::harness::Execution::Command(_) => Err(Error::usage(format!(
                "unsupported: the harness `{name}` makes load by a program of its own (a command plan)"
            ))
            .hint("this version of llmdbench runs only load plans")),
        }
    }

    /// Whether long stages begin with an unmeasured part: unless the user said how to warm up.
    fn warm_up_rule(&self) -> bool {
        self.harness.settings.get("warmup").is_none_or(Value::is_null)
    }

    /// The workload's settings for a stage: its own with the stage's merged over them. None: the
    /// stage has none.
    pub(crate) fn stage_settings(&self, planned: &PlannedStage) -> Result<Option<Value>> {
        let Some(patch) = &planned.workload_settings else { return Ok(None) };
        let mut merged = self.workload.settings.clone();
        settings::merge(&mut merged, patch);
        let checked = self.workload.plugin.check_settings(Kind::Workload, &merged);
        checked.map(Some).map_err(|errors| {
            Error::problems(
                errors
                    .into_iter()
                    .map(|error| {
                        let problem = Problem::new(format!(
                            "the workload settings of the stage `{}`: `{}`: {}",
                            planned.stage.name,
                            crate::document::path(&error.pointer),
                            error.message
                        ));
                        match error.near {
                            Some(near) => problem.hint(format!("the nearest name is `{near}`")),
                            None => problem,
                        }
                    })
                    .collect(),
            )
        })
    }
}

/// What plugins are told of the plan.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    run: String,
    experiment: String,
    created: String,
    model: String,
    scenario: Option<String>,
    seed: u64,
}

impl Plan {
    /// What plugins are told of the plan.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            run: self.run.clone(),
            experiment: self.experiment.name.clone(),
            created: self.created.clone(),
            model: self.experiment.deploy.model.clone(),
            scenario: self.experiment.scenario.clone(),
            seed: self.experiment.seed,
        }
    }
}

fn context(facts: &Facts, target: Option<&Target>) -> wit::types::Context {
    let label = |key: &str, value: &str| wit::types::Label { key: key.into(), value: value.into() };
    wit::types::Context {
        run_id: facts.run.clone(),
        model: facts.model.clone(),
        model_alias: facts.model.clone(),
        namespace: None,
        seed: facts.seed,
        labels: facts.scenario.iter().map(|name| label("scenario", name)).collect(),
        target: target.map(|target| wit::types::Target {
            endpoints: target
                .endpoints
                .iter()
                .map(|url| wit::types::Endpoint {
                    url: url.clone(),
                    reach: wit::types::Reach::Direct,
                    credential: None,
                })
                .collect(),
            metrics: target
                .metrics
                .iter()
                .map(|source| wit::types::MetricsSource {
                    component: source.component.clone(),
                    url: source.url.clone(),
                    reach: wit::types::Reach::Direct,
                })
                .collect(),
            model: target.model.clone(),
            facts: target.facts.iter().map(|(key, value)| label(key, value)).collect(),
        }),
        cluster: None,
    }
}

/// A line of a plugin's log, its fields behind it.
pub(crate) fn line_text(line: &LogLine) -> String {
    let fields: Vec<String> = line.fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if fields.is_empty() {
        line.message.clone()
    } else {
        format!("{} ({})", line.message, fields.join(", "))
    }
}

/// The files that a plugin's settings name.
fn inputs(
    plugin: &Plugin,
    kind: Kind,
    path: &str,
    complete: &Value,
    settings: &Settings,
) -> BTreeMap<String, PathBuf> {
    let named = plugin.inputs_of(kind, complete).into_iter();
    named
        .map(|(pointer, text)| {
            let folder = settings.folder(&format!("{}{pointer}", settings::pointer(path)));
            (pointer, experiment::locate(&text, folder))
        })
        .collect()
}

/// A file that a setting names and that is not there.
fn missing(pointer: &str, file: &Path, settings: &Settings) -> Problem {
    let mut problem = Problem::new(format!(
        "`{}`: there is no file `{}`",
        crate::document::path(pointer),
        file.display()
    ));
    if let Some(place) = settings.place(pointer) {
        problem = problem.at(place);
    }
    match experiment::near_file(file) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None => problem,
    }
}

/// Loads a tokenizer from its file or folder.
fn tokenizer(path: &Path) -> Result<Tokenizer> {
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    Tokenizer::from_file(&file).map_err(|error| {
        Error::usage(format!("cannot load the tokenizer `{}`", file.display()))
            .cause(error.to_string())
    })
}
