//! What went in and came out over time.

use super::Figure;
use super::over_time::{figure, line};
use crate::Analysis;

pub(super) fn requests(analysis: &Analysis) -> Figure {
    let timeline = &analysis.timeline;
    let mut lines = vec![
        line(timeline, "sent", |bin| Some(bin.sent)),
        line(timeline, "ended well", |bin| Some(bin.succeeded)),
    ];
    if timeline.bins.iter().any(|bin| bin.failed > 0.0) {
        lines.push(line(timeline, "failed", |bin| Some(bin.failed)));
    }
    figure(timeline, "requests per second", lines)
}

pub(super) fn tokens(analysis: &Analysis) -> Figure {
    let timeline = &analysis.timeline;
    let arrived = line(timeline, "output tokens", |bin| Some(bin.tokens));
    figure(timeline, "output tokens per second", vec![arrived])
}
