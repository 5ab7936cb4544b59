//! The phase that takes down what standup put up, and says what was left.

use crate::error::{Error, Exit, Result};
use crate::printer::Printer;
use crate::process::{Inventory, Stopped};
use crate::run_dir::{self, RunDir};
use serde_json::json;

/// Stops every process of the run folder, the last first; writes `setup/teardown.json`.
pub(crate) fn run(dir: &RunDir, printer: &Printer) -> Result<()> {
    let mut inventory = Inventory::read(dir)?;
    let mut removed = Vec::new();
    let mut problems = Vec::new();
    for process in inventory.processes.iter().rev() {
        match process.stop() {
            Ok(stopped) => {
                let how = match stopped {
                    Stopped::Cleanly => "stopped",
                    Stopped::Killed => "killed: it did not end on request",
                    Stopped::WasGone => "was gone already",
                };
                printer.step(&format!("teardown: {} (pid {}) {how}", process.name, process.pid));
                removed.push(json!({"process": process.name, "pid": process.pid, "how": stopped}));
            }
            Err(error) => problems.extend(error.problems),
        }
    }
    inventory.processes.retain(crate::process::Started::runs);
    inventory.write(dir)?;
    run_dir::write_json(
        &dir.teardown(),
        &json!({
            "removed": removed,
            "left": inventory.processes.iter().map(|p| &p.name).collect::<Vec<_>>(),
        }),
    )?;
    if problems.is_empty() { Ok(()) } else { Err(Error { exit: Exit::Teardown, problems }) }
}
