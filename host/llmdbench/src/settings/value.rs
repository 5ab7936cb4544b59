//! Values of settings: reading them from text, and checking them against their kind.

use super::table::{Kind, Setting};
use crate::document::nearest;
use crate::unit;
use serde_json::{Map, Value};

/// What is wrong with a value.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The JSON pointer within the value.
    pub(super) at: String,
    pub(super) message: String,
    pub(super) hints: Vec<String>,
}

impl Wrong {
    fn new(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: at.into(), message: message.into(), hints: Vec::new() }
    }
}

/// Checks a value; gives it in its final form.
pub(super) fn check(kind: Kind, value: &Value, secret: bool) -> Result<Value, Wrong> {
    let shown = if secret { "this value".to_owned() } else { format!("`{}`", plain(value)) };
    let wrong = || Wrong::new("", format!("{shown} is not {}", kind.expected()));
    match (kind, value) {
        (Kind::Text, Value::String(_)) => Ok(value.clone()),
        (Kind::Text, Value::Number(_) | Value::Bool(_)) => Ok(Value::String(plain(value))),
        (Kind::Integer, Value::Number(number)) if number.as_u64().is_some() => Ok(value.clone()),
        (Kind::Decimal, Value::String(_) | Value::Number(_)) => {
            let text = plain(value);
            match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Value::String(text)),
                _ => Err(wrong()),
            }
        }
        (Kind::Share, Value::Number(number))
            if number.as_f64().is_some_and(|f| (0.0..=1.0).contains(&f)) =>
        {
            Ok(value.clone())
        }
        (Kind::Switch, Value::Bool(_)) => Ok(value.clone()),
        (Kind::Duration, Value::String(_) | Value::Number(_)) => {
            match unit::duration(&plain(value)) {
                Ok(_) => Ok(value.clone()),
                Err(message) => Err(Wrong::new("", message)),
            }
        }
        (Kind::Choice(words), Value::String(_) | Value::Bool(_)) => {
            let text = plain(value);
            if words.contains(&text.as_str()) {
                return Ok(Value::String(text));
            }
            let near = nearest(&text, words.iter().copied())
                .map(|near| format!("; the nearest is `{near}`"))
                .unwrap_or_default();
            Err(Wrong::new("", format!("{shown} is not {}{near}", kind.expected())))
        }
        (Kind::List, Value::String(text)) => Ok(list(text)),
        (Kind::List, Value::Array(items)) => match items.iter().position(|i| !i.is_string()) {
            None => Ok(value.clone()),
            Some(i) => {
                Err(Wrong::new(format!("/{i}"), format!("`{}` is not a text", plain(&items[i]))))
            }
        },
        (Kind::Map, Value::Object(map)) => {
            let mut texts = Map::new();
            for (name, value) in map {
                match value {
                    Value::Object(_) | Value::Array(_) | Value::Null => {
                        return Err(Wrong::new(
                            format!("/{}", crate::document::escape(name)),
                            "the value is not a text",
                        ));
                    }
                    _ => texts.insert(name.clone(), Value::String(plain(value))),
                };
            }
            Ok(Value::Object(texts))
        }
        (Kind::Json | Kind::Plugin, Value::Object(_)) => Ok(value.clone()),
        (Kind::Limits, Value::Object(map)) => limits(map),
        (Kind::Limits | Kind::Map, Value::String(text)) => Err(match twice(text) {
            Some(name) => Wrong::new("", format!("`{name}` is given twice")),
            None => wrong(),
        }),
        _ => Err(wrong()),
    }
}

/// Service-level objectives: known metric names, durations as values; given in milliseconds.
fn limits(map: &Map<String, Value>) -> Result<Value, Wrong> {
    let mut checked = Map::new();
    for (name, value) in map {
        let at = format!("/{}", crate::document::escape(name));
        if !analysis::Slo::NAMES.contains(&name.as_str()) {
            let near = nearest(name, analysis::Slo::NAMES.iter().copied());
            let near = near.map(|near| format!("the nearest name is `{near}`"));
            let known = format!("objectives are {}", analysis::Slo::NAMES.join(", "));
            let hints = near.into_iter().chain([known]).collect();
            return Err(Wrong { hints, ..Wrong::new(at, "there is no objective of this name") });
        }
        let text = plain(value);
        match unit::duration(&text) {
            Ok(limit) if limit.is_zero() => {
                return Err(Wrong::new(at, "an objective is more than 0"));
            }
            Ok(_) => {}
            Err(message) => return Err(Wrong::new(at, message)),
        }
        checked.insert(name.clone(), Value::String(text));
    }
    Ok(Value::Object(checked))
}

/// Reads the text of a variable or flag. What does not fit stays a text, for `check` to refuse.
pub(super) fn from_text(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Text | Kind::Decimal | Kind::Duration | Kind::Choice(_) => {
            Value::String(text.to_owned())
        }
        Kind::Integer | Kind::Share => serde_json::from_str::<serde_json::Number>(text)
            .map_or_else(|_| Value::String(text.to_owned()), Value::Number),
        Kind::Switch => match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Value::Bool(true),
            "0" | "false" | "no" | "off" => Value::Bool(false),
            _ => Value::String(text.to_owned()),
        },
        Kind::List => list(text),
        Kind::Map | Kind::Limits if !text.trim_start().starts_with('{') => pairs(text),
        Kind::Map | Kind::Limits | Kind::Json | Kind::Plugin => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
        }
    }
}

/// The default of a setting, in its final form.
pub(super) fn default(setting: &Setting) -> Value {
    if setting.default.is_empty() {
        return Value::Null;
    }
    match setting.kind {
        Kind::List => Value::Array(Vec::new()),
        Kind::Json | Kind::Plugin | Kind::Limits | Kind::Map => Value::Object(Map::new()),
        kind => from_text(kind, setting.default),
    }
}

fn list(text: &str) -> Value {
    text.split(',').map(|item| Value::String(item.trim().to_owned())).collect()
}

/// "ttft=500ms,tpot=50ms".
fn pairs(text: &str) -> Value {
    let mut map = Map::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Value::String(text.to_owned());
        };
        map.insert(name.trim().to_owned(), Value::String(value.trim().to_owned()));
    }
    match twice(text) {
        // One of the two would be lost.
        Some(_) => Value::String(text.to_owned()),
        None => Value::Object(map),
    }
}

/// The first name that pairs of a text give twice.
fn twice(text: &str) -> Option<&str> {
    let names = text.split(',').filter_map(|pair| Some(pair.split_once('=')?.0.trim()));
    let names: Vec<&str> = names.collect();
    names.iter().enumerate().find_map(|(i, name)| names[..i].contains(name).then_some(*name))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
