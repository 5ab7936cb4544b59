//! How a metric's values lie: one empirical distribution function for each stage.

use super::{Axis, Figure, Join, Line};
use crate::metric::metric;
use crate::{Analysis, Curve, Pace, StageSummary};

pub(super) fn ttft(analysis: &Analysis) -> Figure {
    distribution(analysis, "ttft")
}

pub(super) fn itl(analysis: &Analysis) -> Figure {
    distribution(analysis, "itl")
}

pub(super) fn tpot(analysis: &Analysis) -> Figure {
    distribution(analysis, "tpot")
}

pub(super) fn latency(analysis: &Analysis) -> Figure {
    distribution(analysis, "latency")
}

fn distribution(analysis: &Analysis, name: &str) -> Figure {
    let curves = || {
        let by_stage = analysis.summary.stages.iter().zip(&analysis.curves);
        by_stage.filter_map(|(stage, curves)| Some((stage, curves.curves.get(name)?)))
    };
    // A few extreme values must not squeeze all the others into the first pixels.
    let end = curves().filter_map(|(_, curve)| curve.at(0.999)).reduce(f64::max);
    let end = end.map(|end| end * 1.03);
    let least = curves().filter_map(|(_, curve)| curve.points.first()).map(|p| p.0);
    // Where all values lie far from 0, the axis begins near them.
    let start = match (least.reduce(f64::min), end) {
        (Some(least), Some(end)) if least > 0.4 * end => least - 0.15 * (end - least),
        _ => 0.0,
    };
    let line = |(stage, curve): (&StageSummary, &Curve)| {
        let first = curve.points.first().map(|&(value, _)| (value, Some(0.0)));
        let points = curve.points.iter().map(|&(value, share)| (value, Some(share)));
        let mut points: Vec<_> = first.into_iter().chain(points).collect();
        // A stage that is done goes on at 100 %, so that its line does not seem cut.
        points.extend(end.map(|end| (end, Some(1.0))));
        points.retain(|point| end.is_none_or(|end| point.0 <= end));
        let pace = match (stage.pace, stage.concurrency) {
            (Some(Pace::Closed), Some(concurrency)) => format!(" (closed loop, C = {concurrency})"),
            (Some(Pace::Closed), None) => " (closed loop)".to_owned(),
            (Some(Pace::Capped), _) => " (capped)".to_owned(),
            (Some(Pace::Open) | None, _) => String::new(),
        };
        Line {
            name: format!("{}{pace}", stage.name),
            points,
            join: Join::Steps,
            spreads: Vec::new(),
        }
    };
    let title = metric(name).map_or(name, |metric| metric.title);
    Figure {
        x: Axis { start, end, ..Axis::new(format!("{title}, ms")) },
        y: Axis { end: Some(1.0), percent: true, ..Axis::new(share_of(name)) },
        lines: curves().map(line).collect(),
        bands: Vec::new(),
    }
}

fn share_of(name: &str) -> &'static str {
    if name == "itl" { "share of gaps" } else { "share of requests" }
}
