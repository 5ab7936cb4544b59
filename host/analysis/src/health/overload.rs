//! Whether an open stage's server fell behind: that is no fault of the client, but latencies then
//! depend on the length of the stage.

use crate::analysis::values;
use crate::collector::Request;
use crate::statistics::{P50, sorted};
use crate::steady::{Trend, under_way};
use crate::summarise::Part;
use crate::summary::Pace;
use records::LoopKind;

/// Fewest answers on which anything is judged.
const LEAST: usize = 50;
/// More than this share of the arrivals left behind is too much.
pub(super) const BACKLOG: f64 = 0.02;
/// More growth than this of the mean of requests under way is too much.
pub(super) const GROWTH: f64 = 0.5;

/// Whether either sign of it is there.
pub(crate) fn is_overloaded(part: &Part) -> bool {
    backlog(part).is_some_and(|(share, _)| share > BACKLOG)
        || growth(part).is_some_and(|(share, _)| share > GROWTH)
}

/// The share of the arrivals that had not ended when the window did, beyond those that are
/// expected to be under way.
///
/// Their number is expected to be the rate times the latency that the first tenth saw; what lies
/// within three times its root is chance.
pub(super) fn backlog(part: &Part) -> Option<(f64, usize)> {
    let light = latency_at_first(part, |sorted| P50.of(sorted))?;
    let n = part.measured().count();
    let arrivals = part.due() as f64;
    let ended = part.measured().filter(|r| r.due.is_some() && r.finished <= part.window.1).count();
    let expected = arrivals / part.seconds() * light / 1e3;
    let excess = arrivals - ended as f64 - expected;
    let is_chance = excess <= 3.0 * (expected + 1.0).sqrt();
    Some((if is_chance { 0.0 } else { excess / arrivals }, n))
}

/// By what share of their mean the requests under way grow over the window. A growth that may be
/// chance is 0.
pub(super) fn growth(part: &Part) -> Option<(f64, usize)> {
    // A stage that gets its requests in another than a steady way may grow by design.
    part.stage.info.rate?;
    let filling = latency_at_first(part, |sorted| sorted.last().copied())?;
    // A stage begins empty: it first fills up to what its rate and latency make of it, and where
    // sessions go on after their first request, to what their length does.
    let sessions = part.sessions();
    let longest = match sessions.len() < part.requests.len() {
        true => sessions.iter().map(|(begin, end)| end - begin).max().unwrap_or(0),
        false => 0,
    };
    let begin = part.stage.begin.unwrap_or(part.window.0);
    let from = part.window.0.max(begin + longest.max((filling * 1e6) as u64));
    let to = part.window.1.min(part.requests.iter().filter_map(|r| r.due).max()?);
    if from >= to || (to - from) * 2 < part.window.1 - part.window.0 {
        return None;
    }
    let spans = part.requests.iter().map(|r: &Request| (r.started, r.finished));
    let tenths = under_way(spans, from, to);
    let mean = tenths.iter().sum::<f64>() / tenths.len() as f64;
    let trend = Trend::of(&tenths);
    let grows = trend.t > Trend::ONE_SIDED && mean > 0.0;
    Some((if grows { trend.rise / mean } else { 0.0 }, part.measured().count()))
}

/// A latency of the first tenth of an open stage in milliseconds. None: it is not open, or short.
fn latency_at_first(part: &Part, of: impl Fn(&[f64]) -> Option<f64>) -> Option<f64> {
    if part.stage.info.kind == LoopKind::Closed || part.pace() == Pace::Capped {
        return None;
    }
    let latencies = values(part, |r| Some(crate::metric::ms(r.due?, r.finished)));
    if latencies.len() < LEAST || part.due() == 0 || part.seconds() <= 0.0 {
        return None;
    }
    of(&sorted(latencies[..latencies.len() / 10].to_vec()))
}
