//! `report.html`: one page that needs nothing else, for a browser or an attachment.

use super::{
    NOTHING, grouped, loop_kind, mark, percentile, percentile_of_all_sent, short, short_or_nothing,
};
use crate::analysis::percentile_titles;
use crate::charts::{self, CHARTS};
use crate::metric::{METRICS, metric};
use crate::{Analysis, Calibration, Measured, Severity, StageSummary, Summary};
use std::fmt::Write as _;

/// The page's style sheet. Charts take their colours from it, too.
const STYLE: &str = include_str!("report.css");

/// Writes to a string, which cannot fail.
macro_rules! put {
    ($page:expr, $($arg:tt)*) => {
        write!($page, $($arg)*).expect("writing to a string does not fail")
    };
}

mod plugins;
mod server;

/// A run's report: a page that needs no other file and no network.
#[must_use]
pub fn html(analysis: &Analysis) -> String {
    let mut page = String::with_capacity(512 * 1024);
    let title = if analysis.title.is_empty() { "Benchmark report" } else { &analysis.title };
    put!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        title = escape(title)
    );
    head(&mut page, analysis, title);
    verdict(&mut page, analysis);
    results(&mut page, analysis);
    section(&mut page, "Distributions", analysis, "_distribution");
    section(&mut page, "Over time", analysis, "_over_time");
    server::section(&mut page, analysis);
    plugins::sections(&mut page, analysis);
    errors(&mut page, analysis);
    notes(&mut page, analysis);
    details(&mut page, analysis);
    definitions(&mut page, analysis);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn head(page: &mut String, analysis: &Analysis, title: &str) {
    put!(page, "<header>\n<h1>{}</h1>\n<dl class=\"facts\">\n", escape(title));
    for (name, value) in &analysis.facts {
        put!(page, "<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value));
    }
    page.push_str("</dl>\n</header>\n");
}

fn verdict(page: &mut String, analysis: &Analysis) {
    let health = &analysis.summary.health;
    let (word, meaning) = (health.verdict, escape(health.meaning()));
    put!(page, "<section class=\"verdict {word}\">\n<p><strong>{word}</strong> {meaning}.</p>\n");
    if analysis.summary.partial {
        page.push_str(
            "<p>The run did not come to its planned end: these results are partial.</p>\n",
        );
    }
    if !health.reasons.is_empty() {
        page.push_str("<ul>\n");
        for reason in &health.reasons {
            put!(page, "<li>{}: {}</li>\n", reason.verdict, escape(&reason.text));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("</section>\n");
}

/// A column of the table of results.
struct Column {
    title: &'static str,
    write: fn(&StageSummary) -> String,
}

/// Columns of the table of results; those without any value are left out.
const COLUMNS: &[Column] = &[
    Column { title: "loop", write: loop_kind },
    Column { title: "window, s", write: |s| grouped(s.window_s, 1) },
    Column { title: "sent", write: |s| grouped(s.sent as f64, 0) },
    Column { title: "failed", write: failed },
    Column { title: "offered, 1/s", write: |s| short_or_nothing(s.offered_rate) },
    Column { title: "requests, 1/s", write: |s| rate(s, "request_throughput") },
    Column { title: "output tokens, 1/s", write: |s| rate(s, "output_token_throughput") },
    Column { title: "goodput, 1/s", write: goodput },
    Column { title: "TTFT p50", write: |s| percentile(s.distribution("ttft"), "p50") },
    Column { title: "TTFT p99", write: |s| percentile(s.distribution("ttft"), "p99") },
    Column {
        title: "TTFT p99, all sent",
        write: |s| percentile_of_all_sent(s.distribution("ttft"), "p99"),
    },
    Column { title: "ITL p50", write: |s| percentile(s.distribution("itl"), "p50") },
    Column { title: "ITL p99", write: |s| percentile(s.distribution("itl"), "p99") },
    Column { title: "TPOT p50", write: |s| percentile(s.distribution("tpot"), "p50") },
    Column { title: "TPOT p99", write: |s| percentile(s.distribution("tpot"), "p99") },
    Column { title: "latency p50", write: |s| percentile(s.distribution("latency"), "p50") },
    Column { title: "latency p99", write: |s| percentile(s.distribution("latency"), "p99") },
    Column {
        title: "latency p99, all sent",
        write: |s| percentile_of_all_sent(s.distribution("latency"), "p99"),
    },
    Column { title: "lateness p99", write: |s| percentile(s.distribution("lateness"), "p99") },
];

fn results(page: &mut String, analysis: &Analysis) {
    let summary = &analysis.summary;
    let rows: Vec<&StageSummary> = summary.stages.iter().chain([&summary.total]).collect();
    let shown: Vec<&Column> = COLUMNS
        .iter()
        .filter(|column| rows.iter().any(|stage| (column.write)(stage) != NOTHING))
        .collect();
    page.push_str(
        "<section>\n<h2>Results</h2>\n<div class=\"wide\"><table>\n<thead><tr><th>stage</th>",
    );
    for column in &shown {
        put!(page, "<th>{}</th>", column.title);
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for stage in rows {
        let class = if std::ptr::eq(stage, &summary.total) { " class=\"total\"" } else { "" };
        put!(page, "<tr{class}><th>{}</th>", escape(&stage.name));
        for column in &shown {
            put!(page, "<td>{}</td>", (column.write)(stage));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n<p class=\"small\">Times in milliseconds.");
    if page.contains("*</td>") {
        page.push_str(" * rests on few values.");
    }
    page.push_str(doubt_key(summary));
    if !summary.slo.is_empty() {
        let limits: Vec<String> = summary
            .slo
            .iter()
            .map(|(name, ms)| {
                let title = metric(name).map_or(name.as_str(), |metric| metric.title);
                format!("{} at most {} ms", escape(title), short(*ms))
            })
            .collect();
        put!(page, " Goodput counts requests with {}.", limits.join(" and "));
    }
    page.push_str("</p>\n");
    for stage in &summary.stages {
        if let Some(label) = &stage.label {
            put!(page, "<p class=\"small\">{}: {}.</p>\n", escape(&stage.name), escape(label));
        }
    }
    page.push_str("</section>\n");
}

fn section(page: &mut String, title: &str, analysis: &Analysis, suffix: &str) {
    put!(page, "<section>\n<h2>{title}</h2>\n<div class=\"charts\">\n");
    for chart in CHARTS.iter().filter(|chart| chart.name.ends_with(suffix)) {
        let svg = themed(&charts::untitled_svg(chart, analysis, 560, 310));
        put!(
            page,
            "<figure>\n<h3>{title}</h3>\n{svg}\n<figcaption>{}{labels}</figcaption>\n</figure>\n",
            escape(chart.meaning),
            labels =
                escape(&charts::labels(analysis).map_or_else(String::new, |l| format!(" {l}."))),
            title = escape(chart.title)
        );
    }
    page.push_str("</div>\n</section>\n");
}

/// A chart whose colours come from the page's style sheet, so that they suit a dark page, too.
fn themed(svg: &str) -> String {
    let hex = |c: plotters::style::RGBColor| format!("\"#{:02X}{:02X}{:02X}\"", c.0, c.1, c.2);
    let named = [
        (charts::INK, "ink"),
        (charts::GRID, "grid"),
        (charts::SHADE, "shade"),
        (charts::PAPER, "paper"),
    ];
    let mut svg = svg.to_owned();
    for (colour, name) in named {
        svg = svg.replace(&hex(colour), &format!("\"var(--{name})\""));
    }
    for (i, colour) in charts::PALETTE.into_iter().enumerate() {
        svg = svg.replace(&hex(colour), &format!("\"var(--line-{i})\""));
    }
    svg
}

fn errors(page: &mut String, analysis: &Analysis) {
    let summary = &analysis.summary;
    if summary.total.failed == 0 {
        return;
    }
    page.push_str("<section>\n<h2>Errors</h2>\n<div class=\"wide\"><table class=\"left\">\n");
    page.push_str("<thead><tr><th>kind</th><th>failed</th><th>% of sent</th>");
    page.push_str("<th>messages</th></tr></thead>\n<tbody>\n");
    for (kind, n) in &summary.total.errors {
        let share = percent(Some(*n as f64 / summary.total.sent as f64));
        put!(page, "<tr><th>{}</th><td>{n}</td><td>{share}</td><td>", escape(kind));
        for message in analysis.messages.get(kind).into_iter().flatten() {
            put!(page, "<pre>{}</pre>", escape(message));
        }
        page.push_str("</td></tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n</section>\n");
}

fn notes(page: &mut String, analysis: &Analysis) {
    let notes = &analysis.summary.notes;
    if notes.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>Findings</h2>\n<ul class=\"notes\">\n");
    for note in notes {
        let severity = note.severity.name();
        put!(page, "<li class=\"{severity}\"><b>{severity}</b> {}", escape(&note.text));
        if note.severity > Severity::Info || note.source != "analysis" {
            put!(page, " <span class=\"small\">({})</span>", escape(&note.source));
        }
        page.push_str("</li>\n");
    }
    page.push_str("</ul>\n</section>\n");
}

/// Every metric of every stage, folded.
fn details(page: &mut String, analysis: &Analysis) {
    let summary = &analysis.summary;
    page.push_str("<section>\n<h2>All metrics</h2>\n");
    for stage in summary.stages.iter().chain([&summary.total]) {
        put!(page, "<details>\n<summary>{}</summary>\n", escape(&stage.name));
        if let Some(label) = &stage.label {
            put!(page, "<p class=\"small\">{}.</p>\n", escape(label));
        }
        page.push_str("<div class=\"wide\"><table>\n<thead><tr><th>metric</th><th>unit</th>");
        page.push_str("<th>n</th><th>mean</th><th>sd</th><th>min</th>");
        for (_, title) in percentile_titles() {
            put!(page, "<th>{title}</th>");
        }
        page.push_str("<th>max</th></tr></thead>\n<tbody>\n");
        for metric in METRICS {
            if let Some(measured) = stage.metrics.get(metric.name) {
                let error = summary.calibration.as_ref().and_then(|c| c.error.get(metric.name));
                let title = error.map_or_else(
                    || metric.title.to_owned(),
                    |error| {
                        format!(
                            "{} <span class=\"small\">&plusmn; {:.3}</span>",
                            metric.title, error.e99
                        )
                    },
                );
                metric_row(page, &title, measured);
                all_sent_row(page, metric.title, measured);
            }
        }
        page.push_str("</tbody>\n</table></div>\n</details>\n");
    }
    page.push_str(
        "<p class=\"small\">Percentiles are nearest ranks; * rests on few values. Below a value: \
         its 95 % interval within the run, where the run can know its own error; \
         &times; tells how many times longer it would have to be.",
    );
    page.push_str(doubt_key(summary));
    if let Some(calibration) = &summary.calibration {
        put!(page, " {}", resolution(calibration));
    }
    page.push_str("</p>\n</section>\n");
}

/// What the marks mean, where there are any.
fn doubt_key(summary: &Summary) -> &'static str {
    let doubted = summary.total.metrics.values().any(|measured| match measured {
        Measured::Distribution(distribution) => distribution.doubt().is_some(),
        Measured::Single(_) => false,
    });
    if doubted { " ? suspect, ! invalid: a rule of health touches this metric." } else { "" }
}

fn resolution(calibration: &Calibration) -> String {
    format!(
        "&plusmn; is the instrument's own error, below which differences mean nothing: 99 % of the \
         errors, {}.",
        escape(&calibration.origin())
    )
}

fn metric_row(page: &mut String, title: &str, measured: &Measured) {
    let range = |ends: Option<&[f64; 2]>| {
        ends.map_or_else(String::new, |[low, high]| {
            format!("<br><span class=\"small\">{} to {}</span>", short(*low), short(*high))
        })
    };
    match measured {
        Measured::Single(single) => {
            let value = format!("{}{}", short(single.value), range(single.interval.as_ref()));
            put!(page, "<tr><th>{title}</th><td>{}</td><td>-</td><td>{value}</td>", single.unit);
            put!(page, "{}</tr>\n", "<td></td>".repeat(8));
        }
        Measured::Distribution(d) => {
            put!(
                page,
                "<tr><th>{title}</th><td>{}</td><td>{}</td>",
                d.unit,
                grouped(d.n as f64, 0)
            );
            let mean = format!("{}{}", short(d.mean), mark(d));
            put!(page, "<td>{mean}{}</td>", range(d.interval.get("mean")));
            put!(page, "<td>{}</td><td>{}</td>", short_or_nothing(d.stddev), short(d.min));
            for (name, _) in percentile_titles() {
                let longer = d.too_short_by.get(name).map_or_else(String::new, |factor| {
                    format!(
                        "<br><span class=\"small\">{}&times;</span>",
                        grouped((factor * 10.0).ceil() / 10.0, 1)
                    )
                });
                let value = percentile(Some(d), name);
                put!(page, "<td>{value}{}{longer}</td>", range(d.interval.get(name)));
            }
            put!(page, "<td>{}</td></tr>\n", short(d.max));
        }
    }
}

/// The percentiles of a latency with the requests that failed, where some did.
fn all_sent_row(page: &mut String, title: &str, measured: &Measured) {
    let Measured::Distribution(d) = measured else { return };
    let Some(all) = &d.all_sent else { return };
    let n = grouped(all.n as f64, 0);
    put!(page, "<tr><th>{title}, all sent</th><td>{}</td><td>{n}</td>", d.unit);
    page.push_str(&"<td></td>".repeat(3));
    for (name, _) in percentile_titles() {
        put!(page, "<td>{}</td>", percentile_of_all_sent(Some(d), name));
    }
    page.push_str("<td></td></tr>\n");
}

fn definitions(page: &mut String, analysis: &Analysis) {
    page.push_str("<section>\n<h2>Definitions</h2>\n<dl class=\"definitions\">\n");
    let shown = |name| analysis.summary.total.metrics.contains_key(name);
    for metric in METRICS.iter().filter(|metric| shown(metric.name)) {
        put!(
            page,
            "<dt>{} <span class=\"small\">{}</span></dt>\n<dd>{}</dd>\n",
            escape(metric.title),
            escape(metric.short),
            escape(metric.definition)
        );
    }
    page.push_str(
        "</dl>\n<p class=\"small\">Due: when the schedule wanted a request out. Sent: \
         just before the write that handed its last byte to the socket. A token arrives when the read that carried it returned. \
         Failed requests never enter latencies, except those of all sent, where they are \
         infinitely late.</p>\n</section>\n",
    );
}

fn rate(stage: &StageSummary, metric: &str) -> String {
    short_or_nothing(stage.single(metric).map(|single| single.value))
}

fn goodput(stage: &StageSummary) -> String {
    match (stage.single("goodput"), stage.goodput_share) {
        (Some(rate), Some(_)) => {
            format!("{} ({} %)", short(rate.value), percent(stage.goodput_share))
        }
        _ => NOTHING.to_owned(),
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| NOTHING.to_owned(), |share| grouped(share * 100.0, 1))
}

fn failed(stage: &StageSummary) -> String {
    match stage.error_rate() {
        Some(rate) if stage.failed > 0 => {
            format!("{} ({} %)", grouped(stage.failed as f64, 0), grouped(rate * 100.0, 1))
        }
        _ => "0".to_owned(),
    }
}

/// Text that is safe between tags and in attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}
