//! The dialects of inference APIs: what a request's body says, and what the pieces of an answer
//! mean. Each dialect has a file; what they share is here. Pure.

mod chat;
mod completions;

use crate::plan::{Api, Part, Prompt, Request, Target, Turn};
use crate::scan::plain;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Why a request cannot be put into words of its API: the workload asked for the impossible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BodyError {
    #[error("the chat API takes no token ids; use the completions API")]
    TokenIds,
    #[error("turn {0} is a raw body or token ids, so that no history can be made of it")]
    History(usize),
    #[error("a message quotes the answer to turn {0}, which comes later or not at all")]
    OutputOf(u32),
}

/// A session up to the turn that is about to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past<'a> {
    /// The turns before.
    pub(crate) turns: &'a [Turn],
    /// Their answers.
    pub(crate) answers: &'a [String],
}

/// The dialect of a request.
pub(crate) fn of(target: &Target, request: &Request) -> Api {
    request.api.unwrap_or(target.api)
}

/// Where a request is posted to.
pub(crate) fn path<'a>(target: &Target, request: &'a Request) -> &'a str {
    match (&request.prompt, &request.path) {
        (Prompt::Raw(_), Some(path)) => path,
        _ => path_of(of(target, request)),
    }
}

/// Where requests of a dialect are posted to, unless they say otherwise.
pub(crate) fn path_of(api: Api) -> &'static str {
    match api {
        Api::Chat => chat::PATH,
        Api::Completions => completions::PATH,
    }
}

/// The body of a request.
pub(crate) fn body(
    target: &Target,
    request: &Request,
    past: Past<'_>,
) -> Result<Vec<u8>, BodyError> {
    if let Prompt::Raw(body) = &request.prompt {
        return Ok(body.clone().into_bytes());
    }
    let mut body = Body(Vec::with_capacity(16));
    let model = request.model.as_ref().unwrap_or(&target.model);
    body.set("model", Field::Text(model));
    match of(target, request) {
        Api::Chat => body.set("messages", Field::Messages(chat::messages(request, past)?)),
        Api::Completions => body.set("prompt", Field::Made(completions::prompt(request, past)?)),
    }
    body.set("stream", Field::Flag(request.streamed));
    if request.streamed {
        body.set("stream_options", Field::Usage);
    }
    if let Some(most) = request.max_output_tokens {
        body.set("max_tokens", Field::Number(most));
        if request.exact_output && target.exact_output {
            body.set("ignore_eos", Field::Flag(true));
            body.set("min_tokens", Field::Number(most));
        }
    }
    body.set("temperature", Field::Number(0));
    for (key, value) in request.extra.iter().chain(&target.extra_body) {
        body.set(key, Field::Given(value));
    }
    Ok(body.written())
}

/// The fields of a body, in order.
struct Body<'a>(Vec<(&'a str, Field<'a>)>);

impl<'a> Body<'a> {
    /// Sets a field, in the place of an earlier one of its name.
    fn set(&mut self, key: &'a str, value: Field<'a>) {
        match self.0.iter_mut().find(|(other, _)| *other == key) {
            Some((_, place)) => *place = value,
            None => self.0.push((key, value)),
        }
    }
}

/// What a field of a body says.
enum Field<'a> {
    Text(&'a str),
    Flag(bool),
    Number(u32),
    Messages(Vec<chat::Line<'a>>),
    /// That a stream ends with its usage.
    Usage,
    Made(Value),
    Given(&'a Value),
}

impl Body<'_> {
    fn written(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        for (key, value) in &self.0 {
            bytes.push(if bytes.is_empty() { b'{' } else { b',' });
            write_text(&mut bytes, key);
            bytes.push(b':');
            value.write(&mut bytes);
        }
        bytes.push(b'}');
        bytes
    }
}

impl Field<'_> {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Text(text) => write_text(bytes, text),
            Self::Flag(flag) => write_json(bytes, flag),
            Self::Number(number) => write_json(bytes, number),
            Self::Messages(lines) => {
                bytes.push(b'[');
                for (index, line) in lines.iter().enumerate() {
                    if index > 0 {
                        bytes.push(b',');
                    }
                    line.write(bytes);
                }
                bytes.push(b']');
            }
            Self::Usage => bytes.extend_from_slice(br#"{"include_usage":true}"#),
            Self::Made(value) => write_json(bytes, value),
            Self::Given(value) => write_json(bytes, value),
        }
    }
}

/// Writes a text as JSON. Prompts may be long, and most need no escapes.
fn write_text(bytes: &mut Vec<u8>, text: &str) {
    if plain(text.as_bytes()) == text.len() {
        bytes.push(b'"');
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'"');
    } else {
        write_json(bytes, text);
    }
}

fn write_json(bytes: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(bytes, value).expect("text, numbers and what was JSON can be JSON");
}

/// Whether a later turn quotes the answer to this one.
pub(crate) fn is_quoted(turns: &[Turn], index: usize) -> bool {
    let quotes = |request: &Request| match &request.prompt {
        Prompt::Messages(messages) => messages.iter().flat_map(|m| &m.parts).any(
            |part| matches!(part, Part::OutputOf(turn) if usize::try_from(*turn) == Ok(index)),
        ),
        _ => false,
    };
    turns.iter().skip(index + 1).any(|turn| turn.request.history || quotes(&turn.request))
}

/// What a piece of an answer says: an event of a stream, or a whole body.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Piece<'a> {
    /// The output that it carries.
    pub(crate) output: Option<Output>,
    /// Text of the answer.
    pub(crate) text: Cow<'a, str>,
    /// Text of the reasoning before it.
    pub(crate) reasoning: Cow<'a, str>,
    /// It calls tools.
    pub(crate) calls: bool,
    /// The model gave a reason to stop.
    pub(crate) finished: bool,
    /// Token counts, so far or in all.
    pub(crate) usage: Option<Usage>,
    /// The server reports an error.
    pub(crate) error: Option<String>,
}

/// A kind of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Reasoning,
    /// Text or a tool call.
    Answer,
}

/// Token counts by the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: Option<u32>,
    pub(crate) completion_tokens: Option<u32>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u32>,
}

impl Usage {
    /// Takes over what a later one says: servers and proxies may end with one that says less.
    pub(crate) fn merge(&mut self, later: Self) {
        let Self {
            prompt_tokens,
            completion_tokens,
            prompt_tokens_details,
            completion_tokens_details,
        } = later;
        self.prompt_tokens = prompt_tokens.or(self.prompt_tokens);
        self.completion_tokens = completion_tokens.or(self.completion_tokens);
        let cached_tokens = prompt_tokens_details.and_then(|details| details.cached_tokens);
        let cached_tokens = cached_tokens.or(self.cached_tokens());
        self.prompt_tokens_details = Some(PromptDetails { cached_tokens });
        let reasoning_tokens = completion_tokens_details.and_then(|d| d.reasoning_tokens);
        let reasoning_tokens = reasoning_tokens.or(self.reasoning_tokens());
        self.completion_tokens_details = Some(CompletionDetails { reasoning_tokens });
    }

    pub(crate) fn cached_tokens(&self) -> Option<u32> {
        self.prompt_tokens_details?.cached_tokens
    }

    pub(crate) fn reasoning_tokens(&self) -> Option<u32> {
        self.completion_tokens_details?.reasoning_tokens
    }
}

/// Reads a piece of an answer.
pub(crate) fn read(api: Api, json: &[u8]) -> Result<Piece<'_>, serde_json::Error> {
    match api {
        Api::Chat => Ok(serde_json::from_slice::<Envelope<'_, chat::Choice<'_>>>(json)?.piece()),
        Api::Completions => {
            Ok(serde_json::from_slice::<Envelope<'_, completions::Choice<'_>>>(json)?.piece())
        }
    }
}

/// What an error body says: its message, with type and code where it has them; else the text.
pub(crate) fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let inner = serde_json::from_slice::<Body<'_>>(body).ok().and_then(|body| body.error);
    let bytes = inner.map_or(body, |error| error.get().as_bytes());
    message(bytes).unwrap_or_else(|| String::from_utf8_lossy(bytes).trim().to_owned())
}

fn message(error: &[u8]) -> Option<String> {
    let error: Value = serde_json::from_slice(error).ok()?;
    let text = match &error {
        Value::String(text) => return Some(text.clone()),
        error => error.get("message").or_else(|| error.get("detail"))?,
    };
    let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
    let named = |key: &str, prefix: &str| match error.get(key) {
        Some(Value::String(value)) => Some(format!("{prefix}{value}")),
        Some(Value::Number(value)) => Some(format!("{prefix}{value}")),
        _ => None,
    };
    let notes: Vec<String> =
        [named("type", ""), named("code", "code ")].into_iter().flatten().collect();
    Some(if notes.is_empty() { text } else { format!("{text} ({})", notes.join(", ")) })
}

/// What is around the choices in both dialects.
#[derive(Deserialize)]
#[serde(bound(deserialize = "C: Deserialize<'de>"))]
struct Envelope<'a, C> {
    choices: Option<Vec<C>>,
    usage: Option<Usage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    /// Older vLLM reports errors as `{"object": "error", "message": ...}`.
    #[serde(borrow)]
    object: Option<Text<'a>>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
}

/// What a choice of either dialect says.
trait Choice<'a> {
    fn output(&self) -> Option<Output>;
    fn calls(&self) -> bool;
    fn finished(&self) -> bool;
    /// Its text and its reasoning.
    fn into_texts(self) -> (Option<Text<'a>>, Option<Text<'a>>);
}

impl<'a, C: Choice<'a>> Envelope<'a, C> {
    fn piece(self) -> Piece<'a> {
        let mut piece = Piece { usage: self.usage, ..Piece::default() };
        piece.error = match (self.error, self.object) {
            (Some(error), _) => Some(error_text(error.get().as_bytes())),
            (None, Some(object)) if object.0 == "error" => {
                Some(self.message.map_or_else(String::new, |text| text.0.into_owned()))
            }
            _ => None,
        };
        for choice in self.choices.into_iter().flatten() {
            piece.finished |= choice.finished();
            piece.calls |= choice.calls();
            if piece.output != Some(Output::Answer) {
                piece.output = choice.output().or(piece.output);
            }
            let (text, reasoning) = choice.into_texts();
            fill(&mut piece.text, text);
            fill(&mut piece.reasoning, reasoning);
        }
        piece
    }
}

/// Whether a finish reason is one: some servers send an empty one until there is.
fn is_reason(reason: Option<&RawValue>) -> bool {
    reason.is_some_and(|reason| reason.get() != r#""""#)
}

/// Puts a text where there is none.
fn fill<'a>(place: &mut Cow<'a, str>, text: Option<Text<'a>>) {
    if let Some(Text(text)) = text.filter(|_| place.is_empty()) {
        *place = text;
    }
}

/// A string that borrows from the input where it has no escapes; serde does so only for `Cow`
/// itself, not inside an `Option`.
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    fn is_present(text: Option<&Text<'_>>) -> bool {
        text.is_some_and(|text| !text.0.is_empty())
    }
}

#[cfg(test)]
mod tests;
