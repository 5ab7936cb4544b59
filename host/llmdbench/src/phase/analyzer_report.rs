//! Puts what an analyzer reports where people look: translated and checked, for it comes from a
//! plugin. What cannot be used is told, and never loses the rest.

use crate::error::{Error, Exit, Result};
use crate::phase::analyzers::Findings;
use crate::run_dir::{self, Results};
use crate::translate;
use analysis::charts::{Axis, BarGroup, Bars, Drawing, Figure, Heatmap, Join, Line};
use analysis::{
    Better, Note, PluginChart, PluginFinding, PluginMetric, PluginReport, PluginResults, Severity,
    Summary, Table, charts,
};
use plugin_host::wit::analyzer as wit;
use plugin_host::wit::results::{Direction, Metric};
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// Values of one chart: more make files that nobody opens.
const MOST_VALUES: usize = 20_000;

/// Writes an analyzer's files, tables and pictures; adds all that it found to `findings`.
pub(super) fn keep(plugin: &str, report: wit::Report, results: &Results, findings: &mut Findings) {
    let mut failures = Vec::new();
    let mut tell = |outcome: Result<()>| outcome.map_err(|error| failures.push(error)).is_ok();
    for file in report.files {
        tell(
            file_name(plugin, &file.name, results)
                .and_then(|()| run_dir::write(&results.artifact(&file.name), &file.contents)),
        );
    }
    let mut written = Vec::new();
    let mut names = BTreeSet::new();
    let mut tables = Vec::new();
    for table in report.tables.into_iter().map(table) {
        let file = results.data(&format!("{plugin}-{}.csv", table.name));
        if tell(
            plain_name(plugin, "table", &table.name, &mut names)
                .and_then(|()| run_dir::write(&file, table.csv().as_bytes())),
        ) {
            written.push(file);
            tables.push(table);
        }
    }
    let mut names = BTreeSet::new();
    let mut pictures = Vec::new();
    for chart in report.charts {
        let wit::Chart { name, title, x, y, drawing } = chart;
        match self::drawing(&x, &y, drawing) {
            Ok(drawing) => {
                let chart = PluginChart { name, title, drawing };
                let file = |ending| results.plot(&format!("{plugin}-{}.{ending}", chart.name));
                let [png, svg] = ["png", "svg"].map(file);
                if tell(
                    plain_name(plugin, "chart", &chart.name, &mut names)
                        .and_then(|()| write_picture(&chart, &png, &svg)),
                ) {
                    written.extend([png, svg]);
                    pictures.push(chart);
                }
            }
            Err(why) => findings.notes.push(Note {
                severity: Severity::Warning,
                source: plugin.to_owned(),
                text: format!("The chart \"{title}\" is not drawn: {why}."),
            }),
        }
    }
    findings.failures.extend(failures.into_iter().map(|error| error.exit(Exit::Run)));
    findings.reports.push(PluginReport {
        results: PluginResults {
            name: plugin.to_owned(),
            metrics: report.metrics.into_iter().map(metric).collect(),
            findings: report.findings.into_iter().map(finding).collect(),
            files: written.iter().filter_map(|file| results.in_analysis(file)).collect(),
        },
        tables,
        charts: pictures,
    });
}

fn write_picture(chart: &PluginChart, png: &Path, svg: &Path) -> Result<()> {
    run_dir::write(png, &charts::drawing_png(&chart.title, &chart.drawing, 1200, 600))?;
    let drawn = charts::drawing_svg(Some(&chart.title), &chart.drawing, 1200, 600);
    run_dir::write(svg, drawn.as_bytes())
}

/// Removes the tables and pictures of an earlier analysis that this one did not make again.
pub(super) fn remove_old(results: &Results, new: &[PluginResults]) -> Result<()> {
    // One that cannot be read names nothing that could be removed.
    let old = run_dir::read_json::<Summary>(&results.data("summary.json")).ok().flatten();
    let old = old.into_iter().flat_map(|summary| summary.plugins);
    let is_new = |file: &String| new.iter().any(|found| found.files.contains(file));
    for file in old.flat_map(|found| found.files).filter(|file| is_inside(file) && !is_new(file)) {
        run_dir::remove(&results.analysis.join(file))?;
    }
    Ok(())
}

/// Refuses a file that would lie outside of the results, or that is the run's own.
fn file_name(plugin: &str, name: &str, results: &Results) -> Result<()> {
    let refused = |why: &str| {
        Err(Error::new(Exit::Run, format!("the analyzer `{plugin}` made a file `{name}`, which {why}"))
            .hint("its other files are there; the plugin must name this one by a path of its own within the results"))
    };
    if !is_inside(name) {
        return refused("would lie outside of the results");
    }
    if results.is_own(name) {
        return refused("is the run's own");
    }
    Ok(())
}

/// Whether a name leads to no place outside of the folder that it starts from.
fn is_inside(name: &str) -> bool {
    let mut parts = Path::new(name).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Refuses a name that is no part of a file's name, or that another one has already.
fn plain_name(plugin: &str, what: &str, name: &str, taken: &mut BTreeSet<String>) -> Result<()> {
    let is_plain = (1..=100).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let refused = |why: String| {
        Err(Error::new(Exit::Run, format!("the analyzer `{plugin}` {why}"))
            .hint(format!("this {what} is left out, and everything else is there; names are up to 100 letters, digits and dashes, each used once")))
    };
    if !is_plain {
        return refused(format!("names a {what} `{name}`, which is no plain name"));
    }
    if !taken.insert(name.to_owned()) {
        return refused(format!("gives two {what}s the name `{name}`"));
    }
    Ok(())
}

fn metric(metric: Metric) -> PluginMetric {
    PluginMetric {
        name: metric.name,
        unit: metric.unit,
        value: metric.value.is_finite().then_some(metric.value),
        better: match metric.better {
            Direction::HigherIsBetter => Better::Higher,
            Direction::LowerIsBetter => Better::Lower,
            Direction::Neutral => Better::Neither,
        },
        labels: translate::labels(metric.labels),
    }
}

fn finding(finding: wit::Finding) -> PluginFinding {
    PluginFinding {
        severity: match finding.severity {
            wit::Severity::Info => Severity::Info,
            wit::Severity::Warning => Severity::Warning,
            wit::Severity::Problem => Severity::Problem,
        },
        title: finding.title,
        text: finding.text,
    }
}

fn table(table: wit::Table) -> Table {
    let columns: Vec<Vec<String>> = table
        .columns
        .iter()
        .map(|column| match &column.cells {
            wit::Cells::Texts(texts) => texts.clone(),
            wit::Cells::Numbers(numbers) => numbers
                .iter()
                .map(|n| if n.is_finite() { n.to_string() } else { String::new() })
                .collect(),
        })
        .collect();
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    Table {
        name: table.name,
        title: table.title,
        columns: table.columns.iter().map(|c| with_unit(&c.title, &c.unit)).collect(),
        rows: (0..rows)
            .map(|row| columns.iter().map(|c| c.get(row).cloned().unwrap_or_default()).collect())
            .collect(),
    }
}

fn with_unit(title: &str, unit: &str) -> String {
    if unit.is_empty() { title.to_owned() } else { format!("{title}, {unit}") }
}

/// What a chart shows.
///
/// # Errors
/// Why it cannot be drawn, as the end of a sentence.
fn drawing(
    x: &wit::Axis,
    y: &wit::Axis,
    drawing: wit::Drawing,
) -> std::result::Result<Drawing, String> {
    let (x, y) = (axis(x), axis(y));
    Ok(match drawing {
        wit::Drawing::Line(all) => Drawing::Figure(figure(x, y, all, Join::Straight)?),
        wit::Drawing::Scatter(all) => Drawing::Figure(figure(x, y, all, Join::Dots)?),
        wit::Drawing::Bar(all) => Drawing::Bars(bars(x, y, all)?),
        wit::Drawing::Heatmap(map) => Drawing::Heatmap(heatmap(x, y, map)?),
    })
}

fn axis(axis: &wit::Axis) -> Axis {
    let title = with_unit(&axis.title, &axis.unit);
    Axis { logarithmic: axis.logarithmic, ..Axis::new(title) }
}

/// A number that an axis can show.
fn on(axis: &Axis, value: f64) -> Option<f64> {
    // Differences of larger numbers overflow.
    let fits = value.abs() < 1e300 && (!axis.logarithmic || value > 0.0);
    fits.then_some(value)
}

/// A vertical axis for these values. One that is even shows zero as well, so that heights can be
/// compared.
fn upright(axis: Axis, values: impl Iterator<Item = f64>) -> Axis {
    let zero = (!axis.logarithmic).then_some(0.0);
    axis.around(values.chain(zero))
}

fn at_most(count: usize) -> std::result::Result<(), String> {
    if count > MOST_VALUES {
        return Err(format!("it has {count} values, and at most {MOST_VALUES} are drawn"));
    }
    Ok(())
}

fn figure(
    x: Axis,
    y: Axis,
    all: Vec<wit::Points>,
    join: Join,
) -> std::result::Result<Figure, String> {
    at_most(all.iter().map(|points| points.x.len()).sum())?;
    let mut lines = Vec::new();
    for points in all {
        let ends = [points.low.len(), points.high.len()];
        if points.x.len() != points.y.len() || (ends != [0, 0] && ends != [points.x.len(); 2]) {
            return Err(format!("the lists of \"{}\" are not equally long", points.name));
        }
        let places = || points.x.iter().map(|value| on(&x, *value));
        let spread = |(at, (low, high)): (Option<f64>, (&f64, &f64))| {
            Some((at?, on(&y, *low)?, on(&y, *high)?))
        };
        lines.push(Line {
            points: places()
                .zip(&points.y)
                .filter_map(|(at, value)| Some((at?, on(&y, *value))))
                .collect(),
            spreads: places().zip(points.low.iter().zip(&points.high)).filter_map(spread).collect(),
            name: points.name,
            join,
        });
    }
    let across = lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let heights = lines.iter().flat_map(|line| {
        let spreads = line.spreads.iter().flat_map(|(_, low, high)| [*low, *high]);
        line.points.iter().filter_map(|point| point.1).chain(spreads)
    });
    let (x, y) = (x.around(across), upright(y, heights));
    Ok(Figure { x, y, lines, bands: Vec::new() })
}

fn bars(x: Axis, y: Axis, all: wit::Bars) -> std::result::Result<Bars, String> {
    at_most(all.categories.len().saturating_mul(all.groups.len().max(1)))?;
    if let Some(group) = all.groups.iter().find(|g| g.values.len() != all.categories.len()) {
        return Err(format!("\"{}\" has not one value for each category", group.name));
    }
    let groups: Vec<BarGroup> = all
        .groups
        .into_iter()
        .map(|group| BarGroup {
            name: group.name,
            values: group.values.into_iter().map(|value| on(&y, value)).collect(),
        })
        .collect();
    let y = upright(y, groups.iter().flat_map(|group| group.values.iter().flatten().copied()));
    Ok(Bars { x, y, categories: all.categories, groups })
}

fn heatmap(x: Axis, y: Axis, map: wit::Heatmap) -> std::result::Result<Heatmap, String> {
    at_most(map.values.len())?;
    for (axis, edges) in [(&x, &map.x), (&y, &map.y)] {
        let rises = edges.len() > 1 && edges.windows(2).all(|pair| pair[0] < pair[1]);
        if !rises || edges.iter().any(|edge| on(axis, *edge).is_none()) {
            return Err(format!(
                "the edges of \"{}\" do not rise, or have no place on its axis",
                axis.title
            ));
        }
    }
    let (columns, rows) = (map.x.len() - 1, map.y.len() - 1);
    if columns.checked_mul(rows) != Some(map.values.len()) {
        return Err(format!(
            "it has {} values for {columns} columns and {rows} rows",
            map.values.len()
        ));
    }
    let legend = axis(&map.legend);
    let values = map.values.iter().map(|value| on(&legend, *value)).collect();
    Ok(Heatmap { x, y, x_edges: map.x, y_edges: map.y, values, legend })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_plugins_stay_in_their_folder() {
        let check = |name: &str, expected: bool| assert_eq!(is_inside(name), expected, "{name}");
        check("LMBench_short_input_qps0.5.csv", true);
        check("a/b.csv", true);
        check("../a", false);
        check("a/../../b", false);
        check("/etc/passwd", false);
        check("", false);
    }

    #[test]
    fn names_of_tables_and_charts_are_plain_and_used_once() {
        let mut taken = BTreeSet::new();
        let mut check = |name: &str, expected: &str| {
            let said = plain_name("p", "table", name, &mut taken).map_err(|e| e.to_string());
            let said = said.err().unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
        };
        check("slowest-10", "");
        check("slowest-10", "gives two tables the name `slowest-10`");
        check("a/b", "no plain name");
        check("", "no plain name");
        check(&"a".repeat(101), "no plain name");
    }

    fn wit_axis(title: &str, logarithmic: bool) -> wit::Axis {
        wit::Axis { title: title.to_owned(), unit: "s".to_owned(), logarithmic }
    }

    fn points(x: &[f64], y: &[f64], low: &[f64], high: &[f64]) -> wit::Points {
        let [x, y, low, high] = [x, y, low, high].map(<[f64]>::to_vec);
        wit::Points { name: "p".to_owned(), x, y, low, high }
    }

    #[test]
    fn what_a_plugin_draws_is_drawn_or_refused_with_the_reason() {
        let check = |drawing: wit::Drawing, expected: &str| {
            for logarithmic in [false, true] {
                let axes = [wit_axis("x", logarithmic), wit_axis("y", logarithmic)];
                match self::drawing(&axes[0], &axes[1], drawing.clone()) {
                    Ok(drawing) => {
                        assert_eq!(expected, "");
                        let svg = charts::drawing_svg(None, &drawing, 320, 200);
                        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                        assert!(!charts::drawing_png("t", &drawing, 320, 200).is_empty());
                    }
                    Err(why) => {
                        assert!(!expected.is_empty() && why.contains(expected), "{why}");
                    }
                }
            }
        };
        let heatmap = |x: &[f64], values: &[f64]| {
            wit::Drawing::Heatmap(wit::Heatmap {
                x: x.to_vec(),
                y: vec![1.0, 2.0],
                values: values.to_vec(),
                legend: wit_axis("z", false),
            })
        };
        let bars = |categories: usize, values: &[f64]| {
            let group = wit::BarGroup { name: "g".to_owned(), values: values.to_vec() };
            let categories = (0..categories).map(|i| i.to_string()).collect();
            wit::Drawing::Bar(wit::Bars { categories, groups: vec![group] })
        };
        let wild = [f64::NAN, f64::INFINITY, -1e308, 1e308, 5e-324, -0.0, 1.7e18];
        for all in [wit::Drawing::Line, wit::Drawing::Scatter] {
            check(all(Vec::new()), "");
            check(all(vec![points(&[], &[], &[], &[])]), "");
            check(all(vec![points(&[1.0, 2.0], &[3.0, -4.0], &[2.0, -5.0], &[4.0, -3.0])]), "");
            check(all(vec![points(&wild, &wild, &wild, &wild)]), "");
            check(all(vec![points(&[1.7e18; 7], &wild, &[], &[])]), "");
            check(all(vec![points(&[1.0], &[], &[], &[])]), "not equally long");
            check(all(vec![points(&[1.0], &[1.0], &[1.0], &[])]), "not equally long");
            let many = vec![1.0; MOST_VALUES + 1];
            check(all(vec![points(&many, &many, &[], &[])]), "at most");
        }
        check(bars(0, &[]), "");
        check(bars(7, &wild), "");
        check(bars(2, &[1.0]), "one value for each category");
        check(heatmap(&[1.0, 2.0, 3.0], &[f64::NAN, 1e299]), "");
        check(heatmap(&[1.0, 2.0], &[1.0, 2.0]), "2 values for 1 columns and 1 rows");
        check(heatmap(&[2.0, 1.0], &[1.0]), "do not rise");
        check(heatmap(&[1.0], &[]), "do not rise");
    }
}
