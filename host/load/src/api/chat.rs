//! `POST /v1/chat/completions`.

use super::{BodyError, Output, Past, Text};
use crate::plan::{Message, Part, Prompt, Request};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub(super) const PATH: &str = "/v1/chat/completions";

/// The messages of a request, its history before them.
pub(super) fn messages(request: &Request, past: Past<'_>) -> Result<Value, BodyError> {
    let mut all = Vec::new();
    if request.history {
        for (index, (turn, answer)) in past.turns.iter().zip(past.answers).enumerate() {
            match &turn.request.prompt {
                Prompt::Raw(_) | Prompt::TokenIds(_) => return Err(BodyError::History(index)),
                prompt => add(&mut all, prompt, past)?,
            }
            all.push(plain("assistant", answer.clone()));
        }
    }
    add(&mut all, &request.prompt, past)?;
    Ok(Value::Array(all))
}

fn add(all: &mut Vec<Value>, prompt: &Prompt, past: Past<'_>) -> Result<(), BodyError> {
    match prompt {
        Prompt::Text(text) | Prompt::Raw(text) => all.push(plain("user", text.clone())),
        Prompt::TokenIds(_) => return Err(BodyError::TokenIds),
        Prompt::Messages(messages) => {
            for message in messages {
                let mut value = Map::new();
                value.insert("role".into(), message.role.clone().into());
                value.insert("content".into(), text_of(message, past)?.into());
                value.extend(message.extra.clone());
                all.push(Value::Object(value));
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

fn plain(role: &str, text: String) -> Value {
    let mut message = Map::new();
    message.insert("role".into(), role.into());
    message.insert("content".into(), text.into());
    Value::Object(message)
}

/// A choice of a chunk (`delta`) or of a whole answer (`message`).
#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow, alias = "message")]
    delta: Option<Delta<'a>>,
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

impl<'a> super::Choice<'a> for Choice<'a> {
    fn output(&self) -> Option<Output> {
        let delta = self.delta.as_ref()?;
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
        let calls = self.delta.iter().flat_map(|delta| delta.tool_calls.iter().flatten());
        calls.filter_map(|call| call.function.as_ref()).any(Function::says_something)
    }

    fn finished(&self) -> bool {
        super::is_reason(self.finish_reason)
    }

    fn into_texts(self) -> (Option<Text<'a>>, Option<Text<'a>>) {
        self.delta.map_or((None, None), |delta| {
            let said = |text: &Text<'_>| !text.0.is_empty();
            (delta.content, delta.reasoning.filter(said).or(delta.reasoning_content))
        })
    }
}
