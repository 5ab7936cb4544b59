//! The phase that decides: settings and plugins in, a [`Plan`] out. Nothing is touched.

use crate::action::Action;
use crate::chosen::{self, Chosen, line_text};
use crate::cli::{ExperimentArgs, Global, LoadArgs, TargetArgs, flags};
use crate::error::{Error, Problem, Result};
use crate::experiment::{self, Experiment};
use crate::permit;
use crate::plan::{Finding, Plan, PluginUse, Step, WorkloadOutline};
use crate::plugins::{Plugins, plugin_error};
use crate::precedence;
use crate::prepare::{self, Preparation};
use crate::printer::Printer;
use crate::secrets::Secrets;
use crate::settings::{self, Layer, Settings, Source};
use crate::translate;
use crate::translate::steps::Backend;
use plugin_host::Kind;
use plugin_host::wit::log::Level;

/// Everything that the other phases need of this one.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) settings: Settings,
    pub(crate) secrets: Secrets,
    pub(crate) chosen: Chosen,
}

/// What is wanted, before any plugin is asked.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) wanted: Experiment,
    pub(crate) settings: Settings,
    secrets: Secrets,
    /// What is wrong with it.
    pub(crate) problems: Vec<Problem>,
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
    ask(settle(global, experiment, target, load, printer)?, global, printer)
}

/// The settings of a command, as in [`prepare`].
pub(crate) fn settle(
    global: &Global,
    experiment: &ExperimentArgs,
    target: &TargetArgs,
    load: Option<&LoadArgs>,
    printer: &Printer,
) -> Result<Settled> {
    let flags = flags(experiment, target, load.unwrap_or(&LoadArgs::default()))?;
    let mut warnings = Vec::new();
    let environment = settings::environment(settings::variables(), &mut warnings);
    let layers = experiment::layers(flags, experiment.file.as_deref(), environment, &mut warnings);
    for warning in warnings {
        printer.warning(&warning);
    }
    let mut layers = layers?;
    if global.as_script {
        layers.push(experiment::as_script());
    }
    if let Some(folder) = &experiment.standing {
        layers.extend(experiment::of_stack(folder)?);
    }
    if let Some(load) = load {
        for warning in precedence::apply(load, &mut layers)? {
            printer.warning(&warning);
        }
    } else if experiment::harness_of(&layers) == "stages" {
        let mut least = Layer::named(Source::Default);
        let one = serde_json::json!([{"concurrency": 1, "requests": 1}]);
        least.set("harness.settings.stages", "(no load)", one);
        layers.push(least);
    }
    let (settings, mut problems) = match settings::resolve(layers) {
        Ok(settings) => (settings, Vec::new()),
        Err((settings, problems)) => (settings, problems),
    };
    if settings.get("control.verbose") == true {
        printer.say_more();
    }
    let secrets =
        if problems.is_empty() { experiment::secrets(&settings)? } else { Secrets::default() };
    printer.redact(secrets.redaction());
    let wanted = Experiment::new(&settings, experiment.file.as_deref(), &mut problems);
    Ok(Settled { wanted, settings, secrets, problems })
}

/// Asks the plugins what they would do.
pub(crate) fn ask(settled: Settled, global: &Global, printer: &Printer) -> Result<Prepared> {
    let Settled { wanted, settings, secrets, mut problems } = settled;
    let plugins = Plugins::load(
        &global.plugins,
        &global.grants,
        settings.text("control.cache_dir"),
        &|text| printer.detail(text),
    )?;
    let chosen = chosen::choose(&plugins, &settings, &wanted, printer, &mut problems);
    if !problems.is_empty() {
        return Err(Error::problems(in_order(problems)));
    }
    let chosen = chosen.ok_or_else(|| Error::unexpected("no plugins were chosen"))?;
    let plan = decide(&chosen, wanted, &settings).map_err(|mut error| {
        for problem in &mut error.problems {
            if let Some(pointer) = &problem.pointer {
                problem.place = settings.place(pointer);
                // What nobody set comes from the profile.
                if problem.place.is_none() && pointer.starts_with("/harness/settings/") {
                    let profile = chosen.harness.profiles.values().next();
                    problem.place = profile.map(|profile| profile.source.display().to_string());
                }
            }
        }
        error
    })?;
    for finding in plan.findings.iter().filter(|finding| finding.severity != "note") {
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

/// The plan, of what the plugins say.
fn decide(chosen: &Chosen, wanted: Experiment, settings: &Settings) -> Result<Plan> {
    let now = jiff::Zoned::now();
    let mut plan = Plan::new(run_id(&wanted.name, &now), now.timestamp().to_string(), wanted);
    let backends = chosen.backends.iter().map(|used| (Kind::Backend, used));
    let others = [(Kind::Harness, &chosen.harness), (Kind::Workload, &chosen.workload)];
    let analyzers = chosen.analyzers.iter().map(|used| (Kind::Analyzer, used));
    for (kind, used) in backends.chain(others).chain(analyzers) {
        plan.plugins.push(PluginUse {
            kind: kind.as_str().to_owned(),
            name: used.plugin.name().to_owned(),
            version: used.plugin.version().to_owned(),
            digest: used.plugin.digest().to_owned(),
            file: match used.plugin.source() {
                plugin_host::Source::File(path) => Some(path.clone()),
                plugin_host::Source::Embedded(_) => None,
            },
            inputs: used.inputs().clone(),
        });
    }
    plan.steps = steps(chosen, &plan, settings)?;
    if plan.needs_cluster() {
        plan.namespace = settings.text("vllm.common.namespace").map(str::to_owned);
    }
    let facts = plan.facts();
    let stages = chosen.load(&facts, None)?.stages;
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
        let severity = match line.level {
            Level::Error => "problem",
            Level::Warn => "warning",
            _ => "note",
        };
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

/// The steps of every method for every model, and the host's own.
fn steps(chosen: &Chosen, plan: &Plan, settings: &Settings) -> Result<Vec<Step>> {
    let deploy = &plan.experiment.deploy;
    let mut all = Vec::new();
    let namespace = settings.text("vllm.common.namespace").unwrap_or_default();
    for used in &chosen.backends {
        for model in &deploy.models {
            let facts = plan.facts().of_model(model).within(namespace);
            let setup = chosen.setup(used, &facts, None, None);
            let mut backend = used.plugin.backend(setup).map_err(|error| plugin_error(&error))?;
            let planned = backend.plan().map_err(|error| plugin_error(&error))?;
            let attached = used.attached();
            let translated = translate::steps::steps(
                Backend {
                    plugin: used.plugin.name(),
                    folder: deploy.folder.as_deref(),
                    inputs: &attached,
                },
                planned,
            )?;
            permit::check(used, &translated, namespace)?;
            translate::steps::merge(&mut all, translated, &model.alias)?;
        }
    }
    if all.iter().flat_map(|step| &step.actions).any(Action::needs_cluster) {
        let problems = prepare::check(settings, &deploy.models);
        if !problems.is_empty() {
            return Err(Error::problems(problems));
        }
        let is_openshift = deploy.platform == "openshift";
        all.extend(Preparation::new(settings, &deploy.models, is_openshift).steps());
    }
    all.push(Step {
        number: crate::steps::SMOKETEST,
        name: "smoketest".into(),
        title: "Ask the model for a completion and check the answer".into(),
        actions: vec![Action::Smoketest],
    });
    all.sort_by_key(|step| step.number);
    Ok(all)
}

/// "quickstart-20260101-120000-1a2b": fit for a label of Kubernetes.
pub(crate) fn run_id(name: &str, now: &jiff::Zoned) -> String {
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
