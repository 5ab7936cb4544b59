//! The phase that stands the stack up, step by step, and finds where the model answers.

use crate::action::Action;
use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::phase::plan::Prepared;
use crate::plan::{MetricsSource, Plan, Step, Target};
use crate::plugins::plugin_error;
use crate::printer::Printer;
use crate::process::{self, Inventory, Started};
use crate::run_dir::{self, RunDir};
use crate::settings::SETTINGS;
use crate::steps;
use plugin_host::wit;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Carries out the selected steps; the smoke test is a phase of its own. Gives the target, and
/// writes `target.json`.
pub(crate) fn run(
    prepared: &Prepared,
    dir: &RunDir,
    selected: &[u8],
    printer: &Printer,
) -> Result<Target> {
    let plan = &prepared.plan;
    if plan.experiment.deploy.endpoint.is_none() {
        for step in plan.steps.iter().filter(|step| selected.contains(&step.number)) {
            interrupt::check()?;
            carry_out(step, prepared, dir, printer)?;
        }
    }
    let target = locate(prepared, dir)?;
    run_dir::write_json(&dir.target(), &target)?;
    Ok(target)
}

/// Refuses, before anything is touched, what this version plans and does not carry out, and what
/// lacks a secret.
pub(crate) fn can_do(prepared: &Prepared) -> Result<()> {
    let plan = &prepared.plan;
    let missing = plan.steps.iter().find_map(|step| {
        step.actions.iter().find_map(|action| match action {
            Action::Secret(secret) => {
                let names = secret.entries.iter().map(|(_, source)| source);
                let mut lacking =
                    names.filter(|source| !prepared.secrets.by_name.contains_key(*source));
                Some((steps::full_name(step), lacking.next()?))
            }
            _ => None,
        })
    });
    if let Some((step, secret)) = missing {
        let path = format!("secrets.{secret}");
        let variable = SETTINGS.iter().find(|s| s.path == path).map_or("", |s| s.variable);
        return Err(Error::usage(format!("the step {step} needs the secret `{secret}`"))
            .hint(format!("set {variable}; a dry run (-n) needs no secret")));
    }
    if plan.needs_cluster() {
        let methods = plan.experiment.deploy.methods.join(", ");
        return Err(Error::usage(format!(
            "unsupported: {methods} needs a cluster, and this version of llmdbench plans its steps and does not carry them out"
        ))
        .hint("-n prints them and writes their files, which kubectl and helm take")
        .hint("load goes into what stands with `llmdbench run --endpoint URL`, and into a server on this machine with --method local"));
    }
    one_model(plan)
}

/// One stack at a time is stood up and loaded.
pub(crate) fn one_model(plan: &Plan) -> Result<()> {
    let deploy = &plan.experiment.deploy;
    if deploy.models.len() > 1 || (deploy.endpoint.is_none() && deploy.methods.len() > 1) {
        return Err(Error::usage(
            "unsupported: several models or methods in one run; they are planned, not carried out",
        )
        .hint("make one run for each: --model NAME, --method NAME"));
    }
    Ok(())
}

/// What stands in a run folder: the target that standup found, as long as one of its processes
/// runs.
pub(crate) fn standing(dir: &RunDir) -> Result<Target> {
    let processes = Inventory::read(dir)?.processes;
    let stood_up =
        Plan::read_file(&dir.plan())?.is_some_and(|plan| plan.experiment.deploy.endpoint.is_none());
    let gone = stood_up && !processes.iter().any(Started::runs);
    if let (true, Some(ended)) = (gone, processes.first()) {
        return Err(Error::new(
            Exit::Run,
            format!("the process `{}` (pid {}) has ended by itself", ended.name, ended.pid),
        )
        .cause(process::last_lines(&ended.log))
        .hint(format!("its whole output is in {}", ended.log.display())));
    }
    let target = run_dir::read_json(&dir.target())?.filter(|_| !gone);
    target.ok_or_else(|| {
        Error::usage(format!("nothing stands in `{}`", dir.root().display())).hint(
            "stand it up with `llmdbench standup FILE`, do it all with `llmdbench bench FILE`, or name a server with --endpoint URL",
        )
    })
}

/// A run folder has one stack. Of a stack that stands, `clashes` says which processes are in the
/// way; nothing may be written before that is known.
pub(crate) fn refuse_standing(dir: &RunDir, clashes: impl Fn(&Started) -> bool) -> Result<()> {
    let running: Vec<String> = Inventory::read(dir)?
        .processes
        .iter()
        .filter(|process| process.runs() && clashes(process))
        .map(|process| format!("{} (pid {})", process.name, process.pid))
        .collect();
    if running.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "something stands already in `{}`: {}",
        dir.root().display(),
        running.join(", ")
    ))
    .hint(format!("take it down with `llmdbench teardown --workdir {}`", dir.root().display())))
}

/// Where the model answers: the endpoint that the user gave, or what the backend finds.
pub(crate) fn locate(prepared: &Prepared, dir: &RunDir) -> Result<Target> {
    let plan = &prepared.plan;
    if let Some(endpoint) = &plan.experiment.deploy.endpoint {
        return Ok(Target {
            endpoints: vec![endpoint.clone()],
            model: plan.experiment.deploy.model().id,
            metrics: Vec::new(),
            facts: BTreeMap::new(),
        });
    }
    let used = prepared
        .chosen
        .backends
        .first()
        .ok_or_else(|| Error::unexpected("there is neither an endpoint nor a backend"))?;
    let inventory = Inventory::read(dir)?;
    let observed: Vec<_> = inventory.processes.iter().map(|p| p.observed()).collect();
    let setup = prepared.chosen.setup(used, &plan.facts(), None, None);
    let standup = |error: &plugin_host::Error| plugin_error(error).exit(Exit::Standup);
    let mut backend = used.plugin.backend(setup).map_err(|error| standup(&error))?;
    let target = backend.locate(&observed).map_err(|error| standup(&error))?;
    translate(used.plugin.name(), target)
}

fn translate(plugin: &str, target: wit::types::Target) -> Result<Target> {
    let direct = |reach: &wit::types::Reach| matches!(reach, wit::types::Reach::Direct);
    let all_direct = target.endpoints.iter().all(|e| direct(&e.reach))
        && target.metrics.iter().all(|m| direct(&m.reach));
    if !all_direct {
        return Err(Error::usage(format!(
            "unsupported: the plugin `{plugin}` found the target inside a cluster"
        )));
    }
    if target.endpoints.is_empty() {
        return Err(Error::new(Exit::Standup, format!("the plugin `{plugin}` found no endpoint")));
    }
    let mut endpoints = Vec::new();
    for endpoint in target.endpoints {
        let parsed = load::Endpoint::parse(&endpoint.url).map_err(|error| {
            Error::new(
                Exit::Standup,
                format!("the plugin `{plugin}` found the endpoint `{}`", endpoint.url),
            )
            .because(error)
        })?;
        endpoints.push(parsed.to_string());
    }
    Ok(Target {
        endpoints,
        model: target.model,
        metrics: target
            .metrics
            .into_iter()
            .map(|m| MetricsSource { component: m.component, url: m.url })
            .collect(),
        facts: target.facts.into_iter().map(|f| (f.key, f.value)).collect(),
    })
}

fn carry_out(step: &Step, prepared: &Prepared, dir: &RunDir, printer: &Printer) -> Result<()> {
    let plan = &prepared.plan;
    for action in &step.actions {
        // The smoke test is a phase of its own, and what needs a cluster was refused.
        let Action::Process(process) = action else { continue };
        printer.step(&format!("{}: {}", steps::full_name(step), step.title));
        let begin = Instant::now();
        let mut progress = printer.progress();
        let started = process::start(
            process,
            &plan.run,
            &plan.experiment.deploy.model().id,
            dir,
            &prepared.secrets,
            &mut |state| progress.show(|| format!("waiting for {state}")),
        );
        progress.end();
        let outcome = started.as_ref().map_or_else(ToString::to_string, |p| {
            format!("ready after {}, pid {}", crate::unit::show(begin.elapsed()), p.pid)
        });
        let command = started.as_ref().map_or_else(
            |_| format!("{} {}", process.program, process.args.join(" ")),
            |p| p.command.join(" "),
        );
        let redaction = prepared.secrets.redaction();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        run_dir::write(
            &dir.command_log(now),
            redaction
                .clean(&format!("---> will execute the command \"{command}\"\n{outcome}\n"))
                .as_bytes(),
        )?;
        let started = started?;
        printer.step(&format!(
            "  {} is ready after {} (pid {}, port {})",
            started.name,
            crate::unit::show(begin.elapsed()),
            started.pid,
            started.port
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;
    use crate::settings::resolve;

    /// A run folder that was stood up with these processes.
    fn stood_up(processes: Vec<Started>) -> (tempfile::TempDir, RunDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::at(folder.path());
        let experiment = Experiment::new(&resolve(Vec::new()).unwrap(), None, &mut Vec::new());
        Plan::new("r".into(), String::new(), experiment).write(&dir.plan()).unwrap();
        let target = Target {
            endpoints: vec!["http://127.0.0.1:1".into()],
            model: "m".into(),
            metrics: Vec::new(),
            facts: BTreeMap::new(),
        };
        run_dir::write_json(&dir.target(), &target).unwrap();
        Inventory { processes }.write(&dir).unwrap();
        (folder, dir)
    }

    #[test]
    fn what_stands_is_a_target_as_long_as_its_process_runs() {
        let check = |processes: Vec<Started>, expected: &str| {
            let (_folder, dir) = stood_up(processes);
            let found = standing(&dir).map_or_else(|error| error.to_string(), |t| t.model);
            assert!(found.contains(expected), "{found}");
        };
        check(vec![Started::this_program("server")], "m");
        check(vec![Started::ended("server")], "the process `server` (pid 1) has ended by itself");
        check(Vec::new(), "nothing stands in");
    }

    #[test]
    fn only_processes_that_run_and_are_in_the_way_are_refused() {
        let (_folder, dir) = stood_up(vec![Started::this_program("a"), Started::ended("b")]);
        let refused = |name: &str| refuse_standing(&dir, |process| process.name == name).is_err();
        assert!(refused("a"));
        assert!(!refused("b"));
    }
}
