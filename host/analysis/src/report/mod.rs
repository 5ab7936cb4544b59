//! What people and programs read: the terminal's table, `summary.json`, `summary.csv` and
//! `report.html`. Each is a pure function of an [`Analysis`] or a [`Summary`].

mod csv;
mod html;
mod terminal;

pub use csv::csv;
pub use html::html;
pub use terminal::terminal;

use crate::server::ServerView;
use crate::{Distribution, Pace, StageSummary, Summary, Verdict};

/// A summary as `analysis/data/summary.json` has it.
#[must_use]
pub fn json(summary: &Summary) -> String {
    let text = serde_json::to_string_pretty(summary);
    let mut text = text.expect("a summary holds only strings, numbers and maps with string keys");
    text.push('\n');
    text
}

/// What stands for a value that was not measured.
const NOTHING: &str = "-";

/// A number for people, with as many digits as help.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => grouped(value, 2),
        size if size < 1_000.0 => grouped(value, 1),
        _ => grouped(value, 0),
    }
}

fn short_or_nothing(value: Option<f64>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), short)
}

/// A mean of the server's, the same measured here, and how much more that is.
fn beside(view: &ServerView, metric: &str) -> String {
    match (view.beside.get(metric), view.histograms.get(metric)) {
        (Some(both), _) => {
            let sign = if both.difference < 0.0 { "" } else { "+" };
            let [server, here, more] = [both.server, both.here, both.difference].map(short);
            format!("{server} / {here} ({sign}{more})")
        }
        (None, Some(there)) => format!("{} / {NOTHING}", short(there.mean)),
        (None, None) => NOTHING.to_owned(),
    }
}

/// Who set the pace of a stage, in as few words as its numbers need beside them.
fn loop_kind(stage: &StageSummary) -> String {
    match (stage.pace, stage.concurrency) {
        (None, _) => NOTHING.to_owned(),
        (Some(Pace::Open), _) => "open".to_owned(),
        (Some(Pace::Capped), _) => format!("open, capped {:.1} %", stage.capped_share * 100.0),
        (Some(Pace::Closed), None) => "closed".to_owned(),
        (Some(Pace::Closed), Some(concurrency)) => format!("closed, C = {concurrency}"),
    }
}

/// What stands after a value that a rule of health touches.
fn mark(distribution: &Distribution) -> &'static str {
    match distribution.doubt() {
        Some(Verdict::Invalid) => "!",
        Some(_) => "?",
        None => "",
    }
}

/// A percentile for people: nothing where there is none, starred where it rests on few values, and
/// marked where it is in doubt.
fn percentile(distribution: Option<&Distribution>, name: &str) -> String {
    let Some(value) = distribution.and_then(|d| d.percentile(name)) else {
        return NOTHING.to_owned();
    };
    let few = distribution.is_some_and(|d| d.few.iter().any(|few| few == name));
    let mark = distribution.map_or("", mark);
    format!("{}{}{mark}", short(value), if few { "*" } else { "" })
}

/// A percentile over all requests that were sent, for people.
fn percentile_of_all_sent(distribution: Option<&Distribution>, name: &str) -> String {
    let Some((distribution, all)) = distribution.and_then(|d| Some((d, d.all_sent.as_ref()?)))
    else {
        return NOTHING.to_owned();
    };
    let is_among = |names: &[String]| names.iter().any(|among| among == name);
    let few = if is_among(&all.few) { "*" } else { "" };
    match all.percentiles.get(name) {
        Some(value) => format!("{}{few}{}", short(*value), mark(distribution)),
        None if is_among(&all.failed) => format!("failed{few}"),
        None => NOTHING.to_owned(),
    }
}

/// A number with so many decimals, its thousands set apart by commas.
pub(crate) fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::with_capacity(text.len() + 4);
    if value < 0.0 && text.bytes().any(|digit| (b'1'..=b'9').contains(&digit)) {
        grouped.push('-');
    }
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_cut_to_what_helps() {
        let check = |value, text: &str| assert_eq!(short(value), text);
        check(0.0, "0");
        check(6.666_667, "6.67");
        check(214.04, "214.0");
        check(1_234_567.8, "1,234,568");
        check(-0.001, "0.00");
        check(-12.34, "-12.3");
        assert_eq!(grouped(1_000.0, 0), "1,000");
        assert_eq!(grouped(999.96, 1), "1,000.0");
    }
}
