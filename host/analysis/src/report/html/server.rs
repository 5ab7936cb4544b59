//! The part of the page that the server's own metrics fill.

use super::plugins::table;
use crate::report::{NOTHING, short_or_nothing};
use crate::server::ServerView;
use crate::{Analysis, StageSummary, Table};

/// What the server says of itself, beside what was measured from outside.
pub(super) fn section(page: &mut String, analysis: &Analysis) {
    let summary = &analysis.summary;
    if summary.server.is_empty() {
        return;
    }
    page.push_str("<section>\n<h2>The server's own view</h2>\n");
    let ours = |view: &ServerView| -> Option<&StageSummary> {
        summary.stages.iter().chain([&summary.total]).find(|stage| stage.name == view.stage)
    };
    let mut shown = Table {
        columns: [
            "stage",
            "running, mean / max",
            "waiting, mean / max",
            "KV cache in use, mean / largest",
            "prefix cache hits",
            "prompt tokens, 1/s",
            "generated tokens, 1/s",
            "preemptions",
            "TTFT mean, server / here, ms",
            "ITL mean, server / here, ms",
            "latency mean, server / here, ms",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Table::default()
    };
    for view in &summary.server {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let gauge = |name: &str| {
            view.gauges.get(name).map_or_else(
                || NOTHING.to_owned(),
                |g| {
                    format!(
                        "{} / {}",
                        short_or_nothing(Some(g.mean)),
                        short_or_nothing(Some(g.max))
                    )
                },
            )
        };
        let usage = view.gauges.get("kv_cache_usage").map_or_else(
            || NOTHING.to_owned(),
            |g| format!("{} / {}", percent(g.mean), percent(g.largest)),
        );
        let rate = |name: &str| short_or_nothing(view.totals.get(name).map(|t| t.per_second));
        let both = |name: &str| {
            let here = ours(view).and_then(|stage| stage.distribution(name)).map(|d| d.mean);
            let there = view.histograms.get(name).map(|h| h.mean);
            match there {
                None => NOTHING.to_owned(),
                some => format!("{} / {}", short_or_nothing(some), short_or_nothing(here)),
            }
        };
        shown.rows.push(vec![
            view.stage.clone(),
            gauge("running"),
            gauge("waiting"),
            usage,
            view.prefix_cache_hit_rate.map_or_else(|| NOTHING.to_owned(), percent),
            rate("prompt_tokens"),
            rate("generation_tokens"),
            short_or_nothing(view.totals.get("preemptions").map(|t| t.value)),
            both("ttft"),
            both("itl"),
            both("latency"),
        ]);
    }
    table(page, &shown);
    page.push_str(
        "<p class=\"small\">From the server's metrics page, read once a second: counts are differences \
         between the readings nearest to a stage's ends.</p>\n</section>\n",
    );
}
