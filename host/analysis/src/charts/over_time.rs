//! Latencies and lateness over time: the median and the 99th percentile of each step.

use super::{Axis, Band, Figure, Join, Line};
use crate::{Analysis, Bin, Timeline};

pub(super) fn ttft(analysis: &Analysis) -> Figure {
    percentiles(&analysis.timeline, "TTFT, ms", |bin| bin.ttft)
}

pub(super) fn latency(analysis: &Analysis) -> Figure {
    percentiles(&analysis.timeline, "latency, ms", |bin| bin.latency)
}

pub(super) fn lateness(analysis: &Analysis) -> Figure {
    percentiles(&analysis.timeline, "lateness, ms", |bin| bin.lateness)
}

/// Of fewer than 100 requests in a step the 99th percentile is the largest.
const TAIL: &str = "p99, or the largest of fewer than 100";

fn percentiles(timeline: &Timeline, title: &str, of: fn(&Bin) -> Option<(f64, f64)>) -> Figure {
    let median = move |bin: &Bin| of(bin).map(|(median, _)| median.max(0.0));
    let tail = move |bin: &Bin| of(bin).map(|(_, tail)| tail.max(0.0));
    figure(timeline, title, vec![line(timeline, "p50", median), line(timeline, TAIL, tail)])
}

/// A figure over time, with the stages behind it.
pub(super) fn figure(timeline: &Timeline, y: &str, lines: Vec<Line>) -> Figure {
    let bands = timeline.phases.iter().map(|phase| Band {
        name: phase.name.clone(),
        from: phase.from_s,
        to: phase.to_s,
        shaded: phase.warmup,
    });
    let length = timeline.bins.len() as f64 * timeline.step_s;
    Figure {
        x: Axis { end: (length > 0.0).then_some(length), ..Axis::new("time since the start, s") },
        y: Axis::new(y),
        lines,
        bands: bands.collect(),
    }
}

/// A line with a point in the middle of each step.
pub(super) fn line(timeline: &Timeline, name: &str, value: impl Fn(&Bin) -> Option<f64>) -> Line {
    let middle = |i: usize| (i as f64 + 0.5) * timeline.step_s;
    let points = timeline.bins.iter().enumerate().map(|(i, bin)| (middle(i), value(bin)));
    Line {
        name: name.to_owned(),
        points: points.collect(),
        join: Join::Straight,
        spreads: Vec::new(),
    }
}
