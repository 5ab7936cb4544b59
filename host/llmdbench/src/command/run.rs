//! `run`: load against what stands, or against an endpoint.

use crate::cli::{ExperimentArgs, Global, LoadArgs, TargetArgs};
use crate::command::{dry_run, plan, work_dir};
use crate::error::{Exit, Result};
use crate::interrupt;
use crate::kubernetes::{Inventory, Kubernetes};
use crate::outcome::Outcome;
use crate::phase;
use crate::phase::plan::Prepared;
use crate::plan::Target;
use crate::printer::Printer;
use crate::run_dir::{Results, RunDir};
use clap::Args;

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Collect what agents in a cluster measure that another process started
    #[arg(long)]
    attach: bool,
    /// Go straight to the analysis of what was measured
    #[arg(short = 'z', long)]
    skip: bool,
    /// Show what would be done and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Drives the load and analyses it.
pub(crate) fn run(args: &RunArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    if args.attach {
        return attach(global, printer);
    }
    if args.skip {
        let dir = RunDir::open(super::chosen_work_dir(global)?.as_deref())?;
        let results = Results::find(dir.root())?;
        return Ok(super::analyze::results(&results, 0, global, printer)?.tell(printer));
    }
    let (mut experiment, mut target) = (args.experiment.clone(), args.target.clone());
    // Without a run folder the settings that are missing are what there is to say, and with one
    // that nothing stands in it.
    let has_folder = RunDir::open_if_any(super::chosen_work_dir(global)?.as_deref())?.is_some();
    let (standing, gone) = match super::aim(&mut experiment, &mut target, global) {
        Ok(standing) => (standing, None),
        Err(error) => (None, has_folder.then_some(error)),
    };
    let prepared = phase::plan::prepare(global, &experiment, &target, Some(&args.load), printer)
        .map_err(|error| gone.unwrap_or(error))?;
    if dry_run(args.dry_run, &prepared.settings) {
        plan::show(&prepared.plan, None, printer);
        let chosen = work_dir(global, &prepared.settings);
        phase::dry_run::write(&prepared, None, chosen, printer)?;
        return Ok(Exit::Ok);
    }
    phase::standup::one_model(&prepared.plan)?;
    let chosen = work_dir(global, &prepared.settings);
    let (dir, target) = if let Some(standing) = standing {
        standing
    } else if prepared.plan.experiment.deploy.endpoint.is_some() {
        let dir = RunDir::create(chosen, &prepared.plan.run)?;
        let target = phase::standup::locate(&prepared, &dir)?;
        (dir, target)
    } else {
        let dir = RunDir::open(chosen).map_err(|error| {
            error.hint("nothing stands that load could go into: name a server with --endpoint URL, stand one up with `llmdbench standup`, or do it all with `llmdbench bench`")
        })?;
        let target = phase::standup::standing(&dir)?;
        (dir, target)
    };
    phase::inside::can_share(&prepared.plan, Some(&target))?;
    phase::environment::write_first(&prepared, &target, &dir)?;
    printer.step(&format!("run folder: {}", dir.root().display()));
    Ok(load_and_analyze(&prepared, &target, &dir, printer)?.tell(printer))
}

/// Drives the load from this process. What only a cluster reaches is reached through a port that the API server
/// forwards, and the results say so.
fn here(
    prepared: &Prepared,
    target: &Target,
    dir: &RunDir,
    printer: &Printer,
) -> Result<(Results, Outcome)> {
    let Some(within) = &target.within else {
        return phase::run::run(prepared, target, dir, None, printer);
    };
    let kubernetes = Kubernetes::of(&Inventory::read(dir)?, &prepared.settings)?;
    let forward = kubernetes.forward(within)?;
    let mut target = target.clone();
    for url in &mut target.endpoints {
        *url = phase::smoketest::forwarded(url, forward.address())?;
    }
    printer.warning("the load goes through a port that the API server forwards, and so does its time: it is in every latency; --load-from cluster measures without it");
    target.facts.insert(
        "path of the load".into(),
        "a port forwarded by the API server, whose time is in every latency".into(),
    );
    phase::run::run(prepared, &target, dir, None, printer)
}

/// Collects what agents have that were left alone, and analyses it.
fn attach(global: &Global, printer: &Printer) -> Result<Exit> {
    let dir = RunDir::open(super::chosen_work_dir(global)?.as_deref())?;
    let settings = super::from_environment()?;
    let (results, mut outcome) = phase::inside::attach(&dir, &settings, printer)?;
    let heeded = interrupt::count();
    outcome.join_new(&super::analyze::results(&results, heeded, global, printer)?);
    Ok(outcome.tell(printer))
}

/// Load, analysis, report: what `bench` and `run` have in common.
pub(crate) fn load_and_analyze(
    prepared: &Prepared,
    target: &Target,
    dir: &RunDir,
    printer: &Printer,
) -> Result<Outcome> {
    let (results, mut outcome) = match phase::inside::is_meant(&prepared.plan, Some(target)) {
        true => phase::inside::run(prepared, target, dir, printer)?,
        false => here(prepared, target, dir, printer)?,
    };
    // What became of the load is told also where it cannot be analysed.
    match analyze(prepared, &results, printer) {
        Ok(found) => outcome.join(found),
        Err(error) => outcome.fail(error.exit, &error),
    }
    Ok(outcome)
}

fn analyze(prepared: &Prepared, results: &Results, printer: &Printer) -> Result<Outcome> {
    let (plan, analyzers) = (&prepared.plan, &prepared.chosen.analyzers);
    // What was interrupted is analysed, unless the user asks for an end of that, too.
    let heeded = interrupt::count();
    let found = phase::analyze::read(results, Some(plan), analyzers, heeded, printer)?;
    let mut outcome = Outcome::default();
    for failure in &found.failures {
        outcome.fail(failure.exit, failure);
    }
    outcome.join(phase::analyze::conclude(&found.analysis, results, heeded, printer)?);
    Ok(outcome)
}
