//! Checks the settings of a plugin against its schema: defaults, inputs, and errors that name the
//! setting and the nearest right word.

mod complaint;
mod walk;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::kind::Kind;

/// A setting that does not fit the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingError {
    /// JSON pointer to the setting: "/stages/2/rate". Empty: the settings as a whole.
    pub pointer: String,
    /// What is wrong with it: "is no setting here", "must be a number, and is a string".
    pub message: String,
    /// The nearest right word, where a word is wrong.
    pub near: Option<String>,
}

/// The schema of one kind: under `$defs` where the plugin puts it there, else the whole.
pub(crate) fn of_kind(schema: &Value, kind: Kind) -> &Value {
    schema.pointer(&format!("/$defs/{kind}")).unwrap_or(schema)
}

/// A validator for one kind.
///
/// # Errors
/// When the schema is none.
pub(crate) fn validator(schema: &Value, kind: Kind) -> Result<Validator, String> {
    build(&document(schema, kind))
}

fn build(document: &Value) -> Result<Validator, String> {
    jsonschema::draft202012::new(document).map_err(|error| error.to_string())
}

/// A schema document whose root is the kind's, and in which `#/$defs/...` still leads to the same places.
fn document(schema: &Value, kind: Kind) -> Value {
    let mut root = of_kind(schema, kind).clone();
    if let (Some(root), Some(defs)) = (root.as_object_mut(), schema.get("$defs")) {
        root.insert("$defs".to_owned(), defs.clone());
    }
    root
}

/// Settings with the defaults filled in.
pub(crate) fn check(
    schema: &Value,
    kind: Kind,
    settings: &Value,
) -> Result<Value, Vec<SettingError>> {
    let document = document(schema, kind);
    let validator = build(&document).map_err(|message| {
        // Checked when the plugin was loaded.
        vec![SettingError { pointer: String::new(), message, near: None }]
    })?;
    let mut filled = if settings.is_null() { json!({}) } else { settings.clone() };
    walk::Walk::new(&document).fill(&mut filled);
    let errors: Vec<SettingError> =
        validator.iter_errors(&filled).flat_map(|error| complaint::of(&document, &error)).collect();
    if errors.is_empty() { Ok(filled) } else { Err(errors) }
}

/// A setting that names a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSetting {
    /// JSON pointer to the setting.
    pub pointer: String,
    /// The path that the user wrote.
    pub path: String,
    /// The host fills in the values of settings before it attaches the file (`"x-template": true`).
    pub is_template: bool,
}

/// Each setting of `"format": "input"`.
pub(crate) fn inputs(schema: &Value, kind: Kind, settings: &Value) -> Vec<InputSetting> {
    let document = document(schema, kind);
    let mut found = Vec::new();
    walk::Walk::new(&document).visit(settings, &mut |schema, pointer, value| {
        if let ("input", Value::String(path)) = (schema["format"].as_str().unwrap_or(""), value) {
            let entry = InputSetting {
                pointer: pointer.to_owned(),
                path: path.clone(),
                is_template: schema["x-template"] == true,
            };
            if !found.contains(&entry) {
                found.push(entry);
            }
        }
    });
    found
}

/// Name and variable of each setting that follows one of the host's.
pub(crate) fn linked(schema: &Value, kind: Kind) -> Vec<(String, String)> {
    let properties = of_kind(schema, kind).get("properties").and_then(Value::as_object);
    let named = properties.into_iter().flatten();
    named
        .filter_map(|(name, property)| {
            Some((name.clone(), property.get("x-setting")?.as_str()?.to_owned()))
        })
        .collect()
}

/// Merges `patch` over `settings` (RFC 7396): objects key by key, null removes, anything else replaces.
#[must_use]
pub fn merge(settings: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut merged = settings.as_object().cloned().unwrap_or_else(Map::new);
    for (key, value) in patch {
        if value.is_null() {
            merged.shift_remove(key);
        } else {
            let old = merged.get(key).cloned().unwrap_or(Value::Null);
            merged.insert(key.clone(), merge(&old, value));
        }
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["data"],
            "properties": {
                "data": {"type": "string", "format": "input"},
                "requests": {"type": "integer", "minimum": 1, "default": 10, "x-aliases": ["count", "num_prompts"]},
                "pause": {"anyOf": [
                    {"type": "string", "pattern": "^[0-9]+s$", "x-form": "a duration with its unit"},
                    {"type": "object"}
                ]},
                "order": {"enum": ["file", "shuffled"], "default": "file"},
                "turns": {"type": "object", "default": {}, "additionalProperties": false,
                    "properties": {"max": {"type": "integer", "default": 3}}},
                "stages": {"type": "array", "items": {"$ref": "#/$defs/stage"}}
            },
            "$defs": {
                "stage": {"oneOf": [
                    {"type": "object", "required": ["rate"], "additionalProperties": false,
                     "properties": {"rate": {"type": "number"}, "pattern": {"type": "string", "default": "poisson"}}},
                    {"type": "object", "required": ["concurrency"], "additionalProperties": false,
                     "properties": {"concurrency": {"type": "integer"}, "trace": {"type": "string", "format": "input", "x-template": true}}}
                ]}
            }
        })
    }

    #[test]
    fn defaults_are_filled_in_at_every_depth() {
        let given = json!({"data": "a.json", "stages": [{"rate": 2}, {"concurrency": 4}]});
        let filled = check(&schema(), Kind::Workload, &given).unwrap();
        assert_eq!(
            filled,
            json!({"data": "a.json", "requests": 10, "order": "file", "turns": {"max": 3},
                   "stages": [{"rate": 2, "pattern": "poisson"}, {"concurrency": 4}]})
        );
    }

    #[test]
    fn null_is_absent_where_properties_are_named_and_a_value_where_none_are() {
        let schema = json!({"type": "object", "properties": {
            "count": {"type": "integer", "default": 3},
            "spec": {"type": "object", "default": {}},
        }});
        let given = json!({"count": null, "spec": {"limits": {"memory": null}}});
        let filled = check(&schema, Kind::Workload, &given).unwrap();
        assert_eq!(filled, json!({"count": 3, "spec": {"limits": {"memory": null}}}));
    }

    #[test]
    fn what_does_not_fit_is_named_with_the_nearest_word() {
        let check = |settings: Value, pointer: &str, message: &str, near: Option<&str>| {
            let wanted = SettingError {
                pointer: pointer.to_owned(),
                message: message.to_owned(),
                near: near.map(str::to_owned),
            };
            assert_eq!(
                check(&schema(), Kind::Workload, &settings),
                Err(vec![wanted]),
                "{settings}"
            );
        };
        check(
            json!({"data": "a", "reqests": 3}),
            "/reqests",
            "is no setting here",
            Some("requests"),
        );
        check(
            json!({"data": "a", "num_prompts": 3}),
            "/num_prompts",
            "is no setting here",
            Some("requests"),
        );
        check(json!({"data": "a", "zzz": 3}), "/zzz", "is no setting here", None);
        check(
            json!({"data": "a", "turns": {"mx": 1}}),
            "/turns/mx",
            "is no setting here",
            Some("max"),
        );
        check(json!({}), "/data", "is missing", None);
        check(Value::Null, "/data", "is missing", None);
        check(
            json!({"data": "a", "requests": "3"}),
            "/requests",
            "must be a whole number, and is a string",
            None,
        );
        check(
            json!({"data": "a", "requests": 1.5}),
            "/requests",
            "must be a whole number, and is 1.5",
            None,
        );
        check(
            json!({"data": "a", "pause": 5}),
            "/pause",
            "must be a duration with its unit, and is 5",
            None,
        );
        check(
            json!({"data": "a", "pause": "5"}),
            "/pause",
            "must be a duration with its unit, and is \"5\"",
            None,
        );
        check(
            json!({"data": "a", "requests": 0}),
            "/requests",
            "is 0, and must be at least 1",
            None,
        );
        check(
            json!({"data": "a", "order": "shufled"}),
            "/order",
            "is \"shufled\", and must be \"file\" or \"shuffled\"",
            Some("shuffled"),
        );
        check(
            json!({"data": "a", "stages": [{"rate": 1, "patern": "x"}]}),
            "/stages/0/patern",
            "is no setting here",
            Some("pattern"),
        );
        check(
            json!({"data": "a", "stages": [{"rate": "x"}]}),
            "/stages/0/rate",
            "must be a number, and is a string",
            None,
        );
        check(json!([]), "", "must be an object, and is a list", None);
    }

    #[test]
    fn inputs_are_found_wherever_they_stand() {
        let given = json!({"data": "a.json", "stages": [{"concurrency": 1, "trace": "t.csv"}]});
        let found = inputs(&schema(), Kind::Workload, &given);
        let wanted = [("/data", "a.json", false), ("/stages/0/trace", "t.csv", true)];
        let found: Vec<_> =
            found.iter().map(|i| (i.pointer.as_str(), i.path.as_str(), i.is_template)).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn settings_that_follow_one_of_the_hosts_are_named_with_its_variable() {
        let schema = json!({"$defs": {"backend": {"properties": {
            "replicas": {"type": "integer", "x-setting": "LLMDBENCH_REPLICAS"},
            "own": {"type": "integer"}
        }}}});
        let expected = [("replicas".to_owned(), "LLMDBENCH_REPLICAS".to_owned())];
        assert_eq!(linked(&schema, Kind::Backend), expected);
        assert!(linked(&schema, Kind::Harness).is_empty());
    }

    #[test]
    fn a_plugin_of_several_kinds_has_a_schema_for_each() {
        let both = json!({"$defs": {
            "harness": {"type": "object", "properties": {"a": {"$ref": "#/$defs/count"}}},
            "workload": {"type": "object", "properties": {"b": {"$ref": "#/$defs/count"}}},
            "count": {"type": "integer", "default": 7}
        }});
        assert_eq!(check(&both, Kind::Harness, &json!({})), Ok(json!({"a": 7})));
        assert_eq!(check(&both, Kind::Workload, &json!({})), Ok(json!({"b": 7})));
    }

    #[test]
    fn schemas_that_lead_in_circles_end() {
        for circle in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
            json!({"properties": {"a": {"$ref": "#", "default": {}}, "b": {"$ref": "#", "default": {}}}}),
        ] {
            assert!(check(&circle, Kind::Workload, &json!({})).is_ok(), "{circle}");
        }
    }

    #[test]
    fn a_patch_merges_key_by_key() {
        let merged = merge(
            &json!({"a": 1, "b": {"c": 2, "d": 3}}),
            &json!({"a": null, "b": {"c": 4}, "e": [5]}),
        );
        assert_eq!(merged, json!({"b": {"c": 4, "d": 3}, "e": [5]}));
    }
}
