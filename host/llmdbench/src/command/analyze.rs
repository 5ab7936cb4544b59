//! `analyze` and `report`: results from records that were kept.

use crate::cli::Global;
use crate::error::{Exit, Result};
use crate::phase;
use crate::plan::Plan;
use crate::printer::Printer;
use crate::run_dir::{Results, RunDir};
use clap::Args;
use std::path::PathBuf;

/// Options of `analyze` and `report`.
#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// The folder of a run, one of its results folders, or a records.jsonl [default: the newest run]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Analyses records and writes everything that follows from them.
pub(crate) fn analyze(args: &AnalyzeArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    results(&find(args, global)?, printer)
}

/// Writes the report alone.
pub(crate) fn report(args: &AnalyzeArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let results = find(args, global)?;
    let plan = plan_of(&results);
    let analysis = phase::analyze::read(&results, plan.as_ref())?;
    phase::analyze::report(&analysis, &results)?;
    let path = results.report();
    printer.result(
        || path.display().to_string(),
        || serde_json::json!({"report": path.display().to_string()}),
    );
    Ok(Exit::Ok)
}

/// Analyses the records of a results folder.
pub(crate) fn results(results: &Results, printer: &Printer) -> Result<Exit> {
    let plan = plan_of(results);
    let analysis = phase::analyze::read(results, plan.as_ref())?;
    phase::analyze::write(&analysis, results)?;
    Ok(phase::analyze::show(&analysis, results, printer).tell(printer))
}

fn find(args: &AnalyzeArgs, global: &Global) -> Result<Results> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => RunDir::open(super::chosen_work_dir(global)?.as_deref())?.root().to_owned(),
    };
    Results::find(&dir)
}

/// The plan that the records belong to: the one beside them, or the run folder's.
fn plan_of(results: &Results) -> Option<Plan> {
    let beside = std::iter::once(results.plan());
    let above = results.results.ancestors().skip(1).take(2).map(|dir| RunDir::at(dir).plan());
    // Records can be read without their plan; it only adds what the reader of a report wants.
    beside.chain(above).find_map(|path| Plan::read_file(&path).ok().flatten())
}
