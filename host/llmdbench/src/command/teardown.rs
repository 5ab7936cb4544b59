//! `teardown`: takes down what a run folder has standing.

use crate::cli::Global;
use crate::error::{Exit, Result};
use crate::phase;
use crate::printer::Printer;
use crate::process::Inventory;
use crate::run_dir::RunDir;
use clap::Args;

/// Options of `teardown`.
#[derive(Debug, Args)]
pub(crate) struct TeardownArgs {
    /// Show what would be done and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Takes the stack down.
pub(crate) fn run(args: &TeardownArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let dir = RunDir::open(super::chosen_work_dir(global).as_deref())?;
    let inventory = Inventory::read(&dir)?;
    let standing: Vec<_> = inventory.processes.iter().filter(|p| p.runs()).collect();
    if args.dry_run {
        for process in &standing {
            printer.text(&format!("would stop {} (pid {})", process.name, process.pid));
        }
        return Ok(Exit::Ok);
    }
    if standing.is_empty() {
        printer.step(&format!("nothing stands in {}", dir.root().display()));
    }
    phase::teardown::run(&dir, printer)?;
    Ok(Exit::Ok)
}
