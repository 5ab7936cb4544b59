//! Draws coloured fields, with a bar that says what the colours mean.

use super::render::{Canvas, FITS, PALETTE};
use super::scale::Scale;
use super::{Axis, Heatmap};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Least and largest values: the eye reads darker as more.
const LIGHT: RGBColor = RGBColor(0xe4, 0xef, 0xf7);
const DARK: RGBColor = RGBColor(0x06, 0x2b, 0x47);
/// Steps of the bar.
const STEPS: i32 = 64;

pub(super) fn draw<DB: DrawingBackend>(canvas: &Canvas<'_, DB>, map: &Heatmap) {
    let scale = |axis: &Axis, edges: &[f64]| {
        let (first, last) = (edges.first().copied(), edges.last().copied());
        let (first, last) = (first.unwrap_or(0.0), last.unwrap_or(1.0));
        Scale::between(first, last.max(first), axis.logarithmic && first > 0.0)
    };
    let (across, up) = (scale(&map.x, &map.x_edges), scale(&map.y, &map.y_edges));
    let extent = map.legend.extent(map.values.iter().flatten().copied());
    let (least, most) = extent.unwrap_or((1.0, 1.0));
    let colours = Scale::between(least, most, map.legend.logarithmic);
    let mut plot = canvas.plot(&across, &up, 16.0, 70.0);
    canvas.mesh(&mut plot, &map.x, &map.y, 8);
    let columns = map.x_edges.len().saturating_sub(1).max(1);
    for (y, row) in map.y_edges.windows(2).zip(map.values.chunks(columns)) {
        for (x, value) in map.x_edges.windows(2).zip(row) {
            if let Some(value) = value {
                let colour = colour(colours.share(*value));
                let field = Rectangle::new([(x[0], y[0]), (x[1], y[1])], colour.filled());
                plot.plotting_area().draw(&field).expect(FITS);
            }
        }
    }
    if extent.is_none() {
        return canvas.nothing(&plot);
    }
    let (across, down) = plot.plotting_area().get_pixel_range();
    key(canvas, &map.legend, &colours, across.end + canvas.px(14.0), (down.start, down.end));
}

/// The bar of colours, its labels to its right and its title above.
fn key<DB: DrawingBackend>(
    canvas: &Canvas<'_, DB>,
    legend: &Axis,
    colours: &Scale,
    left: i32,
    (top, bottom): (i32, i32),
) {
    let right = left + canvas.px(12.0);
    let at = |step: i32| bottom - (bottom - top) * step / STEPS;
    for step in 0..STEPS {
        let corners = [(left, at(step + 1)), (right, at(step))];
        let colour = colour(f64::from(step) / f64::from(STEPS - 1));
        canvas.area.draw(&Rectangle::new(corners, colour.filled())).expect(FITS);
    }
    let style = canvas.text(13.0);
    for (value, y, v) in [
        (colours.start(), bottom, VPos::Bottom),
        (colours.middle(), (top + bottom) / 2, VPos::Center),
        (colours.end(), top, VPos::Top),
    ] {
        let label = colours.label(value, legend);
        let place = style.clone().pos(Pos::new(HPos::Left, v));
        canvas.area.draw(&Text::new(label, (right + canvas.px(6.0), y), place)).expect(FITS);
    }
    let place = style.pos(Pos::new(HPos::Right, VPos::Bottom));
    let end = right + canvas.px(60.0);
    canvas
        .area
        .draw(&Text::new(legend.title.as_str(), (end, top - canvas.px(4.0)), place))
        .expect(FITS);
}

/// The colour of a share between 0 and 1.
fn colour(share: f64) -> RGBColor {
    let middle = PALETTE[0];
    let (from, to, share) =
        if share < 0.5 { (LIGHT, middle, share * 2.0) } else { (middle, DARK, share * 2.0 - 1.0) };
    let share = share.clamp(0.0, 1.0);
    let mix = |from: u8, to: u8| (f64::from(from) * (1.0 - share) + f64::from(to) * share) as u8;
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}
