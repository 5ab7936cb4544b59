//! Every chart draws whatever there is.

use crate::run::{Run, answer, stage};
use analysis::charts::{CHARTS, png, svg};
use analysis::{Analysis, Options};
use records::{LoopKind, Record};

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
