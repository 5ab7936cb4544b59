//! `smoketest`: one real completion from what stands, or from an endpoint.

use crate::cli::{ExperimentArgs, Global, TargetArgs};
use crate::command::{dry_run, work_dir};
use crate::error::{Exit, Result};
use crate::phase;
use crate::printer::Printer;
use crate::run_dir::RunDir;
use clap::Args;
use serde_json::json;

/// Options of `smoketest`.
#[derive(Debug, Args)]
pub(crate) struct SmoketestArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Show what would be done and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Asks for a completion.
pub(crate) fn run(args: &SmoketestArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let mut experiment = args.experiment.clone();
    let mut target_args = args.target.clone();
    let standing = super::aim(&mut experiment, &mut target_args, global)?;
    let prepared = phase::plan::prepare(global, &experiment, &target_args, None, printer)?;
    if dry_run(args.dry_run, &prepared.settings) {
        let deploy = &prepared.plan.experiment.deploy;
        let urls: Vec<&str> = deploy.endpoints().collect();
        let whom = if urls.is_empty() { "what stands".to_owned() } else { urls.join(", ") };
        printer.result(
            || format!("would ask {whom} for a completion as {}", deploy.model().id),
            || json!({"endpoint": deploy.endpoint, "endpoints": urls, "model": deploy.model().id}),
        );
        return Ok(Exit::Ok);
    }
    let (dir, target) = match standing {
        Some(standing) => standing,
        None if prepared.plan.experiment.deploy.endpoint.is_some() => {
            let dir = RunDir::create(work_dir(global, &prepared.settings), &prepared.plan.run)?;
            let target = phase::standup::locate(&prepared, &dir)?;
            phase::environment::write_first(&prepared, &target, &dir)?;
            (dir, target)
        }
        None => {
            let dir = RunDir::open(work_dir(global, &prepared.settings))?;
            let target = phase::standup::standing(&dir)?;
            (dir, target)
        }
    };
    phase::smoketest::run(&prepared, &target, &dir, false, printer)?;
    printer
        .facts(|| json!({"endpoints": target.endpoints, "model": target.model, "answers": true}));
    Ok(Exit::Ok)
}
