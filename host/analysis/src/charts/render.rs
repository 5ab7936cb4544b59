//! Draws a [`Drawing`] with plotters, as PNG and as SVG: lines itself, bars and coloured fields on
//! its frame.

use super::scale::Scale;
use super::{Axis, Band, Drawing, Figure, Join, Line, bars, heatmap};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
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
/// Dashes and the gaps between them, of the lines after those that go through in each colour: so
/// four lines can share one and be told apart.
const DASHES: [(f64, f64); 3] = [(7.0, 4.0), (2.0, 3.0), (14.0, 4.0)];
/// As many lines can be told apart.
const LOOKS: usize = PALETTE.len() * (1 + DASHES.len());
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

/// Below a title there can be a line in small letters.
pub(super) fn png(
    titles: [Option<&str>; 2],
    drawing: &Drawing,
    width: u32,
    height: u32,
) -> Vec<u8> {
    // Plotters draws lines with hard edges: drawn twice as large and averaged they are smooth.
    let (wide, high) = (2 * width, 2 * height);
    let mut pixels = vec![0u8; wide as usize * high as usize * 3];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (wide, high)).into_drawing_area();
        draw(&area, titles, drawing, f64::from(high) / HEIGHT);
        area.present().expect(FITS);
    }
    encode(&halved(&pixels, wide as usize), width, height)
}

/// The mean of every four neighbours of an image whose rows are `wide` pixels long.
pub(crate) fn halved(pixels: &[u8], wide: usize) -> Vec<u8> {
    let row = wide * 3;
    let mut half = Vec::with_capacity(pixels.len() / 4);
    for rows in pixels.chunks_exact(2 * row) {
        let (upper, lower) = rows.split_at(row);
        for (upper, lower) in upper.as_chunks::<6>().0.iter().zip(lower.as_chunks::<6>().0) {
            let sum = |i: usize| [upper[i], upper[i + 3], lower[i], lower[i + 3]].map(u16::from);
            half.extend([0, 1, 2].map(|i| (sum(i).iter().sum::<u16>() / 4) as u8));
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

/// Below a title there can be a line in small letters.
pub(super) fn svg(titles: [Option<&str>; 2], drawing: &Drawing, width: u32, height: u32) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        // The backend writes text a fifth smaller than it measures it.
        draw(&area, titles, drawing, f64::from(height) / HEIGHT * 1.2);
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

fn draw<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    [title, label]: [Option<&str>; 2],
    drawing: &Drawing,
    unit: f64,
) {
    register_font();
    area.fill(&PAPER).expect(FITS);
    let top = match (title, label) {
        (Some(_), Some(_)) => 52.0,
        (Some(_), None) => 40.0,
        (None, _) => 8.0,
    };
    let canvas = Canvas { area, unit, top };
    if let Some(title) = title {
        let at = (canvas.px(16.0), canvas.px(10.0));
        area.draw(&Text::new(title, at, canvas.text(18.0))).expect(FITS);
    }
    if let Some(label) = label {
        let at = (canvas.px(16.0), canvas.px(34.0));
        area.draw(&Text::new(label, at, canvas.text(8.5))).expect(FITS);
    }
    match drawing {
        Drawing::Figure(figure) => lines(&canvas, figure),
        Drawing::Bars(bars) => bars::draw(&canvas, bars),
        Drawing::Heatmap(heatmap) => heatmap::draw(&canvas, heatmap),
    }
}

/// What there is to draw on.
pub(super) struct Canvas<'a, DB: DrawingBackend> {
    pub(super) area: &'a DrawingArea<DB, Shift>,
    /// Pixels of the length 1 in which sizes are given.
    unit: f64,
    /// What the title takes of the height.
    top: f64,
}

pub(super) type Plot<'a, DB> = ChartContext<'a, DB, Cartesian2d<Scale, Scale>>;

impl<'a, DB: DrawingBackend> Canvas<'a, DB> {
    pub(super) fn px(&self, n: f64) -> i32 {
        (n * self.unit).round() as i32
    }

    pub(super) fn text(&self, size: f64) -> TextStyle<'static> {
        (FONT, size * self.unit).into_font().color(&INK)
    }

    /// Room for a plot, with more of it above and to the right.
    pub(super) fn plot(&self, across: &Scale, up: &Scale, above: f64, right: f64) -> Plot<'a, DB> {
        let px = |n: f64| self.px(n).unsigned_abs();
        ChartBuilder::on(self.area)
            .margin(px(10.0))
            .margin_right(px(20.0 + right))
            .margin_top(px(self.top + above))
            .x_label_area_size(px(42.0))
            .y_label_area_size(px(58.0))
            .build_cartesian_2d(across.clone(), up.clone())
            .expect(FITS)
    }

    /// Draws grid, labels and titles; `x_labels` is how many the horizontal axis may have.
    pub(super) fn mesh(&self, plot: &mut Plot<'a, DB>, x: &Axis, y: &Axis, x_labels: usize) {
        let (across, up) = (plot.as_coord_spec().x_spec().clone(), plot.as_coord_spec().y_spec());
        let up = up.clone();
        let (across, up) =
            (|value: &f64| across.label(*value, x), |value: &f64| up.label(*value, y));
        let mut mesh = plot.configure_mesh();
        if x_labels == 0 {
            mesh.disable_x_mesh();
        }
        mesh.light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK.mix(0.6))
            .label_style(self.text(13.0))
            .axis_desc_style(self.text(14.0))
            .x_labels(x_labels)
            .y_labels(6)
            .x_desc(&x.title)
            .y_desc(&y.title)
            .x_label_formatter(&across)
            .y_label_formatter(&up)
            .draw()
            .expect(FITS);
    }

    /// Draws the line that is the `i`-th of a figure or of its legend.
    fn line(&self, i: usize, path: &[(i32, i32)], width: u32) {
        let style = PALETTE[i % PALETTE.len()].stroke_width(width);
        let dashes = (i / PALETTE.len()).checked_sub(1).map(|round| DASHES[round % DASHES.len()]);
        match dashes {
            None => self.area.draw(&PathElement::new(path, style)),
            Some((dash, gap)) => {
                let [dash, gap] = [dash, gap].map(|n| self.px(n).max(1));
                self.area.draw(&DashedPathElement::new(path.iter().copied(), dash, gap, style))
            }
        }
        .expect(FITS);
    }

    /// Says in the middle of a plot that it shows nothing.
    pub(super) fn nothing(&self, plot: &Plot<'a, DB>) {
        let (across, down) = plot.plotting_area().get_pixel_range();
        let at = ((across.start + across.end) / 2, (down.start + down.end) / 2);
        let style = self.text(16.0).pos(Pos::new(HPos::Center, VPos::Center));
        self.area.draw(&Text::new("nothing was measured", at, style)).expect(FITS);
    }
}

fn lines<DB: DrawingBackend>(canvas: &Canvas<'_, DB>, figure: &Figure) {
    let points = || figure.lines.iter().flat_map(|line| &line.points);
    let across = Scale::of(&figure.x, points().map(|point| point.0));
    let up = Scale::of(&figure.y, points().filter_map(|point| point.1));
    let names = if figure.bands.is_empty() { 0.0 } else { 14.0 };
    let mut chart = canvas.plot(&across, &up, names, 0.0);
    let (x, y) = (across.end(), up.end());
    let plot = chart.plotting_area();
    for band in &figure.bands {
        if band.shaded {
            let corners = [(band.from, 0.0), (band.to.min(x), y)];
            plot.draw(&Rectangle::new(corners, SHADE.filled())).expect(FITS);
        }
    }
    canvas.mesh(&mut chart, &figure.x, &figure.y, 8);
    bands(canvas, &chart, &figure.bands, (x, y));
    let stroke = canvas.px(1.5).max(1).unsigned_abs();
    let dot = |at: (f64, f64), colour: RGBColor| {
        let dot = Circle::new(at, canvas.px(2.5), colour.filled());
        chart.plotting_area().draw(&dot).expect(FITS);
    };
    for (i, line) in figure.lines.iter().enumerate() {
        let colour = PALETTE[i % PALETTE.len()];
        spreads(canvas, &chart, line, colour);
        for run in unbroken(line) {
            // A single point would be invisible as a line.
            if line.join == Join::Dots || run.len() == 1 {
                run.into_iter().for_each(|at| dot(at, colour));
                continue;
            }
            let pixels = run.iter().map(|point| chart.plotting_area().map_coordinate(point));
            canvas.line(i, &pixels.collect::<Vec<_>>(), stroke);
        }
    }
    if figure.is_empty() {
        canvas.nothing(&chart);
    } else {
        let names: Vec<&str> = figure.lines.iter().map(|line| line.name.as_str()).collect();
        legend(canvas, &chart, &names, |corner, size| covered(&chart, figure, corner, size));
    }
}

/// Error bars of a line.
fn spreads<DB: DrawingBackend>(
    canvas: &Canvas<'_, DB>,
    chart: &Plot<'_, DB>,
    line: &Line,
    colour: RGBColor,
) {
    let cap = canvas.px(3.0);
    for &(x, low, high) in &line.spreads {
        let plot = chart.plotting_area();
        let (from, to) = (plot.map_coordinate(&(x, low)), plot.map_coordinate(&(x, high)));
        let stroke = |path: [(i32, i32); 2]| {
            canvas.area.draw(&PathElement::new(path, colour)).expect(FITS);
        };
        stroke([from, to]);
        for (x, y) in [from, to] {
            stroke([(x - cap, y), (x + cap, y)]);
        }
    }
}

/// Names stages above the plot and draws a line where each begins.
fn bands<DB: DrawingBackend>(
    canvas: &Canvas<'_, DB>,
    chart: &Plot<'_, DB>,
    bands: &[Band],
    (x, y): (f64, f64),
) {
    let (area, plot) = (canvas.area, chart.plotting_area());
    let style = canvas.text(12.0);
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
            let at = (from + 3, top - canvas.px(14.0));
            area.draw(&Text::new(name, at, style.clone())).expect(FITS);
            free_from = from + wide;
        }
    }
}

/// How small letters of a legend get, as a share of their usual size.
const SMALLEST: f64 = 0.7;
/// Most columns of a legend: more would cover the lines.
const MOST_COLUMNS: i32 = 3;

/// Names what has a colour in a box where it covers least, unless there is but one.
pub(super) fn legend<DB: DrawingBackend>(
    canvas: &Canvas<'_, DB>,
    chart: &Plot<'_, DB>,
    shown: &[&str],
    covered: impl Fn((i32, i32), (i32, i32)) -> usize,
) {
    if shown.len() < 2 {
        return;
    }
    let area = canvas.area;
    let px = |n: f64| canvas.px(n);
    let (swatch, pad, inset) = (px(22.0), px(8.0), px(8.0));
    let (across, down) = chart.plotting_area().get_pixel_range();
    let rows = |row: i32| ((down.end - down.start - 2 * inset - pad) / row).max(2) as usize;
    // Many names are written smaller, and beside each other where that is not enough.
    let shrink = (rows(px(18.0)) as f64 / shown.len() as f64).clamp(SMALLEST, 1.0);
    let (row, style) = (px(18.0 * shrink), canvas.text(13.0 * shrink));
    let size = |name: &str| area.estimate_text_size(name, &style).map_or(0, |size| size.0 as i32);
    let mut names: Vec<String> = shown.iter().map(|name| (*name).to_owned()).collect();
    let widest = names.iter().map(|name| size(name)).max().unwrap_or(0);
    let column = swatch + px(6.0) + widest + pad;
    let most = ((across.end - across.start - 2 * inset - pad) / column).clamp(1, MOST_COLUMNS);
    let columns = names.len().min(LOOKS).div_ceil(rows(row)).min(most as usize);
    let room = (rows(row) * columns).min(LOOKS);
    if names.len() > room {
        let more = names.len() - (room - 1);
        names.truncate(room - 1);
        names.push(format!("and {more} more"));
    }
    let rows = names.len().div_ceil(columns);
    let (wide, high) = (pad + column * columns as i32, pad + row * rows as i32);
    let corners = [
        (across.end - inset - wide, down.end - inset - high),
        (across.end - inset - wide, down.start + inset),
        (across.start + inset, down.start + inset),
    ];
    let least = corners.into_iter().min_by_key(|corner| covered(*corner, (wide, high)));
    let Some((left, top)) = least else { return };
    let corners = [(left, top), (left + wide, top + high)];
    area.draw(&Rectangle::new(corners, PAPER.filled())).expect(FITS);
    area.draw(&Rectangle::new(corners, GRID)).expect(FITS);
    let left_out = shown.len() > room;
    let last = names.len() - 1;
    for (i, name) in names.into_iter().enumerate() {
        let middle = top + pad / 2 + row * (i % rows) as i32 + row / 2;
        let from = left + pad + column * (i / rows) as i32;
        if !(left_out && i == last) {
            canvas.line(i, &[(from, middle), (from + swatch, middle)], px(2.5).max(1) as u32);
        }
        let at = (from + swatch + px(6.0), middle);
        let style = style.clone().pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name, at, style)).expect(FITS);
    }
}

/// How much of the lines a box would cover, in pieces of their segments.
fn covered<DB: DrawingBackend>(
    chart: &Plot<'_, DB>,
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
        if line.join == Join::Steps
            && let Some(&(_, before)) = run.last()
        {
            run.push((x, before));
        }
        run.push((x, y));
    }
    runs
}
