//! What analyzer plugins found, as reports and files show it.

use crate::charts::Drawing;
use crate::metric::Better;
use crate::notes::{Note, Severity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All that one analyzer found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PluginReport {
    /// What the summary keeps.
    pub results: PluginResults,
    /// Its tables.
    pub tables: Vec<Table>,
    /// Its pictures.
    pub charts: Vec<PluginChart>,
}

/// What an analyzer found, as far as the summary keeps it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PluginResults {
    /// The plugin's name.
    pub name: String,
    /// Its numbers.
    pub metrics: Vec<PluginMetric>,
    /// Its sentences. Reports show them among the notes.
    pub findings: Vec<PluginFinding>,
    /// Its tables and pictures, as paths within the folder of the analysis: what a later analysis without it removes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// A number that an analyzer reckoned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginMetric {
    /// The metric's name.
    pub name: String,
    /// Its unit; "1" for plain numbers.
    pub unit: String,
    /// None: it could not be reckoned.
    pub value: Option<f64>,
    /// Which way of it is good.
    pub better: Better,
    /// What it is about.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Something that an analyzer wants the reader to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginFinding {
    /// How grave it is.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// Explanation; may be empty.
    pub text: String,
}

/// A table of an analyzer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Its name in files.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// Headings of the columns, their units in them.
    pub columns: Vec<String>,
    /// Rows of cells, as they are shown.
    pub rows: Vec<Vec<String>>,
}

/// A picture of an analyzer.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginChart {
    /// Its name in files.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// What it shows.
    pub drawing: Drawing,
}

impl PluginResults {
    /// Its findings as notes of a report.
    pub(crate) fn notes(&self) -> impl Iterator<Item = Note> {
        self.findings.iter().map(|finding| Note {
            severity: finding.severity,
            source: self.name.clone(),
            text: match finding.text.trim() {
                "" => finding.title.clone(),
                text => format!("{}: {text}", finding.title),
            },
        })
    }
}

impl Table {
    /// The table as a CSV file (RFC 4180).
    #[must_use]
    pub fn csv(&self) -> String {
        let mut writer = ::csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
        for row in std::iter::once(&self.columns).chain(&self.rows) {
            writer.write_record(row).expect("writing to memory does not fail");
        }
        let bytes = writer.into_inner().expect("writing to memory does not fail");
        String::from_utf8(bytes).expect("every cell is a string")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_csv_could_misread_are_quoted() {
        let table = Table {
            columns: vec!["a".into(), "b, s".into()],
            rows: vec![vec!["1".into(), "say \"hi\"".into()]],
            ..Table::default()
        };
        assert_eq!(table.csv(), "a,\"b, s\"\n1,\"say \"\"hi\"\"\"\n");
    }
}
