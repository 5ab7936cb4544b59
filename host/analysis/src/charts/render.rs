//! Draws a [`Figure`] with plotters, as PNG and as SVG.

use super::{Axis, Band, Figure, Line};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::sync::Once;

/// Colours of lines, in order: told apart by people who see colours otherwise, and legible on
/// light and dark ground.
pub(crate) const PALETTE: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x8b, 0x6b, 0x4a),
];
/// Text and axes.
pub(crate) const INK: RGBColor = RGBColor(0x2b, 0x31, 0x3a);
/// Grid lines.
pub(crate) const GRID: RGBColor = RGBColor(0xe3, 0xe6, 0xea);
/// What does not count.
pub(crate) const SHADE: RGBColor = RGBColor(0xf1, 0xf3, 0xf5);
/// The ground.
pub(crate) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// What SVG calls "whatever sans serif there is"; the font registered under this name measures
/// text and draws it in PNG.
pub(crate) const FONT: &str = "sans-serif";

pub(crate) const FITS: &str =
    "drawing into memory fails only without a font, which is registered above";

/// Height for which sizes of text and lines are given. Everything scales with the height, so that
/// a chart looks the same at any resolution.
const HEIGHT: f64 = 360.0;

pub(super) fn png(title: &str, figure: &Figure, width: u32, height: u32) -> Vec<u8> {
    // Plotters draws lines with hard edges: drawn twice as large and averaged they are smooth.
    let (wide, high) = (2 * width, 2 * height);
    let mut pixels = vec![0u8; wide as usize * high as usize * 3];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (wide, high)).into_drawing_area();
        draw(&area, Some(title), figure, f64::from(high) / HEIGHT);
        area.present().expect(FITS);
    }
    encode(&halved(&pixels, wide as usize), width, height)
}

/// The mean of every four neighbours of an image whose rows are `wide` pixels long.
pub(crate) fn halved(pixels: &[u8], wide: usize) -> Vec<u8> {
    let row = wide * 3;
    let mut half = Vec::with_capacity(pixels.len() / 4);
    for rows in pixels.chunks_exact(2 * row) {
        for x in (0..row).step_by(6) {
            for channel in x..x + 3 {
                let four = [channel, channel + 3, row + channel, row + channel + 3];
                let sum: u16 = four.iter().map(|&i| u16::from(rows[i])).sum();
                half.push((sum / 4) as u8);
            }
        }
    }
    half
}

pub(crate) fn encode(pixels: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let written = encoder.write_header().and_then(|mut png| png.write_image_data(pixels));
    written.expect("writing to memory does not fail, and the pixels are as many as announced");
    file
}

pub(super) fn svg(title: Option<&str>, figure: &Figure, width: u32, height: u32) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        // The backend writes text a fifth smaller than it measures it.
        draw(&area, title, figure, f64::from(height) / HEIGHT * 1.2);
        area.present().expect(FITS);
    }
    svg
}

pub(crate) fn register_font() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let font = epaint_default_fonts::UBUNTU_LIGHT;
        plotters::style::register_font(FONT, FontStyle::Normal, font)
            .unwrap_or_else(|_| unreachable!("the embedded font is a font"));
    });
}

fn text(size: f64) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

fn draw<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    title: Option<&str>,
    figure: &Figure,
    unit: f64,
) {
    register_font();
    let px = |n: f64| (n * unit).round() as u32;
    area.fill(&PAPER).expect(FITS);
    if let Some(title) = title {
        let at = (px(16.0) as i32, px(10.0) as i32);
        area.draw(&Text::new(title, at, text(18.0 * unit))).expect(FITS);
    }
    let names = if figure.bands.is_empty() { 0.0 } else { 14.0 };
    let top = names + if title.is_some() { 40.0 } else { 8.0 };
    let (x, y) = (end_of(&figure.x, figure, |p| Some(p.0)), end_of(&figure.y, figure, |p| p.1));
    let mut chart = ChartBuilder::on(area)
        .margin(px(10.0))
        .margin_right(px(20.0))
        .margin_top(px(top))
        .x_label_area_size(px(42.0))
        .y_label_area_size(px(58.0))
        .build_cartesian_2d(figure.x.start..x, figure.y.start..y)
        .expect(FITS);

    let plot = chart.plotting_area();
    for band in &figure.bands {
        if band.shaded {
            let corners = [(band.from, 0.0), (band.to.min(x), y)];
            plot.draw(&Rectangle::new(corners, SHADE.filled())).expect(FITS);
        }
    }
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK.mix(0.6))
        .label_style(text(13.0 * unit))
        .axis_desc_style(text(14.0 * unit))
        .x_labels(8)
        .y_labels(6)
        .x_desc(&figure.x.title)
        .y_desc(&figure.y.title)
        .x_label_formatter(&|value| write(*value, &figure.x, x))
        .y_label_formatter(&|value| write(*value, &figure.y, y))
        .draw()
        .expect(FITS);

    bands(area, &chart, &figure.bands, (x, y), unit);
    let width = px(1.5);
    for (line, colour) in figure.lines.iter().zip(PALETTE.iter().cycle()) {
        let style = colour.stroke_width(width.max(1));
        for run in unbroken(line) {
            // A single point would be invisible as a line.
            if let [point] = run[..] {
                let dot = Circle::new(point, px(2.5), colour.filled());
                chart.draw_series([dot]).expect(FITS);
            }
            chart.draw_series(LineSeries::new(run, style)).expect(FITS);
        }
    }
    if figure.is_empty() {
        let centre = Pos::new(HPos::Center, VPos::Center);
        let style = text(16.0 * unit).pos(centre);
        let nothing =
            Text::new("nothing was measured", ((figure.x.start + x) / 2.0, y / 2.0), style);
        chart.draw_series([nothing]).expect(FITS);
    } else {
        legend(area, &chart, figure, unit);
    }
}

/// Names stages above the plot and draws a line where each begins.
fn bands<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    chart: &ChartContext<DB, Cartesian>,
    bands: &[Band],
    (x, y): (f64, f64),
    unit: f64,
) {
    let plot = chart.plotting_area();
    let style = text(12.0 * unit);
    let top = plot.map_coordinate(&(0.0, y)).1;
    let mut free_from = i32::MIN;
    for band in bands {
        let from = plot.map_coordinate(&(band.from, 0.0)).0;
        let to = plot.map_coordinate(&(band.to.min(x), 0.0)).0;
        if band.from > 0.0 {
            let edge = [(band.from, 0.0), (band.from, y)];
            plot.draw(&PathElement::new(edge, INK.mix(0.25))).expect(FITS);
        }
        let name =
            if band.shaded { format!("{} (left out)", band.name) } else { band.name.clone() };
        let wide = area.estimate_text_size(&name, &style).map_or(0, |size| size.0 as i32);
        // Names that have no room are left out rather than drawn over each other.
        if wide + 4 <= to - from && from >= free_from {
            let at = (from + 3, top - (14.0 * unit) as i32);
            area.draw(&Text::new(name, at, style.clone())).expect(FITS);
            free_from = from + wide;
        }
    }
}

type Cartesian =
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>;

/// Names the lines in a box where it covers least, unless there is but one.
fn legend<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    chart: &ChartContext<DB, Cartesian>,
    figure: &Figure,
    unit: f64,
) {
    if figure.lines.len() < 2 {
        return;
    }
    let style = text(13.0 * unit);
    let size = |name: &str| area.estimate_text_size(name, &style).map_or(0, |size| size.0 as i32);
    let px = |n: f64| (n * unit).round() as i32;
    let (row, swatch, pad) = (px(18.0), px(22.0), px(8.0));
    let (across, down) = chart.plotting_area().get_pixel_range();
    let inset = px(8.0);
    let room = ((down.end - down.start - 2 * inset - pad) / row).max(2) as usize;
    let mut names: Vec<String> = figure.lines.iter().map(|line| line.name.clone()).collect();
    if names.len() > room {
        let more = names.len() - (room - 1);
        names.truncate(room - 1);
        names.push(format!("and {more} more"));
    }
    let widest = names.iter().map(|name| size(name)).max().unwrap_or(0);
    let (wide, high) = (pad * 2 + swatch + px(6.0) + widest, pad + row * names.len() as i32);
    let corners = [
        (across.end - inset - wide, down.end - inset - high),
        (across.end - inset - wide, down.start + inset),
        (across.start + inset, down.start + inset),
    ];
    let covered = |corner: &(i32, i32)| covered(chart, figure, *corner, (wide, high));
    let Some(&(left, top)) = corners.iter().min_by_key(|corner| covered(corner)) else { return };
    let corners = [(left, top), (left + wide, top + high)];
    area.draw(&Rectangle::new(corners, PAPER.filled())).expect(FITS);
    area.draw(&Rectangle::new(corners, GRID)).expect(FITS);
    let left_out = figure.lines.len() > room;
    let last = names.len() - 1;
    for (i, (name, colour)) in names.into_iter().zip(PALETTE.iter().cycle()).enumerate() {
        let middle = top + pad / 2 + row * i as i32 + row / 2;
        let from = left + pad;
        if !(left_out && i == last) {
            let stroke = colour.stroke_width(px(2.5).max(1) as u32);
            area.draw(&PathElement::new([(from, middle), (from + swatch, middle)], stroke))
                .expect(FITS);
        }
        let at = (from + swatch + px(6.0), middle);
        let style = style.clone().pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name, at, style)).expect(FITS);
    }
}

/// How much of the lines a box would cover, in pieces of their segments.
fn covered<DB: DrawingBackend>(
    chart: &ChartContext<DB, Cartesian>,
    figure: &Figure,
    (left, top): (i32, i32),
    (wide, high): (i32, i32),
) -> usize {
    const PIECES: i32 = 16;
    let inside =
        |x: i32, y: i32| (left..=left + wide).contains(&x) && (top..=top + high).contains(&y);
    let pieces = |(from, to): ((i32, i32), (i32, i32))| {
        let at = |from: i32, to: i32, i: i32| from + (to - from) * i / PIECES;
        (0..PIECES).filter(move |&i| inside(at(from.0, to.0, i), at(from.1, to.1, i))).count()
    };
    let runs = figure.lines.iter().flat_map(unbroken);
    runs.map(|run| {
        let pixels: Vec<_> =
            run.iter().map(|point| chart.plotting_area().map_coordinate(point)).collect();
        let after = pixels.iter().skip(1).chain(pixels.last());
        pixels.iter().copied().zip(after.copied()).map(pieces).sum::<usize>()
    })
    .sum()
}

/// The stretches of a line that have values.
fn unbroken(line: &Line) -> Vec<Vec<(f64, f64)>> {
    let mut runs: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut open = false;
    for &(x, y) in &line.points {
        let Some(y) = y else {
            open = false;
            continue;
        };
        if !open {
            runs.push(Vec::new());
            open = true;
        }
        let run = runs.last_mut().expect("a run was just begun");
        if line.steps
            && let Some(&(_, before)) = run.last()
        {
            run.push((x, before));
        }
        run.push((x, y));
    }
    runs
}

/// Where an axis ends: a little beyond what it shows, and never where it begins.
fn end_of(axis: &Axis, figure: &Figure, of: fn(&(f64, Option<f64>)) -> Option<f64>) -> f64 {
    let points = figure.lines.iter().flat_map(|line| &line.points);
    let largest = || points.filter_map(of).fold(0.0, f64::max) * 1.08;
    let end = axis.end.unwrap_or_else(largest);
    if end.is_finite() && end > axis.start { end } else { axis.start + 1.0 }
}

/// A label of an axis that ends at `end`, with decimals enough to tell labels apart.
fn write(value: f64, axis: &Axis, end: f64) -> String {
    if axis.percent {
        return format!("{:.0} %", value * 100.0);
    }
    let decimals = match end - axis.start {
        span if span < 0.05 => 4,
        span if span < 0.5 => 3,
        span if span < 5.0 => 2,
        span if span < 20.0 => 1,
        _ => 0,
    };
    crate::report::grouped(value, decimals)
}
