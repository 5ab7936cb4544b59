//! Between the plugin contract and the host's own types: stages, sessions, steps.
//!
//! What the contract has and this host cannot do yet is an `unsupported` error that names it.

pub(crate) mod steps;

use crate::error::{Error, Result};
use crate::plan::StageOutline;
use crate::unit;
use crate::words::Words;
use load::{Arrival, Message, Pacing, Part, Prompt, Ramp, Ramped, Request, Session, Stop, Turn};
use plugin_host::wit;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Something of the contract that this host cannot do.
fn unsupported(plugin: &str, what: &str) -> Error {
    Error::usage(format!("unsupported: the plugin `{plugin}` asks for {what}"))
        .hint("this version of llmdbench cannot do that yet; `llmdbench plugin inspect` shows what the plugin needs")
}

/// Labels as a map.
pub(crate) fn labels(labels: Vec<wit::types::Label>) -> BTreeMap<String, String> {
    labels.into_iter().map(|label| (label.key, label.value)).collect()
}

/// A stage of the load, and the workload's settings for it.
#[derive(Debug, Clone)]
pub(crate) struct PlannedStage {
    pub(crate) stage: load::Stage,
    pub(crate) workload_settings: Option<Value>,
}

/// The stages of a harness. With `warm_up_rule`, long stages begin with a part that is not
/// measured, unless there is a warm-up stage.
pub(crate) fn stages(
    plugin: &str,
    stages: Vec<wit::stages::Stage>,
    warm_up_rule: bool,
) -> Result<Vec<PlannedStage>> {
    if stages.is_empty() {
        return Err(Error::usage(format!("the harness `{plugin}` plans no stage")));
    }
    let mut names = std::collections::HashSet::new();
    let mut translated = Vec::with_capacity(stages.len());
    for stage in stages {
        if !names.insert(stage.name.clone()) {
            return Err(Error::usage(format!(
                "the harness `{plugin}` plans two stages named `{}`",
                stage.name
            )));
        }
        let arrival = arrival(plugin, stage.arrival, stage.stop.after)?;
        if let Some(wrong) = impossible(&arrival) {
            return Err(Error::usage(format!(
                "the harness `{plugin}` plans the stage `{}` with {wrong}",
                stage.name
            )));
        }
        if matches!(arrival, Arrival::Closed) && stage.concurrency.unwrap_or(0) == 0 {
            return Err(Error::usage(format!(
                "the harness `{plugin}` plans the stage `{}` as a closed loop without a concurrency",
                stage.name
            )));
        }
        let workload_settings = stage
            .workload_settings
            .as_deref()
            .map(serde_json::from_str)
            .transpose()
            .map_err(|error| {
                Error::usage(format!(
                    "the harness `{plugin}` gives the stage `{}` workload settings that are no JSON",
                    stage.name
                ))
                .because(error)
            })?;
        let stop = Stop {
            after: stage.stop.after,
            sessions: stage.stop.sessions,
            requests: stage.stop.requests,
            errors: stage.stop.errors,
        };
        let settle = if stage.warm_up { 0 } else { settle(planned_length(&arrival, &stop)) };
        translated.push(PlannedStage {
            stage: load::Stage {
                name: stage.name,
                arrival,
                concurrency: stage.concurrency,
                max_in_flight: stage.max_in_flight,
                stop,
                warm_up: stage.warm_up,
                settle,
                quantum: stage.quantum,
                drain: stage.drain,
                cool_down: stage.cool_down,
                labels: labels(stage.labels),
            },
            workload_settings,
        });
    }
    if !warm_up_rule || translated.iter().any(|planned| planned.stage.warm_up) {
        for planned in &mut translated {
            planned.stage.settle = 0;
        }
    }
    Ok(translated)
}

/// How long a stage takes, in nanoseconds, as its plan says. None: the server decides, or the workload.
fn planned_length(arrival: &Arrival, stop: &Stop) -> Option<u64> {
    use Arrival::{Constant, Gamma, Poisson};
    match (arrival, stop) {
        // How many requests make a session is the workload's.
        (_, Stop { requests: Some(_), .. }) => None,
        (_, Stop { sessions: None, .. }) => stop.after,
        (
            &(Constant(rate) | Poisson(rate) | Gamma { rate, .. }),
            &Stop { sessions: Some(count), .. },
        ) => {
            let by_count = (count as f64 / rate * 1e9) as u64;
            Some(stop.after.map_or(by_count, |after| after.min(by_count)))
        }
        _ => None,
    }
}

/// The warm-up rule: of a stage of 120 s and more, the first tenth, at least 30 s, is sent and not
/// measured.
fn settle(after: Option<u64>) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    match after {
        Some(length) if length >= analysis::STEADY_FROM => (length / 10).max(30 * SECOND),
        _ => 0,
    }
}

fn arrival(plugin: &str, arrival: wit::stages::Arrival, after: Option<u64>) -> Result<Arrival> {
    use wit::stages::Arrival as Wit;
    Ok(match arrival {
        Wit::Closed => Arrival::Closed,
        Wit::Constant(rate) => Arrival::Constant(rate),
        Wit::Poisson(rate) => Arrival::Poisson(rate),
        Wit::Gamma(gamma) => Arrival::Gamma { rate: gamma.rate, shape: gamma.shape },
        Wit::Ramp(ramp) => {
            let over = ramp.over.or(after).ok_or_else(|| {
                Error::usage(format!("the harness `{plugin}` plans a ramp without a length"))
            })?;
            Arrival::Ramp(Ramp {
                what: match ramp.what {
                    wit::stages::Ramped::Closed => Ramped::Closed,
                    wit::stages::Ramped::Constant => Ramped::Constant,
                    wit::stages::Ramped::Poisson => Ramped::Poisson,
                },
                start: ramp.start,
                end: ramp.end,
                over,
                exponential: matches!(ramp.curve, wit::stages::Curve::Exponential),
            })
        }
        Wit::Trace(factor) => Arrival::Trace(factor),
        Wit::Schedule(times) => Arrival::Schedule(times),
        Wit::Other(other) => {
            return Err(unsupported(plugin, &format!("the arrival pattern `{}`", other.name)));
        }
    })
}

/// What is wrong with arrivals that cannot be made. None: they can.
fn impossible(arrival: &Arrival) -> Option<String> {
    let positive = |value: f64| value.is_finite() && value > 0.0;
    match *arrival {
        Arrival::Constant(rate) | Arrival::Poisson(rate) if !positive(rate) => {
            Some(format!("{rate} arrivals a second"))
        }
        Arrival::Gamma { rate, shape } if !(positive(rate) && positive(shape)) => {
            Some(format!("{rate} arrivals a second of shape {shape}"))
        }
        Arrival::Ramp(Ramp { start, end, exponential, .. }) => {
            let is_value = |value: f64| positive(value) || value == 0.0 && !exponential;
            let is_ramp = is_value(start) && is_value(end) && start + end > 0.0;
            (!is_ramp).then(|| format!("a ramp from {start} to {end}"))
        }
        Arrival::Trace(factor) if !positive(factor) => {
            Some(format!("a trace {factor} times as fast"))
        }
        Arrival::Schedule(ref times) if !times.is_sorted() => {
            Some("times of arrival that go back".to_owned())
        }
        _ => None,
    }
}

/// A stage, for people.
pub(crate) fn outline(planned: &PlannedStage) -> StageOutline {
    let stage = &planned.stage;
    let time = |ns: u64| unit::show(Duration::from_nanos(ns));
    let arrival = match &stage.arrival {
        Arrival::Closed => format!("closed, {} sessions", stage.concurrency.unwrap_or(0)),
        Arrival::Constant(rate) => format!("constant, {rate}/s"),
        Arrival::Poisson(rate) => format!("poisson, {rate}/s"),
        Arrival::Gamma { rate, shape } => format!("gamma of shape {shape}, {rate}/s"),
        Arrival::Ramp(ramp) => {
            let what = match ramp.what {
                Ramped::Closed => "sessions",
                Ramped::Constant => "/s, even",
                Ramped::Poisson => "/s, poisson",
            };
            format!("ramp from {} to {} {what} over {}", ramp.start, ramp.end, time(ramp.over))
        }
        Arrival::Trace(factor) if *factor == 1.0 => "as recorded".to_owned(),
        Arrival::Trace(factor) => format!("as recorded, {factor} times as fast"),
        Arrival::Schedule(times) => format!("a schedule of {} times", times.len()),
    };
    let ends: Vec<String> = [
        stage.stop.after.map(time),
        stage.stop.sessions.map(|n| format!("{n} sessions")),
        stage.stop.requests.map(|n| format!("{n} requests")),
        stage.stop.errors.map(|n| format!("{n} errors")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let until = if ends.is_empty() { "the workload ends".to_owned() } else { ends.join(" or ") };
    let mut notes = Vec::new();
    if let (Some(n), false) = (stage.concurrency, matches!(stage.arrival, Arrival::Closed)) {
        notes.push(format!("at most {n} sessions under way"));
    }
    notes.extend(stage.max_in_flight.map(|n| format!("at most {n} requests in flight")));
    if stage.settle > 0 {
        notes.push(format!("the first {} are warm-up", time(stage.settle)));
    }
    if stage.cool_down > 0 {
        notes.push(format!("{} pause afterwards", time(stage.cool_down)));
    }
    notes.extend(planned.workload_settings.as_ref().map(|v| format!("workload {v}")));
    StageOutline { name: stage.name.clone(), arrival, until, warm_up: stage.warm_up, notes }
}

/// A session of a workload, its synthetic prompts made into words.
pub(crate) fn session(
    plugin: &str,
    session: wit::requests::Session,
    words: &mut Words,
) -> Result<Session> {
    if session.open_ended {
        return Err(unsupported(plugin, "open-ended sessions (the interface `dialogue`)"));
    }
    if session.turns.is_empty() {
        return Err(Error::usage(format!(
            "the workload `{plugin}` makes the session {} without a turn",
            session.id
        )));
    }
    let mut turns = Vec::with_capacity(session.turns.len());
    for (index, turn) in session.turns.into_iter().enumerate() {
        let previous = index.checked_sub(1).and_then(|i| u32::try_from(i).ok());
        if !turn.after.is_empty() && turn.after.iter().copied().ne(previous) {
            return Err(unsupported(plugin, "turns that wait for others than the one before them"));
        }
        turns.push(Turn {
            request: request(plugin, turn.request, words)?,
            pacing: match turn.pacing {
                wit::requests::Pacing::AfterPreviousEnd(d) => Pacing::AfterPreviousEnd(d),
                wit::requests::Pacing::AfterPreviousStart(d) => Pacing::AfterPreviousStart(d),
                wit::requests::Pacing::At(d) => Pacing::At(d),
            },
        });
    }
    Ok(Session {
        id: session.id,
        user: session.user,
        start: session.start,
        endpoint: None,
        turns,
        labels: labels(session.labels),
    })
}

fn request(plugin: &str, request: wit::requests::Request, words: &mut Words) -> Result<Request> {
    let raw = matches!(request.prompt, wit::requests::Prompt::Raw(_));
    let (api, path) = match request.api.as_deref() {
        None => (None, None),
        Some("chat") => (Some(load::Api::Chat), None),
        Some("completions") => (Some(load::Api::Completions), None),
        Some(path) if raw && path.starts_with('/') => (None, Some(path.to_owned())),
        Some(other) => return Err(unsupported(plugin, &format!("the API `{other}`"))),
    };
    let mut asked = None;
    let prompt = match request.prompt {
        wit::requests::Prompt::Text(text) => Prompt::Text(text),
        wit::requests::Prompt::TokenIds(ids) => {
            asked = u32::try_from(ids.len()).ok();
            Prompt::TokenIds(ids)
        }
        wit::requests::Prompt::Synthetic(synthetic) => {
            asked = Some(length(&synthetic));
            Prompt::Text(text(&synthetic, words))
        }
        wit::requests::Prompt::Messages(messages) => {
            let mut translated = Vec::with_capacity(messages.len());
            for message in messages {
                translated.push(self::message(plugin, message, words, &mut asked)?);
            }
            Prompt::Messages(translated)
        }
        wit::requests::Prompt::Raw(body) => Prompt::Raw(body),
    };
    if request.history {
        // What was asked for is this turn's prompt; the server counts the whole history.
        asked = None;
    }
    Ok(Request {
        api,
        path,
        model: request.model,
        prompt,
        history: request.history,
        streamed: request.streamed,
        max_output_tokens: request.max_output_tokens,
        exact_output: request.exact_output,
        cancel_after: request.cancel_after,
        asked_input_tokens: asked,
        extra: object(plugin, request.extra)?,
        headers: request.headers.into_iter().map(|h| (h.key, h.value)).collect(),
        labels: labels(request.labels),
    })
}

fn message(
    plugin: &str,
    message: wit::requests::Message,
    words: &mut Words,
    asked: &mut Option<u32>,
) -> Result<Message> {
    let mut parts = Vec::with_capacity(message.parts.len());
    let mut follows_synthetic = false;
    for part in message.parts {
        let is_synthetic = matches!(part, wit::requests::Part::Synthetic(_));
        parts.push(match part {
            wit::requests::Part::Text(text) => Part::Text(text),
            wit::requests::Part::OutputOf(turn) => Part::OutputOf(turn),
            wit::requests::Part::Synthetic(synthetic) => {
                *asked = Some(asked.unwrap_or(0) + length(&synthetic));
                let own = text(&synthetic, words);
                // Words that grow together are other tokens, and end the common beginning of prompts.
                Part::Text(if follows_synthetic { format!(" {own}") } else { own })
            }
            wit::requests::Part::Media(_) => return Err(unsupported(plugin, "pictures or sound")),
        });
        follows_synthetic = is_synthetic;
    }
    Ok(Message { role: message.role, parts, extra: object(plugin, message.extra)? })
}

fn length(synthetic: &wit::requests::Synthetic) -> u32 {
    synthetic.tokens + synthetic.prefix.map_or(0, |prefix| prefix.tokens)
}

fn text(synthetic: &wit::requests::Synthetic, words: &mut Words) -> String {
    let own = || words.text(synthetic.tokens, synthetic.seed);
    match synthetic.prefix {
        None => own(),
        Some(prefix) if synthetic.tokens == 0 => words.prefix(prefix.id, prefix.tokens).to_owned(),
        Some(prefix) => {
            let own = own();
            let start = words.prefix(prefix.id, prefix.tokens);
            format!("{start} {own}")
        }
    }
}

fn object(plugin: &str, json: Option<String>) -> Result<Map<String, Value>> {
    let Some(json) = json else { return Ok(Map::new()) };
    serde_json::from_str(&json).map_err(|error| {
        Error::usage(format!("the plugin `{plugin}` gives further fields that are no JSON object"))
            .because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn stage(name: &str, arrival: wit::stages::Arrival, seconds: u64) -> wit::stages::Stage {
        wit::stages::Stage {
            name: name.into(),
            arrival,
            concurrency: None,
            max_in_flight: None,
            stop: wit::stages::Stop {
                after: Some(seconds * SECOND),
                sessions: None,
                requests: None,
                errors: None,
            },
            warm_up: false,
            quantum: None,
            drain: None,
            cool_down: 0,
            workload_settings: None,
            labels: Vec::new(),
        }
    }

    #[test]
    fn arrivals_that_cannot_be_made_are_refused() {
        use wit::stages::{Arrival, Curve, Gamma, Ramp, Ramped};
        let gamma = |rate, shape| Arrival::Gamma(Gamma { rate, shape });
        let ramp = |start, end, curve| {
            Arrival::Ramp(Ramp { what: Ramped::Poisson, start, end, over: Some(SECOND), curve })
        };
        let said = |arrival: Arrival| {
            stages("p", vec![stage("s", arrival, 1)], false).err().map(|error| error.to_string())
        };
        let check = |arrival: Arrival, wrong: &str| {
            let text = said(arrival).unwrap();
            assert!(
                text.contains(&format!("the harness `p` plans the stage `s` with {wrong}")),
                "{text}"
            );
        };
        check(Arrival::Constant(-1.0), "-1 arrivals a second");
        check(Arrival::Poisson(f64::NAN), "NaN arrivals");
        check(gamma(1.0, 0.0), "1 arrivals a second of shape 0");
        check(ramp(0.0, 0.0, Curve::Linear), "a ramp from 0 to 0");
        check(ramp(0.0, 5.0, Curve::Exponential), "a ramp from 0 to 5");
        check(Arrival::Trace(0.0), "a trace 0 times as fast");
        check(Arrival::Schedule(vec![2, 1]), "times of arrival that go back");
        let good = [
            gamma(1.0, 0.5),
            ramp(0.0, 5.0, Curve::Linear),
            ramp(5.0, 1.0, Curve::Exponential),
            Arrival::Trace(2.0),
            Arrival::Schedule(vec![1, 1, 2]),
        ];
        for arrival in good {
            assert_eq!(said(arrival), None);
        }
    }

    #[test]
    fn the_warm_up_rule_applies_to_long_stages_unless_the_user_warms_up() {
        use wit::stages::Arrival::Constant;
        let settles = |rule: bool, warm: bool| -> Vec<u64> {
            let mut first = stage("a", Constant(1.0), 119);
            first.warm_up = warm;
            let planned =
                vec![first, stage("b", Constant(1.0), 120), stage("c", Constant(1.0), 600)];
            let stages = stages("p", planned, rule).unwrap();
            stages.iter().map(|planned| planned.stage.settle / SECOND).collect()
        };
        assert_eq!(settles(true, false), [0, 30, 60]);
        assert_eq!(settles(false, false), [0, 0, 0]);
        assert_eq!(settles(true, true), [0, 0, 0]);
    }

    #[test]
    fn the_warm_up_rule_knows_a_stage_that_sessions_end_at_a_rate() {
        let settles = |sessions: Option<u64>, requests: Option<u64>, arrival| {
            let mut counted = stage("a", arrival, 0);
            counted.concurrency = Some(2);
            let mut of = |after: Option<u64>| {
                counted.stop = wit::stages::Stop { after, sessions, requests, ..counted.stop };
                stages("p", vec![counted.clone()], true).unwrap()[0].stage.settle / SECOND
            };
            // A time that does not come first changes nothing.
            assert_eq!(of(Some(10_000 * SECOND)), of(None));
            of(None)
        };
        use wit::stages::Arrival::{Closed, Constant, Poisson};
        assert_eq!(settles(Some(50_000), None, Constant(50.0)), 100);
        assert_eq!(settles(Some(6_000), None, Poisson(50.0)), 30);
        assert_eq!(settles(Some(5_999), None, Poisson(50.0)), 0);
        // How many sessions make so many requests is not known, nor how quick a closed loop is.
        assert_eq!(settles(None, Some(50_000), Constant(50.0)), 0);
        assert_eq!(settles(Some(50_000), None, Closed), 0);
    }

    #[test]
    fn plans_that_make_no_sense_are_refused_by_name() {
        use wit::stages::Arrival;
        let check = |planned: Vec<wit::stages::Stage>, expected: &str| {
            let error = stages("p", planned, true).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(Vec::new(), "the harness `p` plans no stage");
        check(vec![stage("a", Arrival::Closed, 1)], "a closed loop without a concurrency");
        let twice = || stage("a", Arrival::Constant(1.0), 1);
        check(vec![twice(), twice()], "two stages named `a`");
        let other = wit::types::Extension { name: "arrival/tide".into(), data: "{}".into() };
        check(
            vec![stage("a", Arrival::Other(other), 1)],
            "unsupported: the plugin `p` asks for the arrival pattern `arrival/tide`",
        );
    }

    #[test]
    fn synthetic_prompts_share_their_beginning() {
        let mut words = Words::unmeasured();
        let prompt = |seed: u64, words: &mut Words| {
            let synthetic = wit::requests::Synthetic {
                tokens: 5,
                seed,
                prefix: Some(wit::requests::SharedPrefix { id: 7, tokens: 10 }),
            };
            assert_eq!(length(&synthetic), 15);
            text(&synthetic, words)
        };
        let (a, b) = (prompt(1, &mut words), prompt(2, &mut words));
        let beginning = |text: &str| text.split(' ').take(10).collect::<Vec<_>>().join(" ");
        assert_eq!(beginning(&a), beginning(&b));
        assert_ne!(a, b);
        assert_eq!(a.split(' ').count(), 15);
    }

    #[test]
    fn synthetic_parts_of_a_message_stay_apart_and_are_counted_together() {
        let mut words = Words::unmeasured();
        let mut prompt = |blocks: [(u32, u64); 2]| {
            let synthetic = |(tokens, seed)| {
                let synthetic = wit::requests::Synthetic { tokens, seed, prefix: None };
                wit::requests::Part::Synthetic(synthetic)
            };
            let parts = blocks.map(synthetic).into();
            let user = wit::requests::Message { role: "user".into(), parts, extra: None };
            let mut asked = None;
            let message = message("p", user, &mut words, &mut asked).unwrap();
            assert_eq!(asked, Some(blocks[0].0 + blocks[1].0));
            let text = |part: &Part| match part {
                Part::Text(text) => text.clone(),
                Part::OutputOf(_) => panic!("no answer was asked for"),
            };
            message.parts.iter().map(text).collect::<String>()
        };
        let (a, b) = (prompt([(8, 1), (3, 2)]), prompt([(8, 1), (4, 3)]));
        assert_eq!((a.split(' ').count(), b.split(' ').count()), (11, 12));
        let shared = a.split(' ').zip(b.split(' ')).take_while(|(a, b)| a == b).count();
        assert_eq!(shared, 8);
    }
}
