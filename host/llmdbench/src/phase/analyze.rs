//! The phase that turns records into results: numbers, plots and a report.

use crate::chosen::Use;
use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::outcome::Outcome;
use crate::phase::analyzers::Findings;
use crate::phase::run::{KEPT, with_first_failure};
use crate::phase::{analyzer_report, analyzers, cache, lmbench, server_metrics};
use crate::plan::Plan;
use crate::printer::Printer;
use crate::records_file::Records;
use crate::run_dir::{self, Results};
use analysis::{About, Analysis, Calibration, Collector, Note, Options, Severity, Slo, Verdict};
use records::{EndReason, Entry, Event};
use serde_json::Value;
use std::collections::BTreeMap;

/// What records tell.
pub(crate) struct Analysed {
    pub(crate) analysis: Analysis,
    /// What analyzers failed at.
    pub(crate) failures: Vec<Error>,
    /// How the load ended.
    pub(crate) load: Outcome,
}

/// Reads the records, lets the analyzers look at them, and reckons. Without a plan there are no analyzers.
/// Objectives that are given take the place of those of the records. What the user interrupted before, `heeded`
/// times, is analysed; once more ends the analysis.
pub(crate) fn read(
    results: &Results,
    plan: Option<&Plan>,
    analyzers: &[Use],
    slo: Option<&BTreeMap<String, f64>>,
    heeded: usize,
    printer: &Printer,
) -> Result<Analysed> {
    let mut records = Records::open(results)?;
    let mut header = records.header().clone();
    let judged_anew = slo.filter(|slo| **slo != header.slo).map(|_| judged_anew(&header.slo));
    header.slo = slo.cloned().unwrap_or(header.slo);
    let mut collector = Collector::new(&header);
    let mut course = Course::default();
    while let Some(entry) = records.next()? {
        interrupt::check_beyond(heeded)?;
        course.take(&entry);
        collector.add_line(records.line(), entry);
    }
    let slo = Slo::from_header(&header).map_err(|error| records.unusable(&error))?;
    let found = match plan {
        Some(plan) => {
            let stages = analyzers::stage_facts(&header, collector.stage_times());
            analyzers::run(analyzers, results, plan, &stages, heeded, printer)?
        }
        None => Findings::default(),
    };
    let calibration = run_dir::read_json::<Calibration>(&results.calibration())?;
    let by_agents = results.agents_record().is_file();
    let uncalibrated = plan.filter(|_| calibration.is_none()).map(|_| not_calibrated(by_agents));
    let notes = plan.map(plan_notes).into_iter().flatten().chain(found.notes).chain(uncalibrated);
    let notes = notes.chain(judged_anew);
    // Missing where the run was killed.
    let run = run_dir::read_json::<Value>(&results.run()).ok().flatten().unwrap_or_default();
    let options = Options {
        slo,
        truncated: records.truncated(),
        notes: notes.collect(),
        plugins: found.reports,
        calibration,
        same_host: run["same_host"] == true,
        server: server_metrics::snapshots(results, heeded)?,
        cache: cache::state(results),
        title: plan.map_or_else(|| header.run.clone(), |plan| plan.experiment.name.clone()),
        facts: facts(&header, plan, &run),
    };
    interrupt::check_beyond(heeded)?;
    let analysis = collector.finish(&options);
    Ok(Analysed { analysis, failures: found.failures, load: course.outcome(results) })
}

/// How a load ended, as far as its records tell.
#[derive(Default)]
struct Course {
    end: Option<(EndReason, String)>,
    requests: u64,
    succeeded: u64,
}

impl Course {
    fn take(&mut self, entry: &Entry) {
        match entry {
            Entry::Record(record) => {
                self.requests += 1;
                self.succeeded += u64::from(record.error.is_none());
            }
            Entry::Event(Event::End { reason, message, .. }) => {
                self.end = Some((*reason, message.clone()));
            }
            Entry::Event(_) => {}
        }
    }

    /// The same end that the run itself came to.
    fn outcome(self, results: &Results) -> Outcome {
        let mut outcome = Outcome::default();
        let mut fail = |what: String| {
            let error = with_first_failure(Error::new(Exit::Run, what), results.records());
            outcome.fail(Exit::Run, &error);
        };
        match self.end {
            Some((EndReason::Interrupted, _)) => outcome.add(Exit::Interrupted, KEPT),
            Some((EndReason::Aborted, why)) => fail(format!("the run was aborted: {why}")),
            Some((EndReason::PluginFailed, why)) => {
                outcome.add(Exit::Run, &format!("a plugin failed: {why}"));
            }
            Some((EndReason::Completed, _)) if self.requests == 0 => {
                outcome.add(Exit::Run, "nothing was sent");
            }
            _ if self.requests > 0 && self.succeeded == 0 => {
                fail("no request succeeded".to_owned())
            }
            _ => {}
        }
        outcome
    }
}

/// Writes `analysis/data`, `analysis/plots` and the report.
fn write(analysis: &Analysis, results: &Results, heeded: usize, printer: &Printer) -> Result<()> {
    let summary = &analysis.summary;
    analyzer_report::remove_old(results, &summary.plugins)?;
    run_dir::write(&results.data("summary.json"), analysis::report::json(summary).as_bytes())?;
    run_dir::write(&results.data("summary.csv"), analysis::report::csv(summary).as_bytes())?;
    let mut readme = String::from("# Plots of this run\n\n");
    for chart in analysis::charts::CHARTS {
        interrupt::check_beyond(heeded)?;
        readme.push_str(&format!("- `{}.png`, `{0}.svg`: {}\n", chart.name, chart.meaning));
        run_dir::write(
            &results.plot(&format!("{}.png", chart.name)),
            &analysis::charts::png(chart, analysis, 1200, 600),
        )?;
        run_dir::write(
            &results.plot(&format!("{}.svg", chart.name)),
            analysis::charts::svg(chart, analysis, 1200, 600).as_bytes(),
        )?;
    }
    for found in &analysis.plugins {
        for chart in &found.charts {
            readme.push_str(&format!(
                "- `{0}-{1}.png`, `{0}-{1}.svg`: {2}, by the analyzer {0}\n",
                found.results.name, chart.name, chart.title
            ));
        }
    }
    let files = results.lmbench();
    if let Some((_, pictures)) = lmbench::write(&files, &results.analysis, heeded, printer)? {
        readme.push_str(&format!("\nOf the CSV files in `results`:\n\n{pictures}"));
    }
    run_dir::write(&results.plot("README.md"), readme.as_bytes())?;
    report(analysis, results)
}

/// Writes `analysis/report.html`.
pub(crate) fn report(analysis: &Analysis, results: &Results) -> Result<()> {
    run_dir::write(&results.report(), analysis::report::html(analysis).as_bytes())
}

/// Shows the table, writes everything down and says where it lies; gives how the run is to be judged.
/// The table comes first: pictures take longer than numbers.
pub(crate) fn conclude(
    analysis: &Analysis,
    results: &Results,
    heeded: usize,
    printer: &Printer,
) -> Result<Outcome> {
    let summary = &analysis.summary;
    printer.table(
        || analysis::report::terminal(analysis, printer.width(), printer.colour()),
        || serde_json::to_value(summary).unwrap_or_default(),
    );
    write(analysis, results, heeded, printer)?;
    printer.step(&format!("report:  {}", results.report().display()));
    printer.step(&format!("records: {}", results.records().display()));
    let mut outcome = Outcome::default();
    if summary.health.verdict == Verdict::Invalid {
        let reasons = || summary.health.reasons.iter().filter(|r| r.verdict == Verdict::Invalid);
        let client = reasons().any(|reason| reason.about == About::Client);
        let why: Vec<String> = reasons().map(ToString::to_string).collect();
        outcome.add(
            Exit::Invalid,
            &format!(
                "the run is invalid{}: {}",
                if client { ", the load generator was the limit" } else { "" },
                why.join("; ")
            ),
        );
    }
    Ok(outcome)
}

/// What is said where nobody knows how far the load generator errs.
fn not_calibrated(by_agents: bool) -> Note {
    let text = if by_agents {
        "The load was made by agents in pods, and those are not calibrated: how far their values err \
         and how much they can send was not measured. The rules of health judged what they did."
    } else {
        "The load generator was not calibrated on its machine: `llmdbench calibrate` measures how \
         far its values err and how much it can send."
    };
    Note { severity: Severity::Info, source: "llmdbench".to_owned(), text: text.to_owned() }
}

/// What is said where objectives are not those that the run was made with.
fn judged_anew(of_run: &BTreeMap<String, f64>) -> Note {
    let of_run: Vec<String> =
        of_run.iter().map(|(metric, ms)| format!("{metric} at most {ms} ms")).collect();
    let of_run = if of_run.is_empty() { "none".to_owned() } else { of_run.join(", ") };
    let text =
        format!("The objectives were given to the analysis. The run was made with: {of_run}.");
    Note { severity: Severity::Info, source: "llmdbench".to_owned(), text }
}

/// What the plan has to say to the reader of the report.
fn plan_notes(plan: &Plan) -> Vec<Note> {
    let mut notes: Vec<Note> = plan
        .findings
        .iter()
        .map(|finding| Note {
            severity: match finding.severity.as_str() {
                "problem" => Severity::Problem,
                "warning" => Severity::Warning,
                _ => Severity::Info,
            },
            source: finding.plugin.clone(),
            text: finding.text.clone(),
        })
        .collect();
    if !plan.workload.skipped.is_empty() {
        let counts: Vec<String> =
            plan.workload.skipped.iter().map(|(reason, n)| format!("{reason}: {n}")).collect();
        notes.push(Note {
            severity: Severity::Info,
            source: plan.plugin("workload").map(|used| used.name.clone()).unwrap_or_default(),
            text: format!("The data holds more than was asked. Left out: {}.", counts.join(", ")),
        });
    }
    if plan.experiment.target.insecure {
        notes.push(Note {
            severity: Severity::Warning,
            source: "llmdbench".to_owned(),
            text: "TLS certificates were not checked.".to_owned(),
        });
    }
    notes
}

/// A name as it begins a line.
fn capital(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

fn facts(header: &records::Header, plan: Option<&Plan>, run: &Value) -> Vec<(String, String)> {
    let mut facts = vec![
        ("Run".to_owned(), header.run.clone()),
        ("Started".to_owned(), header.started.clone()),
        ("Model".to_owned(), header.model.clone()),
        ("Endpoint".to_owned(), header.endpoint.clone()),
        ("Seed".to_owned(), header.seed.to_string()),
    ];
    if let Some(plan) = plan {
        facts.extend(plan.experiment.scenario.iter().map(|s| ("Scenario".to_owned(), s.clone())));
        for used in &plan.plugins {
            facts.push((capital(&used.kind), format!("{} {}", used.name, used.version)));
        }
    }
    // What is known of the system under test, and of the way to it.
    for (name, fact) in run["target"]["facts"].as_object().into_iter().flatten() {
        facts.extend(fact.as_str().map(|fact| (capital(name), fact.to_owned())));
    }
    facts.push(("llmdbench".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    facts
}
