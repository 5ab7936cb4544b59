//! From the settings to the plan: sweeps spread out, names given, warm-up put in front.

use crate::arrival::{Load, arrival, wrong};
use crate::settings::{Entry, Settings, Sweep, WarmUp};
use llmdbench_plugin::Error;
use llmdbench_plugin::stages::{Arrival, LoadPlan, Ramped, Stage, Stop};
use llmdbench_plugin::types::Label;

/// The name of the stage that `warmup` puts in front.
const WARM_UP: &str = "warm-up";

/// What is to be done.
///
/// # Errors
/// When settings contradict each other, with the place and what to do.
pub(crate) fn plan(settings: &Settings) -> Result<LoadPlan, Error> {
    let mut stages: Vec<Stage> = Vec::new();
    for (index, entry) in settings.stages.iter().enumerate() {
        let at = format!("/stages/{index}");
        check_end(entry, &at)?;
        for load in loads(entry, &at)? {
            let arrival = arrival(entry, load, &at)?;
            let name = name(entry, load, &arrival, &stages, &at)?;
            stages.push(stage(entry, load, arrival, name));
        }
    }
    let Some(first) = stages.first() else {
        return Err(wrong("/stages", "there is no stage", "add one: `{rate: 2, for: 20s}`"));
    };
    if let Some(warm_up) = settings.warmup {
        let stage = warm_up_stage(first, warm_up, &stages)?;
        stages.insert(0, stage);
    }
    if stages.iter().all(|stage| stage.warm_up) {
        let hint = "add a stage that is measured, or leave out `warm_up: true`";
        return Err(wrong(
            "/stages",
            "every stage is a warm-up, so nothing would be measured",
            hint,
        ));
    }
    let request_timeout = settings.request_timeout.map(Into::into);
    if request_timeout == Some(0) {
        let message = "a request cannot be done in no time";
        return Err(wrong("/request_timeout", message, "choose a duration such as 120s"));
    }
    Ok(LoadPlan { stages, request_timeout, tick_every: None })
}

fn check_end(entry: &Entry, at: &str) -> Result<(), Error> {
    for (name, zero) in [
        ("for", entry.length.is_some_and(|length| length.nanos() == 0)),
        ("sessions", entry.sessions == Some(0)),
        ("requests", entry.requests == Some(0)),
        ("max_errors", entry.max_errors == Some(0)),
        ("max_in_flight", entry.max_in_flight == Some(0)),
        ("quantum", entry.quantum.is_some_and(|quantum| quantum.nanos() == 0)),
    ] {
        if zero {
            let hint = format!("choose more than 0, or leave out `{name}`");
            return Err(wrong(&format!("{at}/{name}"), "the value is 0", hint));
        }
    }
    let trace = entry.arrival == Some(crate::settings::Pattern::Trace);
    let ends = entry.length.is_some() || entry.sessions.is_some() || entry.requests.is_some();
    if ends || trace || entry.whole_workload {
        return Ok(());
    }
    let hint = "add `for: 20s`, `sessions: 100` or `requests: 100`; `whole_workload: true` where a data set ends by itself";
    Err(wrong(at, "the stage has no end", hint))
}

/// One load for each stage that the entry makes.
fn loads(entry: &Entry, at: &str) -> Result<Vec<Load>, Error> {
    let one = |sweep: &Option<Sweep<u32>>| match sweep {
        Some(Sweep::One(concurrency)) => Some(*concurrency),
        _ => None,
    };
    let loads: Vec<Load> = match (&entry.rate, &entry.concurrency) {
        (Some(Sweep::Each(_)), Some(Sweep::Each(_))) => {
            let hint = "sweep one of the two and write an entry for each value of the other";
            return Err(wrong(at, "rate and concurrency are both lists", hint));
        }
        (Some(Sweep::Each(rates)), concurrency) => {
            let concurrency = one(concurrency);
            rates.iter().map(|rate| Load { rate: Some(*rate), concurrency }).collect()
        }
        (rate, Some(Sweep::Each(levels))) => {
            let rate = rate.as_ref().and_then(|rate| match rate {
                Sweep::One(rate) => Some(*rate),
                Sweep::Each(_) => None,
            });
            levels.iter().map(|level| Load { rate, concurrency: Some(*level) }).collect()
        }
        (Some(Sweep::One(rate)), concurrency) => {
            vec![Load { rate: Some(*rate), concurrency: one(concurrency) }]
        }
        (None, concurrency) => vec![Load { rate: None, concurrency: one(concurrency) }],
    };
    if loads.is_empty() {
        return Err(wrong(at, "a list of the stage is empty", "give at least one value"));
    }
    if loads.iter().any(|load| load.concurrency == Some(0)) {
        let hint = "choose at least 1, or leave out `concurrency`";
        return Err(wrong(&format!("{at}/concurrency"), "no session could ever start", hint));
    }
    Ok(loads)
}

fn name(
    entry: &Entry,
    load: Load,
    arrival: &Arrival,
    before: &[Stage],
    at: &str,
) -> Result<String, Error> {
    let taken = |name: &str| name == WARM_UP || before.iter().any(|stage| stage.name == name);
    let swept = matches!(entry.rate, Some(Sweep::Each(_)))
        || matches!(entry.concurrency, Some(Sweep::Each(_)));
    if let (Some(name), false) = (&entry.name, swept) {
        if taken(name) {
            let hint = "give every stage a name of its own, or none";
            return Err(wrong(&format!("{at}/name"), format!("the name {name:?} is taken"), hint));
        }
        return Ok(name.clone());
    }
    let of_load = of_load(entry, load, arrival);
    let wanted = match &entry.name {
        Some(name) => format!("{name}-{of_load}"),
        None => of_load,
    };
    if !taken(&wanted) {
        return Ok(wanted);
    }
    let numbered = (2u32..).map(|number| format!("{wanted}-{number}")).find(|name| !taken(name));
    Ok(numbered.expect("there are more numbers than stages"))
}

/// What the load itself suggests as a name.
fn of_load(entry: &Entry, load: Load, arrival: &Arrival) -> String {
    // The list that is swept tells the stages apart; the other value is the same in all.
    let by_concurrency = matches!(entry.concurrency, Some(Sweep::Each(_))) || load.rate.is_none();
    let mut name = match (arrival, load.rate, load.concurrency) {
        (Arrival::Trace(speed), ..) if *speed == 1.0 => "trace".to_owned(),
        (Arrival::Trace(speed), ..) => format!("trace-{speed}x"),
        (_, _, Some(concurrency)) if by_concurrency => format!("concurrency-{concurrency}"),
        (_, Some(rate), _) => format!("rate-{rate}"),
        (_, None, _) => {
            unreachable!("an arrival without a rate or a concurrency is refused before")
        }
    };
    if let Arrival::Ramp(ramp) = arrival {
        name.push_str(&format!("-to-{}", ramp.end));
    }
    name
}

fn stage(entry: &Entry, load: Load, arrival: Arrival, name: String) -> Stage {
    let ramps_sessions = matches!(&arrival, Arrival::Ramp(ramp) if ramp.what == Ramped::Closed);
    Stage {
        name,
        arrival,
        // The ramp itself says how many; a cap at its start would hold it there.
        concurrency: load.concurrency.filter(|_| !ramps_sessions),
        max_in_flight: entry.max_in_flight,
        stop: Stop {
            after: entry.length.map(Into::into),
            sessions: entry.sessions,
            requests: entry.requests,
            errors: entry.max_errors,
        },
        warm_up: entry.warm_up,
        quantum: entry.quantum.map(Into::into),
        drain: entry.drain.map(Into::into),
        cool_down: entry.pause.into(),
        workload_settings: entry.workload.as_ref().map(|settings| {
            serde_json::to_string(settings).expect("a JSON object can always be written")
        }),
        labels: entry
            .labels
            .iter()
            .map(|(key, value)| Label { key: key.clone(), value: value.clone() })
            .collect(),
    }
}

/// The stage in front: as the first one, but short, steady and left out of the results.
fn warm_up_stage(first: &Stage, warm_up: WarmUp, stages: &[Stage]) -> Result<Stage, Error> {
    if stages.iter().any(|stage| stage.warm_up) {
        let hint = "leave out `warmup`, or `warm_up: true` of the stages";
        return Err(wrong("/warmup", "there is a warm-up stage already", hint));
    }
    let stop = match warm_up {
        WarmUp::Requests(requests) if requests > 0 => {
            Stop { after: None, sessions: None, requests: Some(requests), errors: None }
        }
        WarmUp::For(length) if length.nanos() > 0 => {
            Stop { after: Some(length.into()), sessions: None, requests: None, errors: None }
        }
        _ => {
            return Err(wrong(
                "/warmup",
                "the warm-up is empty",
                "choose more than 0, or leave out `warmup`",
            ));
        }
    };
    let (arrival, concurrency) = match &first.arrival {
        // Where the ramp starts, unless that is nothing.
        Arrival::Ramp(ramp) => {
            let value = if ramp.start > 0.0 { ramp.start } else { ramp.end };
            match ramp.what {
                // Whole and at most a million, as was checked.
                Ramped::Closed => (Arrival::Closed, Some(value as u32)),
                Ramped::Constant => (Arrival::Constant(value), first.concurrency),
                Ramped::Poisson => (Arrival::Poisson(value), first.concurrency),
            }
        }
        // A trace's own starts may be far apart; one session after another warms up just as well.
        Arrival::Trace(_) => (Arrival::Closed, Some(1)),
        other => (other.clone(), first.concurrency),
    };
    Ok(Stage {
        name: WARM_UP.to_owned(),
        arrival,
        concurrency,
        stop,
        warm_up: true,
        cool_down: 0,
        labels: Vec::new(),
        ..first.clone()
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
