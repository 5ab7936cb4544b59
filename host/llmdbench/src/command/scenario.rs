//! `scenario`: what scenarios there are, and what each sets.

use crate::error::{Exit, Result};
use crate::printer::Printer;
use crate::settings::{self, Source};
use crate::{embedded, experiment};
use clap::Subcommand;
use serde_json::{Value, json};

/// The commands about scenarios.
#[derive(Debug, Subcommand)]
pub(crate) enum ScenarioCommand {
    /// List the scenarios of scenarios/ and the built-in ones
    List,
    /// Show what a scenario sets
    Show {
        /// A file, or the name of one in scenarios/ or of a built-in one
        name: String,
    },
}

/// Lists or shows scenarios.
pub(crate) fn run(command: &ScenarioCommand, printer: &Printer) -> Result<Exit> {
    match command {
        ScenarioCommand::List => list(printer),
        ScenarioCommand::Show { name } => show(name, printer)?,
    }
    Ok(Exit::Ok)
}

fn list(printer: &Printer) {
    let mut scenarios: Vec<(String, &str)> =
        experiment::own_scenarios().into_iter().map(|name| (name, "scenarios/")).collect();
    for (file, _) in embedded::SCENARIOS {
        let name = embedded::stem(file);
        // A file of the user hides the built-in one.
        if !scenarios.iter().any(|(other, _)| other == name) {
            scenarios.push((name.to_owned(), "built in"));
        }
    }
    scenarios.sort();
    let sets = |name: &str| set_by(name, &mut Vec::new());
    printer.result(
        || {
            let width = scenarios.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            let lines: Vec<String> = scenarios
                .iter()
                .map(|(name, from)| {
                    let brief = sets(name).map_or_else(
                        |_| "cannot be read; `scenario show` says why".to_owned(),
                        |values| brief(&values),
                    );
                    format!("{name:<width$}  {from:<10}  {brief}")
                })
                .collect();
            lines.join("\n")
        },
        || {
            let value = |name: &str| match sets(name) {
                Ok(values) => {
                    values.into_iter().map(|set| (set.path.to_owned(), set.value)).collect()
                }
                // It cannot be read; `scenario show` says why.
                Err(_) => Value::Null,
            };
            let listed = scenarios.iter();
            listed
                .map(|(name, from)| json!({"name": name, "from": from, "sets": value(name)}))
                .collect()
        },
    );
}

/// Method and model, and how much else a scenario sets.
fn brief(values: &[Set]) -> String {
    const SHOWN: [&str; 2] = ["deploy.method", "deploy.model"];
    let shown = SHOWN.iter().filter_map(|path| values.iter().find(|set| set.path == *path));
    let mut parts: Vec<String> = shown.map(|set| plain(&set.value)).collect();
    match values.len() - parts.len() {
        0 => {}
        1 => parts.push("1 other setting".to_owned()),
        n => parts.push(format!("{n} other settings")),
    }
    parts.join(", ")
}

fn show(name: &str, printer: &Printer) -> Result<()> {
    let mut warnings = Vec::new();
    let values = set_by(name, &mut warnings)?;
    for warning in warnings {
        printer.warning(&warning);
    }
    printer.result(
        || {
            values
                .iter()
                .map(|set| {
                    format!(
                        "{} = {} [{}]\n    {}\n",
                        set.path,
                        plain(&set.value),
                        set.variable,
                        set.doc
                    )
                })
                .collect()
        },
        || {
            values
                .iter()
                .map(|set| json!({"path": set.path, "variable": set.variable, "value": set.value, "doc": set.doc}))
                .collect()
        },
    );
    Ok(())
}

/// A value that a scenario sets.
struct Set {
    path: &'static str,
    variable: &'static str,
    doc: &'static str,
    value: Value,
}

fn set_by(name: &str, warnings: &mut Vec<String>) -> Result<Vec<Set>> {
    let (layer, _) = experiment::scenario(name, None, warnings)?;
    let settings = settings::all_or_error(settings::resolve(vec![layer]))?;
    Ok(settings
        .shown()
        .filter(|(_, _, source)| *source == Source::Scenario)
        .map(|(setting, value, _)| Set {
            path: setting.path,
            variable: setting.variable,
            doc: setting.doc,
            value,
        })
        .collect())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
