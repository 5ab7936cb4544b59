//! The analyzer: a CSV file for each rate, with the names, columns and order of the original's.

use crate::csv::{Row, multi_round, sharegpt};
use crate::sessions::LAST_ROUND;
use llmdbench_plugin::analyzer::{Artifact, Report};
use llmdbench_plugin::results::{Columns, StageFacts, TokenTimes};
use llmdbench_plugin::{Analyzer, Context, Error};
use serde::Deserialize;

/// It has none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {}

/// What was measured, stage by stage.
pub(crate) struct Compat {
    stages: Vec<StageFacts>,
    /// For each stage, in the order in which requests ended.
    rows: Vec<Vec<Row>>,
}

/// Marks what is not known.
const UNKNOWN: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

impl Analyzer for Compat {
    type Settings = Settings;

    fn configure(
        Settings {}: Settings,
        _: Context,
        stages: Vec<StageFacts>,
    ) -> Result<Self, Error> {
        let rows = stages.iter().map(|_| Vec::new()).collect();
        Ok(Self { stages, rows })
    }

    fn feed(&mut self, rows: Columns, _: Option<TokenTimes>) -> Result<(), Error> {
        let last = rows.labels.iter().find(|column| column.key == LAST_ROUND);
        for i in 0..rows.stage.len() {
            // The original has no row of a request that failed.
            if rows.error[i] != UNKNOWN || rows.first_token[i] == NEVER {
                continue;
            }
            let index = rows.stage[i] as usize;
            let (Some(stage), Some(into)) = (self.stages.get(index), self.rows.get_mut(index))
            else {
                return Err(Error::invalid_data(format!("there is no stage {index}")));
            };
            let epoch = |at: u64| {
                // The difference first: a number of nanoseconds since 1970 has no room for it.
                let since = i128::from(at) - i128::from(stage.started);
                (i128::from(stage.unix_started) + since) as f64 / 1e9
            };
            let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
            let known = |count: u32| (count != UNKNOWN).then_some(count);
            into.push(Row {
                prompt_tokens: known(rows.input_tokens[i]),
                generation_tokens: known(rows.output_tokens[i]),
                ttft: seconds(rows.started[i], rows.first_token[i]),
                generation_time: seconds(rows.first_token[i], rows.finished[i]),
                session: rows.session[i],
                user: rows.user[i],
                ends_session: last.is_some_and(|column| column.codes[i] != UNKNOWN),
                launch_time: epoch(rows.started[i]),
                finish_time: epoch(rows.finished[i]),
            });
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Report, Error> {
        let mut files = Vec::new();
        for (stage, rows) in self.stages.iter().zip(&self.rows) {
            let label = |key: &str| {
                stage.labels.iter().find(|label| label.key == key).map(|label| &label.value)
            };
            let (Some(scenario), Some(qps)) = (label("scenario"), label("qps")) else { continue };
            if stage.warm_up || rows.is_empty() {
                continue;
            }
            let (name, text) = match scenario.as_str() {
                "sharegpt" => (format!("LMBench_sharegpt_output_{qps}.csv"), sharegpt(rows)),
                "long-input" => (format!("LMBench_long_input_output_{qps}.csv"), multi_round(rows)),
                "short-input" => (format!("LMBench_short_input_qps{qps}.csv"), multi_round(rows)),
                "long-long" => (format!("LMBench_long_long_qps{qps}.csv"), multi_round(rows)),
                _ => continue,
            };
            files.push(Artifact {
                name,
                media_type: "text/csv".to_owned(),
                contents: text.into_bytes(),
            });
        }
        Ok(Report {
            metrics: Vec::new(),
            findings: Vec::new(),
            tables: Vec::new(),
            charts: Vec::new(),
            files,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmdbench_plugin::label;
    use llmdbench_plugin::results::LabelColumn;

    fn stage(name: &str, scenario: &str, warm_up: bool) -> StageFacts {
        StageFacts {
            run_id: "r".into(),
            name: name.into(),
            warm_up,
            started: 1_000,
            finished: 0,
            unix_started: 1_700_000_000_000_000_000,
            rate: None,
            concurrency: None,
            labels: vec![label("scenario", scenario), label("qps", "0.5")],
        }
    }

    /// A request: stage, session, start and first token and end in ms, failed, ends its session.
    type Sent = (u32, u64, [u64; 3], bool, bool);

    fn columns(rows: &[Sent]) -> Columns {
        let ms = |at: u64| 1_000 + at * 1_000_000;
        let each = |get: &dyn Fn(&Sent) -> u64| -> Vec<u64> { rows.iter().map(get).collect() };
        Columns {
            stage: rows.iter().map(|row| row.0).collect(),
            session: each(&|row| row.1),
            user: each(&|row| row.1),
            turn: vec![0; rows.len()],
            due: each(&|row| ms(row.2[0])),
            started: each(&|row| ms(row.2[0])),
            sent: each(&|row| ms(row.2[0])),
            first_byte: each(&|row| ms(row.2[1])),
            first_token: each(&|row| ms(row.2[1])),
            last_token: each(&|row| ms(row.2[2])),
            finished: each(&|row| ms(row.2[2])),
            status: vec![200; rows.len()],
            error: rows.iter().map(|row| if row.3 { 0 } else { UNKNOWN }).collect(),
            input_tokens: vec![75; rows.len()],
            cached_tokens: vec![UNKNOWN; rows.len()],
            output_tokens: vec![20; rows.len()],
            errors: vec!["timeout".into()],
            labels: vec![LabelColumn {
                key: LAST_ROUND.into(),
                values: vec!["true".into()],
                codes: rows.iter().map(|row| if row.4 { 0 } else { UNKNOWN }).collect(),
            }],
        }
    }

    #[test]
    fn files_have_the_originals_names_columns_and_order() {
        let stages = vec![
            stage("w", "short-input", true),
            stage("a", "short-input", false),
            stage("b", "sharegpt", false),
        ];
        let context = Context {
            run_id: "r".into(),
            model: "m".into(),
            model_alias: "m".into(),
            namespace: None,
            seed: 1,
            labels: Vec::new(),
            target: None,
            cluster: None,
        };
        let mut analyzer = Compat::configure(Settings {}, context, stages).unwrap();
        let rows = columns(&[
            (1, 7, [0, 100, 375], false, false),
            (1, 9, [200, 250, 400], false, false),
            (2, 1, [500, 600, 700], false, false),
            (1, 9, [600, 650, 700], false, true),
            (2, 0, [400, 600, 900], false, false),
            (1, 8, [600, 650, 700], true, false),
        ]);
        analyzer.feed(rows, None).unwrap();
        let report = analyzer.finish().unwrap();
        let files: Vec<(&str, String)> = report
            .files
            .iter()
            .map(|file| (file.name.as_str(), String::from_utf8(file.contents.clone()).unwrap()))
            .collect();
        assert_eq!(
            files[0],
            (
                "LMBench_short_input_qps0.5.csv",
                "prompt_tokens,generation_tokens,ttft,generation_time,user_id,question_id,launch_time,finish_time\n\
                 75,20,0.05,0.15,9,1,1700000000.2,1700000000.4\n\
                 75,20,0.05,0.05,9,2,1700000000.6,1700000000.7\n\
                 75,20,0.1,0.275,7,1,1700000000.0,1700000000.375\n"
                    .to_owned()
            )
        );
        assert_eq!(
            files[1],
            (
                "LMBench_sharegpt_output_0.5.csv",
                "prompt_tokens,generation_tokens,ttft,generation_time,launch_time,finish_time\n\
                 75,20,0.2,0.3,1700000000.4,1700000000.9\n\
                 75,20,0.1,0.1,1700000000.5,1700000000.7\n"
                    .to_owned()
            )
        );
        assert_eq!(files.len(), 2);
    }
}
