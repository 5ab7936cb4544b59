//! `teardown`: takes down what a run folder has standing.

use crate::cli::{ExperimentArgs, Global, TargetArgs};
use crate::error::{Exit, Result};
use crate::kubernetes;
use crate::phase;
use crate::plan::Plan;
use crate::printer::Printer;
use crate::process::Inventory;
use crate::run_dir::RunDir;
use clap::Args;
use serde_json::json;

/// Options of `teardown`.
#[derive(Debug, Args)]
pub(crate) struct TeardownArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Also what later runs could use again: volumes, models, namespaces
    #[arg(short = 'd', long)]
    deep: bool,
    /// Also agents with results that are not collected yet, which are lost
    #[arg(long)]
    discard_results: bool,
    /// Show what would be done and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Takes the stack down.
pub(crate) fn run(args: &TeardownArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let settings = super::from_environment()?;
    let is_dry = super::dry_run(args.dry_run, &settings);
    let chosen = super::chosen_work_dir(global)?;
    let folder = RunDir::open_if_any(chosen.as_deref())?;
    if is_dry && (args.experiment.names_a_stack() || folder.is_none()) {
        let target = TargetArgs::default();
        let prepared = phase::plan::prepare(global, &args.experiment, &target, None, printer)?;
        show(&phase::teardown::undoing(&prepared.plan, args.deep), printer);
        return Ok(Exit::Ok);
    }
    let dir = folder.map_or_else(|| RunDir::open(chosen.as_deref()), Ok)?;
    let inventory = Inventory::read(&dir)?;
    let has_objects = kubernetes::Inventory::read(&dir)?.has_some(args.deep);
    if has_objects && !args.discard_results {
        match phase::inside::refuse_loss(&dir) {
            Err(error) if is_dry => printer.warning(&error.to_string()),
            refused => refused?,
        }
    }
    let standing: Vec<_> = inventory.processes.iter().filter(|p| p.runs()).collect();
    let nothing = || format!("nothing stands in {}", dir.root().display());
    if is_dry {
        let plan = Plan::read_file(&dir.plan())?.filter(Plan::needs_cluster);
        if let Some(plan) = plan {
            show(&phase::teardown::undoing(&plan, args.deep), printer);
            return Ok(Exit::Ok);
        }
        printer.result(
            || match standing.as_slice() {
                [] => nothing(),
                some => some
                    .iter()
                    .map(|process| format!("would stop {} (pid {})\n", process.name, process.pid))
                    .collect(),
            },
            || {
                let wanted: Vec<_> = standing
                    .iter()
                    .map(|process| json!({"process": process.name, "pid": process.pid}))
                    .collect();
                json!({"would_stop": wanted})
            },
        );
        return Ok(Exit::Ok);
    }
    if standing.is_empty() && !has_objects {
        printer.step(&nothing());
    }
    let done = phase::teardown::run(&dir, args.deep, &settings, printer)?;
    if args.discard_results {
        phase::inside::give_up(&dir, printer)?;
    }
    printer.facts(|| json!(done));
    Ok(Exit::Ok)
}

/// Shows the commands that a teardown would execute.
fn show(commands: &[String], printer: &Printer) {
    printer.result(
        || match commands {
            [] => "nothing to take down".to_owned(),
            some => {
                let lines: Vec<String> =
                    some.iter().map(|command| phase::dry_run::would(command)).collect();
                lines.join("\n")
            }
        },
        || json!({"would_execute": commands}),
    );
}
