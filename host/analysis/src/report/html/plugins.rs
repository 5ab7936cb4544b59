//! The part of the page that analyzer plugins fill.

use super::{escape, themed};
use crate::report::{NOTHING, short};
use crate::{Analysis, PluginReport, Table, charts};
use std::fmt::Write as _;

/// A section for each analyzer that found something to show.
pub(super) fn sections(page: &mut String, analysis: &Analysis) {
    for found in &analysis.plugins {
        if found.results.metrics.is_empty() && found.tables.is_empty() && found.charts.is_empty() {
            continue;
        }
        put!(page, "<section>\n<h2>{}</h2>\n", escape(&found.results.name));
        table(page, &metrics(found));
        for shown in &found.tables {
            put!(page, "<h3>{}</h3>\n", escape(&shown.title));
            table(page, shown);
        }
        if !found.charts.is_empty() {
            page.push_str("<div class=\"charts\">\n");
            for chart in &found.charts {
                let svg = themed(&charts::drawing_svg(None, &chart.drawing, 560, 310));
                put!(page, "<figure>\n<h3>{}</h3>\n{svg}\n</figure>\n", escape(&chart.title));
            }
            page.push_str("</div>\n");
        }
        page.push_str("</section>\n");
    }
}

fn metrics(found: &PluginReport) -> Table {
    let row = |metric: &crate::PluginMetric| {
        let labels: Vec<String> =
            metric.labels.iter().map(|(key, value)| format!("{key} {value}")).collect();
        let unit = if metric.unit == "1" { String::new() } else { metric.unit.clone() };
        let value = metric.value.map_or_else(|| NOTHING.to_owned(), short);
        vec![metric.name.clone(), labels.join(", "), value, unit]
    };
    Table {
        columns: ["metric", "about", "value", "unit"].map(str::to_owned).to_vec(),
        rows: found.results.metrics.iter().map(row).collect(),
        ..Table::default()
    }
}

pub(super) fn table(page: &mut String, table: &Table) {
    if table.rows.is_empty() {
        return;
    }
    page.push_str("<div class=\"wide\"><table>\n<thead><tr>");
    for title in &table.columns {
        put!(page, "<th>{}</th>", escape(title));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        page.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let tag = if i == 0 { "th" } else { "td" };
            put!(page, "<{tag}>{}</{tag}>", escape(cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
}
