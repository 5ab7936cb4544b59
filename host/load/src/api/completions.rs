//! `POST /v1/completions`.

use super::chat::text_of;
use super::{BodyError, Output, Past, Text};
use crate::plan::{Prompt, Request};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

pub(super) const PATH: &str = "/v1/completions";

/// The prompt of a request, its history before it: a line for each message and answer.
pub(super) fn prompt(request: &Request, past: Past<'_>) -> Result<Value, BodyError> {
    let mut lines = Vec::new();
    if request.history {
        for (index, (turn, answer)) in past.turns.iter().zip(past.answers).enumerate() {
            match &turn.request.prompt {
                Prompt::Raw(_) | Prompt::TokenIds(_) => return Err(BodyError::History(index)),
                prompt => add(&mut lines, prompt, past)?,
            }
            lines.push(match &turn.request.prompt {
                Prompt::Messages(_) => format!("ASSISTANT: {answer}"),
                _ => answer.clone(),
            });
        }
    }
    match &request.prompt {
        // Tokens cannot be joined with text.
        Prompt::TokenIds(_) if !lines.is_empty() => Err(BodyError::History(past.turns.len())),
        Prompt::TokenIds(ids) => Ok(ids.clone().into()),
        prompt => {
            add(&mut lines, prompt, past)?;
            Ok(lines.join("\n").into())
        }
    }
}

fn add(lines: &mut Vec<String>, prompt: &Prompt, past: Past<'_>) -> Result<(), BodyError> {
    match prompt {
        Prompt::Text(text) | Prompt::Raw(text) => lines.push(text.clone()),
        Prompt::TokenIds(_) => {}
        Prompt::Messages(messages) => {
            for message in messages {
                lines.push(format!("{}: {}", message.role.to_uppercase(), text_of(message, past)?));
            }
        }
    }
    Ok(())
}

/// A choice of a chunk or of a whole answer.
#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

impl<'a> super::Choice<'a> for Choice<'a> {
    fn output(&self) -> Option<Output> {
        Text::is_present(self.text.as_ref()).then_some(Output::Answer)
    }

    fn calls(&self) -> bool {
        false
    }

    fn finished(&self) -> bool {
        super::is_reason(self.finish_reason)
    }

    fn into_texts(self) -> (Option<Text<'a>>, Option<Text<'a>>) {
        (self.text, None)
    }
}
