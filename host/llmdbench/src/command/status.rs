//! `status`: what a run folder has standing, running and collected.

use crate::cli::Global;
use crate::error::{Exit, Result};
use crate::kubernetes;
use crate::phase;
use crate::plan::{Plan, Target};
use crate::printer::Printer;
use crate::process::Inventory;
use crate::run_dir::{self, RunDir};
use serde_json::json;

/// Shows it.
pub(crate) fn run(global: &Global, printer: &Printer) -> Result<Exit> {
    let dir = RunDir::open(super::chosen_work_dir(global)?.as_deref())?;
    let plan = Plan::read(&dir)?;
    let target: Option<Target> = run_dir::read_json(&dir.target())?;
    let inventory = Inventory::read(&dir)?;
    let objects = kubernetes::Inventory::read(&dir)?;
    let runs: Vec<_> = dir.all_results();
    printer.result(
        || {
            let mut text = format!("{} in {}\n", plan.run, dir.root().display());
            for process in &inventory.processes {
                let state = if process.runs() { "runs" } else { "has ended" };
                text.push_str(&format!(
                    "standing: {} (pid {}, port {}) {state}\n",
                    process.name, process.pid, process.port
                ));
            }
            for name in objects.names() {
                text.push_str(&format!("standing: {name}\n"));
            }
            if inventory.processes.is_empty() && objects.names().next().is_none() {
                text.push_str("standing: nothing\n");
            }
            if let Some(target) = &target {
                text.push_str(&format!(
                    "target: {} at {}\n",
                    target.model,
                    target.endpoints.join(", ")
                ));
            }
            for results in &runs {
                let agents = phase::inside::left(results).map(|record| {
                    let (job, namespace) = (record.job, record.namespace);
                    match phase::inside::is_followed(results) {
                        false if record.is_collected => "made by agents that are gone: `llmdbench run --attach` merges what they left".to_owned(),
                        true => format!("made by the Job {job} in {namespace}, which another process follows"),
                        false => format!("made by the Job {job} in {namespace}: `llmdbench run --attach` collects it"),
                    }
                });
                let state = if let Some(agents) = &agents {
                    agents
                } else if !results.run().is_file() {
                    "unfinished: `llmdbench analyze` reads what is there"
                } else if results.report().is_file() {
                    "analysed"
                } else {
                    "not analysed"
                };
                text.push_str(&format!("run: {} ({state})\n", results.results.display()));
            }
            text
        },
        || {
            json!({
                "run": plan.run,
                "folder": dir.root().display().to_string(),
                "processes": inventory.processes.iter().map(|p| json!({
                    "name": p.name, "pid": p.pid, "port": p.port, "runs": p.runs(),
                })).collect::<Vec<_>>(),
                "objects": objects.standing().collect::<Vec<_>>(),
                "releases": objects.releases,
                "target": target,
                "results": runs.iter().map(|results| json!({
                    "folder": results.results.display().to_string(),
                    "finished": results.run().is_file(),
                    "analysed": results.report().is_file(),
                    "agents": phase::inside::left(results).map(|record| json!({
                        "job": record.job, "namespace": record.namespace,
                        "followed": phase::inside::is_followed(results),
                    })),
                })).collect::<Vec<_>>(),
            })
        },
    );
    Ok(Exit::Ok)
}
