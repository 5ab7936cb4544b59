//! The commands, one file each. A command puts phases together and says how it ended.

pub(crate) mod agent;
pub(crate) mod analyze;
pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod completions;
pub(crate) mod download;
pub(crate) mod env;
pub(crate) mod plan;
pub(crate) mod plugin;
pub(crate) mod reference;
pub(crate) mod run;
pub(crate) mod scenario;
pub(crate) mod several;
pub(crate) mod sim;
pub(crate) mod smoketest;
pub(crate) mod standup;
pub(crate) mod status;
pub(crate) mod teardown;

use crate::cli::{Cli, Command, ExperimentArgs, Global, TargetArgs};
use crate::error::{Exit, Result};
use crate::phase;
use crate::plan::Target;
use crate::printer::Printer;
use crate::run_dir::RunDir;
use crate::settings::{self, Settings};

/// Carries out the command that was typed.
pub(crate) fn run(cli: &Cli, printer: &Printer) -> Result<Exit> {
    let global = &cli.global;
    match &cli.command {
        Command::Bench(args) => bench::run(args, global, printer),
        Command::Plan(args) => plan::run(args, global, printer),
        Command::Standup(args) => standup::run(args, global, printer),
        Command::Smoketest(args) => smoketest::run(args, global, printer),
        Command::Run(args) => run::run(args, global, printer),
        Command::Analyze(args) => analyze::analyze(args, global, printer),
        Command::Report(args) => analyze::report(args, global, printer),
        Command::Teardown(args) => teardown::run(args, global, printer),
        Command::Env(args) => env::run(args, global, printer),
        Command::Scenario(command) => scenario::run(command, printer),
        Command::Plugin(command) => plugin::run(command, global, printer),
        Command::Calibrate(args) => calibrate::run(args, printer),
        Command::Sim(args) => sim::run(args, printer),
        Command::Download(args) => download::run(args, printer),
        Command::Status => status::run(global, printer),
        Command::Completions(args) => completions::run(args, printer),
        Command::Agent(args) => agent::run(args, printer),
        Command::Reference(args) => reference::run(args, printer),
    }
}

/// The run folder that the user chose, by flag or by setting.
fn work_dir<'a>(global: &'a Global, settings: &'a Settings) -> Option<&'a str> {
    global.workdir.as_deref().or_else(|| settings.text("control.work_dir"))
}

/// The run folder that the user chose, where no experiment is read.
fn chosen_work_dir(global: &Global) -> Result<Option<String>> {
    let variables = from_environment()?;
    Ok(work_dir(global, &variables).filter(|path| !path.is_empty()).map(str::to_owned))
}

/// The settings of a command that reads no experiment.
fn from_environment() -> Result<Settings> {
    let layer = settings::environment(settings::variables(), &mut Vec::new());
    settings::all_or_error(settings::resolve(vec![layer]))
}

/// Aims a command that was given neither a file nor an endpoint at what stands in the run folder.
/// None: it was given one.
fn aim(
    experiment: &mut ExperimentArgs,
    target: &mut TargetArgs,
    global: &Global,
) -> Result<Option<(RunDir, Target)>> {
    let variables = from_environment()?;
    let endpoint = !target.endpoints.is_empty() || variables.is_set("deploy.endpoint");
    if experiment.file.is_some() || endpoint {
        return Ok(None);
    }
    let dir = RunDir::open(work_dir(global, &variables))?;
    let mut standing = phase::standup::standing(&dir)?;
    standing.model = experiment.model.get_or_insert(standing.model).clone();
    target.endpoints.clone_from(&standing.endpoints);
    experiment.standing = Some(dir.root().to_owned());
    Ok(Some((dir, standing)))
}

/// Whether nothing is to be done.
fn dry_run(flag: bool, settings: &Settings) -> bool {
    flag || settings.get("control.dry_run").as_bool().unwrap_or(false)
}
