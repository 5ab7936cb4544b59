//! Draws bars side by side.

use super::render::{Canvas, FITS, PALETTE, Plot, legend};
use super::scale::Scale;
use super::{Axis, Bars};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What bars of a category take of the room between it and the next.
const WIDTH: f64 = 0.8;

pub(super) fn draw<DB: DrawingBackend>(canvas: &Canvas<'_, DB>, bars: &Bars) {
    let across = Scale::between(-0.5, bars.categories.len().max(1) as f64 - 0.5, false);
    let heights = || bars.groups.iter().flat_map(|group| &group.values).flatten().copied();
    let up = Scale::of(&bars.y, heights());
    let mut plot = canvas.plot(&across, &up, 0.0, 0.0);
    canvas.mesh(&mut plot, &Axis::new(bars.x.title.as_str()), &bars.y, 0);
    let ground = 0.0_f64.clamp(up.start(), up.end());
    for_each_bar(bars, |from, to, height, group| {
        let bar = Rectangle::new([(from, ground), (to, height)], colour(group).filled());
        plot.plotting_area().draw(&bar).expect(FITS);
    });
    names(canvas, &plot, bars, &up);
    if heights().next().is_none() {
        return canvas.nothing(&plot);
    }
    let shown: Vec<&str> = bars.groups.iter().map(|group| group.name.as_str()).collect();
    legend(canvas, &plot, &shown, |corner, size| covered(&plot, bars, ground, corner, size));
}

fn colour(group: usize) -> RGBColor {
    PALETTE[group % PALETTE.len()]
}

/// Calls with the left end, the right end, the height and the group of each bar.
fn for_each_bar(bars: &Bars, mut each: impl FnMut(f64, f64, f64, usize)) {
    let width = WIDTH / bars.groups.len().max(1) as f64;
    for (g, group) in bars.groups.iter().enumerate() {
        for (i, height) in group.values.iter().take(bars.categories.len()).enumerate() {
            if let Some(height) = height {
                let from = i as f64 - WIDTH / 2.0 + g as f64 * width;
                each(from, from + width, *height, g);
            }
        }
    }
}

/// Names categories below the plot; where they have no room, every second, third, ...
fn names<DB: DrawingBackend>(
    canvas: &Canvas<'_, DB>,
    plot: &Plot<'_, DB>,
    bars: &Bars,
    up: &Scale,
) {
    let style = canvas.text(13.0).pos(Pos::new(HPos::Center, VPos::Top));
    let at = |i: usize| plot.backend_coord(&(i as f64, up.start()));
    let wide = |name: &String| canvas.area.estimate_text_size(name, &style).map_or(0, |s| s.0);
    let widest = bars.categories.iter().map(wide).max().unwrap_or(0);
    let step = (at(1).0 - at(0).0).max(1).unsigned_abs();
    let every = (widest + canvas.px(6.0).unsigned_abs()).div_ceil(step).max(1) as usize;
    for (i, name) in bars.categories.iter().enumerate().step_by(every) {
        let (x, y) = at(i);
        canvas
            .area
            .draw(&Text::new(name.as_str(), (x, y + canvas.px(5.0)), style.clone()))
            .expect(FITS);
    }
}

/// How much of the bars a box would cover, in pixels of their width.
fn covered<DB: DrawingBackend>(
    plot: &Plot<'_, DB>,
    bars: &Bars,
    ground: f64,
    (left, top): (i32, i32),
    (wide, high): (i32, i32),
) -> usize {
    let mut sum = 0;
    for_each_bar(bars, |from, to, height, _| {
        let (x, y) = plot.backend_coord(&(from, height));
        let (to, bottom) = plot.backend_coord(&(to, ground));
        let (y, bottom) = (y.min(bottom), y.max(bottom));
        if y <= top + high && bottom >= top {
            sum += (to.min(left + wide) - x.max(left)).max(0) as usize;
        }
    });
    sum
}
