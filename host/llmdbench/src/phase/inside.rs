//! The phase that has load made inside the cluster: agents in pods, each with its part; what they measured is merged
//! into the results of one run.
//!
//! The agents do not need the controller once they have begun. `results/agents.json` has what another process needs
//! to find them and to collect what they have.

mod asking;
mod crew;
mod job;
mod left;
mod merging;

pub(crate) use asking::ask;

use crate::agent::{State, bundle};
use crate::error::{Error, Exit, Result};
use crate::experiment;
use crate::interrupt;
use crate::kubernetes::{Inventory, Kubernetes};
use crate::outcome::Outcome;
use crate::phase::hidden::Hidden;
use crate::phase::plan::Prepared;
use crate::phase::run::INTERRUPTED;
use crate::phase::{environment, evidence};
use crate::plan::{MetricsSource, Plan, Target};
use crate::printer::Printer;
use crate::run_dir::{self, Results, RunDir};
use crate::secrets::Secrets;
use crate::settings::Settings;
use cluster::{Condition, ObjectRef, Selection};
use crew::{Crew, Facts};
use job::Agents;
use left::lock;
pub(crate) use left::{give_up, is_followed, left, may_have_more, refuse_loss};
use merging::put_together;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};

/// So long the agents' Job is waited for to go; results are not kept waiting for it.
const REMOVAL: Duration = Duration::from_secs(10);
/// So long after a controller has ended agents may still be taking what it gave them.
const GIVEN: Duration = Duration::from_secs(10);
/// Why an agent measured nothing that was ready to.
const LEFT_OUT: &str = "it was ready and nobody told it to begin: the llmdbench that started it ended between the orders to begin, and the others did not wait for it any longer";
/// How often the terminal and the user's wishes are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Where the agents of a load run are, and what came of them: `results/agents.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The Job.
    pub(crate) job: String,
    pub(crate) namespace: String,
    /// How many agents there are.
    pub(crate) shards: u32,
    /// Everything they had is here, or lost for good.
    pub(crate) is_collected: bool,
    /// It could not be made the results of one run yet.
    #[serde(default)]
    pub(crate) is_unmerged: bool,
    pub(crate) agents: Vec<Facts>,
    /// What they are given to load.
    target: Target,
    /// The settings with their sources, which agents do not know.
    settings: Value,
}

/// Has agents make the load. Gives the folders of the results and how the run ended.
pub(crate) fn run(
    prepared: &Prepared,
    target: &Target,
    dir: &RunDir,
    printer: &Printer,
) -> Result<(Results, Outcome)> {
    let settings = &prepared.settings;
    let shards = prepared.plan.experiment.load.shards;
    can_deal(prepared, target, shards)?;
    let namespace = settings.text("fmperf.namespace").unwrap_or_default();
    let kubernetes =
        Kubernetes::connect(settings, namespace).map_err(|error| error.exit(Exit::Run))?;
    refuse_unprepared(&kubernetes, settings, namespace)?;
    let mut target = target.clone();
    target.metrics.extend(metrics(&kubernetes, &target));
    let target = &target;
    let name = job::name("load", &prepared.plan.run);
    let agents = Agents { name: &name, namespace, shards, settings };
    let secret = agents.secret(&prepared.secrets);
    let job = agents.job(secret.is_some())?;

    let results = dir.next_results();
    let folder = results.agents();
    run_dir::make(&folder)?;
    let mut record = Record {
        job: name.clone(),
        namespace: namespace.to_owned(),
        shards,
        is_collected: false,
        is_unmerged: false,
        agents: Vec::new(),
        target: target.clone(),
        settings: environment::with_sources(settings),
    };
    prepared.plan.write(&results.plan())?;
    environment::write_profiles(prepared, &results)?;
    run_dir::write_json(&folder.join("job.json"), &job)?;
    let archive = tempfile::NamedTempFile::new()
        .map_err(|error| Error::unexpected("cannot make a temporary file").because(error))?;
    bundle::pack(prepared, target, BufWriter::new(archive.as_file()))?;

    printer.step(&format!(
        "run: {} in {namespace} {} load into {} as {}",
        agents_of(shards),
        if shards == 1 { "makes" } else { "make" },
        target.endpoints.join(", "),
        target.model
    ));
    let lock = lock(&results)?;
    run_dir::write_json(&results.agents_record(), &record)?;
    let outcome = (|| {
        let objects = secret.into_iter().chain([job]).collect();
        appear(&kubernetes, &agents, objects, &prepared.plan.run, dir, printer)?;
        follow(&kubernetes, &mut record, &results, Some(archive.path()), printer)
    })();
    let concluded = outcome.and_then(|(outcome, crew)| {
        let put = put_together(&prepared.plan, &prepared.secrets, &mut record, &results, outcome);
        kubernetes.drive(crew.dismiss());
        put
    });
    keep_evidence(&kubernetes, &record, dir, &results, &prepared.secrets, printer);
    let outcome = close(concluded, &kubernetes, &mut record, dir, &results, printer);
    drop(lock);
    Ok((results, outcome?))
}

/// Goes on where another process left agents alone: collects what they have.
pub(crate) fn attach(
    dir: &RunDir,
    settings: &Settings,
    printer: &Printer,
) -> Result<(Results, Outcome)> {
    let all = dir.all_results().into_iter().rev();
    let mut all = all.filter_map(|results| left(&results).map(|record| (results, record)));
    let Some((results, mut record)) = all.next() else {
        return Err(Error::usage(format!("no agents of `{}` are left to attach to", dir.root().display()))
            .hint("`llmdbench status` shows what a folder has; `llmdbench analyze` reads what was measured"));
    };
    let plan = Plan::read_file(&results.plan())?
        .ok_or_else(|| Error::usage(format!("`{}` is not there", results.plan().display())))?;
    let lock = lock(&results)?;
    let secrets = experiment::secrets(settings).unwrap_or_default();
    if record.is_collected {
        printer.step("the agents are gone, and what they measured is here: it is put together");
        let outcome = said(&record, &results);
        let put = put_together(&plan, &secrets, &mut record, &results, outcome);
        run_dir::write_json(&results.agents_record(), &record)?;
        drop(lock);
        return Ok((results, put?));
    }
    let kubernetes = Kubernetes::of(&Inventory::read(dir)?, settings)?;
    printer.redact(Hidden::of(&kubernetes, dir, &secrets)?.redaction);
    printer.step(&format!(
        "attached to {} of {} in {}",
        agents_of(record.shards),
        record.job,
        record.namespace
    ));
    let (outcome, crew) = follow(&kubernetes, &mut record, &results, None, printer)?;
    let put = put_together(&plan, &secrets, &mut record, &results, outcome);
    kubernetes.drive(crew.dismiss());
    keep_evidence(&kubernetes, &record, dir, &results, &secrets, printer);
    let outcome = close(put, &kubernetes, &mut record, dir, &results, printer);
    drop(lock);
    Ok((results, outcome?))
}

/// What agents that are gone said went wrong.
fn said(record: &Record, results: &Results) -> Outcome {
    let mut outcome = Outcome::default();
    for agent in record.agents.iter().filter(|agent| agent.lost.is_none()) {
        if let Some(State::Ended { outcome: ended, .. }) =
            crew::collected(&results.agents(), agent.shard)
        {
            outcome.join_new(&ended);
        }
    }
    outcome
}

/// Keeps what there is to see of the agents, before they are removed: it says what became of one that was lost.
fn keep_evidence(
    kubernetes: &Kubernetes,
    record: &Record,
    dir: &RunDir,
    results: &Results,
    secrets: &Secrets,
    printer: &Printer,
) {
    let inventory = Inventory::read(dir).unwrap_or_default();
    let is_own = |object: &&ObjectRef| object.kind == "Job" && object.name == record.job;
    let job = inventory.standing().filter(is_own).cloned();
    let pods = record.agents.iter().filter(|agent| !agent.uid.is_empty()).map(|agent| ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: Some(record.namespace.clone()),
        name: agent.pod.clone(),
        uid: Some(agent.uid.clone()),
    });
    let objects: Vec<ObjectRef> = job.chain(pods).collect();
    if !objects.is_empty() {
        evidence::collect_agents(kubernetes, &objects, dir, results, secrets, printer);
    }
}

/// Takes the agents down and joins how that went to how the load ended.
fn close(
    concluded: Result<Outcome>,
    kubernetes: &Kubernetes,
    record: &mut Record,
    dir: &RunDir,
    results: &Results,
    printer: &Printer,
) -> Result<Outcome> {
    let cleared = clear(kubernetes, record, dir, results, printer);
    match (concluded, cleared) {
        (Ok(mut outcome), Err(error)) => {
            outcome.fail(error.exit, &error);
            Ok(outcome)
        }
        (Err(mut error), Err(more)) => {
            error.problems.extend(more.problems);
            Err(error)
        }
        (concluded, Ok(())) => concluded,
    }
}

/// Whether agents in the cluster make the load, into a target that is known or that the plan will have.
pub(crate) fn is_meant(plan: &Plan, target: Option<&Target>) -> bool {
    match plan.experiment.load.from.as_str() {
        "cluster" => true,
        "here" => false,
        _ => target.map_or_else(|| plan.needs_cluster(), |target| target.within.is_some()),
    }
}

/// Refuses several agents where load is not made in the cluster.
pub(crate) fn can_share(plan: &Plan, target: Option<&Target>) -> Result<()> {
    let shards = plan.experiment.load.shards;
    if shards == 1 || is_meant(plan, target) {
        return Ok(());
    }
    Err(Error::usage(format!("{shards} agents share a load in a cluster only")).hint(
        "make it there with --load-from cluster, or leave -j out: load made here uses every core",
    ))
}

/// The Job as a file to look at, of a plan that has agents make its load. None: it has not.
pub(crate) fn planned(prepared: &Prepared) -> Result<Option<(&'static str, String)>> {
    if !is_meant(&prepared.plan, None) {
        return Ok(None);
    }
    let settings = &prepared.settings;
    let agents = Agents {
        name: &job::name("load", &prepared.plan.run),
        namespace: settings.text("fmperf.namespace").unwrap_or_default(),
        shards: prepared.plan.experiment.load.shards,
        settings,
    };
    let job = agents.job(agents.secret(&prepared.secrets).is_some())?;
    Ok(Some(("load_job.json", serde_json::to_string_pretty(&job).unwrap_or_default())))
}

/// Refuses limits that leave nothing for some of the agents.
fn can_deal(prepared: &Prepared, target: &Target, shards: u32) -> Result<()> {
    let planned = prepared.chosen.load(&prepared.plan.facts(), Some(target))?;
    for stage in planned.stages.iter().map(|planned| &planned.stage) {
        let limits = [("concurrency", stage.concurrency), ("max_in_flight", stage.max_in_flight)];
        for (name, limit) in limits {
            if let Some(limit) = limit.filter(|limit| *limit < shards) {
                return Err(Error::usage(format!(
                    "the stage `{}` has a {name} of {limit}, which {shards} agents cannot share",
                    stage.name
                ))
                .hint(format!("take at most {limit} agents (-j)")));
            }
        }
    }
    Ok(())
}

/// Refuses to go on where nothing is prepared for agents.
fn refuse_unprepared(kubernetes: &Kubernetes, settings: &Settings, namespace: &str) -> Result<()> {
    const CURE: &str = "llmdbench standup -s 5";
    kubernetes.refuse_missing("v1", "Namespace", "", namespace, CURE)?;
    let account = settings.text("fmperf.service_account").unwrap_or_default();
    kubernetes.refuse_missing("v1", "ServiceAccount", namespace, account, CURE)
}

/// The metrics pages of the pods that serve the model. A Service would show the page of one pod today and of another
/// tomorrow, and a gateway its own. None: it is not known which pods these are, or the target names its pages.
fn metrics(kubernetes: &Kubernetes, target: &Target) -> Vec<MetricsSource> {
    if target.servers.is_empty() && !target.metrics.is_empty() {
        return Vec::new();
    }
    let servers = kubernetes.servers(target).unwrap_or_default().into_iter();
    let source =
        |url: Option<String>| Some(MetricsSource { component: "server".to_owned(), url: url? });
    servers.map(|server| source(server.metrics)).collect::<Option<_>>().unwrap_or_default()
}

/// Applies what agents are, and waits until all are there.
fn appear(
    kubernetes: &Kubernetes,
    agents: &Agents<'_>,
    objects: Vec<Value>,
    run: &str,
    dir: &RunDir,
    printer: &Printer,
) -> Result<()> {
    let applied = kubernetes.apply_for_run(objects, agents.namespace, run, dir);
    applied.map_err(|error| {
        error.exit(Exit::Run).hint(
            "`load.pod_spec`, `load.cpu`, `load.memory` and `load.image` say what the pods are",
        )
    })?;
    let wait = agents.settings.get("control.wait_timeout").as_u64().unwrap_or(900);
    let selection = Selection::named("batch/v1", "Job", agents.namespace, agents.name);
    let all =
        Condition::Value { path: ".status.ready".into(), value: Some(agents.shards.to_string()) };
    let waited = kubernetes.wait(&selection, &all, Duration::from_secs(wait), printer);
    waited.map(drop).map_err(|error| error.exit(Exit::Run))
}

/// Attends to all agents until each has ended or is lost. `archive` is what they are given first.
fn follow(
    kubernetes: &Kubernetes,
    record: &mut Record,
    results: &Results,
    archive: Option<&Path>,
    printer: &Printer,
) -> Result<(Outcome, Crew)> {
    let folder = results.agents();
    let crew = kubernetes.ask(|cluster| {
        let (namespace, job, shards) =
            (record.namespace.clone(), record.job.clone(), record.shards);
        let (folder, known) = (folder.clone(), record.agents.clone());
        async move { Crew::of(&cluster, &namespace, &job, shards, &folder, &known).await }
    })?;
    let attending: Vec<_> = (0..crew.shards())
        .map(|shard| kubernetes.spawn(crew.clone().attend(shard, archive.map(Path::to_owned))))
        .collect();
    let mut outcome = Outcome::default();
    let mut progress = printer.progress();
    let mut started = false;
    let mut stopped = false;
    // Those that could not begin with the others any more.
    let mut left_out = Vec::new();
    // What tells them goes on beside this until they have heard it or are over.
    let stop = |shards: Vec<u32>, wish: usize| {
        for shard in shards {
            drop(kubernetes.spawn(crew.clone().stop(shard, wish)));
        }
    };
    let all = || (0..crew.shards()).collect::<Vec<_>>();
    let since = Instant::now();
    let before = interrupt::count();
    let mut told = before;
    while !attending.iter().all(tokio::task::JoinHandle::is_finished) {
        std::thread::sleep(TICK);
        let wished = interrupt::count();
        if wished > told {
            // Each wish is passed on: the first asks for an orderly end, the second for a quick one.
            told += 1;
            printer.step(INTERRUPTED);
            stopped = true;
            stop(all(), told - before);
        }
        if !started && crew.has_settled() {
            started = true;
            record.agents = crew.seen().map(|seen| seen.facts.clone()).collect();
            run_dir::write_json(&results.agents_record(), record)?;
            // Those that are told to end are not told to begin.
            let begun = if stopped { Ok(Begun::Not) } else { begin(kubernetes, &crew) };
            match begun {
                Ok(Begun::Together) => {}
                Ok(Begun::Without(late)) => {
                    stop(late.clone(), 1);
                    left_out = late;
                }
                Ok(Begun::Not) => {
                    stopped = true;
                    stop(all(), 1);
                }
                Err(error) => {
                    outcome.fail(error.exit, &error);
                    stopped = true;
                    stop(all(), 1);
                }
            }
        } else if !started && archive.is_none() && crew.has_no_work() && since.elapsed() >= GIVEN {
            started = true;
            let error = Error::new(Exit::Run, "the agents never got their work")
                .cause("the llmdbench that started them ended before it had handed it over")
                .hint("start the run again");
            outcome.fail(Exit::Run, &error);
            stopped = true;
            stop(all(), 1);
        }
        progress.show(|| line(&crew));
    }
    progress.end();
    if told > before {
        outcome.add(Exit::Interrupted, crate::phase::run::KEPT);
    }
    for mut seen in crew.seen() {
        let was_told = seen.outcome().is_some_and(|outcome| outcome.exit() == Exit::Interrupted);
        if was_told && !stopped {
            let pod = &seen.facts.pod;
            let why = format!("its pod {pod} was told to end: it was deleted or evicted");
            seen.facts.lost = Some(why);
        }
        if let Some(State::Ended { alone_from, .. }) = seen.state {
            seen.facts.alone_from = alone_from;
        }
        if left_out.contains(&seen.facts.shard) {
            seen.facts.lost = Some(LEFT_OUT.to_owned());
        }
    }
    record.agents = crew.seen().map(|seen| seen.facts.clone()).collect();
    run_dir::write_json(&results.agents_record(), record)?;
    for seen in crew.seen() {
        if let (Some(ended), None) = (seen.outcome(), &seen.facts.lost) {
            outcome.join_new(ended);
        }
    }
    Ok((outcome, crew))
}

/// How it went to have agents begin.
enum Begun {
    /// Each makes its part of the load.
    Together,
    /// These are too late to make theirs.
    Without(Vec<u32>),
    /// None shall: without one of them the load would not be the one that was asked for.
    Not,
}

/// Has all agents begin that are ready. Where a controller ended between its orders to begin, some have begun: the
/// others follow as long as they are waited for, and are left out when they are not.
fn begin(kubernetes: &Kubernetes, crew: &Crew) -> Result<Begun> {
    let waiting = crew.waiting();
    if waiting.is_empty() {
        return Ok(Begun::Together);
    }
    let are_all_ready = waiting.len() == crew.shards() as usize;
    if are_all_ready || (crew.has_begun() && crew.can_still_meet()) {
        let told = kubernetes.drive(crew.start());
        return told.map(|()| Begun::Together).map_err(|why| {
            Error::new(Exit::Run, "the agents could not be started together").cause(why)
        });
    }
    Ok(if crew.has_begun() { Begun::Without(waiting) } else { Begun::Not })
}

/// The progress line of all agents, with what keeps one of them from being asked.
fn line(crew: &Crew) -> String {
    let trouble = crew.seen().find_map(|seen| {
        let shard = seen.facts.shard;
        if let Some(why) = seen.deaf.as_ref().filter(|_| !seen.is_over) {
            return Some(format!(" | agent {shard} does not hear that it shall end: {why}"));
        }
        let trouble = seen.trouble.as_ref()?;
        Some(format!(" | agent {shard} cannot be asked just now: {trouble}"))
    });
    state(crew) + &trouble.unwrap_or_default()
}

fn state(crew: &Crew) -> String {
    if crew.shards() == 1 {
        let line = crew.seen().next().map(|seen| seen.report.line.clone()).unwrap_or_default();
        return if line.is_empty() { "the agent makes ready".to_owned() } else { line };
    }
    let (mut in_flight, mut sent, mut failed, mut stage) = (0, 0, 0, 0);
    let (mut requests, mut tokens, mut over) = (0.0, 0.0, 0);
    for seen in crew.seen() {
        in_flight += seen.report.in_flight;
        sent += seen.report.sent;
        failed += seen.report.failed;
        stage = stage.max(seen.report.stage);
        requests += seen.report.requests_per_s;
        tokens += seen.report.tokens_per_s;
        over += usize::from(seen.is_over);
    }
    let over = if over > 0 { format!(", {over} at their end") } else { String::new() };
    format!(
        "stage {} | {}{over} | in flight {in_flight} | sent {sent} | {requests:.1} req/s {tokens:.0} tok/s | failed {failed}",
        stage + 1,
        agents_of(crew.shards()),
    )
}

/// Removes the Job and its Secret, unless an agent that could not be asked may still have something.
fn clear(
    kubernetes: &Kubernetes,
    record: &mut Record,
    dir: &RunDir,
    results: &Results,
    printer: &Printer,
) -> Result<()> {
    if let Some(agent) = record.agents.iter().find(|agent| agent.may_have_more) {
        return Err(Error::new(
            Exit::Run,
            format!("the Job {} stays: agent {} may have more", record.job, agent.shard),
        )
        .hint("an agent keeps what it has for a day; `llmdbench run --attach` collects it"));
    }
    // Nothing is lost with them any more, whether they go now or with the stack.
    record.is_collected = true;
    let noted = run_dir::write_json(&results.agents_record(), record);
    let objects = [("batch/v1", "Job", record.job.as_str()), ("v1", "Secret", &record.job)];
    let removed = kubernetes.remove_for_run(&objects, &record.namespace, REMOVAL, dir);
    let left = removed.map_err(|error| error.hint("`llmdbench teardown` removes the agents"))?;
    if !left.is_empty() {
        let left = left.join("; ");
        printer.step(&format!("still there: {left}; `llmdbench teardown` waits until it is gone"));
    }
    noted
}

fn agents_of(shards: u32) -> String {
    if shards == 1 { "1 agent".to_owned() } else { format!("{shards} agents") }
}
