//! `bench`: all phases in a row, with teardown whatever happens.

use crate::cli::{ExperimentArgs, Global, LoadArgs, TargetArgs};
use crate::command::{dry_run, plan, several, work_dir};
use crate::error::{Error, Exit, Result};
use crate::outcome::Outcome;
use crate::phase;
use crate::phase::plan::Prepared;
use crate::printer::Printer;
use crate::run_dir::RunDir;
use clap::Args;
use std::path::PathBuf;

/// Options of `bench`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Leave the stack standing
    #[arg(long)]
    keep: bool,
    /// Show what would be done and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Does it all.
pub(crate) fn run(args: &BenchArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let settled =
        phase::plan::settle(global, &args.experiment, &args.target, Some(&args.load), printer)?;
    let is_dry = dry_run(args.dry_run, &settled.settings);
    let stacks = several::stacks(&settled.wanted.deploy);
    if stacks.len() > 1 && !is_dry && settled.problems.is_empty() {
        let id = || phase::plan::run_id(&settled.wanted.name, &jiff::Zoned::now());
        let root = match work_dir(global, &settled.settings) {
            Some(root) => PathBuf::from(root),
            None => RunDir::create_parent(&id())?,
        };
        return several::each(&stacks, &root, printer, &mut |stack, folder| {
            let (mut args, mut global) = (args.clone(), global.clone());
            args.experiment.method.clone_from(&stack.method);
            args.experiment.model = Some(stack.model.clone());
            global.workdir = Some(folder.display().to_string());
            run(&args, &global, printer)
        });
    }
    let prepared = phase::plan::ask(settled, global, printer)?;
    if is_dry {
        plan::show(&prepared.plan, None, printer);
        let chosen = work_dir(global, &prepared.settings);
        phase::dry_run::write(&prepared, None, chosen, printer)?;
        return Ok(Exit::Ok);
    }
    let all: Vec<u8> = prepared.plan.steps.iter().map(|step| step.number).collect();
    phase::inside::can_share(&prepared.plan, None)?;
    phase::standup::can_do(&prepared, &all)?;
    let dir = RunDir::create(work_dir(global, &prepared.settings), &prepared.plan.run)?;
    // The teardown at the end is for what this command stands up, and for nothing else.
    phase::standup::refuse_standing(&dir, true, |_| true)?;
    phase::environment::write(&prepared, &dir)?;
    printer.step(&format!("run folder: {}", dir.root().display()));
    let mut outcome = Outcome::default();
    match phases(&prepared, &dir, printer) {
        Ok(ended) => outcome.join(ended),
        Err(error) => outcome.fail(error.exit, &error),
    }
    let at = dir.root().display();
    if dir.all_results().iter().any(phase::inside::may_have_more) {
        printer.step(&format!(
            "the stack is kept, for agents may have results that are not here: `llmdbench run --attach --workdir {at}` collects them; after that `llmdbench teardown --workdir {at}` takes it down"
        ));
    } else if args.keep {
        printer
            .step(&format!("the stack is kept; `llmdbench teardown --workdir {at}` takes it down"));
    } else if let Err(error) = phase::teardown::run(&dir, false, &prepared.settings, printer) {
        outcome.fail(Exit::Teardown, &error);
    }
    Ok(outcome.tell(printer))
}

fn phases(prepared: &Prepared, dir: &RunDir, printer: &Printer) -> Result<Outcome> {
    let all: Vec<u8> = prepared.plan.steps.iter().map(|step| step.number).collect();
    let target = phase::standup::run(prepared, dir, &all, printer)?
        .ok_or_else(|| Error::unexpected("the steps gave no target"))?;
    phase::smoketest::run(prepared, &target, dir, true, printer)?;
    super::run::load_and_analyze(prepared, &target, dir, printer)
}
