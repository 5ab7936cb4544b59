//! The two pictures of the original: boxes of latencies, and bars of throughput and tokens, by
//! rate.

use super::boxes::BoxOf;
use super::file::MOST;
use super::stats::mean;
use super::{Rate, Row};
use crate::charts::{FITS, FONT, GRID, INK, PALETTE, PAPER, encode, halved, register_font};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A picture.
#[derive(Debug, Clone, Copy)]
pub struct Plot {
    /// Its file.
    pub file: &'static str,
    /// What it shows and how to read it.
    pub meaning: &'static str,
    width: u32,
    height: u32,
    draw: fn(&Area<'_>, &[Rate]),
}

/// Four boxes of latencies.
pub const LATENCY: Plot = Plot {
    file: "latency_analysis.png",
    meaning: "time to first token, generation time, their sum, and tokens per second of \
        generation, by rate. A box holds the middle half of the requests, the line in it is the \
        median, whiskers reach the last requests within 1.5 times the box, circles lie beyond.",
    width: 2700,
    height: 1800,
    draw: latency,
};

/// Bars of throughput and tokens.
pub const THROUGHPUT: Plot = Plot {
    file: "throughput_analysis.png",
    meaning: "left, by rate: (mean prompt tokens + mean generated tokens) / mean generation time. \
        This is a figure of the mean request, as the original had it, and not the throughput of \
        the system (of a run of llmdbench `summary.json` has that). Right: mean tokens of prompts \
        and answers.",
    width: 2700,
    height: 750,
    draw: throughput,
};

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// Sizes are given for pictures of this scale: they are drawn twice as large and averaged.
const SCALE: u32 = 2;

impl Plot {
    /// Draws it as a PNG file.
    #[must_use]
    pub fn png(&self, rates: &[Rate]) -> Vec<u8> {
        register_font();
        let (wide, high) = (SCALE * self.width, SCALE * self.height);
        let mut pixels = vec![0_u8; wide as usize * high as usize * 3];
        {
            let area = BitMapBackend::with_buffer(&mut pixels, (wide, high)).into_drawing_area();
            area.fill(&PAPER).expect(FITS);
            (self.draw)(&area, rates);
            area.present().expect(FITS);
        }
        encode(&halved(&pixels, wide as usize), self.width, self.height)
    }
}

fn px(n: u32) -> u32 {
    n * SCALE
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, px(size)).into_font().color(&INK)
}

type Value = fn(&Row) -> Option<f64>;

fn latency(area: &Area<'_>, rates: &[Rate]) {
    let parts: [(&str, &str, Value); 4] = [
        ("Time to First Token vs QPS", "TTFT (seconds)", |row| row.ttft),
        ("Generation Time vs QPS", "Generation Time (seconds)", |row| row.generation_time),
        ("Total Time vs QPS", "Total Time (seconds)", Row::total_time),
        ("Token Generation Rate vs QPS", "Tokens per Second", Row::generation_rate),
    ];
    for (part, (title, unit, value)) in area.split_evenly((2, 2)).iter().zip(parts) {
        let boxes: Vec<Option<BoxOf>> = rates
            .iter()
            .map(|rate| BoxOf::of(rate.rows.iter().filter_map(value).collect()))
            .collect();
        let top = boxes
            .iter()
            .flatten()
            .flat_map(|shown| shown.beyond.iter().copied().chain([shown.high]))
            .fold(0.0, f64::max);
        let chart = frame(part, title, unit, rates, top);
        for (i, shown) in boxes.iter().enumerate() {
            if let Some(shown) = shown {
                draw_box(&chart, i, shown);
            }
        }
    }
}

fn throughput(area: &Area<'_>, rates: &[Rate]) {
    let of =
        |rate: &Rate, value: Value| mean(&rate.rows.iter().filter_map(value).collect::<Vec<f64>>());
    let prompt: Vec<Option<f64>> = rates.iter().map(|rate| of(rate, |r| r.prompt_tokens)).collect();
    let generated: Vec<Option<f64>> =
        rates.iter().map(|rate| of(rate, |r| r.generation_tokens)).collect();
    let per_second: Vec<Option<f64>> = rates
        .iter()
        .enumerate()
        .map(|(i, rate)| {
            let time = of(rate, |row| row.generation_time).filter(|time| *time > 0.0)?;
            Some((prompt[i]? + generated[i]?) / time).filter(|rate| *rate <= MOST)
        })
        .collect();
    let top = |values: &[&[Option<f64>]]| {
        values.iter().flat_map(|values| values.iter().flatten()).copied().fold(0.0, f64::max)
    };
    let parts = area.split_evenly((1, 2));
    let chart = frame(
        &parts[0],
        "Throughput (Tokens/Second) vs QPS",
        "Tokens per Second",
        rates,
        top(&[&per_second]),
    );
    for (i, value) in per_second.iter().enumerate() {
        draw_bar(&chart, i as f64 - 0.4, i as f64 + 0.4, *value, 0);
    }
    // The legend stands above the bars.
    let room = 1.25 * top(&[&prompt, &generated]);
    let chart = frame(&parts[1], "Token Counts vs QPS", "Mean Tokens", rates, room);
    for (i, values) in prompt.iter().zip(&generated).enumerate() {
        draw_bar(&chart, i as f64 - 0.4, i as f64, *values.0, 0);
        draw_bar(&chart, i as f64, i as f64 + 0.4, *values.1, 1);
    }
    legend(&parts[1], "Token Type", &["prompt_tokens", "generation_tokens"]);
}

type Chart<'a, 'b> = ChartContext<
    'a,
    BitMapBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// Axes with a category for each rate.
fn frame<'a, 'b>(
    area: &'a DrawingArea<BitMapBackend<'b>, Shift>,
    title: &str,
    unit: &str,
    rates: &[Rate],
    top: f64,
) -> Chart<'a, 'b> {
    let top = if top > 0.0 { top * 1.05 } else { 1.0 };
    let count = rates.len();
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, px(36)).into_font().color(&INK))
        .margin(px(20))
        .x_label_area_size(px(80))
        .y_label_area_size(px(130))
        .build_cartesian_2d(-0.6..count as f64 - 0.4, 0.0..top)
        .expect(FITS);
    let names: Vec<String> = rates.iter().map(|rate| format!("{:?}", rate.qps)).collect();
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(ShapeStyle::from(&GRID).stroke_width(px(1)))
        .axis_style(ShapeStyle::from(&INK).stroke_width(px(1)))
        .x_labels(0)
        .y_labels(8)
        .y_label_style(text(24))
        .axis_desc_style(text(28))
        // Numbers that differ by rounding alone read the same.
        .y_label_formatter(&|value| ((value * 1e6).round() / 1e6).to_string())
        .x_desc("Queries per Second")
        .y_desc(unit)
        .draw()
        .expect(FITS);
    // The library labels round numbers; categories need their own.
    let style = text(24).pos(Pos::new(HPos::Center, VPos::Top));
    for (i, name) in names.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(i as f64, 0.0));
        let (left, above) = area.get_base_pixel();
        let at = (x - left, y - above + px(8) as i32);
        area.draw(&Text::new(name.as_str(), at, style.clone())).expect(FITS);
    }
    chart
}

fn draw_box(chart: &Chart<'_, '_>, i: usize, shown: &BoxOf) {
    let area = chart.plotting_area();
    let colour = PALETTE[i % PALETTE.len()];
    let at = i as f64;
    let line = ShapeStyle::from(&INK).stroke_width(px(2));
    let edges = [(at - 0.35, shown.q1), (at + 0.35, shown.q3)];
    area.draw(&Rectangle::new(edges, colour.mix(0.55).filled())).expect(FITS);
    area.draw(&Rectangle::new(edges, line)).expect(FITS);
    let stroke = |from: (f64, f64), to: (f64, f64)| {
        area.draw(&PathElement::new(vec![from, to], line)).expect(FITS);
    };
    stroke((at - 0.35, shown.median), (at + 0.35, shown.median));
    for (from, to) in [(shown.q1, shown.low), (shown.q3, shown.high)] {
        stroke((at, from), (at, to));
        stroke((at - 0.15, to), (at + 0.15, to));
    }
    for value in &shown.beyond {
        area.draw(&Circle::new((at, *value), px(4), ShapeStyle::from(&INK).stroke_width(px(1))))
            .expect(FITS);
    }
}

fn draw_bar(chart: &Chart<'_, '_>, from: f64, to: f64, value: Option<f64>, colour: usize) {
    if let Some(value) = value {
        let bar = Rectangle::new([(from, 0.0), (to, value)], PALETTE[colour].mix(0.75).filled());
        chart.plotting_area().draw(&bar).expect(FITS);
    }
}

/// Names of colours, at the upper right of the plot.
fn legend(area: &Area<'_>, title: &str, names: &[&str]) {
    let (wide, _) = area.dim_in_pixel();
    let left = wide as i32 - px(310) as i32;
    let write = |words: &str, x: i32, y: u32| {
        let style = text(24).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(words, (x, px(y) as i32), style)).expect(FITS);
    };
    write(title, left, 92);
    for ((name, colour), y) in names.iter().zip(PALETTE).zip((126..).step_by(34)) {
        let patch = [(left, px(y - 12) as i32), (left + px(24) as i32, px(y + 12) as i32)];
        area.draw(&Rectangle::new(patch, colour.mix(0.75).filled())).expect(FITS);
        write(name, left + px(36) as i32, y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_the_originals_sizes_even_of_nothing() {
        let row = Row {
            prompt_tokens: Some(75.0),
            generation_tokens: Some(20.0),
            ttft: Some(0.1),
            generation_time: Some(0.9),
            user_id: None,
        };
        let one = [Rate { qps: 1.0, rows: vec![row] }];
        for (plot, size) in [(LATENCY, (2700, 1800)), (THROUGHPUT, (2700, 750))] {
            for rates in [&one[..], &[]] {
                let file = plot.png(rates);
                let number = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
                assert_eq!((number(16), number(20)), size, "{}", plot.file);
            }
        }
    }
}
