//! The phase that stands the stack up, step by step, and finds where the model answers.

use crate::action::Action;
use crate::error::{Error, Exit, Result};
use crate::helm::Helm;
use crate::interrupt;
use crate::kubernetes::{self, Kubernetes};
use crate::phase::evidence;
use crate::phase::plan::Prepared;
use crate::plan::{MetricsSource, Plan, Servers, Step, Target, Within};
use crate::plugins::plugin_error;
use crate::prepare;
use crate::printer::Printer;
use crate::process::{self, Inventory, Started};
use crate::run_dir::{self, RunDir};
use crate::settings::SETTINGS;
use crate::steps;
use plugin_host::wit;
use std::collections::BTreeMap;
use std::time::Instant;

/// What backends call the part of a stack that serves the model.
const SERVER: &str = "server";

/// Carries out the selected steps; the smoke test is a phase of its own. Gives the target, and
/// writes `target.json`. None: these steps alone make none in a cluster.
pub(crate) fn run(
    prepared: &Prepared,
    dir: &RunDir,
    selected: &[u8],
    printer: &Printer,
) -> Result<Option<Target>> {
    let plan = &prepared.plan;
    let kubernetes = match &plan.namespace {
        Some(namespace) => Some(Kubernetes::connect(&prepared.settings, namespace)?),
        None => None,
    };
    if plan.experiment.deploy.endpoint.is_none() {
        let mut steps = plan.steps.iter().filter(|step| selected.contains(&step.number));
        let done = steps.try_for_each(|step| {
            interrupt::check()?;
            carry_out(step, prepared, kubernetes.as_ref(), dir, printer)
        });
        if let Some(kubernetes) = &kubernetes {
            evidence::collect(kubernetes, dir, &prepared.secrets, printer);
        }
        done?;
    }
    let target = match locate_in(prepared, kubernetes.as_ref(), dir) {
        Err(error) if kubernetes.is_some() && !selected.contains(&steps::SMOKETEST) => {
            printer.detail(&format!("there is no target yet: {error}"));
            return Ok(None);
        }
        located => located?,
    };
    run_dir::write_json(&dir.target(), &target)?;
    Ok(Some(target))
}

/// Refuses, before anything is touched, what this version plans and does not carry out, and what
/// lacks a secret or helm. `selected` are the steps that are to be done.
pub(crate) fn can_do(prepared: &Prepared, selected: &[u8]) -> Result<()> {
    let plan = &prepared.plan;
    let wanted = || plan.steps.iter().filter(|step| selected.contains(&step.number));
    let missing = wanted().find_map(|step| {
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
    for step in wanted() {
        if step.actions.iter().any(|a| matches!(a, Action::Helm(_) | Action::Uninstall(_))) {
            Helm::find(kubernetes::helm_of(&prepared.settings))?;
        }
        for manifest in step.actions.iter().filter_map(Action::files) {
            kubernetes::check(manifest)?;
        }
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
        .hint("`llmdbench bench` makes a run of each; other commands take one: --model NAME, --method NAME"));
    }
    Ok(())
}

/// What stands in a run folder: the target that standup found, as long as one of its processes
/// runs.
pub(crate) fn standing(dir: &RunDir) -> Result<Target> {
    let processes = Inventory::read(dir)?.processes;
    let stood_up =
        Plan::read_file(&dir.plan())?.is_some_and(|plan| plan.experiment.deploy.endpoint.is_none());
    let in_cluster = kubernetes::Inventory::read(dir)?.names().next().is_some();
    let gone = stood_up && !in_cluster && !processes.iter().any(Started::runs);
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
/// way, and `objects_clash` whether objects in a cluster are; nothing may be written before that is
/// known.
pub(crate) fn refuse_standing(
    dir: &RunDir,
    objects_clash: bool,
    clashes: impl Fn(&Started) -> bool,
) -> Result<()> {
    let processes = Inventory::read(dir)?.processes;
    let processes = processes.iter().filter(|process| process.runs() && clashes(process));
    let mut running: Vec<String> =
        processes.map(|process| format!("{} (pid {})", process.name, process.pid)).collect();
    if objects_clash {
        let mut inventory = kubernetes::Inventory::read(dir)?;
        // A model may have been fetched ahead; what follows waits for it, or does it anew.
        inventory.objects.retain(|recorded| !prepare::is_download_job(&recorded.object));
        running.extend(inventory.names());
    }
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
    locate_in(prepared, None, dir)
}

fn locate_in(prepared: &Prepared, kubernetes: Option<&Kubernetes>, dir: &RunDir) -> Result<Target> {
    let plan = &prepared.plan;
    if plan.experiment.deploy.endpoint.is_some() {
        return Ok(Target {
            endpoints: plan.experiment.deploy.endpoints().map(str::to_owned).collect(),
            model: plan.experiment.deploy.model().id,
            metrics: Vec::new(),
            facts: BTreeMap::new(),
            within: None,
            servers: Vec::new(),
        });
    }
    let used = prepared
        .chosen
        .backends
        .first()
        .ok_or_else(|| Error::unexpected("there is neither an endpoint nor a backend"))?;
    let inventory = Inventory::read(dir)?;
    let mut observed: Vec<_> = inventory.processes.iter().map(|p| p.observed()).collect();
    if let Some(kubernetes) = kubernetes {
        for action in plan.steps.iter().flat_map(|step| &step.actions) {
            if let Action::Observe(objects) = action {
                observed.extend(kubernetes.observe(objects)?);
            }
        }
    }
    let model = plan.experiment.deploy.model();
    let namespace = plan.namespace.clone().unwrap_or_default();
    let facts = plan.facts().of_model(&model).within(&namespace);
    let setup = prepared.chosen.setup(used, &facts, None, None);
    let standup = |error: &plugin_host::Error| plugin_error(error).exit(Exit::Standup);
    let mut backend = used.plugin.backend(setup).map_err(|error| standup(&error))?;
    let target = backend.locate(&observed).map_err(|error| standup(&error))?;
    translate(used.plugin.name(), target, &namespace)
}

fn translate(plugin: &str, target: wit::types::Target, namespace: &str) -> Result<Target> {
    let unsupported =
        |what: &str| Err(Error::usage(format!("unsupported: the plugin `{plugin}` found {what}")));
    let mut within = None;
    for endpoint in &target.endpoints {
        let (kind, port) = match &endpoint.reach {
            wit::types::Reach::Direct => continue,
            wit::types::Reach::Service(port) => ("Service", port),
            wit::types::Reach::Pod(port) => ("Pod", port),
            wit::types::Reach::Pods(_) => return unsupported("one endpoint for each pod"),
        };
        if target.endpoints.len() > 1 {
            return unsupported("several endpoints inside a cluster");
        }
        within = Some(Within {
            kind: kind.to_owned(),
            namespace: port.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
            name: port.name.clone(),
            port: port.port,
        });
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
    let servers = target.metrics.iter().filter_map(|source| servers(source, namespace)).collect();
    // What only the inside of a cluster reaches is read from there.
    let direct =
        target.metrics.into_iter().filter(|m| matches!(m.reach, wit::types::Reach::Direct));
    Ok(Target {
        endpoints,
        model: target.model,
        metrics: direct.map(|m| MetricsSource { component: m.component, url: m.url }).collect(),
        facts: target.facts.into_iter().map(|f| (f.key, f.value)).collect(),
        within,
        servers,
    })
}

/// The pods that serve the model, of which a backend says where their metrics are. None: it is something else.
fn servers(source: &wit::types::MetricsSource, namespace: &str) -> Option<Servers> {
    let wit::types::Reach::Pods(pods) = &source.reach else { return None };
    let url = url::Url::parse(&source.url).ok()?;
    (source.component == SERVER).then(|| Servers {
        namespace: pods.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
        selector: pods.selector.clone(),
        port: pods.port,
        metrics: url.path().to_owned(),
    })
}

fn carry_out(
    step: &Step,
    prepared: &Prepared,
    kubernetes: Option<&Kubernetes>,
    dir: &RunDir,
    printer: &Printer,
) -> Result<()> {
    let plan = &prepared.plan;
    // The smoke test is a phase of its own.
    let actions = || step.actions.iter().filter(|action| **action != Action::Smoketest);
    if actions().next().is_some() {
        printer.step(&format!("{}: {}", steps::full_name(step), step.title));
    }
    for action in actions() {
        let Action::Process(process) = action else {
            if let Some(kubernetes) = kubernetes {
                in_cluster(action, step, prepared, kubernetes, dir, printer)?;
            }
            continue;
        };
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
        log(&command, &outcome, prepared, dir)?;
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

/// Carries out an action in a cluster and keeps its outcome beside the command that does the same.
fn in_cluster(
    action: &Action,
    step: &Step,
    prepared: &Prepared,
    kubernetes: &Kubernetes,
    dir: &RunDir,
    printer: &Printer,
) -> Result<()> {
    let plan = &prepared.plan;
    let owner = steps::owner(step.number, action, &plan.run);
    let begin = Instant::now();
    let done = kubernetes.carry_out(action, &owner, &plan.run, &prepared.secrets, dir, printer);
    let outcome = done.as_ref().map_or_else(ToString::to_string, Clone::clone);
    log(&kubernetes.command(action, &owner), &outcome, prepared, dir)?;
    for line in done?.lines() {
        printer.step(&format!("  {line} after {}", crate::unit::show(begin.elapsed())));
    }
    Ok(())
}

/// Keeps a command and its outcome in `setup/commands`.
fn log(command: &str, outcome: &str, prepared: &Prepared, dir: &RunDir) -> Result<()> {
    let redaction = prepared.secrets.redaction();
    dir.log_command(&redaction.clean(command), &redaction.clean(outcome))
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
            within: None,
            servers: Vec::new(),
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
    fn pods_that_serve_the_model_are_told_from_what_stands_in_front_of_them() {
        use wit::types::{Endpoint, MetricsSource, PodsPort, PortRef, Reach};
        let page = |component: &str, url: &str| MetricsSource {
            component: component.into(),
            url: url.into(),
            reach: Reach::Pods(PodsPort {
                namespace: None,
                selector: format!("of={component}"),
                port: 8000,
            }),
        };
        let target = wit::types::Target {
            endpoints: vec![Endpoint {
                url: "http://gateway.ns.svc.cluster.local:80".into(),
                reach: Reach::Service(PortRef {
                    namespace: None,
                    name: "gateway".into(),
                    port: 80,
                }),
                credential: None,
            }],
            metrics: vec![
                page("server", "http://server:8000/metrics"),
                page("epp", "http://epp:9090/metrics"),
            ],
            model: "m".into(),
            facts: Vec::new(),
        };
        let target = translate("p", target, "ns").unwrap();
        let expected = Servers {
            namespace: "ns".into(),
            selector: "of=server".into(),
            port: 8000,
            metrics: "/metrics".into(),
        };
        assert_eq!(target.servers, [expected]);
        assert!(target.metrics.is_empty() && target.within.is_some());
    }

    #[test]
    fn only_processes_that_run_and_are_in_the_way_are_refused() {
        let (_folder, dir) = stood_up(vec![Started::this_program("a"), Started::ended("b")]);
        let refused =
            |name: &str| refuse_standing(&dir, true, |process| process.name == name).is_err();
        assert!(refused("a"));
        assert!(!refused("b"));
    }
}
