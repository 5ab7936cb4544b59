//! What stages the settings make, and which settings are refused.

use super::*;
use serde_json::{Value, json};

/// A line for each stage: name, arrival, limits.
fn lines(settings: Value) -> Result<Vec<String>, Error> {
    let settings: Settings = serde_json::from_value(settings).expect("settings that fit the types");
    Ok(plan(&settings)?.stages.iter().map(line).collect())
}

fn line(stage: &Stage) -> String {
    let arrival = match &stage.arrival {
        Arrival::Closed => "closed".to_owned(),
        Arrival::Constant(rate) => format!("constant {rate}"),
        Arrival::Poisson(rate) => format!("poisson {rate}"),
        Arrival::Gamma(gamma) => format!("gamma {} {}", gamma.rate, gamma.shape),
        Arrival::Trace(speed) => format!("trace {speed}"),
        Arrival::Ramp(ramp) => {
            let over =
                ramp.over.map(|over| format!(" over {}ms", over / 1_000_000)).unwrap_or_default();
            format!("ramp {:?} {}..{}{over} {:?}", ramp.what, ramp.start, ramp.end, ramp.curve)
        }
        other => format!("{other:?}"),
    };
    let mut line = format!("{}: {arrival}", stage.name);
    let mut add = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            line.push_str(&format!(", {name} {value}"));
        }
    };
    add("concurrency", stage.concurrency.map(u64::from));
    add("in flight", stage.max_in_flight.map(u64::from));
    add("ms", stage.stop.after.map(|after| after / 1_000_000));
    add("sessions", stage.stop.sessions);
    add("requests", stage.stop.requests);
    add("errors", stage.stop.errors);
    if stage.warm_up {
        line.push_str(", warm-up");
    }
    line
}

#[track_caller]
fn check(settings: Value, expected: &[&str]) {
    assert_eq!(lines(settings).expect("a plan"), expected);
}

#[track_caller]
fn refused(settings: Value, at: &str, message: &str) {
    let error = lines(settings).expect_err("an error");
    assert_eq!(error.at.as_deref(), Some(at), "{error:?}");
    assert!(error.message.contains(message), "{error:?}");
    assert!(error.hint.is_some_and(|hint| !hint.is_empty()), "no hint");
}

#[test]
fn patterns_follow_from_what_is_given() {
    for (entry, expected) in [
        (json!({"rate": 2, "for": "20s"}), "rate-2: constant 2, ms 20000"),
        (
            json!({"rate": 0.5, "arrival": "poisson", "for": "1m"}),
            "rate-0.5: poisson 0.5, ms 60000",
        ),
        (
            json!({"rate": 4, "arrival": "gamma", "shape": 0.25, "sessions": 9}),
            "rate-4: gamma 4 0.25, sessions 9",
        ),
        (
            json!({"concurrency": 8, "requests": 100}),
            "concurrency-8: closed, concurrency 8, requests 100",
        ),
        (
            json!({"rate": 3, "concurrency": 8, "for": "1s"}),
            "rate-3: constant 3, concurrency 8, ms 1000",
        ),
        (json!({"arrival": "trace"}), "trace: trace 1"),
        (json!({"arrival": "trace", "speed": 2, "for": "5s"}), "trace-2x: trace 2, ms 5000"),
        (json!({"concurrency": 2, "whole_workload": true}), "concurrency-2: closed, concurrency 2"),
        (
            json!({"rate": 1, "for": "10s", "max_errors": 5, "max_in_flight": 3}),
            "rate-1: constant 1, in flight 3, ms 10000, errors 5",
        ),
        (
            json!({"rate": 1, "for": "1m", "ramp": {"to": 20, "over": "30s"}}),
            "rate-1-to-20: ramp Ramped::Constant 1..20 over 30000ms Curve::Linear, ms 60000",
        ),
        (
            json!({"rate": 1, "arrival": "poisson", "for": "1m", "ramp": {"to": 8, "curve": "exponential"}}),
            "rate-1-to-8: ramp Ramped::Poisson 1..8 Curve::Exponential, ms 60000",
        ),
        (
            json!({"concurrency": 1, "for": "1m", "ramp": {"to": 64}}),
            "concurrency-1-to-64: ramp Ramped::Closed 1..64 Curve::Linear, ms 60000",
        ),
    ] {
        check(json!({"stages": [entry]}), &[expected]);
    }
}

/// Case C23: a rate with one request in flight.
#[test]
fn a_rate_with_a_limit_in_flight_stays_a_rate() {
    check(
        json!({"stages": [{"rate": 10, "max_in_flight": 1, "requests": 8}]}),
        &["rate-10: constant 10, in flight 1, requests 8"],
    );
}

#[test]
fn lists_make_a_stage_for_each_value() {
    check(
        json!({"stages": [{"rate": [1, 2.5], "for": "2s"}, {"name": "deep", "concurrency": [1, 8], "requests": 5}]}),
        &[
            "rate-1: constant 1, ms 2000",
            "rate-2.5: constant 2.5, ms 2000",
            "deep-concurrency-1: closed, concurrency 1, requests 5",
            "deep-concurrency-8: closed, concurrency 8, requests 5",
        ],
    );
    check(
        json!({"stages": [{"rate": 4, "concurrency": [2, 3], "for": "1s"}]}),
        &[
            "concurrency-2: constant 4, concurrency 2, ms 1000",
            "concurrency-3: constant 4, concurrency 3, ms 1000",
        ],
    );
}

#[test]
fn names_that_nobody_gave_are_made_unique() {
    check(
        json!({"stages": [{"rate": [2, 2], "for": "1s"}, {"rate": 2, "for": "1s"}]}),
        &[
            "rate-2: constant 2, ms 1000",
            "rate-2-2: constant 2, ms 1000",
            "rate-2-3: constant 2, ms 1000",
        ],
    );
}

#[test]
fn a_warm_up_goes_in_front_with_the_arrivals_of_the_first_stage() {
    for (warm_up, first, expected) in [
        (json!("10s"), json!({"rate": 2, "for": "20s"}), "warm-up: constant 2, ms 10000, warm-up"),
        (
            json!(50),
            json!({"concurrency": 8, "for": "20s", "max_errors": 3}),
            "warm-up: closed, concurrency 8, requests 50, warm-up",
        ),
        (
            json!(5),
            json!({"arrival": "trace"}),
            "warm-up: closed, concurrency 1, requests 5, warm-up",
        ),
        (
            json!(5),
            json!({"rate": 0, "for": "9s", "ramp": {"to": 4}}),
            "warm-up: constant 4, requests 5, warm-up",
        ),
        (
            json!(5),
            json!({"concurrency": 2, "for": "9s", "ramp": {"to": 4}}),
            "warm-up: closed, concurrency 2, requests 5, warm-up",
        ),
    ] {
        let made = lines(json!({"warmup": warm_up, "stages": [first]})).unwrap();
        assert_eq!(made.len(), 2);
        assert_eq!(made[0], expected);
    }
}

#[test]
fn what_a_stage_says_beyond_its_load_is_kept() {
    let settings = json!({
        "request_timeout": "2m",
        "stages": [{
            "rate": 1, "for": "1s", "drain": "5s", "pause": "3s", "quantum": "100ms",
            "workload": {"input_tokens": 1024}, "labels": {"phase": "peak"},
        }],
    });
    let made = plan(&serde_json::from_value(settings).unwrap()).unwrap();
    assert_eq!(made.request_timeout, Some(120_000_000_000));
    let stage = &made.stages[0];
    assert_eq!(
        (stage.drain, stage.cool_down, stage.quantum),
        (Some(5_000_000_000), 3_000_000_000, Some(100_000_000))
    );
    assert_eq!(stage.workload_settings.as_deref(), Some(r#"{"input_tokens":1024}"#));
    assert_eq!(stage.labels, [Label { key: "phase".into(), value: "peak".into() }]);
}

#[test]
fn requests_under_way_may_end_by_default() {
    let settings = serde_json::from_value(json!({"stages": [{"rate": 1, "for": "1s"}]})).unwrap();
    assert_eq!(plan(&settings).unwrap().stages[0].drain, None);
}

#[test]
fn impossible_stages_are_refused_with_the_place_and_a_hint() {
    for (entry, at, message) in [
        (json!({"for": "1s"}), "", "neither a rate nor a concurrency"),
        (json!({"rate": 1}), "", "no end"),
        (json!({"rate": 1, "max_errors": 3}), "", "no end"),
        (json!({"rate": 0, "for": "1s"}), "/rate", "0 per second is no rate"),
        (json!({"rate": -1, "for": "1s"}), "/rate", "-1 per second"),
        (json!({"rate": 1e9, "for": "1s"}), "/rate", "is no rate"),
        (json!({"rate": [], "for": "1s"}), "", "a list of the stage is empty"),
        (json!({"rate": [1], "concurrency": [1], "for": "1s"}), "", "both lists"),
        (json!({"concurrency": 0, "for": "1s"}), "/concurrency", "no session"),
        (json!({"rate": 1, "for": "0s"}), "/for", "the value is 0"),
        (json!({"rate": 1, "requests": 0}), "/requests", "the value is 0"),
        (json!({"arrival": "poisson", "for": "1s"}), "/arrival", "need a rate"),
        (json!({"arrival": "poisson", "concurrency": 2, "for": "1s"}), "/arrival", "need a rate"),
        (json!({"arrival": "closed", "for": "1s"}), "/arrival", "needs a concurrency"),
        (
            json!({"arrival": "closed", "rate": 1, "concurrency": 2, "for": "1s"}),
            "/rate",
            "no rate",
        ),
        (json!({"arrival": "trace", "rate": 1}), "/rate", "a trace has no rate"),
        (json!({"arrival": "gamma", "rate": 1, "for": "1s"}), "/arrival", "need a shape"),
        (json!({"rate": 1, "shape": 2, "for": "1s"}), "/shape", "only gamma"),
        (json!({"arrival": "gamma", "rate": 1, "shape": -2, "for": "1s"}), "/shape", "not above 0"),
        (json!({"rate": 1, "speed": 2, "for": "1s"}), "/speed", "only a trace"),
        (json!({"arrival": "trace", "speed": 0}), "/speed", "not above 0"),
        (json!({"rate": 1, "requests": 5, "ramp": {"to": 3}}), "/ramp", "how long the ramp takes"),
        (
            json!({"rate": 1, "for": "1s", "ramp": {"to": 3, "over": "2s"}}),
            "/ramp/over",
            "longer than its stage",
        ),
        (json!({"rate": 1, "for": "1s", "ramp": {"to": 1}}), "/ramp/to", "ends where it starts"),
        (json!({"rate": 1, "for": "1s", "ramp": {"to": -1}}), "/ramp/to", "is no load"),
        (
            json!({"rate": 0, "for": "1s", "ramp": {"to": 1, "curve": "exponential"}}),
            "/rate",
            "at 0",
        ),
        (json!({"concurrency": 1, "for": "1s", "ramp": {"to": 2.5}}), "/ramp/to", "whole number"),
        (
            json!({"arrival": "gamma", "shape": 1, "rate": 1, "for": "1s", "ramp": {"to": 3}}),
            "/ramp",
            "cannot be ramped",
        ),
    ] {
        refused(json!({"stages": [entry]}), &format!("/stages/0{at}"), message);
    }
}

#[test]
fn impossible_plans_are_refused() {
    for (settings, at, message) in [
        (json!({"stages": []}), "/stages", "no stage"),
        (
            json!({"stages": [{"rate": 1, "for": "1s", "warm_up": true}]}),
            "/stages",
            "every stage is a warm-up",
        ),
        (json!({"warmup": "0s", "stages": [{"rate": 1, "for": "1s"}]}), "/warmup", "empty"),
        (json!({"warmup": 0, "stages": [{"rate": 1, "for": "1s"}]}), "/warmup", "empty"),
        (
            json!({"warmup": 1, "stages": [{"rate": 1, "for": "1s", "warm_up": true}]}),
            "/warmup",
            "already",
        ),
        (
            json!({"request_timeout": "0s", "stages": [{"rate": 1, "for": "1s"}]}),
            "/request_timeout",
            "no time",
        ),
        (
            json!({"stages": [{"name": "a", "rate": 1, "for": "1s"}, {"name": "a", "rate": 2, "for": "1s"}]}),
            "/stages/1/name",
            "taken",
        ),
    ] {
        refused(settings, at, message);
    }
}

#[test]
fn the_schema_names_every_setting_and_no_other() {
    let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    let item = &schema["properties"]["stages"]["items"];
    for (schema, known) in [
        (&schema, known_settings::<Settings>()),
        (item, known_settings::<Entry>()),
        (&item["properties"]["ramp"], known_settings::<crate::settings::Ramp>()),
    ] {
        let mut named: Vec<String> =
            schema["properties"].as_object().unwrap().keys().cloned().collect();
        named.sort();
        assert_eq!(named, known);
    }
}

/// The names that a settings type reads, as its refusal of another one lists them.
fn known_settings<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let refusal = serde_json::from_value::<T>(json!({"?": 0})).map(|_| ()).unwrap_err().to_string();
    let mut names: Vec<String> = refusal.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    names.sort();
    names
}
