//! `analyze` and `report`: results from records that were kept.

use crate::chosen::{self, Use};
use crate::cli::Global;
use crate::error::{Error, Exit, Result};
use crate::experiment;
use crate::outcome::Outcome;
use crate::phase;
use crate::plan::Plan;
use crate::plugins::Plugins;
use crate::printer::Printer;
use crate::run_dir::{self, Results, RunDir};
use crate::settings::{self, Layer, Source, from_text};
use clap::Args;
use plugin_host::Kind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Options of `analyze` and `report`.
#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// The folder of a run, one of its results folders, a records.jsonl, or a folder of LMBench*.csv files [default: the newest run]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Judge by these service-level objectives and not by the run's: ttft=500ms,tpot=50ms; '': by none
    #[arg(long, value_name = "LIMITS")]
    slo: Option<String>,
}

/// Analyses records and writes everything that follows from them; of a folder that holds the
/// original's CSV files instead, what the original made of them.
pub(crate) fn analyze(args: &AnalyzeArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let slo = objectives(args.slo.as_deref())?;
    let found = find(args, global);
    if let (Err(_), Some(dir)) = (&found, args.dir.as_deref().filter(|dir| dir.is_dir()))
        && run_dir::runs_below(dir)?.is_empty()
    {
        let files = phase::lmbench::files(dir)?;
        if !files.is_empty() && slo.is_some() {
            let what = format!("`{}` holds LMBench CSV files and no records", dir.display());
            return Err(Error::usage(format!("{what}: no objectives can be judged of them"))
                .hint("leave --slo out, or name the folder of a run"));
        }
        if !files.is_empty() {
            phase::lmbench::foreign(dir, &files, printer)?;
            return Ok(Exit::Ok);
        }
    }
    Ok(results(&found?, slo.as_ref(), 0, global, printer)?.tell(printer))
}

/// Writes the report alone.
pub(crate) fn report(args: &AnalyzeArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    let slo = objectives(args.slo.as_deref())?;
    let results = find(args, global)?;
    let plan = plan_of(&results);
    let analyzers = analyzers(plan.as_ref(), global, printer)?;
    let found =
        phase::analyze::read(&results, plan.as_ref(), &analyzers, slo.as_ref(), 0, printer)?;
    phase::analyze::report(&found.analysis, &results)?;
    let path = results.report();
    printer.result(
        || path.display().to_string(),
        || serde_json::json!({"report": path.display().to_string()}),
    );
    Ok(failed(&found.failures).tell(printer))
}

/// The objectives that were typed, in milliseconds by metric; read as every command reads them.
pub(crate) fn objectives(typed: Option<&str>) -> Result<Option<BTreeMap<String, f64>>> {
    let Some(text) = typed else { return Ok(None) };
    let mut layer = Layer::named(Source::Flag);
    layer.set("analyze.slo", "--slo", from_text("analyze.slo", text));
    let settings = settings::all_or_error(settings::resolve(vec![layer]))?;
    Ok(Some(experiment::objectives(&settings)))
}

/// Analyses the records of a results folder, by objectives of their own unless there are others; gives how the run
/// ended and is to be judged. `heeded` is how often the user asked for an end of what was before.
pub(crate) fn results(
    results: &Results,
    slo: Option<&BTreeMap<String, f64>>,
    heeded: usize,
    global: &Global,
    printer: &Printer,
) -> Result<Outcome> {
    let plan = plan_of(results);
    let analyzers = analyzers(plan.as_ref(), global, printer)?;
    let found = phase::analyze::read(results, plan.as_ref(), &analyzers, slo, heeded, printer)?;
    let mut outcome = found.load;
    outcome.join(failed(&found.failures));
    outcome.join(phase::analyze::conclude(&found.analysis, results, heeded, printer)?);
    Ok(outcome)
}

/// What analyzers failed at.
fn failed(failures: &[Error]) -> Outcome {
    let mut outcome = Outcome::default();
    for failure in failures {
        outcome.fail(failure.exit, failure);
    }
    outcome
}

/// The analyzers that the plan names and those given now. One that cannot be found is said, and the
/// rest goes on.
fn analyzers(plan: Option<&Plan>, global: &Global, printer: &Printer) -> Result<Vec<Use>> {
    let Some(plan) = plan else {
        if !global.plugins.is_empty() {
            printer.warning("analyzers are not run: there is no plan.json beside the records, or in a folder above, that says what ran");
        }
        return Ok(Vec::new());
    };
    let named = || plan.plugins.iter().filter(|used| used.kind == Kind::Analyzer.as_str());
    if named().next().is_none() && global.plugins.is_empty() {
        return Ok(Vec::new());
    }
    let variables = super::from_environment()?;
    let plugins = Plugins::load(
        &global.plugins,
        &global.grants,
        variables.text("control.cache_dir"),
        &|text| printer.detail(text),
    )?;
    let mut analyzers = Vec::new();
    for used in named() {
        let found = match &used.file {
            Some(file) => plugins.find(&file.display().to_string()),
            None => plugins.find(&used.name),
        };
        match found.and_then(|plugin| chosen::analyzer(&plugins, plugin, printer)) {
            Ok(ready) => analyzers.push(ready),
            Err(error) => {
                let why = error.problems.first().map(|p| p.message.clone()).unwrap_or_default();
                printer.warning(&format!("the analyzer {} is left out: {why}", used.name));
            }
        }
    }
    for plugin in plugins.given().iter().filter(|p| p.kinds().contains(&Kind::Analyzer)) {
        if !analyzers.iter().any(|used| used.plugin.digest() == plugin.digest()) {
            analyzers.push(chosen::analyzer(&plugins, plugin.clone(), printer)?);
        }
    }
    Ok(analyzers)
}

fn find(args: &AnalyzeArgs, global: &Global) -> Result<Results> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => RunDir::open(super::chosen_work_dir(global)?.as_deref())?.root().to_owned(),
    };
    Results::find(&dir).or_else(|error| {
        let runs = run_dir::runs_below(&dir)?;
        Err(if runs.is_empty() { error } else { several_runs(&dir, &runs) })
    })
}

/// Which of the runs in a folder is meant, the user has to say: results of several are not those of one.
fn several_runs(dir: &Path, runs: &[PathBuf]) -> Error {
    const SHOWN: usize = 5;
    let mut names: Vec<String> =
        runs.iter().take(SHOWN).map(|run| format!("`{}`", run.display())).collect();
    if runs.len() > SHOWN {
        names.push(format!("{} more", runs.len() - SHOWN));
    }
    let what = format!("`{}` is no run, and has runs in it: {}", dir.display(), names.join(", "));
    Error::usage(what).hint("name one of them")
}

/// The plan that the records belong to: the one beside them, or the run folder's.
fn plan_of(results: &Results) -> Option<Plan> {
    let beside = std::iter::once(results.plan());
    let above = results.results.ancestors().skip(1).take(2).map(|dir| RunDir::at(dir).plan());
    // Records can be read without their plan; it only adds what the reader of a report wants.
    beside.chain(above).find_map(|path| Plan::read_file(&path).ok().flatten())
}
