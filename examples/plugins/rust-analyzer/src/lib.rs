//! Analyzer: the slowest request of each stage, as a number, a sentence, a table, a bar and a file.

use llmdbench_plugin::analyzer::{
    Artifact, Axis, BarGroup, Bars, Cells, Chart, Drawing, Finding, Report, Severity, Table,
    TableColumn,
};
use llmdbench_plugin::results::{Columns, Direction, Metric, StageFacts, TokenTimes};
use llmdbench_plugin::{Analyzer, Context, Error, Info, label};

/// It has none; `schema.json` of another plugin would describe them.
#[derive(Debug, serde::Deserialize)]
pub struct Settings {}

/// The slowest request of each stage so far.
#[derive(Debug)]
pub struct Tail {
    stages: Vec<StageFacts>,
    /// Milliseconds. None: no request of the stage was answered.
    slowest: Vec<Option<f64>>,
}

/// Marks an instant that did not happen, and an error that there was not.
const NEVER: u64 = u64::MAX;
const NONE: u32 = u32::MAX;

impl Analyzer for Tail {
    type Settings = Settings;

    fn configure(_: Settings, _: Context, stages: Vec<StageFacts>) -> Result<Self, Error> {
        let slowest = vec![None; stages.len()];
        Ok(Self { stages, slowest })
    }

    fn feed(&mut self, rows: Columns, _: Option<TokenTimes>) -> Result<(), Error> {
        for i in 0..rows.stage.len() {
            if rows.error[i] != NONE || rows.sent[i] == NEVER {
                continue;
            }
            let took = (rows.finished[i] - rows.sent[i]) as f64 / 1e6;
            let slowest = &mut self.slowest[rows.stage[i] as usize];
            *slowest = Some(slowest.map_or(took, |before: f64| before.max(took)));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Report, Error> {
        let found: Vec<(&StageFacts, f64)> = self
            .stages
            .iter()
            .zip(&self.slowest)
            .filter_map(|(stage, slowest)| Some((stage, (*slowest)?)))
            .collect();
        let worst = found.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let numbers: Vec<f64> = found.iter().map(|(_, ms)| *ms).collect();
        let names: Vec<String> = found.iter().map(|(stage, _)| stage.name.clone()).collect();
        let axis = |title: &str, unit: &str| Axis {
            title: title.to_owned(),
            unit: unit.to_owned(),
            logarithmic: false,
        };
        Ok(Report {
            metrics: found
                .iter()
                .map(|(stage, ms)| Metric {
                    name: "slowest".to_owned(),
                    unit: "ms".to_owned(),
                    value: *ms,
                    better: Direction::LowerIsBetter,
                    labels: vec![label("stage", &stage.name)],
                })
                .collect(),
            findings: worst
                .map(|(stage, ms)| Finding {
                    severity: Severity::Info,
                    title: "Slowest request".to_owned(),
                    text: format!("{ms:.0} ms in the stage {}", stage.name),
                })
                .into_iter()
                .collect(),
            tables: vec![Table {
                name: "slowest".to_owned(),
                title: "Slowest request of each stage".to_owned(),
                columns: vec![
                    TableColumn {
                        title: "stage".to_owned(),
                        unit: String::new(),
                        cells: Cells::Texts(names.clone()),
                    },
                    TableColumn {
                        title: "latency".to_owned(),
                        unit: "ms".to_owned(),
                        cells: Cells::Numbers(numbers.clone()),
                    },
                ],
            }],
            charts: vec![Chart {
                name: "slowest".to_owned(),
                title: "Slowest request by stage".to_owned(),
                x: axis("stage", ""),
                y: axis("latency", "ms"),
                drawing: Drawing::Bar(Bars {
                    categories: names.clone(),
                    groups: vec![BarGroup { name: "slowest".to_owned(), values: numbers }],
                }),
            }],
            files: vec![Artifact {
                name: "tail/stages.txt".to_owned(),
                media_type: "text/plain".to_owned(),
                contents: names.join("\n").into_bytes(),
            }],
        })
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!()
}

llmdbench_plugin::export! { manifest: manifest, analyzer: Tail }
