//! The phase that drives load into the target and keeps what happened.

use crate::agent::Agent;
use crate::calibration;
use crate::chosen::line_text;
use crate::error::{Error, Exit, Result};
use crate::interrupt;
use crate::outcome::Outcome;
use crate::phase::plan::Prepared;
use crate::phase::server_metrics::{Reading, Watched};
use crate::phase::smoketest::{check_model, parse};
use crate::phase::supply::{AHEAD, Supply};
use crate::phase::{cache, environment, server_metrics};
use crate::plan::Target;
use crate::printer::Printer;
use crate::probe::{Models, Probe};
use crate::run_dir::{self, Results, RunDir};
use crate::translate::PlannedStage;
use crate::unit;
use crate::words::Words;
use load::{Arrival, Endpoint, Ramped};
use plugin_host::wit::log::Level;
use records::{EndReason, Entry, FORMAT, Header, LoopKind, Reader, StageInfo, VERSION};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokenizers::Tokenizer;

/// What a first interruption does.
pub(crate) const INTERRUPTED: &str =
    "interrupted: nothing new starts, requests under way may end; once more ends them";
/// How a run ended that was interrupted.
pub(crate) const KEPT: &str = "the run was interrupted; what was measured is kept";
/// How often the terminal and the user's wishes are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Drives the load, or as an agent its part of it. Gives the folders of the results and how the run ended.
pub(crate) fn run(
    prepared: &Prepared,
    target: &Target,
    dir: &RunDir,
    agent: Option<&Agent>,
    printer: &Printer,
) -> Result<(Results, Outcome)> {
    let plan = &prepared.plan;
    let experiment = &plan.experiment;
    let endpoints = target.endpoints.iter().map(|url| parse(url)).collect::<Result<Vec<_>>>()?;
    let probes = probes(prepared, &endpoints)?;
    for (probe, endpoint) in probes.iter().zip(&endpoints) {
        // With one endpoint there is no doubt which is meant.
        let one_of_several = endpoints.len() > 1;
        let found = check_model(probe, &target.model).map_err(|error| match one_of_several {
            true => error.cause(format!("{endpoint} was asked")),
            false => error,
        })?;
        match found {
            Some(note) if one_of_several => printer.warning(&format!("{endpoint}: {note}")),
            Some(note) => printer.warning(&note),
            None => {}
        }
    }
    let probe = probes.first().ok_or_else(|| Error::unexpected("the target has no endpoint"))?;
    // Afterwards the server may be gone, or busy.
    let server_version = probe.version();
    let is_first = agent.is_none_or(|agent| agent.shard().index == 0);
    let watched = match is_first {
        true => server_metrics::watched(target, experiment, &prepared.secrets, printer)?,
        // The server says the same to all.
        false => Watched::default(),
    };
    let facts = plan.facts();
    let planned = prepared.chosen.load(&facts, Some(target))?;
    let stages = planned.stages;
    let supply = Supply::new(&prepared.chosen, &facts, target, &stages)?;
    let calibration = calibration::find(prepared.settings.text("control.data_dir"), printer);
    if let Some(calibration) = &calibration {
        calibration::foresee(calibration, &stages, &plan.workload, printer);
    }
    let words = words(prepared, &supply, probe, target, printer)?;
    let exact_output = experiment
        .target
        .exact_output
        .unwrap_or_else(|| endpoints.iter().all(|e| e.host() != "api.openai.com"));

    // Plugins may have worked for seconds.
    interrupt::check()?;
    let look_ahead = || {
        let again = Supply::new(&prepared.chosen, &facts, target, &stages)?;
        again.look_ahead(stages.len(), &mut words.clone())
    };
    let secrets = &prepared.secrets;
    let ready = cache::make_ready(plan, &endpoints, secrets, &supply, look_ahead, printer)?;
    let stages: Vec<PlannedStage> = ready.stage().into_iter().chain(stages).collect();
    let results = dir.next_results();
    run_dir::make(&results.results)?;
    plan.write(&results.plan())?;
    ready.write(&results)?;
    environment::write_profiles(prepared, &results)?;
    if let Some(calibration) = &calibration {
        run_dir::write_json(&results.calibration(), calibration)?;
    }
    let records = results.records();
    let file = OpenOptions::new().write(true).create_new(true).open(records).map_err(|error| {
        Error::unexpected(format!("cannot write `{}`", records.display())).because(error)
    })?;
    let together = agent.map(Agent::start).transpose()?;
    let redaction = prepared.secrets.redaction();
    let before = server_metrics::before(watched, &results, redaction, printer);
    let now = SystemTime::now();
    let zero = together.as_ref().map_or(now, |together| together.zero);
    let started = jiff::Timestamp::try_from(zero).unwrap_or_else(|_| jiff::Timestamp::now());
    let header = header(prepared, target, &stages, started);
    let journal = records::Writer::new(BufWriter::with_capacity(256 * 1024, file), &header)
        .map_err(|error| {
            Error::unexpected(format!("cannot write `{}`", records.display())).because(error)
        })?;
    let load_plan = load::Plan {
        target: load_target(prepared, target, endpoints.clone(), exact_output),
        stages: stages.iter().map(|planned| planned.stage.clone()).collect(),
        request_timeout: planned.request_timeout.unwrap_or(experiment.target.timeout_ns),
        seed: experiment.seed,
        abort: load::Abort {
            without_success: Some(experiment.load.give_up_after_ns),
            max_error_rate: experiment.load.max_error_rate,
        },
        count_tokens: prepared.chosen.tokenizer().cloned().map(token_counter),
        threads: experiment.load.threads,
        together,
    };
    let (mut feeders, supplies): (VecDeque<_>, _) =
        stages.iter().map(|_| load::ring(AHEAD)).unzip();
    let failure: Arc<Mutex<Option<Error>>> = Arc::default();
    let feeding = {
        let failure = Arc::clone(&failure);
        std::thread::Builder::new()
            .name("workload".into())
            .spawn(move || {
                if let Err(error) = supply.feed(&mut feeders, words, ready) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
                // A feeder that goes away is a workload at its end. Those that a failure leaves stay
                // until the load has heard of it.
                feeders
            })
            .map_err(|error| Error::unexpected("cannot start a thread").because(error))?
    };
    printer.step(&format!(
        "run: {} into {} as {}",
        match stages.len() {
            1 => "1 stage".to_owned(),
            n => format!("{n} stages"),
        },
        target.endpoints.join(", "),
        target.model
    ));
    let ahead = zero.duration_since(now).unwrap_or_default();
    let start = Instant::now() + ahead;
    let reading = before.map(|before| server_metrics::begin(before, start)).transpose()?;
    let running = load::start(load_plan, supplies, journal)
        .map_err(|error| Error::unexpected("cannot start the load").because(error))?;
    let interrupted = follow(&running, stages.len(), reading.as_ref(), &failure, agent, printer);
    let ended = running.finish();
    if let Some(reading) = reading {
        reading.end(printer);
    }
    // The load wants no more sessions, so the feeding ends as soon as the plugin returns.
    let _ = feeding.join();
    let plugin_failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    let logged = write_plugin_log(prepared, &results);

    let mut outcome = Outcome::default();
    if interrupted {
        outcome.add(Exit::Interrupted, KEPT);
    }
    if let Some(error) = &plugin_failure {
        outcome.fail(Exit::Run, error);
    }
    if let Some(not_found) = &ended.not_found {
        let mut all = probes.iter().zip(&endpoints);
        let asked = all.find(|(_, endpoint)| not_found.url.starts_with(&endpoint.url("/v1/")));
        let asked = asked.map_or(probe, |(probe, _)| probe);
        outcome.fail(Exit::Run, &explain_not_found(not_found, asked, target));
    } else if ended.reason == EndReason::Aborted {
        let what = Error::new(Exit::Run, format!("the run was aborted: {}", ended.message));
        outcome.fail(Exit::Run, &with_first_failure(what, records));
    } else if ended.reason == EndReason::PluginFailed && plugin_failure.is_none() {
        // A session of the workload could not be sent.
        outcome.add(Exit::Run, &ended.message);
    } else if ended.sent > 0 && ended.succeeded == 0 && !interrupted {
        let what = Error::new(Exit::Run, "no request succeeded");
        outcome.fail(Exit::Run, &with_first_failure(what, records));
    } else if ended.sent == 0 && !interrupted && plugin_failure.is_none() {
        outcome.add(Exit::Run, "nothing was sent: the workload has no sessions");
    }
    if let Some(error) = &ended.journal_error {
        let what = Error::unexpected(format!("cannot write `{}`", records.display()))
            .cause(error.to_string())
            .hint("records are missing: free some space and run again");
        outcome.fail(Exit::Unexpected, &what);
    }
    let written = run_dir::write_json(
        &results.run(),
        &json!({
            "format": "llmdbench.run", "version": "1.0",
            "run": plan.run,
            "triple": {
                "scenario": experiment.scenario,
                "harness": prepared.chosen.harness.plugin.name(),
                "workload": prepared.chosen.workload.plugin.name(),
            },
            "settings": environment::with_sources(&prepared.settings),
            "seed": experiment.seed,
            "plugins": plan.plugins,
            "target": target,
            "same_host": target.endpoints_here() > 0,
            "server_version": server_version,
            "host": crate::host_facts::collect(),
            "tls_checked": !experiment.target.insecure,
            "exact_output": exact_output,
            "started": started.to_string(),
            "ended": jiff::Timestamp::now().to_string(),
            "end": {"reason": ended.reason, "message": ended.message},
            "exit": outcome.exit() as i32,
        }),
    );
    // What became of the load has been told, whatever else cannot be kept.
    for error in [logged, written].into_iter().filter_map(Result::err) {
        outcome.fail(error.exit, &error);
    }
    Ok((results, outcome))
}

/// Shows progress and passes on what the user wants, until the load has ended. Says whether it
/// was interrupted.
fn follow(
    running: &load::Run,
    stages: usize,
    reading: Option<&Reading>,
    failure: &Mutex<Option<Error>>,
    agent: Option<&Agent>,
    printer: &Printer,
) -> bool {
    let mut stage = 0;
    let mut progress = printer.progress();
    let mut told = 0;
    let mut aborted = false;
    while !running.is_finished() {
        std::thread::sleep(TICK);
        let wished = interrupt::count();
        if wished > told {
            if told == 0 {
                printer.step(INTERRUPTED);
                running.stop();
            }
            // Both may have come since the last look.
            if wished > 1 {
                running.stop_now();
            }
            told = wished;
        }
        let failed = failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(error), false) = (failed.as_ref(), aborted) {
            aborted = true;
            let message = error.problems.first().map(|p| p.message.clone()).unwrap_or_default();
            running.abort(EndReason::PluginFailed, message);
        }
        drop(failed);
        if let Some(reading) = reading.filter(|_| stages > 1) {
            let now = running.progress().stage;
            if now != stage {
                stage = now;
                reading.now();
            }
        }
        if let Some(agent) = agent {
            let now = running.progress();
            agent.report(&now, || line(&now, stages));
        }
        progress.show(|| line(&running.progress(), stages));
    }
    progress.end();
    told > 0
}

/// The progress line.
fn line(p: &load::Progress, stages: usize) -> String {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"));
    let time = match p.stage_length {
        Some(length) if p.stage_elapsed > length => "over, waits for the last answers".to_owned(),
        Some(length) => format!(
            "{} left",
            unit::show(Duration::from_secs(length.saturating_sub(p.stage_elapsed).as_secs()))
        ),
        None => unit::show(Duration::from_secs(p.stage_elapsed.as_secs())),
    };
    let errors: Vec<String> =
        p.errors.iter().map(|(kind, n)| format!("{n} {}", kind.name())).collect();
    format!(
        "{} ({}/{}) {time} | in flight {} | sent {} | {:.1} req/s {:.0} tok/s | TTFT {}/{} ITL {}/{} late {}/{} ms p50/p99{}",
        p.stage_name,
        p.stage + 1,
        stages,
        p.in_flight,
        p.sent,
        p.requests_per_s,
        p.tokens_per_s,
        ms(p.ttft.map(|q| q.p50)),
        ms(p.ttft.map(|q| q.p99)),
        ms(p.itl.map(|q| q.p50)),
        ms(p.itl.map(|q| q.p99)),
        ms(p.lateness.map(|q| q.p50)),
        ms(p.lateness.map(|q| q.p99)),
        if errors.is_empty() { String::new() } else { format!(" | failed: {}", errors.join(", ")) },
    )
}

fn token_counter(tokenizer: Tokenizer) -> load::TokenCounter {
    load::TokenCounter::new(move |text| {
        let tokens = tokenizer.encode_fast(text, false).ok()?;
        u32::try_from(tokens.len()).ok()
    })
}

/// Where prompts of a chosen length get their words: from the tokenizer, else scaled by what the
/// server counts. Nothing is asked where the user chose no lengths.
fn words(
    prepared: &Prepared,
    supply: &Supply,
    probe: &Probe<'_>,
    target: &Target,
    printer: &Printer,
) -> Result<Words> {
    if let Some(tokenizer) = prepared.chosen.tokenizer() {
        return Ok(Words::of(tokenizer));
    }
    let words = Words::unmeasured();
    if !supply.wants_words() || !prepared.settings.is_set("workload.settings") {
        return Ok(words);
    }
    let sample = words.sample();
    let count = words.sample_words() as f64;
    if let Some(tokens) = probe.tokenize(&target.model, &sample) {
        printer.detail(&format!("the server's /tokenize counts {tokens} tokens in {count} words"));
        return Ok(Words::scaled(tokens as f64 / count));
    }
    printer.step("prompts: the server has no /tokenize, so two short completions measure its tokens per word");
    let experiment = &prepared.plan.experiment;
    let asked = |text: &str| -> Result<Option<u64>> {
        let extra = &experiment.target.extra_body;
        Ok(probe.completion(experiment.api(), &target.model, extra, text)?.input_tokens)
    };
    // The difference of two prompts leaves out what the chat template adds to both.
    match (asked(&sample)?, asked(&words.text(16, 1))?) {
        (Some(long), Some(short)) if long > short => {
            Ok(Words::scaled((long - short) as f64 / (count - 16.0)))
        }
        _ => {
            printer.warning("the server does not say how many tokens a prompt has: one word is taken for one token");
            Ok(words)
        }
    }
}

/// A way to ask each endpoint.
fn probes<'a>(prepared: &'a Prepared, endpoints: &'a [Endpoint]) -> Result<Vec<Probe<'a>>> {
    let experiment = &prepared.plan.experiment;
    let probe =
        |endpoint| Probe::new(endpoint, &prepared.secrets, &experiment.tls(), experiment.timeout());
    endpoints.iter().map(probe).collect()
}

fn load_target(
    prepared: &Prepared,
    target: &Target,
    endpoints: Vec<Endpoint>,
    exact_output: bool,
) -> load::Target {
    let experiment = &prepared.plan.experiment;
    let copy = |secret: &SecretString| SecretString::from(secret.expose_secret().to_owned());
    load::Target {
        endpoints,
        api: experiment.api(),
        model: target.model.clone(),
        run: prepared.plan.run.clone(),
        headers: prepared.secrets.headers.iter().map(|(n, v)| (n.clone(), copy(v))).collect(),
        api_key: prepared.secrets.api_key.as_ref().map(copy),
        extra_body: experiment.target.extra_body.clone(),
        tls: experiment.tls(),
        exact_output,
    }
}

fn header(
    prepared: &Prepared,
    target: &Target,
    stages: &[PlannedStage],
    started: jiff::Timestamp,
) -> Header {
    Header {
        format: FORMAT.into(),
        version: VERSION.into(),
        run: prepared.plan.run.clone(),
        started: started.to_string(),
        clock: "ns since run start".into(),
        model: target.model.clone(),
        endpoint: target.endpoints.join(" "),
        seed: prepared.plan.experiment.seed,
        stages: stages.iter().map(|planned| stage_info(&planned.stage)).collect(),
        slo: prepared.plan.experiment.slo.clone(),
    }
}

fn stage_info(stage: &load::Stage) -> StageInfo {
    let rate = match &stage.arrival {
        Arrival::Constant(rate) | Arrival::Poisson(rate) | Arrival::Gamma { rate, .. } => {
            Some(*rate)
        }
        Arrival::Closed | Arrival::Ramp(_) | Arrival::Trace(_) | Arrival::Schedule(_) => None,
    };
    let closed = matches!(&stage.arrival, Arrival::Closed)
        || matches!(&stage.arrival, Arrival::Ramp(ramp) if ramp.what == Ramped::Closed);
    StageInfo {
        name: stage.name.clone(),
        warmup: stage.warm_up,
        kind: if closed { LoopKind::Closed } else { LoopKind::Open },
        rate,
        concurrency: stage.concurrency,
        max_in_flight: stage.max_in_flight,
        length: stage.stop.after,
        settle: stage.settle,
        labels: stage.labels.clone(),
    }
}

/// The first answers were 404: the path or the model is wrong.
fn explain_not_found(not_found: &load::NotFound, probe: &Probe<'_>, target: &Target) -> Error {
    let mut error = Error::new(
        Exit::Run,
        format!("{} answers 404 Not Found: the load was stopped", not_found.url),
    )
    .cause(not_found.body.clone());
    error = match probe.models() {
        Ok(Models::Listed(models)) if !models.contains(&target.model) => error.hint(format!(
            "the target has no model `{}`; it has {}",
            target.model,
            models.join(", ")
        )),
        Ok(Models::Listed(models)) => error.hint(format!(
            "/v1/models answers and lists {}: try the other API with --api",
            models.join(", ")
        )),
        Ok(Models::NoList { answer }) => {
            error.hint(format!("no inference API seems to be at this address: {answer}"))
        }
        Err(other) => {
            error.hint(other.problems.first().map(|p| p.message.clone()).unwrap_or_default())
        }
    };
    error.hint("the endpoint is the address before /v1: http://host:8000 or http://host/prefix")
}

/// Says how the first request failed that did.
pub(crate) fn with_first_failure(error: Error, records: &Path) -> Error {
    let failure = || {
        let mut reader = Reader::new(BufReader::new(File::open(records).ok()?)).ok()?;
        while let Ok(Some(entry)) = reader.next_entry() {
            if let Entry::Record(record) = entry
                && let Some(failure) = record.error
            {
                let status = match record.status {
                    0 => String::new(),
                    status => format!(" {status}"),
                };
                let message = failure.message.trim();
                return Some(format!("`{}`{status}: {message}", failure.kind.name()));
            }
        }
        None
    };
    match failure() {
        Some(failure) => error.cause(format!("the first failure was {failure}")),
        None => error,
    }
}

fn write_plugin_log(prepared: &Prepared, results: &Results) -> Result<()> {
    let lines: Vec<String> = prepared
        .chosen
        .log
        .take()
        .iter()
        .map(|line| format!("{} {}: {}\n", level(line.level), line.plugin, line_text(line)))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    let path = results.log("plugins.log");
    fs::create_dir_all(path.parent().unwrap_or(&results.results))
        .and_then(|()| fs::write(&path, prepared.secrets.redaction().clean(&lines.concat())))
        .map_err(|error| {
            Error::unexpected(format!("cannot write `{}`", path.display())).because(error)
        })
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}
