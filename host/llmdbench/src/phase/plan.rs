//! The phase that decides: settings and plugins in, a [`Plan`] out. Nothing is touched.

use crate::cli::{ExperimentArgs, Global, LoadArgs, TargetArgs, flags};
use crate::error::{Error, Problem, Result};
use crate::experiment::{self, Experiment};
use crate::plan::{Action, Finding, Plan, PluginUse, Step, Target, WorkloadOutline};
use crate::plugins::{Plugins, check_settings, plugin_error};
use crate::printer::Printer;
use crate::secrets::Secrets;
use crate::settings::{self, Layer, Settings, Source};
use crate::translate::{self, PlannedStage};
use plugin_host::wit::log::Level;
use plugin_host::{Grant, Input, Kind, LogLine, Plugin, Setup, wit};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokenizers::Tokenizer;

/// Everything that the other phases need of this one.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) settings: Settings,
    pub(crate) secrets: Secrets,
    pub(crate) chosen: Chosen,
}

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

/// Settings and plugins of a command. A command that makes no load has no options for it, and does
/// not mind an experiment that plans none.
pub(crate) fn prepare(
    global: &Global,
    experiment: &ExperimentArgs,
    target: &TargetArgs,
    load: Option<&LoadArgs>,
    printer: &Printer,
) -> Result<Prepared> {
    let flags = flags(experiment, target, load.unwrap_or(&LoadArgs::default()))?;
    let mut warnings = Vec::new();
    let environment = settings::environment(environment_variables(), &mut warnings);
    for warning in warnings {
        printer.warning(&warning);
    }
    let mut layers = experiment::layers(
        flags,
        experiment.file.as_deref(),
        experiment.scenario.as_deref(),
        environment,
    )?;
    if load.is_none() {
        let mut least = Layer::named(Source::Default);
        let one = serde_json::json!([{"concurrency": 1, "requests": 1}]);
        least.set("harness.settings.stages", "(no load)", one);
        layers.push(least);
    }
    let (settings, mut problems) = match settings::resolve(layers) {
        Ok(settings) => (settings, Vec::new()),
        Err((settings, problems)) => (settings, problems),
    };
    let secrets =
        if problems.is_empty() { experiment::secrets(&settings)? } else { Secrets::default() };
    printer.redact(secrets.redaction());
    let wanted = Experiment::new(&settings, experiment.file.as_deref(), &mut problems);
    let plugins = Plugins::load(
        &global.plugins,
        &global.grants,
        settings.text("control.cache_dir"),
        &|text| printer.detail(text),
    )?;
    let chosen = choose(&plugins, &settings, &wanted, printer, &mut problems);
    if !problems.is_empty() {
        return Err(Error::problems(in_order(problems)));
    }
    let chosen = chosen.ok_or_else(|| Error::unexpected("no plugins were chosen"))?;
    let plan = decide(&chosen, wanted).map_err(|mut error| {
        for problem in &mut error.problems {
            if let Some(pointer) = &problem.pointer {
                problem.place = settings.place(pointer);
            }
        }
        error
    })?;
    for finding in &plan.findings {
        printer.warning(&format!("{}: {}", finding.plugin, finding.text));
    }
    Ok(Prepared { plan, settings, secrets, chosen })
}

/// Problems of a file in the order of its lines.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|problem| {
        let mut parts = problem.place.as_deref().unwrap_or_default().rsplit(':');
        let column: usize = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        let line: usize = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        (line, column)
    });
    problems
}

/// The process's environment, without names that are no text.
pub(crate) fn environment_variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn choose(
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
    let tokenizer = wanted.target.tokenizer.as_ref().and_then(|path| match tokenizer(path) {
        Ok(tokenizer) => Some(Arc::new(tokenizer)),
        Err(error) => {
            problems.extend(error.problems);
            None
        }
    });
    let mut complete = |plugin: Option<Plugin>, kind: Kind, path: &str| -> Option<Use> {
        let plugin = plugin?;
        let settings = check_settings(&plugin, kind, path, settings, problems);
        let inputs = inputs(&plugin, kind, path, &settings, wanted, problems);
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
    settings: &Value,
    wanted: &Experiment,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, PathBuf> {
    let mut inputs = BTreeMap::new();
    for (pointer, text) in plugin.inputs_of(kind, settings) {
        let file = experiment::locate(&text, wanted.folder.as_deref());
        if !file.is_file() {
            let at = format!("{}{pointer}", settings::pointer(path));
            problems.push(Problem::new(format!(
                "`{}`: there is no file `{}`",
                crate::document::path(&at),
                file.display()
            )));
        }
        inputs.insert(pointer, file);
    }
    inputs
}

/// Loads a tokenizer from its file or folder.
fn tokenizer(path: &std::path::Path) -> Result<Tokenizer> {
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    Tokenizer::from_file(&file).map_err(|error| {
        Error::usage(format!("cannot load the tokenizer `{}`", file.display()))
            .cause(error.to_string())
    })
}

impl Chosen {
    /// What a plugin gets to work with. `override_settings` replaces its settings.
    pub(crate) fn setup(
        &self,
        used: &Use,
        plan: &PlanFacts,
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

    /// The stages that the harness plans for this target.
    pub(crate) fn stages(
        &self,
        facts: &PlanFacts,
        target: Option<&Target>,
    ) -> Result<Vec<PlannedStage>> {
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
                translate::stages(name, load.stages, self.warm_up_rule())
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

    /// How long a request may take by the harness's wish.
    pub(crate) fn request_timeout(&self, facts: &PlanFacts) -> Result<Option<u64>> {
        let setup = self.setup(&self.harness, facts, None, None);
        let mut harness =
            self.harness.plugin.harness(setup).map_err(|error| plugin_error(&error))?;
        match harness.plan().map_err(|error| plugin_error(&error))? {
            wit::harness::Execution::Load(load) => Ok(load.request_timeout),
            wit::harness::Execution::Command(_) => Ok(None),
        }
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
pub(crate) struct PlanFacts {
    run: String,
    experiment: String,
    created: String,
    model: String,
    scenario: Option<String>,
    seed: u64,
}

impl Plan {
    /// What plugins are told of the plan.
    pub(crate) fn facts(&self) -> PlanFacts {
        PlanFacts {
            run: self.run.clone(),
            experiment: self.experiment.name.clone(),
            created: self.created.clone(),
            model: self.experiment.deploy.model.clone(),
            scenario: self.experiment.scenario.clone(),
            seed: self.experiment.seed,
        }
    }
}

fn context(facts: &PlanFacts, target: Option<&Target>) -> wit::types::Context {
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

/// Asks the plugins what they would do.
fn decide(chosen: &Chosen, wanted: Experiment) -> Result<Plan> {
    let now = jiff::Zoned::now();
    let mut plan = Plan::new(run_id(&wanted.name, &now), now.timestamp().to_string(), wanted);
    let facts = plan.facts();
    let uses = [
        (Kind::Backend, chosen.backend.as_ref()),
        (Kind::Harness, Some(&chosen.harness)),
        (Kind::Workload, Some(&chosen.workload)),
    ];
    for (kind, used) in uses {
        let Some(used) = used else { continue };
        plan.plugins.push(PluginUse {
            kind: kind.as_str().to_owned(),
            name: used.plugin.name().to_owned(),
            version: used.plugin.version().to_owned(),
            digest: used.plugin.digest().to_owned(),
            file: match used.plugin.source() {
                plugin_host::Source::File(path) => Some(path.clone()),
                plugin_host::Source::Embedded(_) => None,
            },
            inputs: used.inputs.clone(),
        });
    }
    if let Some(used) = &chosen.backend {
        let setup = chosen.setup(used, &facts, None, None);
        let mut backend = used.plugin.backend(setup).map_err(|error| plugin_error(&error))?;
        let steps = backend.plan().map_err(|error| plugin_error(&error))?;
        plan.steps =
            translate::steps(used.plugin.name(), steps, plan.experiment.folder.as_deref())?;
        permit(used, &plan.steps)?;
    }
    plan.steps.push(Step {
        number: crate::steps::SMOKETEST,
        name: "smoketest".into(),
        title: "Ask the model for a completion and check the answer".into(),
        actions: vec![Action::Smoketest],
    });
    plan.steps.sort_by_key(|step| step.number);
    let stages = chosen.stages(&facts, None)?;
    for planned in &stages {
        // Settings of a stage are judged now, not in the middle of the run.
        if let Some(settings) = chosen.stage_settings(planned)? {
            let setup = chosen.setup(&chosen.workload, &facts, None, Some(settings));
            chosen.workload.plugin.workload(setup).map_err(|error| plugin_error(&error))?;
        }
    }
    plan.stages = stages.iter().map(translate::outline).collect();
    let setup = chosen.setup(&chosen.workload, &facts, None, None);
    let (_, size) = chosen.workload.plugin.workload(setup).map_err(|error| plugin_error(&error))?;
    plan.workload = WorkloadOutline {
        sessions: size.sessions,
        requests: size.requests,
        mean_input_tokens: size.mean_input_tokens,
        mean_output_tokens: size.mean_output_tokens,
        skipped: size.skipped.into_iter().map(|label| (label.key, label.value)).collect(),
    };
    for line in chosen.log.take() {
        if !line.is_finding {
            continue;
        }
        let severity = if line.level == Level::Error { "problem" } else { "warning" };
        let finding = Finding {
            severity: severity.to_owned(),
            plugin: line.plugin.clone(),
            text: line_text(&line),
        };
        // Plugins are configured more than once.
        if !plan.findings.contains(&finding) {
            plan.findings.push(finding);
        }
    }
    Ok(plan)
}

/// Every effect that a backend asks for must be granted.
fn permit(used: &Use, steps: &[Step]) -> Result<()> {
    for action in steps.iter().flat_map(|step| &step.actions) {
        let Action::Process(process) = action else { continue };
        let secrets = process.env.iter().filter_map(|variable| variable.secret.clone());
        let wanted = std::iter::once(Grant::Process(process.program.clone()))
            .chain(secrets.map(Grant::Secret));
        for wanted in wanted {
            if !used.grants.iter().any(|grant| grant.allows(&wanted)) {
                return Err(Error::usage(format!(
                    "the plugin `{}` wants `{wanted}`, which it neither asked for nor was granted",
                    used.plugin.name(),
                )));
            }
        }
    }
    Ok(())
}

/// "quickstart-20260101-120000-1a2b": fit for a label of Kubernetes.
fn run_id(name: &str, now: &jiff::Zoned) -> String {
    let mut id: String = name
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(40)
        .collect();
    id = id.trim_matches('-').to_owned();
    if id.is_empty() {
        id.push_str("run");
    }
    let noise = now.timestamp().as_nanosecond() ^ i128::from(std::process::id());
    format!("{id}-{}-{:04x}", now.strftime("%Y%m%d-%H%M%S"), noise & 0xffff)
}
