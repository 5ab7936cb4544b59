//! A YAML or JSON file as a value, with the line and column of every key and value.

use crate::error::{Error, Problem, Result};
use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A file's contents and where each part of it stands.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// The file's name as the user knows it.
    pub(crate) name: String,
    /// The folder that relative paths in it start from. None: it is built in.
    pub(crate) folder: Option<PathBuf>,
    /// What is in it.
    pub(crate) value: Value,
    marks: HashMap<String, Mark>,
}

/// Line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    line: usize,
    column: usize,
}

impl Document {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::usage(format!("cannot read `{name}`")).because(error))?;
        let mut document = Self::parse(&name, &text)?;
        // An empty path joins as the current folder does.
        document.folder = path.parent().map(Path::to_owned);
        Ok(document)
    }

    /// Parses a text.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let nodes = MarkedYaml::load_from_str(text).map_err(|error| {
            let place = format!("{name}:{}:{}", error.marker().line(), error.marker().col() + 1);
            Error::problems(vec![
                Problem::new(format!("this is not YAML: {}", error.info())).at(place),
            ])
        })?;
        let mut document =
            Self { name: name.to_owned(), folder: None, value: Value::Null, marks: HashMap::new() };
        match nodes.as_slice() {
            [] => {}
            [node] => document.value = document.convert(node, "", None)?,
            [_, second, ..] => {
                return Err(document.refuse(second, "the file holds several YAML documents"));
            }
        }
        Ok(document)
    }

    /// The values of a text that may hold several documents; empty ones are left out.
    pub(crate) fn values(name: &str, text: &str) -> Result<Vec<Value>> {
        let nodes = MarkedYaml::load_from_str(text).map_err(|error| {
            Error::usage(format!("`{name}` is no YAML")).cause(error.to_string())
        })?;
        let mut document =
            Self { name: name.to_owned(), folder: None, value: Value::Null, marks: HashMap::new() };
        let values: Result<Vec<Value>> =
            nodes.iter().map(|node| document.convert(node, "", None)).collect();
        Ok(values?.into_iter().filter(|value| !value.is_null()).collect())
    }

    /// "FILE:LINE:COLUMN" of the value at a JSON pointer, or of the nearest thing around it.
    pub(crate) fn place(&self, pointer: &str) -> String {
        let mut pointer = pointer;
        loop {
            if let Some(mark) = self.marks.get(pointer) {
                return format!("{}:{}:{}", self.name, mark.line, mark.column);
            }
            match pointer.rfind('/') {
                Some(end) => pointer = &pointer[..end],
                None => return self.name.clone(),
            }
        }
    }

    fn convert(
        &mut self,
        node: &MarkedYaml<'_>,
        pointer: &str,
        key: Option<&MarkedYaml<'_>>,
    ) -> Result<Value> {
        let start = key.unwrap_or(node).span.start;
        self.marks.insert(pointer.to_owned(), Mark { line: start.line(), column: start.col() + 1 });
        Ok(match &node.data {
            YamlData::Value(scalar) => self.scalar(node, scalar)?,
            YamlData::Sequence(items) => {
                let mut values = Vec::with_capacity(items.len());
                for (i, item) in items.iter().enumerate() {
                    values.push(self.convert(item, &format!("{pointer}/{i}"), None)?);
                }
                Value::Array(values)
            }
            YamlData::Mapping(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let name = match &key.data {
                        YamlData::Value(Scalar::String(text)) => text.to_string(),
                        YamlData::Value(scalar) => match self.scalar(key, scalar)? {
                            Value::String(text) => text,
                            other => other.to_string(),
                        },
                        _ => return Err(self.refuse(key, "a key must be a plain text")),
                    };
                    let value =
                        self.convert(value, &format!("{pointer}/{}", escape(&name)), Some(key))?;
                    map.insert(name, value);
                }
                Value::Object(map)
            }
            YamlData::Tagged(tag, _) => {
                return Err(self.refuse(node, &format!("the tag `{tag}` has no meaning here")));
            }
            YamlData::Representation(..) | YamlData::Alias(_) | YamlData::BadValue => {
                return Err(self.refuse(node, "this value cannot be understood"));
            }
        })
    }

    fn scalar(&self, node: &MarkedYaml<'_>, scalar: &Scalar<'_>) -> Result<Value> {
        Ok(match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(b) => Value::Bool(*b),
            Scalar::Integer(n) => Value::Number((*n).into()),
            Scalar::FloatingPoint(f) => Number::from_f64(f.into_inner())
                .map(Value::Number)
                .ok_or_else(|| self.refuse(node, "numbers must be finite"))?,
            Scalar::String(text) => Value::String(text.to_string()),
        })
    }

    fn refuse(&self, node: &MarkedYaml<'_>, message: &str) -> Error {
        let start = node.span.start;
        let place = format!("{}:{}:{}", self.name, start.line(), start.col() + 1);
        Error::problems(vec![Problem::new(message).at(place)])
    }
}

/// A key as part of a JSON pointer (RFC 6901).
pub(crate) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A JSON pointer as people write paths: `/harness/stages/0/rate` is `harness.stages[0].rate`.
pub(crate) fn path(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.parse::<usize>().is_ok() {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&part);
        }
    }
    path
}

/// The one of `names` that is most like `name`, if any is like it at all.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().max(name.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_value_has_its_line_and_column() {
        let document =
            Document::parse("t.yaml", "a: 1\nb:\n  - {x: 20s}\n  - y: [1, 2.5]\n").unwrap();
        let check = |pointer: &str, place: &str| assert_eq!(document.place(pointer), place);
        check("/a", "t.yaml:1:1");
        check("/b/0/x", "t.yaml:3:6");
        check("/b/1/y/1", "t.yaml:4:12");
        check("/b/1/y/1/no/such", "t.yaml:4:12");
        assert_eq!(
            document.value,
            serde_json::json!({"a": 1, "b": [{"x": "20s"}, {"y": [1, 2.5]}]})
        );
    }

    #[test]
    fn what_is_not_yaml_is_refused_with_its_place() {
        let check = |text: &str, expected: &str| {
            let error = Document::parse("t.yaml", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("a: [1\nb: 2\n", "t.yaml:2:");
        check("a: 1\na: 2\n", "duplicated key");
        check("a: 1\n---\nb: 2\n", "several YAML documents");
        check("a: .nan\n", "t.yaml:1:4: numbers must be finite");
    }

    #[test]
    fn pointers_read_as_paths() {
        assert_eq!(path("/harness/settings/stages/0/rate"), "harness.settings.stages[0].rate");
        assert_eq!(path("/env/a~1b"), "env.a/b");
    }

    #[test]
    fn the_nearest_name_must_be_near() {
        assert_eq!(nearest("sed", ["seed", "name"]), Some("seed"));
        assert_eq!(nearest("input_tokns", ["input_tokens", "output_tokens"]), Some("input_tokens"));
        assert_eq!(nearest("zebra", ["seed", "name"]), None);
    }
}
