//! From what a stage says of its load to a pattern of arrivals, refusing what does not go together.

use crate::settings::{Curve, Entry, Pattern, Ramp};
use llmdbench_plugin::Error;
use llmdbench_plugin::stages::{self, Arrival, Gamma, Ramped};

/// Arrivals per second that no client makes; a larger number is a mistake in the unit.
const HIGHEST_RATE: f64 = 1e6;

/// The load of one stage: one value of a sweep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Arrivals per second.
    pub(crate) rate: Option<f64>,
    /// Sessions.
    pub(crate) concurrency: Option<u32>,
}

/// The arrivals of `entry` under `load`. `at` is the entry's JSON pointer.
///
/// # Errors
/// When its settings contradict each other or make no load.
pub(crate) fn arrival(entry: &Entry, load: Load, at: &str) -> Result<Arrival, Error> {
    let pattern = pattern(entry, load, at)?;
    check_companions(entry, pattern, load, at)?;
    if let Some(ramp) = entry.ramp {
        return ramped(entry, ramp, pattern, load, at);
    }
    match pattern {
        Pattern::Closed => Ok(Arrival::Closed),
        Pattern::Trace => Ok(Arrival::Trace(positive(entry.speed.unwrap_or(1.0), at, "speed")?)),
        Pattern::Constant => Ok(Arrival::Constant(rate(load, at)?)),
        Pattern::Poisson => Ok(Arrival::Poisson(rate(load, at)?)),
        Pattern::Gamma => {
            let Some(shape) = entry.shape else {
                let hint = "add `shape`: 1 is Poisson, 0.25 bursty, 4 more even";
                return Err(wrong(&format!("{at}/arrival"), "gamma arrivals need a shape", hint));
            };
            Ok(Arrival::Gamma(Gamma {
                rate: rate(load, at)?,
                shape: positive(shape, at, "shape")?,
            }))
        }
    }
}

/// An error of the settings at the JSON pointer `at`, and what to do about it.
pub(crate) fn wrong(at: &str, message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::invalid_settings(message).at(at).hint(hint)
}

fn pattern(entry: &Entry, load: Load, at: &str) -> Result<Pattern, Error> {
    match (entry.arrival, load.rate, load.concurrency) {
        (Some(pattern), ..) => Ok(pattern),
        (None, Some(_), _) => Ok(Pattern::Constant),
        (None, None, Some(_)) => Ok(Pattern::Closed),
        (None, None, None) => Err(wrong(
            at,
            "the stage says neither a rate nor a concurrency",
            "add `rate: 2` (sessions per second), `concurrency: 8` (a closed loop), or `arrival: trace`",
        )),
    }
}

/// Settings that only some patterns understand, or that a pattern needs.
fn check_companions(entry: &Entry, pattern: Pattern, load: Load, at: &str) -> Result<(), Error> {
    let own_pace = matches!(pattern, Pattern::Closed | Pattern::Trace);
    if own_pace && load.rate.is_some() {
        let (what, hint) = match pattern {
            Pattern::Closed => (
                "a closed loop",
                "leave out `rate`, or leave out `arrival` to cap a rate by a concurrency",
            ),
            _ => ("a trace", "leave out `rate`; `speed` makes a trace faster or slower"),
        };
        return Err(wrong(&format!("{at}/rate"), format!("{what} has no rate"), hint));
    }
    if !own_pace && load.rate.is_none() {
        let message = "open arrivals need a rate";
        return Err(wrong(
            &format!("{at}/arrival"),
            message,
            "add `rate: 2`, or write `arrival: closed`",
        ));
    }
    if pattern == Pattern::Closed && load.concurrency.is_none() {
        return Err(wrong(
            &format!("{at}/arrival"),
            "a closed loop needs a concurrency",
            "add `concurrency: 8`",
        ));
    }
    if entry.shape.is_some() && pattern != Pattern::Gamma {
        return Err(wrong(
            &format!("{at}/shape"),
            "only gamma arrivals have a shape",
            "write `arrival: gamma`",
        ));
    }
    if entry.speed.is_some() && pattern != Pattern::Trace {
        return Err(wrong(
            &format!("{at}/speed"),
            "only a trace has a speed",
            "write `arrival: trace`, or use `rate`",
        ));
    }
    Ok(())
}

fn ramped(
    entry: &Entry,
    ramp: Ramp,
    pattern: Pattern,
    load: Load,
    at: &str,
) -> Result<Arrival, Error> {
    let at_ramp = format!("{at}/ramp");
    let (what, start) = match (pattern, load.rate, load.concurrency) {
        (Pattern::Constant, Some(rate), _) => (Ramped::Constant, rate),
        (Pattern::Poisson, Some(rate), _) => (Ramped::Poisson, rate),
        (Pattern::Closed, _, Some(concurrency)) => (Ramped::Closed, f64::from(concurrency)),
        _ => {
            let hint = "ramp constant or poisson arrivals or a closed loop; or list several stages";
            return Err(wrong(&at_ramp, "gamma arrivals and traces cannot be ramped", hint));
        }
    };
    let at_start = format!("{at}/{}", if what == Ramped::Closed { "concurrency" } else { "rate" });
    let at_end = format!("{at_ramp}/to");
    for (value, at) in [(start, &at_start), (ramp.to, &at_end)] {
        if !(0.0..=HIGHEST_RATE).contains(&value) {
            return Err(wrong(
                at,
                format!("{value} is no load"),
                format!("choose 0 to {HIGHEST_RATE}"),
            ));
        }
        if value == 0.0 && ramp.curve == Curve::Exponential {
            let hint = "start and end above 0, or use `curve: linear`";
            return Err(wrong(at, "an exponential ramp cannot start or end at 0", hint));
        }
    }
    if start == ramp.to {
        return Err(wrong(
            &at_end,
            "the ramp ends where it starts",
            "leave out `ramp`, or choose another `to`",
        ));
    }
    if what == Ramped::Closed && (ramp.to.fract() != 0.0 || ramp.to < 1.0) {
        return Err(wrong(
            &at_end,
            "a closed loop has a whole number of sessions",
            "choose a whole number from 1",
        ));
    }
    if ramp.over.is_none() && entry.length.is_none() {
        let hint = "add `over: 30s` to the ramp, or `for: 30s` to the stage";
        return Err(wrong(&at_ramp, "nothing says how long the ramp takes", hint));
    }
    if let (Some(over), Some(length)) = (ramp.over, entry.length)
        && over > length
    {
        let hint = "make `for` longer or `over` shorter";
        return Err(wrong(
            &format!("{at_ramp}/over"),
            "the ramp takes longer than its stage",
            hint,
        ));
    }
    let curve = match ramp.curve {
        Curve::Linear => stages::Curve::Linear,
        Curve::Exponential => stages::Curve::Exponential,
    };
    Ok(Arrival::Ramp(stages::Ramp {
        what,
        start,
        end: ramp.to,
        over: ramp.over.map(Into::into),
        curve,
    }))
}

fn rate(load: Load, at: &str) -> Result<f64, Error> {
    let rate = load.rate.expect("patterns with a rate were checked to have one");
    if rate > 0.0 && rate <= HIGHEST_RATE {
        return Ok(rate);
    }
    let hint = format!(
        "choose a rate above 0, at most {HIGHEST_RATE} per second; `concurrency` sends as fast as answers come"
    );
    Err(wrong(&format!("{at}/rate"), format!("{rate} per second is no rate"), hint))
}

fn positive(value: f64, at: &str, name: &str) -> Result<f64, Error> {
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(wrong(
        &format!("{at}/{name}"),
        format!("{value} is not above 0"),
        "choose a number above 0",
    ))
}
