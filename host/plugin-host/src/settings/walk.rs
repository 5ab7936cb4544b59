//! Walks settings and schema side by side.

use std::cell::Cell;

use serde_json::Value;

/// References that lead in a circle end here.
const MAX_DEPTH: usize = 64;
/// Circles that fork end here.
const MAX_STEPS: usize = 300_000;

/// A walk along a schema document.
pub(crate) struct Walk<'a> {
    document: &'a Value,
    steps: Cell<usize>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(document: &'a Value) -> Self {
        Self { document, steps: Cell::new(0) }
    }

    /// Whether to go on, one step further.
    fn goes_on(&self, depth: usize) -> bool {
        self.steps.set(self.steps.get() + 1);
        depth <= MAX_DEPTH && self.steps.get() <= MAX_STEPS
    }

    /// Puts the default of every property that is absent, or null, in its place. Where the schema names no
    /// properties, null is a value like others: it may mean something to whom the settings are handed on.
    pub(crate) fn fill(&self, value: &mut Value) {
        self.fill_at(self.document, value, 0);
    }

    /// Calls `see` with every schema that applies to a value, its JSON pointer, and the value.
    pub(crate) fn visit(&self, value: &Value, see: &mut impl FnMut(&Value, &str, &Value)) {
        self.visit_at(self.document, "", value, see, 0);
    }

    fn fill_at(&self, schema: &Value, value: &mut Value, depth: usize) {
        if !self.goes_on(depth) {
            return;
        }
        if let (Some(object), Some(properties)) = (value.as_object_mut(), properties(schema)) {
            object.retain(|_, value| !value.is_null());
            for (name, property) in properties {
                if !object.contains_key(name)
                    && let Some(default) = self.default_of(property, depth)
                {
                    object.insert(name.clone(), default);
                }
            }
        }
        for step in self.applicable(schema, value) {
            self.fill_at(step, value, depth + 1);
        }
        for (name, child) in children(value) {
            if let Some(schema) = child_schema(schema, &name)
                && let Some(value) = child_mut(value, &child)
            {
                self.fill_at(schema, value, depth + 1);
            }
        }
    }

    /// The default may stand beside a reference or behind it.
    fn default_of(&self, property: &'a Value, depth: usize) -> Option<Value> {
        if let Some(default) = property.get("default") {
            return Some(default.clone());
        }
        let target = self.target(property)?;
        if self.goes_on(depth) { self.default_of(target, depth + 1) } else { None }
    }

    fn visit_at(
        &self,
        schema: &Value,
        pointer: &str,
        value: &Value,
        see: &mut impl FnMut(&Value, &str, &Value),
        depth: usize,
    ) {
        if !self.goes_on(depth) {
            return;
        }
        see(schema, pointer, value);
        for step in self.applicable(schema, value) {
            self.visit_at(step, pointer, value, see, depth + 1);
        }
        for (name, child) in children(value) {
            let below = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
            if let Some(schema) = child_schema(schema, &name)
                && let Some(value) = child_ref(value, &child)
            {
                self.visit_at(schema, &below, value, see, depth + 1);
            }
        }
    }

    /// Schemas that hold for the same value: references, `allOf`, and of alternatives the first that fits.
    fn applicable<'s>(&'s self, schema: &'s Value, value: &Value) -> Vec<&'s Value> {
        let mut steps: Vec<&Value> = self.target(schema).into_iter().collect();
        steps.extend(list(schema, "allOf"));
        for key in ["oneOf", "anyOf"] {
            steps.extend(list(schema, key).find(|branch| self.fits(branch, value)));
        }
        steps
    }

    fn fits(&self, branch: &Value, value: &Value) -> bool {
        let Some(mut root) = branch.as_object().cloned() else {
            return branch == &Value::Bool(true);
        };
        if let Some(defs) = self.document.get("$defs") {
            root.insert("$defs".to_owned(), defs.clone());
        }
        jsonschema::draft202012::new(&Value::Object(root))
            .is_ok_and(|validator| validator.is_valid(value))
    }

    fn target(&self, schema: &Value) -> Option<&'a Value> {
        self.document.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
    }
}

fn properties(schema: &Value) -> Option<&serde_json::Map<String, Value>> {
    schema.get("properties")?.as_object()
}

fn list<'s>(schema: &'s Value, key: &str) -> impl Iterator<Item = &'s Value> {
    schema.get(key).and_then(Value::as_array).into_iter().flatten()
}

enum Child {
    Key(String),
    Index(usize),
}

/// Name and place of everything directly inside a value.
fn children(value: &Value) -> Vec<(String, Child)> {
    match value {
        Value::Object(object) => {
            object.keys().map(|key| (key.clone(), Child::Key(key.clone()))).collect()
        }
        Value::Array(items) => {
            (0..items.len()).map(|index| (index.to_string(), Child::Index(index))).collect()
        }
        _ => Vec::new(),
    }
}

fn child_ref<'v>(value: &'v Value, child: &Child) -> Option<&'v Value> {
    match child {
        Child::Key(key) => value.get(key),
        Child::Index(index) => value.get(*index),
    }
}

fn child_mut<'v>(value: &'v mut Value, child: &Child) -> Option<&'v mut Value> {
    match child {
        Child::Key(key) => value.get_mut(key),
        Child::Index(index) => value.get_mut(*index),
    }
}

/// The schema for what a property or an item holds. Only an object has a schema of its own for a name;
/// an item's name is a number, which no property schema has by accident.
fn child_schema<'s>(schema: &'s Value, name: &str) -> Option<&'s Value> {
    properties(schema)
        .and_then(|properties| properties.get(name))
        .or_else(|| schema.get("items").filter(|_| name.bytes().all(|byte| byte.is_ascii_digit())))
        .or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
}
