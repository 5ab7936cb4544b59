//! The part of the page that the server's own metrics fill.

use super::escape;
use super::plugins::table;
use crate::report::{NOTHING, beside, short_or_nothing};
use crate::server::ServerView;
use crate::{Analysis, CacheSummary, CacheView, Table};
use std::fmt::Write as _;

/// A column of the table: its title and what it shows of a stage.
struct Column {
    title: &'static str,
    write: fn(&ServerView) -> String,
}

/// Columns of the table; those without any value are left out.
const COLUMNS: &[Column] = &[
    Column { title: "running, mean / max", write: |v| gauge(v, "running") },
    Column { title: "waiting, mean / max", write: |v| gauge(v, "waiting") },
    Column { title: "KV cache in use, mean / largest", write: kv_cache },
    Column {
        title: "prefix cache hits",
        write: |v| v.prefix_cache_hit_rate.map_or_else(|| NOTHING.to_owned(), percent),
    },
    Column { title: "prompt tokens, 1/s", write: |v| rate(v, "prompt_tokens") },
    Column { title: "generated tokens, 1/s", write: |v| rate(v, "generation_tokens") },
    Column {
        title: "preemptions",
        write: |v| short_or_nothing(v.totals.get("preemptions").map(|t| t.value)),
    },
    Column {
        title: "time in the queue, mean, ms",
        write: |v| short_or_nothing(v.histograms.get("queue_time").map(|h| h.mean)),
    },
    Column { title: "TTFT mean, server / here, ms", write: |v| beside(v, "ttft") },
    Column { title: "ITL mean, server / here, ms", write: |v| beside(v, "itl") },
    Column { title: "latency mean, server / here, ms", write: |v| beside(v, "latency") },
    Column { title: "GPU utilisation, mean / max, %", write: |v| gauge(v, "gpu_utilization") },
    Column { title: "GPU memory, mean / max, MiB", write: |v| gauge(v, "gpu_memory_used") },
    Column { title: "GPU power, mean / max, W", write: |v| gauge(v, "gpu_power") },
    Column { title: "GPU clock, mean / max, MHz", write: |v| gauge(v, "gpu_sm_clock") },
    Column { title: "GPU temperature, mean / max, °C", write: |v| gauge(v, "gpu_temperature") },
];

/// What the server says of itself, beside what was measured from outside.
pub(super) fn section(page: &mut String, analysis: &Analysis) {
    let summary = &analysis.summary;
    let shown: Vec<&Column> = COLUMNS
        .iter()
        .filter(|column| summary.server.iter().any(|view| (column.write)(view) != NOTHING))
        .collect();
    if !shown.is_empty() {
        page.push_str("<section>\n<h2>The server's own view</h2>\n");
        let titles = shown.iter().map(|column| column.title.to_owned());
        let rows = summary.server.iter().map(|view| {
            let cells = shown.iter().map(|column| (column.write)(view));
            std::iter::once(view.stage.clone()).chain(cells).collect()
        });
        let columns = std::iter::once("stage".to_owned()).chain(titles).collect();
        table(page, &Table { columns, rows: rows.collect(), ..Table::default() });
        page.push_str(
            "<p class=\"small\">From the server's metrics page, read once a second: counts are differences \
             between the readings nearest to a stage's ends. In brackets: what was measured here more than \
             there.</p>\n</section>\n",
        );
    }
    if let Some(cache) = &summary.cache {
        prefix_cache(page, cache);
    }
}

/// The state of the prefix cache, and the hits that were to be expected.
fn prefix_cache(page: &mut String, cache: &CacheSummary) {
    put!(
        page,
        "<section>\n<h2>Prefix cache</h2>\n<p>Asked for: <strong>{}</strong>. {}</p>\n",
        cache.asked.name(),
        escape(&cache.done)
    );
    let row = |view: &CacheView| {
        vec![
            view.stage.clone(),
            percent(view.expected),
            view.reported.map_or_else(|| NOTHING.to_owned(), percent),
            view.source.clone().unwrap_or_else(|| NOTHING.to_owned()),
        ]
    };
    let columns = ["stage", "expected hits", "hits by the server", "counted in"];
    table(
        page,
        &Table {
            columns: columns.map(str::to_owned).to_vec(),
            rows: cache.stages.iter().map(row).collect(),
            ..Table::default()
        },
    );
    page.push_str(
        "<p class=\"small\">Shares of the prompts' tokens. Expected: what prompts of this run that were sent \
         earlier begin with, too; a cache without end that holds nothing else would have it.</p>\n</section>\n",
    );
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn gauge(view: &ServerView, name: &str) -> String {
    view.gauges.get(name).map_or_else(
        || NOTHING.to_owned(),
        |g| {
            let (mean, max) = (short_or_nothing(Some(g.mean)), short_or_nothing(Some(g.max)));
            format!("{mean} / {max}{}", series(view, name))
        },
    )
}

/// Over how many series a mean is.
fn series(view: &ServerView, name: &str) -> String {
    view.averaged_over(name).map_or_else(String::new, |n| format!(" (over {n} series)"))
}

fn kv_cache(view: &ServerView) -> String {
    view.gauges.get("kv_cache_usage").map_or_else(
        || NOTHING.to_owned(),
        |g| {
            let over = series(view, "kv_cache_usage");
            format!("{} / {}{over}", percent(g.mean), percent(g.largest))
        },
    )
}

fn rate(view: &ServerView, name: &str) -> String {
    short_or_nothing(view.totals.get(name).map(|t| t.per_second))
}
