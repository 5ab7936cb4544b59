//! `teardown`: takes down what a run folder has standing.

use crate::cli::Global;
use crate::error::{Exit, Result};
use crate::phase;
use crate::printer::Printer;
use crate::process::Inventory;
use crate::run_dir::RunDir;
use clap::Args;
use serde_json::json;

/// Options of `teardown`.
#[derive(Debug, Args)]
pub(crate) struct TeardownArgs {
    /// Show what would be done and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Takes the stack down.
pub(crate) fn run(args: &TeardownArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let dir = RunDir::open(super::chosen_work_dir(global)?.as_deref())?;
    let inventory = Inventory::read(&dir)?;
    let standing: Vec<_> = inventory.processes.iter().filter(|p| p.runs()).collect();
    let nothing = || format!("nothing stands in {}", dir.root().display());
    if super::dry_run(args.dry_run, &super::from_environment()?) {
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
    if standing.is_empty() {
        printer.step(&nothing());
    }
    let done = phase::teardown::run(&dir, printer)?;
    printer.facts(|| json!(done));
    Ok(Exit::Ok)
}
