//! What a dry run leaves: the files of a plan and the commands that would have been executed.

use crate::action::Action;
use crate::error::Result;
use crate::phase::plan::Prepared;
use crate::phase::{environment, inside};
use crate::plan::Plan;
use crate::printer::Printer;
use crate::process::Inventory;
use crate::run_dir::{self, RunDir};
use crate::steps;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is said of a command that a dry run does not execute.
pub(crate) fn would(command: &str) -> String {
    format!("---> would have executed the command \"{command}\"")
}

/// Writes the run folder of a plan that needs a cluster: its files can be looked at, compared and
/// applied by hand. Other plans have no files, and their dry run leaves nothing. `selected` is as
/// in a standup.
pub(crate) fn write(
    prepared: &Prepared,
    selected: Option<&[u8]>,
    chosen: Option<&str>,
    printer: &Printer,
) -> Result<()> {
    let plan = &prepared.plan;
    if !plan.needs_cluster() {
        return Ok(());
    }
    let dir = RunDir::create(chosen, &plan.run)?;
    if dir.newest_results().is_some() || !Inventory::read(&dir)?.processes.is_empty() {
        printer.warning(&format!(
            "`{}` holds a run, so the files of the plan are not written into it",
            dir.root().display()
        ));
        return Ok(());
    }
    environment::write(prepared, &dir)?;
    environment::write_profiles(prepared, &dir.next_results())?;
    files(plan, selected, &dir)?;
    let mut commands: Vec<String> = chosen_actions(plan, selected)
        .filter_map(|(number, action)| {
            let owner = steps::owner(number, action, &plan.run);
            action.command(plan.namespace.as_deref().unwrap_or_default(), &owner)
        })
        .collect();
    if let (None, Some((file, job))) = (selected, inside::planned(prepared)?) {
        run_dir::write(&dir.yaml(file), job.as_bytes())?;
        commands.push(format!("kubectl apply --filename setup/yamls/{file}"));
    }
    log(&commands, &dir)?;
    printer.step(&format!("run folder: {}", dir.root().display()));
    Ok(())
}

/// Keeps commands that would have been executed in `setup/commands`, in their order.
pub(crate) fn log(commands: &[String], dir: &RunDir) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    for (nanos, command) in (now..).zip(commands) {
        run_dir::write(&dir.command_log(nanos), format!("{}\n", would(command)).as_bytes())?;
    }
    Ok(())
}

/// Writes the objects and values of the selected steps into `setup/yamls`.
fn files(plan: &Plan, selected: Option<&[u8]>, dir: &RunDir) -> Result<()> {
    for manifest in chosen_actions(plan, selected).filter_map(|(_, action)| action.files()) {
        run_dir::write(&dir.yaml(&manifest.file), manifest.yaml.as_bytes())?;
    }
    Ok(())
}

/// The actions of the selected steps, with the numbers of these.
fn chosen_actions<'a>(
    plan: &'a Plan,
    selected: Option<&'a [u8]>,
) -> impl Iterator<Item = (u8, &'a Action)> {
    let is_selected = move |n: u8| selected.is_none_or(|selected| selected.contains(&n));
    let chosen = plan.steps.iter().filter(move |step| is_selected(step.number));
    chosen.flat_map(|step| step.actions.iter().map(|action| (step.number, action)))
}
