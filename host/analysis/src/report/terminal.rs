//! The table at the end of a run: a column for each stage and the total, or, where these are too
//! many for the terminal, a row for each.

use super::{
    NOTHING, beside, loop_kind, mark, percentile, percentile_of_all_sent, short, short_or_nothing,
};
use crate::server::QUANTITIES;
use crate::{About, Analysis, METRICS, Pace, Reason, Severity, StageSummary, Verdict};
use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};

/// What a table shows of a stage: a title and how to write it.
struct Line {
    title: &'static str,
    write: fn(&StageSummary) -> String,
}

/// Who set the pace.
const LOOP: &str = "loop";

/// Requests per second that met every objective, where there are any.
const GOODPUT: &str = "goodput\n1/s";

/// What a user had to expect, failures included.
const LATENCY_OF_ALL_SENT: &str = "latency, all sent, ms";

/// Lines of the table with a column for each stage. Lines that have nothing to show are left out.
const LINES: &[Line] = &[
    Line { title: LOOP, write: loop_kind },
    Line { title: "requests sent", write: |s| s.sent.to_string() },
    Line { title: "failed", write: failed },
    Line { title: "offered, 1/s", write: |s| short_or_nothing(s.offered_rate) },
    Line { title: "requests, 1/s", write: |s| rate(s, "request_throughput") },
    Line { title: "output tokens, 1/s", write: |s| rate(s, "output_token_throughput") },
    Line { title: "total tokens, 1/s", write: |s| rate(s, "total_token_throughput") },
    Line { title: "goodput, 1/s", write: goodput },
    Line { title: "TTFT, ms", write: |s| three(s, "ttft") },
    Line { title: "TTFT, all sent, ms", write: |s| three_of_all_sent(s, "ttft") },
    Line { title: "scheduled TTFT, ms", write: |s| three(s, "scheduled_ttft") },
    Line { title: "ITL, ms", write: |s| three(s, "itl") },
    Line { title: "TPOT, ms", write: |s| three(s, "tpot") },
    Line { title: "latency, ms", write: |s| three(s, "latency") },
    Line { title: LATENCY_OF_ALL_SENT, write: |s| three_of_all_sent(s, "latency") },
    Line { title: "scheduled latency, ms", write: |s| three(s, "scheduled_latency") },
    Line { title: "lateness, ms", write: |s| three(s, "lateness") },
];

/// Columns of the table with a row for each stage: as many of these as there is room for.
const COLUMNS: &[Line] = &[
    Line { title: "stage", write: |s| s.name.clone() },
    Line { title: LOOP, write: loop_kind },
    Line { title: "sent", write: |s| s.sent.to_string() },
    Line { title: "failed", write: |s| s.failed.to_string() },
    Line { title: "req/s", write: |s| rate(s, "request_throughput") },
    Line { title: GOODPUT, write: |s| rate(s, "goodput") },
    Line { title: "TTFT p50\nms", write: |s| percentile(s.distribution("ttft"), "p50") },
    Line { title: "p99\nms", write: |s| percentile(s.distribution("ttft"), "p99") },
    Line { title: "TPOT p50\nms", write: |s| percentile(s.distribution("tpot"), "p50") },
    Line { title: "p99\nms", write: |s| percentile(s.distribution("tpot"), "p99") },
    Line { title: "out tok/s", write: |s| rate(s, "output_token_throughput") },
    Line { title: "latency p50\nms", write: |s| percentile(s.distribution("latency"), "p50") },
    Line { title: "p99\nms", write: |s| percentile(s.distribution("latency"), "p99") },
    Line { title: "lateness p99\nms", write: |s| percentile(s.distribution("lateness"), "p99") },
    Line { title: "ITL p50\nms", write: |s| percentile(s.distribution("itl"), "p50") },
    Line { title: "p99\nms", write: |s| percentile(s.distribution("itl"), "p99") },
];

/// The results as text for a terminal `width` characters wide. No line ends in spaces.
#[must_use]
pub fn terminal(analysis: &Analysis, width: usize, colour: bool) -> String {
    let summary = &analysis.summary;
    // The total of one stage is that stage.
    let total = (summary.stages.len() != 1).then_some(&summary.total);
    let shown: Vec<&StageSummary> = summary.stages.iter().chain(total).collect();
    let mut text = by_column(&shown, width).unwrap_or_else(|| by_row(&shown, width));
    text.push('\n');
    if text.contains('*') {
        text.push_str("* rests on few values\n");
    }
    let doubted = |stage: &&StageSummary| {
        let distributions = METRICS.iter().filter_map(|m| stage.distribution(m.name));
        distributions.filter(|d| d.doubt().is_some()).count() > 0
    };
    if shown.iter().any(doubted) {
        text.push_str("? suspect, ! invalid: a rule below touches this metric\n");
    }
    if text.contains(" / ") {
        text.push_str("latencies: p50 / p90 / p99\n");
    }
    if text.contains(LATENCY_OF_ALL_SENT) {
        text.push_str("all sent: a request that failed is infinitely late\n");
    }
    let errors: Vec<String> =
        summary.total.errors.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    if !errors.is_empty() {
        text.push_str(&format!("failed: {}\n", errors.join(", ")));
    }
    server(&mut text, analysis);
    text.push('\n');
    text.push_str(&verdict(analysis, colour));
    text
}

/// What the server says of itself, over all stages: a line for each kind of thing that it says.
fn server(text: &mut String, analysis: &Analysis) {
    let summary = &analysis.summary;
    // The total of one stage is that stage.
    let all = match &summary.stages[..] {
        [one] => &one.name,
        _ => &summary.total.name,
    };
    if let Some(view) = summary.server.iter().find(|view| view.stage == *all) {
        let means: Vec<String> = [("TTFT", "ttft"), ("ITL", "itl"), ("latency", "latency")]
            .iter()
            .filter(|(_, metric)| view.beside.contains_key(*metric))
            .map(|(title, metric)| format!("{title} {}", beside(view, metric)))
            .collect();
        if !means.is_empty() {
            text.push_str(&format!("mean, server / here, ms: {}\n", means.join(", ")));
        }
        let gpu: Vec<String> = QUANTITIES
            .iter()
            .filter(|quantity| quantity.name.starts_with("gpu_"))
            .filter_map(|quantity| {
                let gauge = view.gauges.get(quantity.name)?;
                let title = quantity.title.trim_start_matches("GPU ");
                let over = view.averaged_over(quantity.name);
                let over = over.map_or_else(String::new, |n| format!(" over {n} series"));
                Some(format!("{title} {} {}{over}", short(gauge.mean), gauge.unit))
            })
            .collect();
        if !gpu.is_empty() {
            text.push_str(&format!("GPU, mean: {}\n", gpu.join(", ")));
        }
    }
    if let Some(cache) = &summary.cache
        && let Some(view) = cache.stage(all)
    {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let reported = view.reported.map_or_else(|| "says nothing".to_owned(), percent);
        text.push_str(&format!(
            "prefix cache ({}): hits expected {}, server {reported}\n",
            cache.asked.name(),
            percent(view.expected)
        ));
    }
}

/// The table with a column for each stage. None: it is too wide.
fn by_column(shown: &[&StageSummary], width: usize) -> Option<String> {
    let mut table = empty();
    let names = shown.iter().map(|stage| stage.name.clone());
    table.set_header(std::iter::once(String::new()).chain(names));
    for line in LINES {
        let cells: Vec<String> = shown.iter().map(|stage| (line.write)(stage)).collect();
        if cells.iter().any(|cell| cell != NOTHING) {
            add(&mut table, line.title.to_owned(), cells);
        }
    }
    let text = table.trim_fmt();
    let fits = text.lines().all(|line| line.chars().count() <= width);
    fits.then_some(text)
}

/// The table with a row for each stage and as many columns as there is room for.
fn by_row(shown: &[&StageSummary], width: usize) -> String {
    let mut columns: Vec<&Line> = Vec::new();
    let mut taken = 0;
    // Where the schedule set every pace, room is better used otherwise.
    let is_open = |stage: &&StageSummary| stage.pace == Some(Pace::Open);
    let is_wanted = |column: &&Line| match column.title {
        LOOP => !shown.iter().all(is_open),
        GOODPUT => shown.iter().any(|stage| stage.goodput_share.is_some()),
        _ => true,
    };
    for column in COLUMNS.iter().filter(is_wanted) {
        let cells = shown.iter().map(|stage| (column.write)(stage).chars().count());
        let titles = column.title.lines().map(str::len);
        let widest = cells.chain(titles).max().unwrap_or(0) + 3;
        if taken + widest > width && columns.len() > 1 {
            break;
        }
        taken += widest;
        columns.push(column);
    }
    let mut table = empty();
    table.set_header(columns.iter().enumerate().map(|(i, column)| {
        let side = if i == 0 { CellAlignment::Left } else { CellAlignment::Right };
        Cell::new(column.title).set_alignment(side)
    }));
    for stage in shown {
        let cells = columns[1..].iter().map(|column| (column.write)(stage)).collect();
        add(&mut table, stage.name.clone(), cells);
    }
    table.trim_fmt()
}

fn empty() -> Table {
    let mut table = Table::new();
    let line = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(line).bottom_border(line));
    table
}

fn add(table: &mut Table, title: String, cells: Vec<String>) {
    let numbers =
        cells.into_iter().map(|cell| Cell::new_owned(cell).set_alignment(CellAlignment::Right));
    table.add_row(std::iter::once(Cell::new_owned(title)).chain(numbers));
}

/// The verdict, how stages must be read, its reasons, and the notes that should not be missed.
fn verdict(analysis: &Analysis, colour: bool) -> String {
    let health = &analysis.summary.health;
    let code = match health.verdict {
        Verdict::Valid | Verdict::Note => "32",
        Verdict::Suspect => "33",
        Verdict::Invalid => "31",
    };
    let meaning = health.meaning();
    let word = health.verdict.to_string();
    let word = if colour { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word };
    let mut text = format!("result: {word} ({meaning})\n");
    if analysis.summary.partial {
        text.push_str("partial: the run did not come to its planned end\n");
    }
    for stage in &analysis.summary.stages {
        if let Some(label) = &stage.label {
            text.push_str(&format!("- stage {}: {label}\n", stage.name));
        }
    }
    if let Some(calibration) = &analysis.summary.calibration {
        text.push_str(&format!(
            "resolution: {} (99 % of the errors, {})\n",
            calibration.resolution(),
            calibration.origin()
        ));
    }
    let shown = |r: &&Reason| r.verdict > Verdict::Note || r.about == About::Client;
    for reason in health.reasons.iter().filter(shown) {
        text.push_str(&format!("- {}: {reason}\n", reason.verdict));
    }
    for note in analysis.summary.notes.iter().filter(|note| note.severity > Severity::Info) {
        text.push_str(&format!("- {}: {}: {}\n", note.severity.name(), note.source, note.text));
    }
    text
}

fn rate(stage: &StageSummary, metric: &str) -> String {
    short_or_nothing(stage.single(metric).map(|single| single.value))
}

fn goodput(stage: &StageSummary) -> String {
    match (stage.single("goodput"), stage.goodput_share) {
        (Some(rate), Some(share)) => format!("{} ({:.1} %)", short(rate.value), share * 100.0),
        _ => NOTHING.to_owned(),
    }
}

fn failed(stage: &StageSummary) -> String {
    match stage.error_rate() {
        Some(rate) if stage.failed > 0 => format!("{} ({:.1} %)", stage.failed, rate * 100.0),
        _ => "0".to_owned(),
    }
}

fn three(stage: &StageSummary, metric: &str) -> String {
    let Some(distribution) = stage.distribution(metric) else { return NOTHING.to_owned() };
    if distribution.n == 1 {
        return format!("{}{} (n = 1)", short(distribution.mean), mark(distribution));
    }
    ["p50", "p90", "p99"].map(|p| percentile(Some(distribution), p)).join(" / ")
}

fn three_of_all_sent(stage: &StageSummary, metric: &str) -> String {
    let distribution = stage.distribution(metric);
    if distribution.is_none_or(|d| d.all_sent.is_none()) {
        return NOTHING.to_owned();
    }
    ["p50", "p90", "p99"].map(|p| percentile_of_all_sent(distribution, p)).join(" / ")
}
