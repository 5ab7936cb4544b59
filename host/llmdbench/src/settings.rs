//! Settings: where each value comes from, and which of several wins.
//!
//! A [`Layer`] is one source: the command line, the experiment file, the scenario, the
//! environment, the defaults. [`resolve`] lays them over one another and checks every value; all
//! problems are told at once, each with its place.

mod exports;
mod legacy;
mod table;
mod value;

pub(crate) use exports::exports;
pub(crate) use legacy::all as legacy;
pub(crate) use table::{Kind, SETTINGS, Setting};

use crate::document::{Document, escape, nearest, path};
use crate::error::{Error, Problem, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Where a value comes from, strongest first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// An option of the command line.
    Flag,
    /// A key of the experiment file.
    Experiment,
    /// A key of the scenario.
    Scenario,
    /// An environment variable.
    Environment,
    /// What the stack was stood up with into which load is driven.
    Stack,
    /// The table of settings.
    Default,
}

/// The values of one source, as a tree.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    source: Source,
    value: Value,
    places: Places,
}

#[derive(Debug, Clone)]
enum Places {
    File(Box<Document>),
    /// JSON pointer to the name of the flag or variable.
    Names(BTreeMap<String, String>),
}

impl Layer {
    /// The layer of a file.
    pub(crate) fn file(source: Source, document: Document) -> Self {
        Self { source, value: document.value.clone(), places: Places::File(Box::new(document)) }
    }

    /// A layer that is filled one value after the other.
    pub(crate) fn named(source: Source) -> Self {
        Self { source, value: Value::Object(Map::new()), places: Places::Names(BTreeMap::new()) }
    }

    /// Sets a value; `name` is the flag or variable that gave it.
    pub(crate) fn set(&mut self, dotted: &str, name: &str, value: Value) {
        let Places::Names(names) = &mut self.places else { return };
        let pointer = pointer(dotted);
        names.insert(pointer, name.to_owned());
        let mut at = &mut self.value;
        for part in dotted.split('.') {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = at
                .as_object_mut()
                .expect("made an object in the line before")
                .entry(part)
                .or_insert(Value::Null);
        }
        *at = value;
    }

    /// Sets what a variable stands for; `place` says where it was set. An unknown name and an old
    /// one give a warning.
    fn set_variable(
        &mut self,
        variable: &str,
        text: &str,
        place: &str,
        warnings: &mut Vec<String>,
    ) {
        let current = SETTINGS.iter().find(|setting| setting.variable == variable);
        let found = match current {
            Some(setting) => Some(setting),
            None => match legacy::find(variable) {
                Some((setting, notice)) => {
                    warnings.push(if place == variable {
                        notice
                    } else {
                        format!("{place}: {notice}")
                    });
                    setting
                }
                None => {
                    let old: Vec<String> = legacy::all().map(|(name, _)| name).collect();
                    let names = SETTINGS.iter().map(|setting| setting.variable);
                    let near =
                        nearest_variable(variable, names.chain(old.iter().map(String::as_str)))
                            .map(|near| format!("; the nearest name is {near}"))
                            .unwrap_or_default();
                    let what = if place == variable {
                        format!("the environment variable {variable}")
                    } else {
                        format!("{place}: {variable}")
                    };
                    warnings.push(format!("{what} is not known and does nothing{near}"));
                    None
                }
            },
        };
        let Some(setting) = found else { return };
        // The name of today wins over an old one, in whatever order they come.
        let is_set = self.value.pointer(&pointer(setting.path)).is_some();
        if current.is_some() || !is_set {
            self.set(setting.path, place, value::from_text(setting.kind, text));
        }
    }

    /// The same with only what lies at or below these dotted paths.
    pub(crate) fn only(mut self, paths: &[&str]) -> Self {
        let mut kept = Value::Object(Map::new());
        for path in paths {
            if let Some(value) = self.value.pointer(&pointer(path)) {
                let mut at = &mut kept;
                for part in path.split('.') {
                    at = &mut at[part];
                }
                *at = value.clone();
            }
        }
        self.value = kept;
        self
    }

    /// Takes away what it says at a JSON pointer.
    pub(crate) fn remove(&mut self, pointer: &str) {
        let Some((outer, key)) = pointer.rsplit_once('/') else { return };
        if let Some(map) = self.value.pointer_mut(outer).and_then(Value::as_object_mut) {
            map.remove(key);
        }
    }

    /// What it says at a JSON pointer.
    pub(crate) fn get(&self, pointer: &str) -> Option<&Value> {
        self.value.pointer(pointer)
    }

    /// What was set by name: the JSON pointer, and the flag or variable that gave it.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = match &self.places {
            Places::Names(names) => Some(names),
            Places::File(_) => None,
        };
        names.into_iter().flatten().map(|(pointer, name)| (pointer.as_str(), name.as_str()))
    }

    /// The folder that relative paths in it start from. None: the current one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.places {
            Places::File(document) => document.folder.as_deref(),
            Places::Names(_) => None,
        }
    }

    /// "FILE:LINE:COLUMN", or the name of the flag or variable.
    pub(crate) fn place(&self, pointer: &str) -> String {
        match &self.places {
            Places::File(document) => document.place(pointer),
            Places::Names(names) => {
                let mut at = pointer;
                loop {
                    if let Some(name) = names.get(at) {
                        return name.clone();
                    }
                    match at.rfind('/') {
                        Some(end) => at = &at[..end],
                        None => return path(pointer),
                    }
                }
            }
        }
    }
}

/// All settings with their values and sources.
#[derive(Debug)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, (Value, Source)>,
    layers: Vec<Layer>,
}

impl Settings {
    /// The value of a setting. Null: it has none.
    ///
    /// # Panics
    /// When the table has no such path: a fault of the caller.
    pub(crate) fn get(&self, path: &str) -> &Value {
        &self.values.get(path).unwrap_or_else(|| panic!("no setting `{path}`")).0
    }

    /// The text of a setting.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.get(path).as_str().filter(|text| !text.is_empty())
    }

    /// Where the value of a setting comes from.
    pub(crate) fn source(&self, path: &str) -> Source {
        self.values.get(path).map_or(Source::Default, |(_, source)| *source)
    }

    /// Whether the user set it, or anything within it.
    pub(crate) fn is_set(&self, path: &str) -> bool {
        self.source(path) != Source::Default
    }

    /// Where a part of a value comes from. None: nowhere.
    pub(crate) fn source_of(&self, pointer: &str) -> Option<Source> {
        self.layer_of(pointer).map(|layer| layer.source)
    }

    /// Where a value, or a part of it, was written: "FILE:LINE:COLUMN", a flag, a variable.
    pub(crate) fn place(&self, pointer: &str) -> Option<String> {
        self.layer_of(pointer).map(|layer| layer.place(pointer))
    }

    /// The folder that a relative path in a value starts from: that of the file that holds it.
    /// None: the current one.
    pub(crate) fn folder(&self, pointer: &str) -> Option<&Path> {
        self.layer_of(pointer)?.folder()
    }

    /// The strongest layer that has the value, or a part of it.
    fn layer_of(&self, pointer: &str) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.value.pointer(pointer).is_some())
    }

    /// Settings as they are shown: in the table's order, secrets hidden.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&'static Setting, Value, Source)> + '_ {
        SETTINGS.iter().map(|setting| {
            let (value, source) = &self.values[setting.path];
            let value = if setting.secret && !value.is_null() {
                Value::String("(hidden)".into())
            } else {
                value.clone()
            };
            (setting, value, *source)
        })
    }
}

/// Lays the layers over one another, strongest first. Unknown keys and values of the wrong type
/// are errors; all of them are told.
pub(crate) fn resolve(
    layers: Vec<Layer>,
) -> std::result::Result<Settings, (Settings, Vec<Problem>)> {
    let mut problems = Vec::new();
    for layer in &layers {
        if matches!(layer.places, Places::File(_)) {
            find_unknown(layer, &mut problems);
        }
    }
    let mut values = BTreeMap::new();
    for setting in SETTINGS {
        let pointer = pointer(setting.path);
        let mut found: Option<(Value, Source)> = None;
        // Settings of a plugin are laid over one another; null takes away what a weaker layer has.
        let mut weaker = Vec::new();
        for layer in &layers {
            let Some(value) = layer.value.pointer(&pointer).filter(|v| !v.is_null()) else {
                continue;
            };
            let checked = value::check(setting.kind, value, setting.secret);
            match checked {
                Ok(value) => match &mut found {
                    None => found = Some((value, layer.source)),
                    Some(_) if setting.kind == Kind::Plugin => weaker.push(value),
                    Some(_) => {}
                },
                Err(wrong) => {
                    let at = format!("{pointer}{}", wrong.at);
                    let problem = Problem::new(format!("`{}`: {}", path(&at), wrong.message));
                    let problem = problem.at(layer.place(&at));
                    problems.push(wrong.hints.into_iter().fold(problem, Problem::hint));
                }
            }
        }
        if let (Some((strongest, _)), Kind::Plugin) = (&mut found, setting.kind) {
            for weaker in weaker {
                *strongest = laid_over(weaker, strongest.take());
            }
            if let Some(settings) = strongest.as_object_mut() {
                settings.retain(|_, value| !value.is_null());
            }
        }
        let found = found.unwrap_or_else(|| (value::default(setting), Source::Default));
        values.insert(setting.path, found);
    }
    let settings = Settings { values, layers };
    if problems.is_empty() { Ok(settings) } else { Err((settings, problems)) }
}

/// Objects key by key; anything else of the stronger one replaces what the weaker one has. Null stays:
/// within a setting that is merged into something else, it takes away what is there.
fn laid_over(weaker: Value, stronger: Value) -> Value {
    match (weaker, stronger) {
        (Value::Object(mut whole), Value::Object(stronger)) => {
            for (key, value) in stronger {
                let old = whole.get_mut(&key).map(Value::take).unwrap_or_default();
                whole.insert(key, laid_over(old, value));
            }
            Value::Object(whole)
        }
        (_, stronger) => stronger,
    }
}

/// The process's environment, without names that are no text.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The layer of the process's environment. Unknown `LLMDBENCH_*` names and old ones give a warning
/// each.
pub(crate) fn environment(
    variables: impl Iterator<Item = (String, String)>,
    warnings: &mut Vec<String>,
) -> Layer {
    let mut layer = Layer::named(Source::Environment);
    for (name, text) in variables {
        if name.starts_with("LLMDBENCH_") && !text.is_empty() {
            layer.set_variable(&name, &text, &name, warnings);
        }
    }
    layer
}

/// The variable whose name is most like this one, what all begin with left out.
pub(crate) fn nearest_variable<'a>(
    name: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    const PREFIX: &str = "LLMDBENCH_";
    let own = name.strip_prefix(PREFIX).unwrap_or(name);
    let names = names.into_iter().map(|name| name.strip_prefix(PREFIX).unwrap_or(name));
    nearest(own, names).map(|near| format!("{PREFIX}{near}"))
}

/// A value from the text of a flag, by the setting's kind. What does not fit stays a text, and is
/// refused with its place when the layers are resolved.
pub(crate) fn from_text(path: &str, text: &str) -> Value {
    let kind = SETTINGS.iter().find(|s| s.path == path).map_or(Kind::Text, |s| s.kind);
    value::from_text(kind, text)
}

/// The JSON pointer of a dotted path.
pub(crate) fn pointer(dotted: &str) -> String {
    dotted.split('.').map(|part| format!("/{}", escape(part))).collect()
}

/// The layer of a file, unless the file belongs to another program: then nothing else about it is
/// worth saying.
pub(crate) fn file(source: Source, document: Document) -> Result<Layer> {
    let layer = Layer::file(source, document);
    let foreign = |message: String| {
        Error::problems(vec![Problem::new(message).at(layer.place("")).hint(
            "an experiment file has keys such as deploy, harness, workload, analyze; see examples/experiments",
        )])
    };
    let first = |path: &'static str| path.split('.').next().unwrap_or(path);
    match &layer.value {
        Value::Null => Ok(layer),
        Value::Object(top) if top.is_empty() => Ok(layer),
        Value::Object(top)
            if !top.keys().any(|key| SETTINGS.iter().any(|s| first(s.path) == key)) =>
        {
            let keys: Vec<&str> = top.keys().take(5).map(String::as_str).collect();
            Err(foreign(format!(
                "this is no experiment file: it has none of its keys, but {}",
                keys.join(", ")
            )))
        }
        Value::Object(_) => Ok(layer),
        _ => Err(foreign("this is no experiment file: it does not hold a mapping".into())),
    }
}

fn find_unknown(layer: &Layer, problems: &mut Vec<Problem>) {
    if let Some(top) = layer.value.as_object() {
        walk(layer, top, "", "", problems);
    }
}

fn walk(
    layer: &Layer,
    map: &Map<String, Value>,
    dotted: &str,
    at: &str,
    problems: &mut Vec<Problem>,
) {
    for (key, value) in map {
        let here = if dotted.is_empty() { key.clone() } else { format!("{dotted}.{key}") };
        let here_pointer = format!("{at}/{}", escape(key));
        if key.contains('.') {
            let nested = key.replace('.', ": {") + ": ..." + &"}".repeat(key.matches('.').count());
            problems.push(
                Problem::new(format!("`{here}` is not a key of an experiment"))
                    .at(layer.place(&here_pointer))
                    .hint(format!("keys lie within each other: `{nested}`")),
            );
            continue;
        }
        if SETTINGS.iter().any(|setting| setting.path == here) {
            continue;
        }
        let within = format!("{here}.");
        if SETTINGS.iter().any(|setting| setting.path.starts_with(&within)) {
            match value {
                Value::Object(inner) => walk(layer, inner, &here, &here_pointer, problems),
                Value::Null => {}
                _ => problems.push(
                    Problem::new(format!("`{here}`: expected a mapping"))
                        .at(layer.place(&here_pointer)),
                ),
            }
            continue;
        }
        let prefix = if dotted.is_empty() { String::new() } else { format!("{dotted}.") };
        let siblings = SETTINGS
            .iter()
            .filter_map(|setting| setting.path.strip_prefix(&prefix))
            .map(|rest| rest.split('.').next().unwrap_or(rest));
        let mut problem = Problem::new(format!("`{here}` is not a key of an experiment"))
            .at(layer.place(&here_pointer));
        if let Some(near) = nearest(key, siblings) {
            problem = problem.hint(format!("the nearest name is `{near}`"));
        }
        problems.push(problem);
    }
}

/// Turns the outcome of [`resolve`] into one error.
pub(crate) fn all_or_error(
    outcome: std::result::Result<Settings, (Settings, Vec<Problem>)>,
) -> Result<Settings> {
    outcome.map_err(|(_, problems)| Error::problems(problems))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(text: &str) -> Layer {
        Layer::file(Source::Experiment, Document::parse("t.yaml", text).unwrap())
    }

    #[test]
    fn the_strongest_source_wins_and_plugin_settings_merge() {
        let mut flags = Layer::named(Source::Flag);
        flags.set("seed", "--seed", json!(9));
        flags.set("workload.settings.input_tokens", "--input-tokens", json!(5));
        let mut warnings = Vec::new();
        let variables = [
            ("LLMDBENCH_SEED", "3"),
            ("LLMDBENCH_TARGET_API", "completions"),
            ("LLMDBENCH_SED", "3"),
        ];
        let environment = environment(
            variables.iter().map(|(k, v)| (k.to_string(), v.to_string())),
            &mut warnings,
        );
        let experiment = file("seed: 4\nworkload: {settings: {input_tokens: 1, output_tokens: 2}}");
        let settings = all_or_error(resolve(vec![flags, experiment, environment])).unwrap();
        assert_eq!(settings.get("seed"), &json!(9));
        assert_eq!(settings.source("seed"), Source::Flag);
        assert_eq!(settings.get("target.api"), &json!("completions"));
        assert_eq!(
            settings.get("workload.settings"),
            &json!({"input_tokens": 5, "output_tokens": 2})
        );
        assert_eq!(settings.get("target.timeout"), &json!("600s"));
        assert_eq!(settings.place("/workload/settings/output_tokens").unwrap(), "t.yaml:2:40");
        assert_eq!(settings.place("/workload/settings/input_tokens").unwrap(), "--input-tokens");
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("LLMDBENCH_SEED"), "{warnings:?}");
    }

    #[test]
    fn null_takes_away_what_a_weaker_layer_sets_and_is_no_value() {
        let mut flag = Layer::named(Source::Flag);
        flag.set("harness.settings.warmup", "--warmup", Value::Null);
        let check = |layers: Vec<Layer>, expected: Value| {
            let settings = all_or_error(resolve(layers)).unwrap();
            assert_eq!(settings.get("harness.settings"), &expected);
        };
        let with = || file("harness: {settings: {warmup: 10s, stages: []}}");
        check(vec![flag.clone()], json!({}));
        check(vec![flag.clone(), with()], json!({"stages": []}));
        check(vec![flag, file("name: t"), with(), with()], json!({"stages": []}));
    }

    #[test]
    fn null_within_a_setting_reaches_the_plugin() {
        let over = file("deploy: {settings: {container_spec: {resources: {limits: {a: null}}}}}");
        let under = file(
            "deploy: {settings: {container_spec: {resources: {limits: {a: 1, b: 2}}, tty: true}}}",
        );
        let settings = all_or_error(resolve(vec![over, under])).unwrap();
        assert_eq!(
            settings.get("deploy.settings"),
            &json!({"container_spec": {"resources": {"limits": {"a": null, "b": 2}}, "tty": true}})
        );
    }

    #[test]
    fn everything_wrong_with_a_file_is_told_at_once() {
        let check = |text: &str, expected: &[&str]| {
            let error = super::file(Source::Experiment, Document::parse("t.yaml", text).unwrap())
                .and_then(|layer| all_or_error(resolve(vec![layer])))
                .unwrap_err()
                .to_string();
            assert_eq!(error.matches("error: ").count(), expected.len(), "{error}");
            for part in expected {
                assert!(error.contains(part), "{part} not in\n{error}");
            }
        };
        check(
            "sed: 1\nanalyze: {slo: {ttft: 500ms, tpto: 50ms}}\ntarget: {timeout: 20, api: chatt}\n",
            &[
                "t.yaml:1:1: `sed` is not a key",
                "t.yaml:2:30: `analyze.slo.tpto`",
                "t.yaml:3:10: `target.timeout`: `20` has no unit",
                "t.yaml:3:23: `target.api`",
            ],
        );
        check("steps: []\ntimeout: 10s\nimages: []\n", &["none of its keys, but steps, timeout"]);
        check("- a\n", &["does not hold a mapping"]);
        check("deploy: local\nseed: -1\n", &["`deploy`: expected a mapping", "`seed`"]);
        check("load: {max_error_rate: 5}\n", &["from 0 to 1"]);
        check(
            "seed: 1\ndeploy.method: local\n",
            &["`deploy.method` is not a key of an experiment"],
        );
    }
}
