//! The phase that takes down what standup put up, and says what was left.

use crate::action::Action;
use crate::error::{Error, Exit, Problem, Result};
use crate::experiment;
use crate::kubernetes::{self, Kubernetes};
use crate::phase::evidence;
use crate::plan::Plan;
use crate::printer::Printer;
use crate::process::{Inventory, Started, Stopped};
use crate::run_dir::{self, RunDir};
use crate::settings::Settings;
use crate::steps;
use cluster::Owner;
use serde::Serialize;

/// What a teardown did, as it stands in `setup/teardown.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Teardown {
    removed: Vec<Removed>,
    /// The names of processes that do not end.
    left: Vec<String>,
    /// What became of objects in a cluster. None: there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<kubernetes::Removed>,
}

#[derive(Debug, Serialize)]
struct Removed {
    process: String,
    pid: i32,
    how: Stopped,
}

/// The commands that undo what the steps of a plan do in a cluster, the last first. What belongs to
/// the cluster stays, and so does its monitoring; what 04 and 05 prepare is removed when `deep`.
pub(crate) fn undoing(plan: &Plan, deep: bool) -> Vec<String> {
    let namespace = plan.namespace.as_deref().unwrap_or_default();
    let goes = |number: u8, action: &Action| match steps::owner(number, action, &plan.run) {
        Owner::Run(_) => true,
        Owner::Prepared => deep && number > 3,
        Owner::Stranger => false,
    };
    let actions =
        plan.steps.iter().rev().flat_map(|step| {
            step.actions.iter().rev().filter(move |action| goes(step.number, action))
        });
    actions.filter_map(|action| action.undo(namespace)).collect()
}

/// Removes what the run folder has in a cluster, and stops its processes, the last first; writes
/// `setup/teardown.json`. With `deep` what was prepared goes as well.
pub(crate) fn run(
    dir: &RunDir,
    deep: bool,
    settings: &Settings,
    printer: &Printer,
) -> Result<Teardown> {
    let mut inventory = Inventory::read(dir)?;
    let mut removed = Vec::new();
    let mut problems = Vec::new();
    let objects = match in_cluster(dir, deep, settings, printer) {
        Ok(objects) => objects,
        Err(error) => {
            problems.extend(error.problems);
            None
        }
    };
    for left in objects.iter().flat_map(|objects| &objects.left) {
        problems.push(Problem::new(format!("failed to remove {left}")));
    }
    for process in inventory.processes.iter().rev() {
        match process.stop() {
            Ok(how) => {
                let text = match how {
                    Stopped::Cleanly => "stopped",
                    Stopped::Killed => "killed: it did not end on request",
                    Stopped::WasGone => "was gone already",
                };
                printer.step(&format!("teardown: {} (pid {}) {text}", process.name, process.pid));
                removed.push(Removed { process: process.name.clone(), pid: process.pid, how });
            }
            Err(error) => problems.extend(error.problems),
        }
    }
    inventory.processes.retain(Started::runs);
    inventory.write(dir)?;
    let left = inventory.processes.into_iter().map(|process| process.name).collect();
    let done = Teardown { removed, left, objects };
    run_dir::write_json(&dir.teardown(), &done)?;
    if problems.is_empty() { Ok(done) } else { Err(Error { exit: Exit::Teardown, problems }) }
}

fn in_cluster(
    dir: &RunDir,
    deep: bool,
    settings: &Settings,
    printer: &Printer,
) -> Result<Option<kubernetes::Removed>> {
    let mut inventory = kubernetes::Inventory::read(dir)?;
    if !inventory.has_some(deep) {
        return Ok(None);
    }
    let kubernetes = Kubernetes::of(&inventory, settings)?;
    let secrets = experiment::secrets(settings).unwrap_or_default();
    evidence::collect(&kubernetes, dir, &secrets, printer);
    let removed = kubernetes.take_down(&mut inventory, deep, dir, printer)?;
    for foreign in &removed.foreign {
        printer.step(&format!("teardown: {foreign}"));
    }
    Ok(Some(removed))
}
