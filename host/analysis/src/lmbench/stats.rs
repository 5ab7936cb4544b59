//! `stats.txt`: the headings of the original, and all of its numbers.

use super::{Rate, Row};
use std::collections::BTreeSet;

/// The statistics of rates as a text. Times in seconds, deviations are those of a sample.
#[must_use]
pub fn stats(rates: &[Rate]) -> String {
    let rows: Vec<&Row> = rates.iter().flat_map(|rate| &rate.rows).collect();
    let users: BTreeSet<u64> = rows.iter().filter_map(|row| row.user_id).collect();
    let mut text = format!(
        "\nBenchmark Statistics:\n{}\nOverall Statistics:\nTotal number of requests: {}\n",
        "=".repeat(50),
        rows.len()
    );
    text.push_str(&if users.is_empty() {
        "Number of unique users: none (these files name no users)\n".to_owned()
    } else {
        format!("Number of unique users: {}\n", users.len())
    });
    text.push_str(&format!("Number of QPS levels tested: {}\n", rates.len()));
    text.push_str("\nPer QPS Statistics:\n");
    text.push_str(&per_rate(rates));
    text.push_str("\nToken Statistics:\n");
    text.push_str(&tokens(&rows));
    text
}

type Value = fn(&Row) -> Option<f64>;

const TTFT: Value = |row| row.ttft;
const GENERATION: Value = |row| row.generation_time;
const PROMPT_TOKENS: Value = |row| row.prompt_tokens;
const GENERATION_TOKENS: Value = |row| row.generation_tokens;

/// Columns of the table of rates: heading, what is counted, the statistic.
const COLUMNS: [(&str, Value, Statistic); 10] = [
    ("ttft mean", TTFT, mean),
    ("ttft std", TTFT, deviation),
    ("ttft min", TTFT, least),
    ("ttft max", TTFT, most),
    ("generation_time mean", GENERATION, mean),
    ("generation_time std", GENERATION, deviation),
    ("generation_time min", GENERATION, least),
    ("generation_time max", GENERATION, most),
    ("prompt_tokens mean", PROMPT_TOKENS, mean),
    ("generation_tokens mean", GENERATION_TOKENS, mean),
];

fn per_rate(rates: &[Rate]) -> String {
    let mut table = vec![
        std::iter::once("qps".to_owned())
            .chain(COLUMNS.iter().map(|(title, ..)| (*title).to_owned()))
            .collect(),
    ];
    for rate in rates {
        let mut row = vec![format!("{:?}", rate.qps)];
        for (_, value, statistic) in COLUMNS {
            let values: Vec<f64> = rate.rows.iter().filter_map(value).collect();
            row.push(number(statistic(&values)));
        }
        table.push(row);
    }
    aligned(&table)
}

fn tokens(rows: &[&Row]) -> String {
    let columns = [PROMPT_TOKENS, GENERATION_TOKENS]
        .map(|value| rows.iter().filter_map(|row| value(row)).collect::<Vec<f64>>());
    let mut table = vec![["", "prompt_tokens", "generation_tokens"].map(str::to_owned).to_vec()];
    let statistics: [(&str, Statistic); 4] =
        [("mean", mean), ("std", deviation), ("min", least), ("max", most)];
    for (name, statistic) in statistics {
        let mut row = vec![name.to_owned()];
        row.extend(columns.iter().map(|values| number(statistic(values))));
        table.push(row);
    }
    aligned(&table)
}

type Statistic = fn(&[f64]) -> Option<f64>;

pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

fn least(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::min)
}

fn most(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::max)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

/// A table with its columns under each other, numbers to the right.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|i| table.iter().map(|row| row[i].len()).max().unwrap_or(0)).collect();
    table
        .iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
            format!("{}\n", cells.join("  "))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ttft: f64, user_id: Option<u64>) -> Row {
        Row {
            prompt_tokens: Some(75.0),
            generation_tokens: Some(20.0),
            ttft: Some(ttft),
            generation_time: Some(0.9),
            user_id,
        }
    }

    #[test]
    fn every_number_of_every_rate_is_there_under_the_originals_headings() {
        let rates = [
            Rate { qps: 0.5, rows: vec![row(0.1, Some(1)), row(0.3, Some(1))] },
            Rate { qps: 1.34, rows: vec![row(0.2, Some(2))] },
        ];
        let text = stats(&rates);
        for part in [
            "Total number of requests: 3\n",
            "Number of unique users: 2\n",
            "Number of QPS levels tested: 2\n",
            "Per QPS Statistics:\n",
            "Token Statistics:\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let line = text.lines().find(|line| line.trim_start().starts_with("0.5 ")).unwrap();
        let numbers: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            numbers,
            [
                "0.5", "0.2000", "0.1414", "0.1000", "0.3000", "0.9000", "0.0000", "0.9000",
                "0.9000", "75.0000", "20.0000"
            ]
        );
        let line = text.lines().find(|line| line.trim_start().starts_with("1.34 ")).unwrap();
        assert_eq!(line.split_whitespace().nth(2), Some("-"), "one value has no deviation");
    }

    #[test]
    fn files_without_users_are_told_so() {
        let text = stats(&[Rate { qps: 1.0, rows: vec![row(0.1, None)] }]);
        assert!(text.contains("Number of unique users: none"), "{text}");
    }
}
