//! Writes what a run was made of into its folder: `environment/*` and the plan.

use crate::error::Result;
use crate::phase::plan::Prepared;
use crate::plan::Target;
use crate::run_dir::{self, Results, RunDir};
use crate::settings::{Settings, Source};
use serde_json::{Value, json};

/// Writes `environment/{variables, settings.yaml, plugins.json, host.json}` and `plan.json`.
pub(crate) fn write(prepared: &Prepared, dir: &RunDir) -> Result<()> {
    run_dir::write(&dir.environment("variables"), variables(&prepared.settings).as_bytes())?;
    run_dir::write(&dir.environment("settings.yaml"), yaml(&prepared.settings).as_bytes())?;
    run_dir::write_json(&dir.environment("plugins.json"), &prepared.plan.plugins)?;
    run_dir::write_json(&dir.environment("host.json"), &crate::host_facts::collect())?;
    prepared.plan.write(&dir.plan())
}

/// Writes the profiles that plugins were given, filled in, where users of the original look for
/// them.
pub(crate) fn write_profiles(prepared: &Prepared, results: &Results) -> Result<()> {
    let mut profiles = prepared.chosen.profiles().peekable();
    if profiles.peek().is_some() {
        run_dir::make(&results.harnesses())?;
    }
    for profile in profiles {
        run_dir::write(&results.profile(&profile.name), profile.text.as_bytes())?;
    }
    Ok(())
}

/// Writes what a run against an endpoint was made of, unless the folder was stood up or has a run
/// already: then it keeps its own plan and target.
pub(crate) fn write_first(prepared: &Prepared, target: &Target, dir: &RunDir) -> Result<()> {
    if dir.plan().exists() {
        return Ok(());
    }
    write(prepared, dir)?;
    run_dir::write_json(&dir.target(), target)
}

/// Settings with their sources, for `run.json`.
pub(crate) fn with_sources(settings: &Settings) -> Value {
    settings
        .shown()
        .filter(|(_, value, _)| !value.is_null())
        .map(|(setting, value, source)| {
            (setting.path.to_owned(), json!({"value": value, "source": source}))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// `NAME=value` lines in the order of names, as the original wrote them; secrets are left out.
fn variables(settings: &Settings) -> String {
    let mut lines: Vec<String> = settings
        .shown()
        .filter(|(setting, value, _)| !setting.secret && !value.is_null())
        .map(|(setting, value, _)| {
            let text = match value {
                Value::String(text) => text,
                Value::Bool(on) => u8::from(on).to_string(),
                other => other.to_string(),
            };
            format!("{}={text}\n", setting.variable)
        })
        .collect();
    lines.sort();
    lines.concat()
}

/// The settings as an experiment file, with their sources as comments. JSON is YAML, so values
/// stand as JSON.
fn yaml(settings: &Settings) -> String {
    let mut text =
        String::from("# What was set, and by what; a value that nobody set is left out.\n");
    let mut group = "";
    for (setting, value, source) in settings.shown() {
        if source == Source::Default || value.is_null() {
            continue;
        }
        let source = format!("{source:?}").to_lowercase();
        match setting.path.split_once('.') {
            None => text.push_str(&format!("{}: {value} # {source}\n", setting.path)),
            Some((head, rest)) => {
                if head != group {
                    text.push_str(&format!("{head}:\n"));
                    group = head;
                }
                text.push_str(&format!("  {rest}: {value} # {source}\n"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use crate::settings::{Layer, all_or_error, resolve};

    #[test]
    fn what_was_set_is_written_as_a_file_that_sets_it_again_without_secrets() {
        let text = "name: t\nsecrets: {hf-token: hf_abcdef}\ndeploy: {model: m}\nworkload: {settings: {a: [1, '#']}}\n";
        let layer =
            |text: &str| Layer::file(Source::Experiment, Document::parse("t.yaml", text).unwrap());
        let settings = all_or_error(resolve(vec![layer(text)])).unwrap();
        let written = yaml(&settings);
        assert!(!written.contains("hf_abcdef"), "{written}");
        let again = all_or_error(resolve(vec![layer(&written)])).unwrap();
        for path in ["name", "deploy.model", "workload.settings"] {
            assert_eq!(again.get(path), settings.get(path));
        }
        assert!(!variables(&settings).contains("hf_abcdef"));
        let variables = variables(&settings);
        assert!(variables.contains("LLMDBENCH_DEPLOY_MODEL_LIST=m\n"), "{variables}");
        assert!(variables.contains("LLMDBENCH_CONTROL_DRY_RUN=0\n"), "{variables}");
        assert!(variables.lines().is_sorted(), "{variables}");
    }
}
