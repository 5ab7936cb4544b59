//! [`Chosen`]: the plugins of a plan with their complete settings, and the instances made of them.

use crate::error::{Error, Problem, Result};
use crate::experiment::{self, Experiment, Model};
use crate::plan::{Plan, Target};
use crate::plugins::{Plugins, check_settings, plugin_error, pointer_of};
use crate::printer::Printer;
use crate::profile::{self, Profile};
use crate::run_dir;
use crate::settings::Settings;
use crate::translate::{self, PlannedStage};
use plugin_host::{Grant, Input, Kind, LogLine, Plugin, Setup, wit};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tokenizers::Tokenizer;

/// The plugins of a plan, with their settings complete and what they may use.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// One for each method. Empty: the stack stands already.
    pub(crate) backends: Vec<Use>,
    pub(crate) harness: Use,
    pub(crate) workload: Use,
    pub(crate) analyzers: Vec<Use>,
    tokenizer: Option<Arc<Tokenizer>>,
    /// Where profiles lie that were filled in, as long as plugins may read them.
    filled_in: Option<TempDir>,
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
    /// Those of its inputs that are filled in before it sees them, by JSON pointer.
    pub(crate) profiles: BTreeMap<String, Profile>,
    /// What it may do.
    grants: Vec<Grant>,
}

impl Use {
    /// The files that its settings name, by JSON pointer.
    pub(crate) fn inputs(&self) -> &BTreeMap<String, PathBuf> {
        &self.inputs
    }

    /// The same files by the names that the plugin knows.
    pub(crate) fn attached(&self) -> BTreeMap<String, PathBuf> {
        self.inputs.iter().map(|(pointer, file)| (input_name(pointer), file.clone())).collect()
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

    pub(crate) fn sink(&self) -> Arc<dyn Fn(LogLine) + Send + Sync> {
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
    let methods = match &wanted.deploy.endpoint {
        Some(_) => &[],
        None => wanted.deploy.methods.as_slice(),
    };
    plugins.check_methods(settings, problems);
    let backends: Vec<Option<Plugin>> = methods
        .iter()
        .map(|method| {
            plugins.choose(Kind::Backend, "deploy.method", Some(method), settings, problems)
        })
        .collect();
    let harness =
        plugins.choose(Kind::Harness, "harness.plugin", Some(&wanted.harness), settings, problems);
    // A harness whose component is a workload as well uses that one unless another is named.
    let own = harness.as_ref().filter(|plugin| {
        !settings.is_set("workload.plugin") && plugin.kinds().contains(&Kind::Workload)
    });
    let workload = match own {
        Some(plugin) => Some(plugin.clone()),
        None => plugins.choose(
            Kind::Workload,
            "workload.plugin",
            settings.text("workload.plugin"),
            settings,
            problems,
        ),
    };
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
        let (inputs, profiles) = inputs(&plugin, kind, path, &settings, given, wanted)
            .unwrap_or_else(|error| {
                problems.extend(error.problems);
                Default::default()
            });
        for (pointer, file) in inputs.iter().filter(|(_, file)| !file.exists()) {
            if profiles.contains_key(pointer) {
                continue;
            }
            let at = pointer_of(&plugin, kind, path, pointer, given);
            problems.push(missing(&at, file, given));
        }
        let grants = plugins.granted(&plugin, printer).unwrap_or_else(|error| {
            problems.extend(error.problems);
            Vec::new()
        });
        Some(Use { plugin, settings, inputs, profiles, grants })
    };
    let backends: Vec<Use> = backends
        .into_iter()
        .filter_map(|backend| complete(backend, Kind::Backend, "deploy.settings"))
        .collect();
    let harness = complete(harness, Kind::Harness, "harness.settings");
    let workload = complete(workload, Kind::Workload, "workload.settings");
    let harness = harness?;
    let mut chosen = Chosen {
        analyzers: analyzers(plugins, settings, &harness, printer, problems),
        backends,
        harness,
        workload: workload?,
        tokenizer,
        filled_in: None,
        log: PluginLog::default(),
    };
    if let Err(error) = chosen.fill_in() {
        problems.extend(error.problems);
    }
    Some(chosen)
}

/// The analyzers that the settings name, those given with `--plugin`, and the harness's own.
fn analyzers(
    plugins: &Plugins,
    settings: &Settings,
    harness: &Use,
    printer: &Printer,
    problems: &mut Vec<Problem>,
) -> Vec<Use> {
    let named = settings.get("analyze.plugins").as_array().into_iter().flatten();
    let named = named.filter_map(Value::as_str).filter_map(|name| {
        plugins.choose(Kind::Analyzer, "analyze.plugins", Some(name), settings, problems)
    });
    let mut all: Vec<Plugin> = named.collect();
    let further = plugins.given().iter().chain([&harness.plugin]);
    all.extend(further.filter(|plugin| plugin.kinds().contains(&Kind::Analyzer)).cloned());
    let mut seen = Vec::new();
    all.retain(|plugin| {
        let is_new = !seen.contains(&plugin.digest().to_owned());
        seen.push(plugin.digest().to_owned());
        is_new
    });
    all.into_iter()
        .filter_map(|plugin| match analyzer(plugins, plugin, printer) {
            Ok(used) => Some(used),
            Err(error) => {
                problems.extend(error.problems);
                None
            }
        })
        .collect()
}

/// An analyzer, ready to be used. It has no settings but its defaults.
pub(crate) fn analyzer(plugins: &Plugins, plugin: Plugin, printer: &Printer) -> Result<Use> {
    let settings = plugin.check_settings(Kind::Analyzer, &Value::Null).map_err(|errors| {
        let first = errors.into_iter().next().map(|error| error.message).unwrap_or_default();
        Error::usage(format!(
            "the analyzer `{}` cannot do without settings: {first}",
            plugin.name()
        ))
    })?;
    let grants = plugins.granted(&plugin, printer)?;
    Ok(Use { plugin, settings, inputs: BTreeMap::new(), profiles: BTreeMap::new(), grants })
}

impl Chosen {
    /// Writes the profiles to where plugins read them.
    fn fill_in(&mut self) -> Result<()> {
        if self.profiles().next().is_none() {
            return Ok(());
        }
        let folder = tempfile::tempdir()
            .map_err(|error| Error::unexpected("cannot make a temporary folder").because(error))?;
        for profile in self.profiles() {
            run_dir::write(&folder.path().join(&profile.name), profile.text.as_bytes())?;
        }
        self.filled_in = Some(folder);
        Ok(())
    }

    /// The profiles of the plugins, filled in.
    pub(crate) fn profiles(&self) -> impl Iterator<Item = &Profile> {
        let uses = self.backends.iter().chain([&self.harness, &self.workload]);
        uses.flat_map(|used| used.profiles.values())
    }

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
            let name = input_name(pointer);
            if let Some(value) = settings.pointer_mut(pointer) {
                *value = Value::String(name.clone());
            }
            let profile = used.profiles.get(pointer).zip(self.filled_in.as_ref());
            let path = profile.map_or_else(
                || file.clone(),
                |(profile, folder)| folder.path().join(&profile.name),
            );
            inputs.push(Input { name, path });
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
        let merged = plugin_host::merge(&self.workload.settings, patch);
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
    model: Model,
    namespace: Option<String>,
    scenario: Option<String>,
    seed: u64,
}

impl Facts {
    /// The same for another of the models.
    pub(crate) fn of_model(&self, model: &Model) -> Self {
        Self { model: model.clone(), ..self.clone() }
    }

    /// The same with a namespace for the run's objects.
    pub(crate) fn within(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }
}

impl Plan {
    /// What plugins are told of the plan.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            run: self.run.clone(),
            experiment: self.experiment.name.clone(),
            created: self.created.clone(),
            model: self.experiment.deploy.model(),
            namespace: self.namespace.clone(),
            scenario: self.experiment.scenario.clone(),
            seed: self.experiment.seed,
        }
    }
}

/// The run that a plugin is configured for.
pub(crate) fn context(facts: &Facts, target: Option<&Target>) -> wit::types::Context {
    let label = |key: &str, value: &str| wit::types::Label { key: key.into(), value: value.into() };
    wit::types::Context {
        run_id: facts.run.clone(),
        model: facts.model.id.clone(),
        model_alias: facts.model.alias.clone(),
        namespace: facts.namespace.clone(),
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

/// The name of the input that a setting attaches.
fn input_name(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

/// The files that a plugin's settings name, and those of them that are profiles.
fn inputs(
    plugin: &Plugin,
    kind: Kind,
    path: &str,
    complete: &Value,
    settings: &Settings,
    wanted: &Experiment,
) -> Result<(BTreeMap<String, PathBuf>, BTreeMap<String, Profile>)> {
    let (mut inputs, mut profiles) = (BTreeMap::new(), BTreeMap::new());
    for input in plugin.inputs_of(kind, complete) {
        let pointer = pointer_of(plugin, kind, path, &input.pointer, settings);
        let folder = settings.folder(&pointer);
        if input.is_template {
            let profile = profile::read(&input.path, folder, settings, &wanted.deploy.model().id)
                .map_err(|error| match settings.place(&pointer) {
                Some(place) => error.at(place),
                None => error,
            })?;
            inputs.insert(input.pointer.clone(), profile.source.clone());
            profiles.insert(input.pointer, profile);
        } else {
            inputs.insert(input.pointer, experiment::locate(&input.path, folder));
        }
    }
    Ok((inputs, profiles))
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
