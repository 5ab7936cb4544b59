//! [`CHARTS`]: every picture of a run. A chart turns an [`Analysis`] into a [`Figure`], which is
//! plain values; one renderer draws figures as PNG and as SVG. A new chart is one file here and
//! one line in the table. Analyzer plugins bring a [`Drawing`], which may also be of bars or of
//! coloured fields.

mod bars;
mod distribution;
mod heatmap;
mod in_flight;
mod over_time;
mod render;
mod scale;
mod throughput;

use crate::Analysis;

pub(crate) use render::{
    FITS, FONT, GRID, INK, PALETTE, PAPER, SHADE, encode, halved, register_font,
};

/// A picture of a run.
#[derive(Debug)]
pub struct Chart {
    /// Its name in files.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What it shows and how to read it, in a sentence or two.
    pub meaning: &'static str,
    /// Makes it.
    pub draw: fn(&Analysis) -> Figure,
}

/// Every chart, in the order of reports.
pub const CHARTS: &[Chart] = &[
    Chart {
        name: "ttft_distribution",
        title: "Time to first token",
        meaning: "Share of requests whose first token came within a time, by stage. Further left \
            is better; a long flat end is a slow tail. The axis ends at the 99.9th percentile.",
        draw: distribution::ttft,
    },
    Chart {
        name: "itl_distribution",
        title: "Inter-token latency",
        meaning: "Share of the gaps between output tokens that are at most so long, by stage. Few \
            long gaps are pauses that a reader sees. The axis ends at the 99.9th percentile.",
        draw: distribution::itl,
    },
    Chart {
        name: "tpot_distribution",
        title: "Time per output token",
        meaning: "Share of requests whose mean time per token after the first was at most so \
            long, by stage. The axis ends at the 99.9th percentile.",
        draw: distribution::tpot,
    },
    Chart {
        name: "latency_distribution",
        title: "Latency",
        meaning: "Share of requests whose whole answer had come within a time, by stage. The axis \
            ends at the 99.9th percentile.",
        draw: distribution::latency,
    },
    Chart {
        name: "requests_over_time",
        title: "Requests per second",
        meaning: "Requests sent, ended well and failed in each step of time. Ends that stay below \
            what is sent mean that a backlog grows.",
        draw: throughput::requests,
    },
    Chart {
        name: "tokens_over_time",
        title: "Output tokens per second",
        meaning: "Output tokens as they arrived. A level that does not rise with the load is the \
            server's limit.",
        draw: throughput::tokens,
    },
    Chart {
        name: "in_flight_over_time",
        title: "Requests in flight",
        meaning: "Requests under way, averaged over each step. A line that keeps rising at a \
            steady rate means overload.",
        draw: in_flight::draw,
    },
    Chart {
        name: "ttft_over_time",
        title: "Time to first token over time",
        meaning: "Median and 99th percentile of the requests sent in each step (of fewer than 100, \
            the largest). Both should be level within a stage; else it was not in a steady state.",
        draw: over_time::ttft,
    },
    Chart {
        name: "latency_over_time",
        title: "Latency over time",
        meaning: "Median and 99th percentile of the requests sent in each step (of fewer than 100, \
            the largest).",
        draw: over_time::latency,
    },
    Chart {
        name: "lateness_over_time",
        title: "Lateness of the load generator over time",
        meaning: "How long after they were due requests left. This is the client's own error: it \
            should be small beside the TTFT. A closed loop has none.",
        draw: over_time::lateness,
    },
];

/// What a picture shows, as values.
#[derive(Debug, Clone, PartialEq)]
pub enum Drawing {
    /// Lines and points.
    Figure(Figure),
    /// Bars side by side.
    Bars(Bars),
    /// Coloured fields.
    Heatmap(Heatmap),
}

/// Bars side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// What the categories are.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Names on the horizontal axis.
    pub categories: Vec<String>,
    /// In the order of the legend.
    pub groups: Vec<BarGroup>,
}

/// Bars with one colour.
#[derive(Debug, Clone, PartialEq)]
pub struct BarGroup {
    /// Its name in the legend.
    pub name: String,
    /// Its height at each category. None: no bar.
    pub values: Vec<Option<f64>>,
}

/// Coloured fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Heatmap {
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Edges of the columns, rising: one more than there are columns.
    pub x_edges: Vec<f64>,
    /// Edges of the rows, rising: one more than there are rows.
    pub y_edges: Vec<f64>,
    /// Row by row, from the lowest. None: no colour.
    pub values: Vec<Option<f64>>,
    /// What the colour means.
    pub legend: Axis,
}

/// What a chart shows, as values.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines, in the order of the legend.
    pub lines: Vec<Line>,
    /// Stretches of the horizontal axis with a name, such as stages.
    pub bands: Vec<Band>,
}

/// An axis of a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it measures, with the unit.
    pub title: String,
    /// Its beginning.
    pub start: f64,
    /// Its end. None: the largest value of any line.
    pub end: Option<f64>,
    /// Its values are shares of 1, written as per cent.
    pub percent: bool,
    /// Values lie by their logarithms; it begins above zero.
    pub logarithmic: bool,
}

/// A line of a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its points, from left to right. A gap has no value.
    pub points: Vec<(f64, Option<f64>)>,
    /// How they are joined.
    pub join: Join,
    /// Error bars: where, their lower ends, their upper ends.
    pub spreads: Vec<(f64, f64, f64)>,
}

/// How the points of a line are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// From point to point.
    Straight,
    /// Across to the next point and then up.
    Steps,
    /// Not at all: each is a dot.
    Dots,
}

/// A stretch of the horizontal axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    /// Its name.
    pub name: String,
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// Drawn darker: it does not count.
    pub shaded: bool,
}

impl Axis {
    /// An axis that begins at zero.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), start: 0.0, end: None, percent: false, logarithmic: false }
    }

    /// An axis as long as these values need; it begins at zero where they begin close to it.
    #[must_use]
    pub fn around(self, values: impl Iterator<Item = f64>) -> Self {
        let Some((least, most)) = self.extent(values) else {
            return Self { start: if self.logarithmic { 1.0 } else { 0.0 }, ..self };
        };
        let (start, end) = if self.logarithmic {
            (least / 1.2, most * 1.2)
        } else {
            let margin = 0.04 * (most - least).max(1e-9 * most.abs());
            let start = least - margin;
            (if least >= 0.0 { start.max(0.0) } else { start }, most + margin)
        };
        Self { start, end: Some(end), ..self }
    }

    /// The least and the largest of the values that the axis can show. None: there are none.
    fn extent(&self, values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
        let (least, most) = values
            .filter(|value| !self.logarithmic || *value > 0.0)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        (least <= most).then_some((least, most))
    }
}

/// The chart of this name.
#[must_use]
pub fn chart(name: &str) -> Option<&'static Chart> {
    CHARTS.iter().find(|chart| chart.name == name)
}

/// Draws a chart as a PNG file of so many pixels.
#[must_use]
pub fn png(chart: &Chart, analysis: &Analysis, width: u32, height: u32) -> Vec<u8> {
    let drawing = Drawing::Figure((chart.draw)(analysis));
    render::png([Some(chart.title), labels(analysis).as_deref()], &drawing, width, height)
}

/// How stages must be read whose pace was not the schedule's, each said once.
pub(crate) fn labels(analysis: &Analysis) -> Option<String> {
    let all = || analysis.summary.stages.iter().filter_map(|stage| stage.label.as_deref());
    let several = all().any(|label| Some(label) != all().next());
    let mut labels: Vec<String> = Vec::new();
    for label in all() {
        // In a sweep it would be the same sentence for each concurrency.
        let label = match label.split_once(": ") {
            Some((kind, meaning)) if several && kind.starts_with("closed loop") => {
                format!("closed loop: {meaning}")
            }
            _ => label.to_owned(),
        };
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    (!labels.is_empty()).then(|| labels.join("; "))
}

/// Draws a chart as an SVG file of so many pixels.
#[must_use]
pub fn svg(chart: &Chart, analysis: &Analysis, width: u32, height: u32) -> String {
    let drawing = Drawing::Figure((chart.draw)(analysis));
    render::svg([Some(chart.title), labels(analysis).as_deref()], &drawing, width, height)
}

/// Draws values with a title as a PNG file of so many pixels.
#[must_use]
pub fn drawing_png(title: &str, drawing: &Drawing, width: u32, height: u32) -> Vec<u8> {
    render::png([Some(title), None], drawing, width, height)
}

/// Draws values as an SVG file of so many pixels; without a title for pages that have one.
#[must_use]
pub fn drawing_svg(title: Option<&str>, drawing: &Drawing, width: u32, height: u32) -> String {
    render::svg([title, None], drawing, width, height)
}

/// The same without its title, for pages that have one of their own.
pub(crate) fn untitled_svg(chart: &Chart, analysis: &Analysis, width: u32, height: u32) -> String {
    render::svg([None, None], &Drawing::Figure((chart.draw)(analysis)), width, height)
}

impl Figure {
    /// Whether there is anything to see.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.points.iter().all(|point| point.1.is_none()))
    }
}
