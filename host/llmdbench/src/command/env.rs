//! `env`: every setting with its value, source, default and meaning.

use crate::cli::{ExperimentArgs, Global, LoadArgs, TargetArgs, flags};
use crate::error::{Exit, Result};
use crate::experiment;
use crate::printer::Printer;
use crate::settings::{self, Kind, SETTINGS};
use clap::Args;
use serde_json::{Value, json};

/// Options of `env`.
#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// As the page of the reference
    #[arg(long, conflicts_with = "schema")]
    markdown: bool,
    /// As a JSON Schema of experiment files, for editors
    #[arg(long)]
    schema: bool,
}

/// Shows the settings.
pub(crate) fn run(args: &EnvArgs, global: &Global, printer: &Printer) -> Result<Exit> {
    if args.markdown {
        printer.text(&markdown());
        return Ok(Exit::Ok);
    }
    if args.schema {
        printer.text(&format!("{:#}", schema()));
        return Ok(Exit::Ok);
    }
    let mut warnings = Vec::new();
    let environment = settings::environment(settings::variables(), &mut warnings);
    let flags = flags(&args.experiment, &TargetArgs::default(), &LoadArgs::default())?;
    let file = args.experiment.file.as_deref();
    let layers = experiment::layers(flags, file, environment, &mut warnings);
    for warning in warnings {
        printer.warning(&warning);
    }
    let mut layers = layers?;
    if global.as_script {
        layers.push(experiment::as_script());
    }
    let settings = settings::all_or_error(settings::resolve(layers))?;
    let shown: Vec<_> = settings.shown().collect();
    printer.result(
        || {
            let mut text = String::new();
            for (setting, value, source) in &shown {
                let value = match value {
                    Value::Null => "-".to_owned(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let source = format!("{source:?}").to_lowercase();
                text.push_str(&format!(
                    "{} = {value} ({source})\n    {} [{}]\n",
                    setting.path, setting.doc, setting.variable
                ));
            }
            text
        },
        || {
            shown
                .iter()
                .map(|(setting, value, source)| {
                    json!({"path": setting.path, "variable": setting.variable, "flag": setting.flag,
                           "value": value, "source": source, "default": setting.default, "doc": setting.doc})
                })
                .collect()
        },
    );
    Ok(Exit::Ok)
}

/// The reference page of the settings.
pub(crate) fn markdown() -> String {
    let mut text = String::from(
        "# Settings\n\nMade by `llmdbench env --markdown`. A flag wins over a key of the experiment file, that over the\nscenario, that over the environment variable, that over the default.\n\n| key | variable | flag | value | default | meaning |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for setting in SETTINGS {
        let code = |text: &str| if text.is_empty() { "-".to_owned() } else { format!("`{text}`") };
        text.push_str(&format!(
            "| `{}` | `{}` | {} | {}{} | {} | {} |\n",
            setting.path,
            setting.variable,
            code(setting.flag),
            setting.kind.expected(),
            if setting.secret { ", secret" } else { "" },
            code(setting.default),
            setting.doc
        ));
    }
    text.push_str(
        "\n## Names of before\n\nNames that the original or a later version of it had. They give a notice.\n\n| variable | what became of it |\n| --- | --- |\n",
    );
    for (name, fate) in settings::legacy() {
        text.push_str(&format!("| `{name}` | {fate} |\n"));
    }
    text
}

/// A JSON Schema of experiment files.
fn schema() -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmdbench experiment", "type": "object",
        "properties": {}, "additionalProperties": false,
    });
    for setting in SETTINGS {
        let mut at = &mut root;
        let parts: Vec<&str> = setting.path.split('.').collect();
        for (i, part) in parts.iter().enumerate() {
            let properties = &mut at["properties"];
            if properties.get(part).is_none() {
                properties[*part] = if i + 1 == parts.len() {
                    kind_schema(setting.kind)
                } else {
                    json!({"type": "object", "properties": {}, "additionalProperties": false})
                };
            }
            at = &mut properties[*part];
        }
        at["description"] = json!(setting.doc);
    }
    root
}

fn kind_schema(kind: Kind) -> Value {
    match kind {
        Kind::Text => json!({"type": ["string", "number", "boolean"]}),
        Kind::Integer => json!({"type": "integer", "minimum": 0}),
        Kind::Decimal => json!({"type": ["number", "string"]}),
        Kind::Share => json!({"type": "number", "minimum": 0, "maximum": 1}),
        Kind::Switch => json!({"type": "boolean"}),
        Kind::Duration => json!({"type": "string", "pattern": "[a-z]$", "examples": ["20s"]}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::List => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Map => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Kind::Json | Kind::Plugin => json!({"type": "object"}),
        Kind::Limits => {
            let names: serde_json::Map<String, Value> = analysis::Slo::NAMES
                .iter()
                .map(|name| ((*name).to_owned(), json!({"type": "string"})))
                .collect();
            json!({"type": "object", "properties": names, "additionalProperties": false})
        }
    }
}
