//! Workload profiles: templates in which `REPLACE_ENV_NAME` stands for the value of a setting.

use crate::document::nearest;
use crate::error::{Error, Problem, Result};
use crate::settings::{SETTINGS, Settings, nearest_variable};
use crate::{embedded, experiment};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What begins a placeholder; the variable's name follows.
const MARK: &str = "REPLACE_ENV_";

/// The variable that stands for the model's full id.
const MODEL: &str = "LLMDBENCH_DEPLOY_CURRENT_MODEL";

/// A profile with every placeholder filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    /// The file's name without `.in`: "sanity_short-input.yaml".
    pub(crate) name: String,
    /// Where it comes from, for people: a path, or the name of a built-in one.
    pub(crate) source: PathBuf,
    pub(crate) text: String,
}

/// Finds a profile and fills it in. `named` is a path, or a name with or without `.yaml` and `.in`;
/// names are looked for in `workload/profiles`, then among the built-in ones. The path is that of
/// the built-in one's file in the repository where it is one.
pub(crate) fn read(
    named: &str,
    folder: Option<&Path>,
    settings: &Settings,
    model: &str,
) -> Result<Profile> {
    let (source, text) = find(named, folder)?;
    let file = source.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = file.unwrap_or_else(|| named.to_owned());
    let text = fill_in(&source, &text, settings, model)?;
    Ok(Profile { name: name.strip_suffix(".in").unwrap_or(&name).to_owned(), source, text })
}

fn find(named: &str, folder: Option<&Path>) -> Result<(PathBuf, String)> {
    let bare = named.strip_suffix(".in").unwrap_or(named);
    let bare = bare.strip_suffix(".yaml").unwrap_or(bare);
    let given = experiment::locate(named, folder);
    let within = |name: String| Path::new("workload/profiles").join(name);
    let places = [
        given.clone(),
        given.with_file_name(format!(
            "{}.in",
            given.file_name().unwrap_or_default().to_string_lossy()
        )),
        within(format!("{bare}.yaml.in")),
        within(format!("{bare}.yaml")),
    ];
    for path in &places {
        if path.is_file() {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Error::usage(format!("cannot read the profile `{}`", path.display())).because(error)
            })?;
            return Ok((path.clone(), text));
        }
    }
    let names = || embedded::PROFILES.iter().map(|(name, _)| *name);
    if let Some((name, text)) = embedded::PROFILES.iter().find(|(name, _)| *name == bare) {
        return Ok((PathBuf::from(format!("{name}.yaml.in")), (*text).to_owned()));
    }
    let mut error = Error::usage(format!("there is no workload profile `{named}`"));
    let near = experiment::near_file(&given);
    if let Some(near) = near.or_else(|| nearest(bare, names()).map(str::to_owned)) {
        error = error.hint(format!("did you mean `{near}`?"));
    }
    let names: Vec<&str> = names().collect();
    Err(error.hint(format!("the built-in ones are {}", names.join(", "))))
}

fn fill_in(source: &Path, text: &str, settings: &Settings, model: &str) -> Result<String> {
    let mut filled = String::with_capacity(text.len());
    let mut problems = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let mut rest = line;
        while let Some(at) = rest.find(MARK) {
            let column = line.len() - rest.len() + at + 1;
            filled.push_str(&rest[..at]);
            let after = &rest[at + MARK.len()..];
            let end =
                after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            match value_of(&after[..end], settings, model) {
                Ok(value) => filled.push_str(&value),
                Err(problem) => {
                    let place = format!("{}:{}:{column}", source.display(), number + 1);
                    problems.push(problem.at(place));
                }
            }
            rest = &after[end..];
        }
        filled.push_str(rest);
    }
    if problems.is_empty() { Ok(filled) } else { Err(Error::problems(problems)) }
}

fn value_of(
    variable: &str,
    settings: &Settings,
    model: &str,
) -> std::result::Result<String, Problem> {
    if variable == MODEL {
        return Ok(model.to_owned());
    }
    let Some(setting) = SETTINGS.iter().find(|setting| setting.variable == variable) else {
        let mut problem =
            Problem::new(format!("`{MARK}{variable}`: there is no setting {variable}"));
        let names = SETTINGS.iter().map(|setting| setting.variable);
        if let Some(near) = nearest_variable(variable, names) {
            problem = problem.hint(format!("the nearest name is {near}"));
        }
        return Err(problem);
    };
    if setting.secret {
        return Err(Problem::new(format!(
            "`{MARK}{variable}`: a secret is not written into a file"
        )));
    }
    match settings.get(setting.path) {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        Value::String(_) | Value::Null => {
            Err(Problem::new(format!("`{MARK}{variable}`: {variable} has no value"))
                .hint(format!("set {variable}, or write the value into the profile")))
        }
        other => Ok(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Layer, Source, resolve};
    use serde_json::json;

    fn settings() -> Settings {
        let mut layer = Layer::named(Source::Flag);
        layer.set("fmperf.service_account", "--flag", json!("a&b^c"));
        resolve(vec![layer]).unwrap()
    }

    #[test]
    fn placeholders_become_values_whatever_is_in_them() {
        let text = "model_name: \"REPLACE_ENV_LLMDBENCH_DEPLOY_CURRENT_MODEL\"\naccount: REPLACE_ENV_LLMDBENCH_FMPERF_SERVICE_ACCOUNT # REPLACE_ENV_LLMDBENCH_FMPERF_PVC_NAME";
        let filled = fill_in(Path::new("p"), text, &settings(), "org/m").unwrap();
        assert_eq!(filled, "model_name: \"org/m\"\naccount: a&b^c # workload-pvc");
    }

    #[test]
    fn placeholders_without_a_value_are_told_with_their_place() {
        let check = |text: &str, expected: &[&str]| {
            let error = fill_in(Path::new("p.in"), text, &settings(), "m").unwrap_err().to_string();
            for part in expected {
                assert!(error.contains(part), "{part} not in\n{error}");
            }
        };
        check(
            "a: 1\nb: REPLACE_ENV_LLMDBENCH_FMPERF_PVC_NAM\nc: REPLACE_ENV_LLMDBENCH_HF_TOKEN\n",
            &[
                "p.in:2:4:",
                "the nearest name is LLMDBENCH_FMPERF_PVC_NAME",
                "p.in:3:4:",
                "a secret",
            ],
        );
        check("x: REPLACE_ENV_LLMDBENCH_DEPLOY_ENDPOINT", &["p.in:1:4:", "has no value"]);
    }

    #[test]
    fn profiles_are_found_by_name_and_by_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine.yaml.in"), "scenarios: sharegpt\n").unwrap();
        let check = |named: &str, name: &str| {
            let found = read(named, Some(folder.path()), &settings(), "m").unwrap();
            assert_eq!(found.name, name, "{named}");
        };
        check("sanity_short-input", "sanity_short-input.yaml");
        check("sanity_short-input.yaml", "sanity_short-input.yaml");
        check("sanity_short-input.yaml.in", "sanity_short-input.yaml");
        check(&folder.path().join("mine.yaml").display().to_string(), "mine.yaml");
        check("mine.yaml.in", "mine.yaml");
        let error = read("sanity_shortinput", None, &settings(), "m").unwrap_err().to_string();
        assert!(error.contains("did you mean `sanity_short-input`?"), "{error}");
    }
}
