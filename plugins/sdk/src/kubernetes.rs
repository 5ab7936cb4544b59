//! Kubernetes objects as backends make them: names that the API server takes, objects as YAML, the
//! user's own fields merged in, and how actions and permissions name objects.

use crate::permission::{ObjectPermission, ObjectVerbs};
use crate::types::{MetricsSource, ObjectRef, Objects, PodsPort, Reach};
use crate::{Error, Permission};
use serde_json::{Map, Value, json};

/// Longest DNS label (RFC 1123).
const LONGEST: usize = 63;

/// A name of an object made of parts: those that are not empty, joined by dashes, lower case, other
/// characters as dashes. A name that is too long is cut, and a hash keeps it unique. Give a first
/// part that begins with a letter, as a Service's name must.
#[must_use]
pub fn name(parts: &[&str]) -> String {
    let mut name = String::new();
    for part in parts {
        for c in part.chars().chain(['-']) {
            let c = if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            if c != '-' || !(name.is_empty() || name.ends_with('-')) {
                name.push(c);
            }
        }
    }
    let name = name.trim_end_matches('-');
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let hash = format!("-{:08x}", fnv(name.as_bytes()));
    let kept = name[..LONGEST - hash.len()].trim_end_matches('-');
    format!("{kept}{hash}")
}

/// FNV-1a, 32 bits: the same on every machine.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Merges `patch` into `object` as RFC 7396 says: null takes a field away.
pub fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Some(map) = object.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The affinity of pods to nodes with a label, written "KEY:VALUE". None: the text is empty.
///
/// # Errors
/// When it is no label; the setting is taken to be `/affinity`.
pub fn node_affinity(label: &str) -> Result<Option<Value>, Error> {
    if label.is_empty() {
        return Ok(None);
    }
    let (key, value) = label.split_once(':').ok_or_else(|| {
        Error::invalid_settings(format!("{label:?} is no node label"))
            .at("/affinity")
            .hint("write it as KEY:VALUE, or leave it empty for any node")
    })?;
    Ok(Some(json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}
        ]
    }}})))
}

/// The object of this kind and name in the run's namespace.
#[must_use]
pub fn object(api_version: &str, kind: &str, name: &str) -> Objects {
    Objects::One(ObjectRef {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: None,
        name: name.to_owned(),
    })
}

/// The metrics pages of the pods that serve the model, known by their labels. The host smoke-tests each of these pods as
/// well, so that backends whose endpoint leads to a gateway or router name them.
#[must_use]
pub fn server_metrics(selector: String, port: u16) -> MetricsSource {
    MetricsSource {
        component: "server".to_owned(),
        // Each pod's address takes the place of the name.
        url: format!("http://server:{port}/metrics"),
        reach: Reach::Pods(PodsPort { namespace: None, selector, port }),
    }
}

/// The permission to do this to objects of a kind in the run's namespace; the group of core objects
/// is empty.
#[must_use]
pub fn permission(group: &str, kind: &str, verbs: ObjectVerbs) -> Permission {
    Permission::Objects(ObjectPermission {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace: None,
        cluster_scoped: false,
        verbs,
    })
}

/// A model's name as part of a file's name: a folder is none.
#[must_use]
pub fn file_part(model: &str) -> String {
    model.replace('/', "___")
}

/// Whether an object is among those that the host observed (JSON texts).
#[must_use]
pub fn is_observed(observed: &[String], kind: &str, name: &str) -> bool {
    observed.iter().any(|text| {
        serde_json::from_str(text)
            .is_ok_and(|object: Value| object["kind"] == kind && object["metadata"]["name"] == name)
    })
}

/// A value as a YAML document. Texts that YAML could read as something else are quoted.
#[must_use]
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => block(value, 0, &mut text),
        scalar => {
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
    text
}

fn block(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                text.push_str(&format!("{pad}{}:", plain(key)));
                below(value, indent, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                if is_empty(item) || !(item.is_object() || item.is_array()) {
                    text.push_str(&format!("{pad}- {}\n", inline(item)));
                } else {
                    let mut inner = String::new();
                    block(item, indent + 2, &mut inner);
                    // The first line stands behind the dash.
                    text.push_str(&format!("{pad}- {}", inner.trim_start()));
                }
            }
        }
        scalar => text.push_str(&format!("{pad}{}\n", inline(scalar))),
    }
}

/// What stands behind "key:".
fn below(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(_) if !is_empty(value) => {
            text.push('\n');
            block(value, indent + 2, text);
        }
        Value::Array(_) if !is_empty(value) => {
            text.push('\n');
            block(value, indent, text);
        }
        scalar => text.push_str(&format!(" {}\n", inline(scalar))),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// A text as it stands in YAML: plain where nothing else could be meant, else as a JSON string.
fn plain(text: &str) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._/-:@".contains(c))
        && !text.ends_with(':');
    let is_reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .contains(&text.to_ascii_lowercase().as_str());
    if is_word && !is_reserved {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_whatever_they_are_made_of() {
        let check = |parts: &[&str], expected: &str| assert_eq!(name(parts), expected);
        check(
            &["vllm-standalone", "8b", "vllm", "llama-3-8b"],
            "vllm-standalone-8b-vllm-llama-3-8b",
        );
        check(&["vllm", "", "opt-125m-"], "vllm-opt-125m");
        check(&["vllm", "qwen2.5--0.5b"], "vllm-qwen2-5-0-5b");
        check(&["v", "Größe_x/"], "v-gr-e-x");
        let long = name(&["v", &"a".repeat(80)]);
        assert_eq!(long.len(), 63);
        assert_ne!(long, name(&["v", &"a".repeat(81)]));
    }

    #[test]
    fn objects_read_as_people_write_them() {
        let object = json!({
            "kind": "Pod", "metadata": {"name": "a.b", "labels": {}},
            "spec": {"containers": [{"name": "c", "args": ["--port", "8000", "yes"], "count": 1}], "x": []},
            "image": "vllm/vllm-openai:latest", "uri": "pvc://model-pvc/models/m", "on": true,
        });
        let expected = r#"kind: Pod
metadata:
  name: a.b
  labels: {}
spec:
  containers:
  - name: c
    args:
    - "--port"
    - "8000"
    - "yes"
    count: 1
  x: []
image: vllm/vllm-openai:latest
uri: pvc://model-pvc/models/m
"on": true
"#;
        assert_eq!(yaml(&object), expected);
        assert_eq!(yaml(&json!([[1, 2], {}])), "- - 1\n  - 2\n- {}\n");
    }

    #[test]
    fn observed_objects_are_known_by_kind_and_name() {
        let observed = ["no JSON", r#"{"kind": "Service", "metadata": {"name": "a"}}"#];
        let observed = observed.map(str::to_owned);
        assert!(is_observed(&observed, "Service", "a"));
        assert!(!is_observed(&observed, "Service", "b") && !is_observed(&observed, "Pod", "a"));
    }

    #[test]
    fn the_users_fields_are_merged_in() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut object, &json!({"a": {"b": null, "e": 3}, "d": [2]}));
        assert_eq!(object, json!({"a": {"c": 2, "e": 3}, "d": [2]}));
    }
}
