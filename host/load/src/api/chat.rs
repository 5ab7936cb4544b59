//! `POST /v1/chat/completions`.

use super::{BodyError, Output, Past, Text, write_json, write_text};
use crate::plan::{Message, Part, Prompt, Request};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;

pub(super) const PATH: &str = "/v1/chat/completions";

/// A message as it is sent.
pub(super) enum Line<'a> {
    Plain {
        role: &'a str,
        content: Cow<'a, str>,
    },
    /// With fields of its own, which may take the place of the others.
    Extended(Map<String, Value>),
}

impl Line<'_> {
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Plain { role, content } => {
                bytes.extend_from_slice(br#"{"role":"#);
                write_text(bytes, role);
                bytes.extend_from_slice(br#","content":"#);
                write_text(bytes, content);
                bytes.push(b'}');
            }
            Self::Extended(fields) => write_json(bytes, fields),
        }
    }
}

/// The messages of a request, its history before them.
pub(super) fn messages<'a>(
    request: &'a Request,
    past: Past<'a>,
) -> Result<Vec<Line<'a>>, BodyError> {
    let mut all = Vec::new();
    if request.history {
        for (index, (turn, answer)) in past.turns.iter().zip(past.answers).enumerate() {
            match &turn.request.prompt {
                Prompt::Raw(_) | Prompt::TokenIds(_) => return Err(BodyError::History(index)),
                prompt => add(&mut all, prompt, past)?,
            }
            all.push(Line::Plain { role: "assistant", content: answer.into() });
        }
    }
    add(&mut all, &request.prompt, past)?;
    Ok(all)
}

fn add<'a>(all: &mut Vec<Line<'a>>, prompt: &'a Prompt, past: Past<'_>) -> Result<(), BodyError> {
    match prompt {
        Prompt::Text(text) | Prompt::Raw(text) => {
            all.push(Line::Plain { role: "user", content: text.into() });
        }
        Prompt::TokenIds(_) => return Err(BodyError::TokenIds),
        Prompt::Messages(messages) => {
            for message in messages {
                let content = text_of(message, past)?;
                all.push(if message.extra.is_empty() {
                    Line::Plain { role: &message.role, content: content.into() }
                } else {
                    let mut fields = Map::new();
                    fields.insert("role".into(), message.role.clone().into());
                    fields.insert("content".into(), content.into());
                    fields.extend(message.extra.clone());
                    Line::Extended(fields)
                });
            }
        }
    }
    Ok(())
}

/// The words of a message, earlier answers filled in.
pub(super) fn text_of(message: &Message, past: Past<'_>) -> Result<String, BodyError> {
    let mut text = String::new();
    for part in &message.parts {
        match part {
            Part::Text(words) => text.push_str(words),
            Part::OutputOf(turn) => {
                let index = usize::try_from(*turn).unwrap_or(usize::MAX);
                text.push_str(past.answers.get(index).ok_or(BodyError::OutputOf(*turn))?);
            }
        }
    }
    Ok(text)
}

/// A choice of a chunk (`delta`) or of a whole answer (`message`). Some servers put both into chunks, the message
/// empty or with all that was said so far.
#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    /// Newer vLLM.
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    /// Older vLLM, SGLang, llama.cpp. Some servers send both, with the same text.
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    /// A string by the standard; some servers send an object.
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

impl Function<'_> {
    fn says_something(&self) -> bool {
        Text::is_present(self.name.as_ref())
            || self.arguments.is_some_and(|arguments| arguments.get() != r#""""#)
    }
}

impl<'a> Choice<'a> {
    fn said(&self) -> Option<&Delta<'a>> {
        self.delta.as_ref().or(self.message.as_ref())
    }
}

impl<'a> super::Choice<'a> for Choice<'a> {
    fn output(&self) -> Option<Output> {
        let delta = self.said()?;
        if Text::is_present(delta.content.as_ref()) || self.calls() {
            Some(Output::Answer)
        } else if Text::is_present(delta.reasoning.as_ref())
            || Text::is_present(delta.reasoning_content.as_ref())
        {
            Some(Output::Reasoning)
        } else {
            None
        }
    }

    fn calls(&self) -> bool {
        let calls = self.said().into_iter().flat_map(|delta| delta.tool_calls.iter().flatten());
        calls.filter_map(|call| call.function.as_ref()).any(Function::says_something)
    }

    fn finished(&self) -> bool {
        super::is_reason(self.finish_reason)
    }

    fn into_texts(self) -> (Option<Text<'a>>, Option<Text<'a>>) {
        self.delta.or(self.message).map_or((None, None), |delta| {
            let said = |text: &Text<'_>| !text.0.is_empty();
            (delta.content, delta.reasoning.filter(said).or(delta.reasoning_content))
        })
    }
}
