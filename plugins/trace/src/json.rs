//! Rows of Mooncake traces and of traces of messages: a JSON object in each line.

use crate::rows::{Asked, Fields};
use crate::settings::Format;
use llmdbench_plugin::requests::{Message, Part};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Characters of a token where the trace does not say how many there are: about right for English.
const CHARACTERS: u64 = 4;

/// A row with lengths.
#[derive(Debug, Deserialize)]
struct Lengths<'a> {
    #[serde(borrow)]
    timestamp: &'a RawValue,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Option<Vec<u64>>,
}

/// A row with what was asked.
#[derive(Debug, Deserialize)]
struct Conversation<'a> {
    #[serde(borrow)]
    timestamp: &'a RawValue,
    messages: Option<Vec<Spoken>>,
    #[serde(alias = "text_input")]
    prompt: Option<String>,
    input_length: Option<u32>,
    #[serde(alias = "max_completion_tokens", alias = "output_length")]
    max_tokens: Option<u32>,
}

/// A message as APIs take it.
#[derive(Debug, Deserialize)]
struct Spoken {
    role: String,
    content: Option<Content>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Piece>),
}

#[derive(Debug, Deserialize)]
struct Piece {
    r#type: String,
    text: Option<String>,
}

/// The format of a file with this first line. None: no object with a prompt.
pub(crate) fn format(line: &str) -> Option<Format> {
    let row: Map<String, Value> = serde_json::from_str(line).ok()?;
    let has = |name| row.contains_key(name);
    if has("messages") || has("prompt") || has("text_input") {
        return Some(Format::Messages);
    }
    has("input_length").then_some(Format::Mooncake)
}

/// What a row with lengths says. `block` is the number of tokens that a hash id stands for.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn mooncake(line: &str, block: u32) -> Result<Fields<'_>, String> {
    let row: Lengths<'_> = serde_json::from_str(line).map_err(problem)?;
    let asked = match row.hash_ids {
        Some(ids) if !ids.is_empty() => {
            check_blocks(ids.len(), row.input_length, block)?;
            Asked::Blocks(ids)
        }
        _ => Asked::Length,
    };
    Ok(Fields {
        time: timestamp(row.timestamp),
        input: row.input_length,
        output: Some(row.output_length),
        asked,
    })
}

/// What a row with messages or a prompt says.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn message(line: &str) -> Result<Fields<'_>, String> {
    let row: Conversation<'_> = serde_json::from_str(line).map_err(problem)?;
    let (asked, characters) = match (row.messages, row.prompt) {
        (Some(_), Some(_)) => return Err("there are both `messages` and `prompt`".to_owned()),
        (None, None) => return Err("there is neither `messages` nor `prompt`".to_owned()),
        (None, Some(prompt)) => {
            let characters = prompt.chars().count();
            (Asked::Text(prompt), characters)
        }
        (Some(messages), None) if messages.is_empty() => {
            return Err("there is no message in `messages`".to_owned());
        }
        (Some(messages), None) => {
            let mut characters = 0;
            let mut asked = Vec::with_capacity(messages.len());
            for message in messages {
                let text = text(message.content)?;
                characters += text.chars().count();
                asked.push(Message {
                    role: message.role,
                    parts: vec![Part::Text(text)],
                    extra: (!message.extra.is_empty())
                        .then(|| Value::Object(message.extra).to_string()),
                });
            }
            (Asked::Messages(asked), characters)
        }
    };
    let estimate = (characters as u64).div_ceil(CHARACTERS);
    Ok(Fields {
        time: timestamp(row.timestamp),
        input: row.input_length.unwrap_or(u32::try_from(estimate).unwrap_or(u32::MAX)),
        output: row.max_tokens,
        asked,
    })
}

/// The words of a message. One without has tool calls instead.
fn text(content: Option<Content>) -> Result<String, String> {
    match content {
        None => Ok(String::new()),
        Some(Content::Text(text)) => Ok(text),
        Some(Content::Parts(parts)) => parts
            .into_iter()
            .map(|part| match part.text {
                Some(text) if part.r#type == "text" => Ok(text),
                _ => Err(format!(
                    "a message has a part of the type {:?}, and only text can be sent",
                    part.r#type
                )),
            })
            .collect(),
    }
}

/// The ids must cover the prompt; some tools leave out the one of the last, incomplete block.
fn check_blocks(ids: usize, input: u32, block: u32) -> Result<(), String> {
    let fits =
        |block: u32| [input.div_ceil(block) as usize, (input / block) as usize].contains(&ids);
    if input == 0 || fits(block) {
        return Ok(());
    }
    let other = input.div_ceil(u32::try_from(ids).unwrap_or(u32::MAX));
    let advice =
        if fits(other) { format!(" (`block_tokens: {other}` would fit)") } else { String::new() };
    Err(format!(
        "there are {ids} hash ids, and {input} tokens make {} blocks of {block}{advice}",
        input.div_ceil(block)
    ))
}

/// A time's text, whether it stands there as number or as text.
fn timestamp(raw: &RawValue) -> &str {
    let raw = raw.get();
    raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap_or(raw)
}

/// What the parser says, without its line number, for it sees one line alone.
fn problem(error: serde_json::Error) -> String {
    let text = error.to_string();
    let words = text.split_once(" at line ").map_or(text.as_str(), |(words, _)| words);
    match error.column() {
        0 => words.to_owned(),
        column => format!("{words} (column {column})"),
    }
}
