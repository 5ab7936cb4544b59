//! Words for a setting that does not fit.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use serde_json::Value;

use super::SettingError;

/// How alike two words must be, 0 to 1, to suggest one for the other.
const ALIKE: f64 = 0.8;

/// What the validator's error means for the person who wrote the settings: one entry for each setting.
pub(crate) fn of(document: &Value, error: &ValidationError<'_>) -> Vec<SettingError> {
    let at = error.instance_path().as_str();
    let one = |message: String| vec![SettingError { pointer: at.to_owned(), message, near: None }];
    let value = error.instance();
    match error.kind() {
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let schema = parent(document, error.schema_path().as_str());
            unexpected.iter().map(|name| unknown(document, schema, at, name)).collect()
        }
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            vec![SettingError {
                pointer: below(at, name),
                message: "is missing".to_owned(),
                near: None,
            }]
        }
        Kind::Enum { options } => {
            let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
            let words = options.iter().filter_map(Value::as_str);
            let near = value.as_str().and_then(|wrong| nearest(wrong, words));
            let texts: Vec<String> = options.iter().map(Value::to_string).collect();
            let message = format!("is {value}, and must be {}", or(&texts));
            vec![SettingError { pointer: at.to_owned(), message, near }]
        }
        Kind::Constant { expected_value } => {
            one(format!("is {value}, and must be {expected_value}"))
        }
        Kind::Type { kind } => {
            let form = form(document, error).map_or_else(|| wanted(kind), str::to_owned);
            one(format!("must be {form}, and is {}", name_of(value)))
        }
        Kind::Minimum { limit } => one(format!("is {value}, and must be at least {limit}")),
        Kind::Maximum { limit } => one(format!("is {value}, and must be at most {limit}")),
        Kind::ExclusiveMinimum { limit } => {
            one(format!("is {value}, and must be more than {limit}"))
        }
        Kind::ExclusiveMaximum { limit } => {
            one(format!("is {value}, and must be less than {limit}"))
        }
        Kind::MinItems { limit } => one(format!("must have at least {limit} entries")),
        Kind::MaxItems { limit } => one(format!("must have at most {limit} entries")),
        Kind::MinLength { limit } => one(format!("must be at least {limit} characters long")),
        Kind::MaxLength { limit } => one(format!("must be at most {limit} characters long")),
        Kind::Pattern { pattern } => match form(document, error) {
            Some(form) => one(format!("must be {form}, and is {value}")),
            None => one(format!("is {value}, which does not match {pattern}")),
        },
        Kind::UniqueItems => one("has the same entry twice".to_owned()),
        Kind::OneOfNotValid { context } | Kind::AnyOf { context } => closest(at, context)
            .map_or_else(
                || one(error.to_string()),
                |errors| errors.iter().flat_map(|error| of(document, error)).collect(),
            ),
        Kind::OneOfMultipleValid { .. } => {
            one("is ambiguous: several alternatives are set".to_owned())
        }
        _ => one(error.to_string()),
    }
}

/// What the schema calls its pattern for people: `"x-form": "a duration with its unit"`.
fn form<'s>(document: &'s Value, error: &ValidationError<'_>) -> Option<&'s str> {
    parent(document, error.schema_path().as_str())?.get("x-form")?.as_str()
}

/// Of several alternatives the one that was most likely meant: the one that the value got furthest into,
/// and of those the one with the fewest complaints.
fn closest<'e>(
    at: &str,
    context: &'e [Vec<ValidationError<'static>>],
) -> Option<&'e [ValidationError<'static>]> {
    context
        .iter()
        .filter(|errors| !errors.is_empty())
        .min_by_key(|errors| {
            let is_other = errors.iter().any(|error| is_other_alternative(at, error));
            let depth = errors
                .iter()
                .map(|error| error.instance_path().segments().count())
                .max()
                .unwrap_or(0);
            (is_other, std::cmp::Reverse(depth), errors.len())
        })
        .map(Vec::as_slice)
}

/// A wrong type of the whole, a wrong mark or a missing key says that another alternative was meant; a
/// wrong word or number inside does not.
fn is_other_alternative(at: &str, error: &ValidationError<'_>) -> bool {
    match error.kind() {
        Kind::Type { .. } => error.instance_path().as_str() == at,
        Kind::Constant { .. } | Kind::Required { .. } | Kind::Not { .. } => true,
        _ => false,
    }
}

fn unknown(document: &Value, schema: Option<&Value>, at: &str, name: &str) -> SettingError {
    let mut known = Vec::new();
    if let Some(schema) = schema {
        names(document, schema, &mut known, 0);
    }
    let alias =
        known.iter().find(|(_, aliases)| aliases.contains(&name)).map(|(name, _)| name.clone());
    let near = alias.or_else(|| nearest(name, known.iter().map(|(name, _)| name.as_str())));
    SettingError { pointer: below(at, name), message: "is no setting here".to_owned(), near }
}

/// Names of the properties of a schema with their other names, which only suggest.
fn names<'s>(
    document: &'s Value,
    schema: &'s Value,
    known: &mut Vec<(String, Vec<&'s str>)>,
    depth: usize,
) {
    if depth > 8 {
        return;
    }
    for (name, property) in
        schema.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        let aliases = property.get("x-aliases").and_then(Value::as_array).into_iter().flatten();
        known.push((name.clone(), aliases.filter_map(Value::as_str).collect()));
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        for part in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            names(document, part, known, depth + 1);
        }
    }
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
    if let Some(target) = target.and_then(|path| document.pointer(path)) {
        names(document, target, known, depth + 1);
    }
}

/// The word that was most likely meant: one that looks alike, or one slip of the finger away.
fn nearest<'w>(wrong: &str, words: impl Iterator<Item = &'w str>) -> Option<String> {
    let plain = |word: &str| word.to_lowercase().replace('-', "_");
    let wrong = plain(wrong);
    let alikeness = |word: &'w str| {
        let right = plain(word);
        let is_slip = wrong.len() > 1 && strsim::damerau_levenshtein(&wrong, &right) == 1;
        let alike = strsim::jaro_winkler(&wrong, &right);
        (if is_slip { alike.max(ALIKE) } else { alike }, word)
    };
    words
        .map(alikeness)
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, word)| word.to_owned())
}

/// The schema that holds the keyword at this place.
fn parent<'s>(document: &'s Value, keyword: &str) -> Option<&'s Value> {
    document.pointer(keyword.rsplit_once('/')?.0)
}

fn below(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn wanted(kind: &TypeKind) -> String {
    let names: Vec<String> = match kind {
        TypeKind::Single(one) => vec![type_name(&one.to_string()).to_owned()],
        TypeKind::Multiple(set) => {
            set.iter().map(|one| type_name(&one.to_string()).to_owned()).collect()
        }
    };
    or(&names)
}

fn type_name(name: &str) -> &str {
    match name {
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a string",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "an object",
        other => other,
    }
}

fn name_of(value: &Value) -> String {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(number) => return number.to_string(),
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    name.to_owned()
}

fn or(words: &[String]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
