//! Results of LMBenchmark as llm-d-benchmark kept and analysed them: CSV files with a row for each
//! request, statistics and two pictures by rate.

mod boxes;
mod file;
mod plots;
mod stats;

pub use file::{BadFile, File, LeftOut, Row};
pub use plots::{LATENCY, Plot, THROUGHPUT};
pub use stats::stats;

/// Whether a file's name is that of such a CSV file.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.starts_with("LMBench") && name.ends_with(".csv")
}

/// The rows of one rate, over all files of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// Requests per second, as the files' names say.
    pub qps: f64,
    /// Its requests.
    pub rows: Vec<Row>,
}

/// The rates of files, rising.
#[must_use]
pub fn rates(files: &[File]) -> Vec<Rate> {
    let mut rates: Vec<Rate> = Vec::new();
    for file in files {
        match rates.iter_mut().find(|rate| rate.qps == file.qps) {
            Some(rate) => rate.rows.extend(file.rows.iter().cloned()),
            None => rates.push(Rate { qps: file.qps, rows: file.rows.clone() }),
        }
    }
    rates.sort_by(|a, b| a.qps.total_cmp(&b.qps));
    rates
}

/// What `analysis/plots/README.md` says of the pictures.
#[must_use]
pub fn readme() -> String {
    let mut text = String::new();
    for plot in [LATENCY, THROUGHPUT] {
        text.push_str(&format!("- `{}`: {}\n", plot.file, plot.meaning));
    }
    text
}
