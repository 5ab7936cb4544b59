//! Every chart draws whatever there is.

use crate::run::{Run, answer, stage};
use analysis::charts::{
    Axis, BarGroup, Bars, CHARTS, Drawing, Figure, Heatmap, Join, Line, chart, drawing_svg, png,
    svg,
};
use analysis::{Analysis, Options};
use records::{LoopKind, Record};
use std::collections::{BTreeMap, BTreeSet};

fn check(what: &str, analysis: &Analysis) {
    for chart in CHARTS {
        let drawn = svg(chart, analysis, 640, 360);
        assert!(drawn.starts_with("<svg") && drawn.contains(chart.title), "{} {what}", chart.name);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{} {what}", chart.name);
        let pixels = png(chart, analysis, 321, 180);
        assert_eq!(pixels[..8], *b"\x89PNG\r\n\x1a\n", "{} {what}", chart.name);
    }
}

#[test]
fn charts_draw_nothing_and_one_and_many_requests() {
    check("of nothing", &Run::new(Vec::new()).analyse(&Options::default()));
    check("of one", &Run::open(300, vec![answer(0, &[200], 250)]).analyse(&Options::default()));
    let many = (0..500).map(|i| answer(i * 10, &[i * 10 + 100, i * 10 + 120], i * 10 + 130));
    check("of many", &Run::open(5_200, many.collect()).analyse(&Options::default()));
}

#[test]
fn an_empty_chart_says_so() {
    let analysis = Run::new(Vec::new()).analyse(&Options::default());
    for chart in CHARTS {
        assert!(svg(chart, &analysis, 640, 360).contains("nothing was measured"), "{}", chart.name);
    }
}

#[test]
fn a_tail_over_time_says_in_the_legend_that_it_may_be_the_largest_value() {
    let many = (0..20).map(|i| answer(i * 10, &[i * 10 + 100], i * 10 + 130));
    let analysis = Run::open(400, many.collect()).analyse(&Options::default());
    for name in ["ttft_over_time", "latency_over_time", "lateness_over_time"] {
        let drawn = svg(chart(name).unwrap(), &analysis, 1200, 600);
        assert!(drawn.contains("\np99, or the largest of fewer than 100\n"), "{drawn}");
    }
}

#[test]
fn names_are_different_and_fit_into_files() {
    let mut names: Vec<&str> = CHARTS.iter().map(|chart| chart.name).collect();
    assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CHARTS.len());
}

#[test]
fn a_legend_names_as_many_stages_as_there_is_room_for() {
    let mut run = Run::new((0..40).map(|i| stage(&format!("stage-{i}"), LoopKind::Open)).collect());
    for i in 0..40 {
        let begin = u64::from(i) * 100;
        run.begin(i, begin);
        run.records([Record { stage: i, ..answer(begin, &[begin + 20], begin + 30) }]);
        run.end(i, begin + 100, 1);
    }
    let analysis = run.analyse(&Options::default());
    let drawn = svg(&CHARTS[0], &analysis, 640, 360);
    assert!(drawn.contains("stage-0\n") && drawn.contains(" more\n"), "{drawn}");
    assert!(!drawn.contains("stage-39\n"));
    check("of forty stages", &analysis);
}

#[test]
fn twenty_stages_can_be_told_apart_in_lines_and_legend() {
    let lines = (0..20).map(|i| {
        let points = vec![(0.0, Some(f64::from(i))), (20.0, Some(f64::from(i)))];
        Line { name: format!("stage-{i}"), points, join: Join::Straight, spreads: Vec::new() }
    });
    let drawing = Drawing::Figure(Figure {
        x: Axis::new("x"),
        y: Axis::new("y"),
        lines: lines.collect(),
        bands: Vec::new(),
    });
    let svg = drawing_svg(Some("title"), &drawing, 1200, 600);
    assert!((0..20).all(|i| svg.contains(&format!("\nstage-{i}\n"))), "{svg}");
    // A line is known by its colour and by how many dashes it has across the plot, or in the legend.
    let mut dashes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for path in svg.lines().filter(|line| line.starts_with("<polyline")) {
        let attribute = |name: &str| path.split_once(name).unwrap().1.split('"').nth(1).unwrap();
        let (_, y) =
            attribute("points=").split_whitespace().next().unwrap().split_once(',').unwrap();
        *dashes.entry((attribute("stroke="), y)).or_default() += 1;
    }
    let colours =
        PALETTE.map(|colour| dashes.keys().filter(|(stroke, _)| *stroke == colour).count());
    assert_eq!(colours, [6, 6, 6, 6, 6, 6, 4], "three lines of a colour, each in the legend, too");
    let looks: BTreeSet<(&str, usize)> =
        dashes.iter().map(|((stroke, _), count)| (*stroke, *count)).collect();
    let of = |colour: &str| looks.iter().filter(|(stroke, _)| *stroke == colour).count();
    // One that goes through looks the same in both places.
    assert_eq!(PALETTE.map(of), [5, 5, 5, 5, 5, 5, 3], "{looks:?}");
}

/// The colours of lines.
const PALETTE: [&str; 7] =
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B6B4A"];

/// Whether each text stands in a drawing.
fn check_texts(drawing: &Drawing, shown: &[&str], missing: &[&str]) {
    let svg = drawing_svg(None, drawing, 640, 360);
    let stands = |text: &&&str| svg.contains(&format!("\n{text}\n"));
    assert_eq!(shown.iter().filter(|text| !stands(text)).collect::<Vec<_>>(), [&""; 0], "{svg}");
    assert_eq!(missing.iter().filter(stands).collect::<Vec<_>>(), [&""; 0], "{svg}");
}

fn bars(categories: usize, groups: &[&str]) -> Drawing {
    let group = |name: &&str| BarGroup {
        name: (*name).to_owned(),
        values: (0..categories).map(|i| Some(i as f64)).collect(),
    };
    Drawing::Bars(Bars {
        x: Axis::new("stage"),
        y: Axis::new("latency, ms").around([0.0, categories as f64].into_iter()),
        categories: (0..categories).map(|i| format!("stage-{i}")).collect(),
        groups: groups.iter().map(group).collect(),
    })
}

#[test]
fn bars_have_names_as_far_as_there_is_room() {
    check_texts(&bars(3, &["p50"]), &["stage", "latency, ms", "stage-0", "stage-2"], &["p50"]);
    check_texts(&bars(3, &["p50", "p99"]), &["p50", "p99"], &["nothing was measured"]);
    check_texts(&bars(40, &["p50"]), &["stage-0"], &["stage-1"]);
    check_texts(&bars(0, &[]), &["nothing was measured"], &[]);
}

#[test]
fn fields_have_a_colour_by_value_and_a_key_that_says_which() {
    let map = |values: [Option<f64>; 2]| {
        Drawing::Heatmap(Heatmap {
            x: Axis::new("input tokens"),
            y: Axis::new("time, s"),
            x_edges: vec![0.0, 100.0, 200.0],
            y_edges: vec![0.0, 60.0],
            values: values.to_vec(),
            legend: Axis::new("TTFT, ms"),
        })
    };
    check_texts(&map([Some(20.0), Some(420.0)]), &["TTFT, ms", "20", "220", "420"], &[]);
    check_texts(&map([None, None]), &["nothing was measured"], &["TTFT, ms"]);
    let fields = |drawing: &Drawing| drawing_svg(None, drawing, 640, 360).matches("<rect").count();
    assert_eq!(fields(&map([Some(1.0), Some(2.0)])), fields(&map([Some(1.0), None])) + 1);
}

#[test]
fn points_are_joined_or_not_and_lie_by_their_logarithms_where_the_axis_says_so() {
    let figure = |join: Join, logarithmic: bool| {
        let points = vec![(1.0, Some(10.0)), (10.0, Some(100.0)), (100.0, Some(1000.0))];
        let axis = |title: &str, ends: [f64; 2]| {
            Axis { logarithmic, ..Axis::new(title) }.around(ends.into_iter())
        };
        Drawing::Figure(Figure {
            x: axis("rate", [1.0, 100.0]),
            y: axis("latency", [10.0, 1000.0]),
            lines: vec![Line { name: "a".to_owned(), points, join, spreads: Vec::new() }],
            bands: Vec::new(),
        })
    };
    let count = |drawing: &Drawing, element: &str| {
        drawing_svg(None, drawing, 640, 360).matches(element).count()
    };
    assert_eq!(count(&figure(Join::Dots, false), "<circle"), 3);
    assert_eq!(count(&figure(Join::Straight, false), "<circle"), 0);
    check_texts(&figure(Join::Straight, true), &["2", "50", "1,000"], &["40", "400"]);
    check_texts(&figure(Join::Straight, false), &["40", "400"], &["2", "50"]);
}
