//! Requests under way over time.

use super::Figure;
use super::over_time::{figure, line};
use crate::Analysis;

pub(super) fn draw(analysis: &Analysis) -> Figure {
    let timeline = &analysis.timeline;
    let under_way = line(timeline, "in flight", |bin| Some(bin.in_flight));
    figure(timeline, "requests in flight", vec![under_way])
}
