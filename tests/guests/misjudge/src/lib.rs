//! An analyzer that does what no analyzer should: the run's seed says what.

use llmdbench_plugin::analyzer::{
    Artifact, Axis, BarGroup, Bars, Cells, Chart, Drawing, Finding, Needs, Points, Report,
    Severity, Table, TableColumn,
};
use llmdbench_plugin::results::{Columns, StageFacts, TokenTimes};
use llmdbench_plugin::{Analyzer, Context, Error, Info, log};

/// It has none.
#[derive(Debug, serde::Deserialize)]
pub struct Settings {}

/// What is done wrong.
#[derive(Debug)]
pub struct Misjudge {
    how: u64,
}

/// Panic when requests come.
const PANIC: u64 = 1;
/// Answer with an error of the plugin's own.
const REFUSE: u64 = 2;

const FILES: [&str; 5] = ["good.txt", "../bad.txt", "/bad.txt", "records.jsonl", "a\0b"];

impl Analyzer for Misjudge {
    type Settings = Settings;

    fn configure(_: Settings, context: Context, _: Vec<StageFacts>) -> Result<Self, Error> {
        log::warn("this analyzer misjudges on purpose");
        Ok(Self { how: context.seed })
    }

    fn needs(&self) -> Needs {
        Needs { warm_up: true, token_times: true, series: vec!["vllm:*".to_owned()] }
    }

    fn feed(&mut self, _: Columns, _: Option<TokenTimes>) -> Result<(), Error> {
        assert_ne!(self.how, PANIC, "the analyzer lost its marbles");
        Ok(())
    }

    fn finish(&mut self) -> Result<Report, Error> {
        if self.how == REFUSE {
            return Err(Error::invalid_data("I would rather not").hint("ask somebody else"));
        }
        Ok(Report {
            metrics: Vec::new(),
            findings: vec![Finding {
                severity: Severity::Warning,
                title: "Nothing here is right".to_owned(),
                text: String::new(),
            }],
            tables: Vec::from(["good", "good", "../bad"].map(table)),
            charts: vec![
                chart("good", Drawing::Bar(bars(vec![1.0, f64::NAN]))),
                chart("a/b", Drawing::Bar(bars(vec![1.0, 2.0]))),
                chart("short", Drawing::Bar(bars(vec![1.0]))),
                chart("wild", Drawing::Scatter(vec![wild()])),
            ],
            files: Vec::from(FILES.map(file)),
        })
    }
}

fn file(name: &str) -> Artifact {
    Artifact {
        name: name.to_owned(),
        media_type: "text/plain".to_owned(),
        contents: b"by misjudge".to_vec(),
    }
}

fn table(name: &str) -> Table {
    let column = |title: &str, cells: Cells| TableColumn {
        title: title.to_owned(),
        unit: String::new(),
        cells,
    };
    Table {
        name: name.to_owned(),
        title: "Columns of unequal length".to_owned(),
        columns: vec![
            column("a", Cells::Numbers(vec![1.0, f64::NAN])),
            column("b", Cells::Texts(vec!["<b>".to_owned()])),
        ],
    }
}

fn chart(name: &str, drawing: Drawing) -> Chart {
    let axis = Axis { title: "axis".to_owned(), unit: String::new(), logarithmic: false };
    Chart {
        name: name.to_owned(),
        title: format!("Chart {name}"),
        x: axis.clone(),
        y: axis,
        drawing,
    }
}

fn bars(values: Vec<f64>) -> Bars {
    Bars {
        categories: ["one", "two"].map(str::to_owned).to_vec(),
        groups: vec![BarGroup { name: "group".to_owned(), values }],
    }
}

/// Numbers that are none, or that no axis can hold.
fn wild() -> Points {
    let values = vec![f64::NAN, f64::INFINITY, -1e308, 1e308, 5e-324, 1.7e18];
    Points {
        name: "wild".to_owned(),
        x: values.clone(),
        y: values,
        low: Vec::new(),
        high: Vec::new(),
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!()
}

llmdbench_plugin::export! { manifest: manifest, analyzer: Misjudge }
