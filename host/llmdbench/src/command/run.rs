//! `run`: load against what stands, or against an endpoint.

use crate::cli::{ExperimentArgs, Global, LoadArgs, TargetArgs, flags};
use crate::command::{dry_run, plan, work_dir};
use crate::error::{Error, Exit, Result};
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
        no_load(args, "--attach")?;
        return attach(args, global, printer);
    }
    if args.skip {
        no_load(args, "-z (--skip)")?;
        let dir = RunDir::open(super::chosen_work_dir(global)?.as_deref())?;
        let results = Results::find(dir.root())?;
        let slo = super::analyze::objectives(args.load.slo.as_deref())?;
        if args.dry_run {
            printer.step(&format!("would analyse {}", results.records().display()));
            return Ok(Exit::Ok);
        }
        let found = super::analyze::results(&results, slo.as_ref(), 0, global, printer)?;
        return Ok(found.tell(printer));
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

/// Options that a command without load takes: objectives, by which it judges, and the stack, which calls of the
/// original's `run.sh -z` name and which is the one that ran.
const WITHOUT_LOAD: [&str; 5] = ["--scenario", "--model", "--method", "--platform", "--slo"];

/// Refuses options of a load that will not be made: whoever typed them expects to see what they do.
fn no_load(args: &RunArgs, because: &str) -> Result<()> {
    let load = &args.load;
    let mut layer = flags(&args.experiment, &args.target, load)?;
    load.fill_dataset(&mut layer, false);
    // Stages have one name there, and are made of several options.
    let stages = [
        ("--rate", !load.rate.is_empty()),
        ("--concurrency", !load.concurrency.is_empty()),
        ("--duration", load.duration.is_some()),
        ("--requests", load.requests.is_some()),
        ("--arrival", load.arrival.is_some()),
        ("--speed", load.speed.is_some()),
    ];
    let others = layer.names().filter(|(pointer, _)| *pointer != "/harness/settings/stages");
    let others = others.map(|(_, name)| name).filter(|name| !WITHOUT_LOAD.contains(name));
    let mut idle: Vec<&str> = Vec::new();
    for name in stages.iter().filter_map(|(name, typed)| typed.then_some(*name)).chain(others) {
        if !idle.contains(&name) {
            idle.push(name);
        }
    }
    if idle.is_empty() {
        return Ok(());
    }
    let what = format!("{because} makes no load, and {} would do nothing", idle.join(", "));
    Err(Error::usage(what).hint(format!(
        "leave {because} out to make this load, or the others to see what was measured"
    )))
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
fn attach(args: &RunArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let dir = RunDir::open(super::chosen_work_dir(global)?.as_deref())?;
    let settings = super::from_environment()?;
    // What was typed wrong is told before anything is waited for.
    let slo = super::analyze::objectives(args.load.slo.as_deref())?;
    let (results, mut outcome) = phase::inside::attach(&dir, &settings, printer)?;
    let heeded = interrupt::count();
    let found = super::analyze::results(&results, slo.as_ref(), heeded, global, printer)?;
    outcome.join_new(&found);
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
    let found = phase::analyze::read(results, Some(plan), analyzers, None, heeded, printer)?;
    let mut outcome = Outcome::default();
    for failure in &found.failures {
        outcome.fail(failure.exit, failure);
    }
    outcome.join(phase::analyze::conclude(&found.analysis, results, heeded, printer)?);
    Ok(outcome)
}
