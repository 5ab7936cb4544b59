//! `llmdbench.plugins.yaml`: what the user lets plugins do, for every run in this folder.
//!
//! ```yaml
//! plugins:
//!   my-backend:
//!     digest: sha256:…        # optional: only this build
//!     grant:
//!       process: ["ollama"]
//!       objects: [{group: apps, kind: Deployment, verbs: [apply, observe]}]
//! ```

use crate::document::{Document, escape, nearest, path};
use crate::error::{Error, Problem, Result};
use plugin_host::Grant;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The file's name, looked for in the current folder.
pub(crate) const FILE: &str = "llmdbench.plugins.yaml";

/// What the file says, by the names of plugins.
pub(crate) type Granted = BTreeMap<String, PluginGrant>;

/// What the file says of a plugin.
#[derive(Debug, Default)]
pub(crate) struct PluginGrant {
    /// SHA-256 of the only build that is meant, in hexadecimal.
    pub(crate) digest: Option<String>,
    /// What it may do.
    pub(crate) grants: Vec<Grant>,
}

/// Reads the file of the current folder. Empty: there is none.
pub(crate) fn read() -> Result<Granted> {
    let file = Path::new(FILE);
    if file.is_file() { parse(&Document::read(file)?) } else { Ok(Granted::new()) }
}

fn parse(document: &Document) -> Result<Granted> {
    let mut problems = Vec::new();
    let mut granted = Granted::new();
    let top = mapping(document, &document.value, "", &mut problems);
    known(document, top, "", &["plugins"], &mut problems);
    if let Some(plugins) = top.get("plugins") {
        for (name, value) in mapping(document, plugins, "/plugins", &mut problems) {
            let at = format!("/plugins/{}", escape(name));
            let entry = mapping(document, value, &at, &mut problems);
            known(document, entry, &at, &["digest", "grant"], &mut problems);
            let mut grant = PluginGrant {
                digest: entry
                    .get("digest")
                    .and_then(Value::as_str)
                    .map(|text| text.trim_start_matches("sha256:").to_ascii_lowercase()),
                grants: Vec::new(),
            };
            if let Some(value) = entry.get("grant") {
                let at = format!("{at}/grant");
                for (kind, items) in mapping(document, value, &at, &mut problems) {
                    let at = format!("{at}/{}", escape(kind));
                    for (i, item) in items.as_array().into_iter().flatten().enumerate() {
                        let at = format!("{at}/{i}");
                        match Grant::parse(&format!("{kind}={}", text(item))) {
                            Ok(one) => grant.grants.push(one),
                            Err(error) => {
                                problems.push(problem(document, &at, &error.to_string()));
                            }
                        }
                    }
                    if !items.is_array() {
                        problems.push(problem(document, &at, "expected a list"));
                    }
                }
            }
            granted.insert(name.clone(), grant);
        }
    }
    if problems.is_empty() { Ok(granted) } else { Err(Error::problems(problems)) }
}

/// A grant as `--grant` takes it; objects are written as mappings in the file.
fn text(item: &Value) -> String {
    let Some(object) = item.as_object() else {
        return item.as_str().map_or_else(|| item.to_string(), str::to_owned);
    };
    let field = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let verbs: Vec<&str> = object
        .get("verbs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let namespace = match field("namespace") {
        "" => String::new(),
        namespace => format!("@{namespace}"),
    };
    format!("{}/{}{namespace}:{}", field("group"), field("kind"), verbs.join(","))
}

fn mapping<'a>(
    document: &Document,
    value: &'a Value,
    at: &str,
    problems: &mut Vec<Problem>,
) -> &'a Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    match value {
        Value::Object(map) => map,
        Value::Null => &EMPTY,
        _ => {
            problems.push(problem(document, at, "expected a mapping"));
            &EMPTY
        }
    }
}

fn known(
    document: &Document,
    map: &Map<String, Value>,
    at: &str,
    keys: &[&str],
    problems: &mut Vec<Problem>,
) {
    for key in map.keys().filter(|key| !keys.contains(&key.as_str())) {
        let mut one =
            problem(document, &format!("{at}/{}", escape(key)), "this is not a key of the file");
        if let Some(near) = nearest(key, keys.iter().copied()) {
            one = one.hint(format!("the nearest name is `{near}`"));
        }
        problems.push(one);
    }
}

fn problem(document: &Document, at: &str, message: &str) -> Problem {
    Problem::new(format!("`{}`: {message}", path(at))).at(document.place(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Granted> {
        parse(&Document::parse("g.yaml", text).unwrap())
    }

    #[test]
    fn grants_are_read_by_plugin() {
        let granted = read(
            "plugins:\n  b:\n    digest: sha256:AB\n    grant:\n      process: [ollama]\n      objects: [{group: apps, kind: Deployment, verbs: [apply, observe]}]\n  c: {}\n",
        )
        .unwrap();
        assert_eq!(granted["b"].digest.as_deref(), Some("ab"));
        let texts: Vec<String> = granted["b"].grants.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["process=ollama", "objects=apps/Deployment:apply,observe"]);
        assert!(granted["c"].grants.is_empty());
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let check = |text: &str, expected: &str| {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            "plugin: {}\n",
            "g.yaml:1:1: `plugin`: this is not a key of the file\n  hint: the nearest name is `plugins`",
        );
        check(
            "plugins:\n  b: {grant: {process: ollama}}\n",
            "g.yaml:2:15: `plugins.b.grant.process`: expected a list",
        );
        check(
            "plugins:\n  b: {grant: {proces: [x]}}\n",
            "g.yaml:2:24: `plugins.b.grant.proces[0]`",
        );
        check("- a\n", "expected a mapping");
    }
}
