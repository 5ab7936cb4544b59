//! `standup`: the stack, step by step.

use crate::action::Action;
use crate::cli::{ExperimentArgs, Global, TargetArgs};
use crate::command::{dry_run, plan, work_dir};
use crate::error::{Error, Exit, Result};
use crate::kubernetes;
use crate::outcome::Outcome;
use crate::phase;
use crate::plan::Step;
use crate::printer::Printer;
use crate::process::Inventory;
use crate::run_dir::RunDir;
use crate::steps;
use clap::Args;

/// Options of `standup`.
#[derive(Debug, Args)]
#[command(after_help = steps::help())]
pub(crate) struct StandupArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Steps: numbers, names, prefixes, lists and ranges (3, 08_smoketest, 0,3-5)
    #[arg(short = 's', long, value_name = "STEPS")]
    step: Option<String>,
    /// Show what would be done and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Stands the stack up.
pub(crate) fn run(args: &StandupArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let mut prepared = phase::plan::prepare(global, &args.experiment, &args.target, None, printer)?;
    if prepared.plan.experiment.deploy.endpoint.is_some() {
        return Err(Error::usage("an endpoint is given: it stands already")
            .hint("drive load into it with `llmdbench run`"));
    }
    let selected = steps::select(args.step.as_deref(), &prepared.plan.steps)?;
    if dry_run(args.dry_run, &prepared.settings) {
        plan::show(&prepared.plan, Some(&selected), printer);
        let chosen = work_dir(global, &prepared.settings);
        phase::dry_run::write(&prepared, Some(&selected), chosen, printer)?;
        return Ok(Exit::Ok);
    }
    phase::standup::can_do(&prepared, &selected)?;
    let chosen = work_dir(global, &prepared.settings);
    // Single steps go on in the folder where the others were done.
    let dir = match (&args.step, RunDir::open_if_any(chosen)?) {
        (Some(_), Some(dir)) => dir,
        _ => RunDir::create(chosen, &prepared.plan.run)?,
    };
    let selected_by_hand = args.step.is_some();
    let starts: Vec<&str> = process_names(&prepared.plan.steps, &selected).collect();
    phase::standup::refuse_standing(&dir, !selected_by_hand, |process| {
        !selected_by_hand || starts.contains(&process.name.as_str())
    })?;
    // Objects of a run have its label, whichever command applies them.
    let objects = kubernetes::Inventory::read(&dir)?;
    if !objects.run.is_empty() {
        prepared.plan.run.clone_from(&objects.run);
    }
    phase::environment::write(&prepared, &dir)?;
    printer.step(&format!("run folder: {}", dir.root().display()));
    let mut outcome = Outcome::default();
    let stood = phase::standup::run(&prepared, &dir, &selected, printer).and_then(|target| {
        if let (Some(target), true) = (&target, selected.contains(&steps::SMOKETEST)) {
            phase::smoketest::run(&prepared, target, &dir, false, printer)?;
        }
        Ok(target)
    });
    match stood {
        Ok(None) => printer.result(
            || "these steps are done; the rest of them gives the target".to_owned(),
            || serde_json::Value::Null,
        ),
        Ok(Some(target)) => printer.result(
            || format!("{} answers at {}", target.model, target.endpoints.join(", ")),
            || serde_json::to_value(&target).unwrap_or_default(),
        ),
        Err(error) => {
            outcome.fail(error.exit, &error);
            let has_objects = kubernetes::Inventory::read(&dir)?.has_some(true);
            if !Inventory::read(&dir)?.processes.is_empty() || has_objects {
                printer.step(&format!(
                    "what was started is left for you to look at; `llmdbench teardown --workdir {}` takes it down",
                    dir.root().display()
                ));
            }
        }
    }
    Ok(outcome.tell(printer))
}

/// The names of the processes that the selected steps start.
fn process_names<'a>(steps: &'a [Step], selected: &'a [u8]) -> impl Iterator<Item = &'a str> {
    let selected = steps.iter().filter(|step| selected.contains(&step.number));
    selected.flat_map(|step| &step.actions).filter_map(|action| match action {
        Action::Process(process) => Some(process.name.as_str()),
        _ => None,
    })
}
