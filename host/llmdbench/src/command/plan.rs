//! `plan`: everything that would happen; nothing is done.

use crate::action::Action;
use crate::cli::{ExperimentArgs, Global, LoadArgs, TargetArgs};
use crate::command::work_dir;
use crate::error::{Exit, Result};
use crate::phase;
use crate::plan::Plan;
use crate::printer::Printer;
use crate::steps;
use analysis::CacheWish;
use clap::Args;
use cluster::Owner;

/// Options of `plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// Shows the plan.
pub(crate) fn run(args: &PlanArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let prepared =
        phase::plan::prepare(global, &args.experiment, &args.target, Some(&args.load), printer)?;
    show(&prepared.plan, None, printer);
    phase::dry_run::write(&prepared, None, work_dir(global, &prepared.settings), printer)?;
    Ok(Exit::Ok)
}

/// Shows a plan, and of its steps the selected ones. None: all of them.
pub(crate) fn show(plan: &Plan, selected: Option<&[u8]>, printer: &Printer) {
    printer.result(|| text(plan, selected), || serde_json::to_value(plan).unwrap_or_default());
}

fn text(plan: &Plan, selected: Option<&[u8]>) -> String {
    let mut text = format!("Experiment {}\n", plan.experiment.name);
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<10} {value}\n"));
    if let Some(scenario) = &plan.experiment.scenario {
        line("scenario", scenario);
    }
    for model in &plan.experiment.deploy.models {
        line("model", &model.to_string());
    }
    for endpoint in plan.experiment.deploy.endpoints() {
        line("endpoint", endpoint);
    }
    for used in &plan.plugins {
        let from = used.file.as_ref().map_or("built in".into(), |file| file.display().to_string());
        line(&used.kind, &format!("{} {} ({from})", used.name, used.version));
    }
    line("seed", &plan.experiment.seed.to_string());
    if plan.experiment.deploy.endpoint.is_none() {
        text.push_str("Standup\n");
        let is_selected = |n: u8| selected.is_none_or(|selected| selected.contains(&n));
        let namespace = plan.namespace.as_deref().unwrap_or_default();
        for step in plan.steps.iter().filter(|step| is_selected(step.number)) {
            text.push_str(&format!("  {}: {}\n", steps::full_name(step), step.title));
            for action in &step.actions {
                let owner = steps::owner(step.number, action, &plan.run);
                text.push_str(&describe(action, namespace, &owner));
            }
        }
    }
    if selected.is_none() {
        text.push_str(&load(plan));
    }
    for finding in &plan.findings {
        text.push_str(&format!("{} from {}: {}\n", finding.severity, finding.plugin, finding.text));
    }
    text
}

/// Stages and workload.
fn load(plan: &Plan) -> String {
    let mut text = String::from("Load\n");
    for stage in &plan.stages {
        text.push_str(&format!("  {}: {}, until {}", stage.name, stage.arrival, stage.until));
        if stage.warm_up {
            text.push_str(", warm-up");
        }
        for note in &stage.notes {
            text.push_str(&format!("; {note}"));
        }
        text.push('\n');
    }
    if phase::inside::is_meant(plan, None) {
        text.push_str(&match plan.experiment.load.shards {
            1 => "  made by an agent in the cluster\n".to_owned(),
            n => format!("  made by {n} agents in the cluster, each its part\n"),
        });
    }
    if plan.experiment.cache != CacheWish::AsIs {
        text.push_str(&format!("  prefix cache: {}\n", plan.experiment.cache.name()));
    }
    text.push_str("Workload\n");
    let counts = [("sessions", plan.workload.sessions), ("requests", plan.workload.requests)];
    let known: Vec<String> =
        counts.iter().filter_map(|(name, n)| Some(format!("{name}: {}", (*n)?))).collect();
    text.push_str(&match known.as_slice() {
        [] => "  as much as the stages take\n".to_owned(),
        some => format!("  {}\n", some.join(", ")),
    });
    let tokens =
        [("input", plan.workload.mean_input_tokens), ("output", plan.workload.mean_output_tokens)];
    for (name, mean) in tokens {
        if let Some(mean) = mean {
            text.push_str(&format!("  mean {name} tokens: {}\n", (mean * 10.0).round() / 10.0));
        }
    }
    for (reason, n) in &plan.workload.skipped {
        text.push_str(&format!("  left out, {reason}: {n}\n"));
    }
    text
}

fn describe(action: &Action, namespace: &str, owner: &Owner) -> String {
    match action {
        Action::Smoketest => String::new(),
        Action::Process(process) => {
            let mut text = format!("    start: {} {}\n", process.program, process.args.join(" "));
            for variable in &process.env {
                let value = variable
                    .secret
                    .as_ref()
                    .map_or_else(|| variable.text.clone(), |name| format!("(the secret {name})"));
                text.push_str(&format!("    env: {}={value}\n", variable.name));
            }
            if let Some(url) = &process.ready_url {
                let timeout = crate::unit::show(process.ready_timeout);
                text.push_str(&format!("    ready when {url} answers, within {timeout}\n"));
            }
            text
        }
        other => other
            .command(namespace, owner)
            .map(|command| format!("    {}\n", phase::dry_run::would(&command)))
            .unwrap_or_default(),
    }
}
