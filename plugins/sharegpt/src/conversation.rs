//! One conversation of a data set: its forms, and what of it can be asked again.

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// An exchange of a conversation. The texts are as recorded, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round<'a> {
    /// What was said to the model as its system, since the round before.
    pub(crate) system: Vec<Cow<'a, str>>,
    pub(crate) prompt: Cow<'a, str>,
    pub(crate) answer: Cow<'a, str>,
}

/// The sound part of a conversation: at least one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation<'a> {
    /// As the data set has it, if it has one.
    pub(crate) id: Option<String>,
    pub(crate) rounds: Vec<Round<'a>>,
    /// What stands after the sound part could not be used.
    pub(crate) cut: bool,
}

/// Why a conversation, or its rest, cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    EmptyPrompt,
    NoAnswer,
    EmptyAnswer,
    TwoTurnsOfOneSpeaker,
    NoTurns,
    NoPrompt,
    UnknownSpeaker,
    NotText,
    NoConversation,
    NotUtf8,
    NotJson,
    LongPrompt,
    LongAnswer,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyPrompt => "empty prompt",
            Self::NoAnswer => "no answer",
            Self::EmptyAnswer => "empty answer",
            Self::TwoTurnsOfOneSpeaker => "two turns of one speaker",
            Self::NoTurns => "no turns",
            Self::NoPrompt => "no prompt",
            Self::UnknownSpeaker => "unknown speaker",
            Self::NotText => "a turn that is not text",
            Self::NoConversation => "not a conversation",
            Self::NotUtf8 => "not UTF-8",
            Self::NotJson => "not JSON",
            Self::LongPrompt => "prompt longer than max_input_tokens",
            Self::LongAnswer => "answer longer than max_output_tokens",
        })
    }
}

/// The conversation in an item, up to the first round that is not sound.
pub(crate) fn read(item: &[u8]) -> Result<Conversation<'_>, Fault> {
    let item: Item = serde_json::from_slice(item).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Fault::NoConversation,
        _ if std::str::from_utf8(item).is_err() => Fault::NotUtf8,
        _ => Fault::NotJson,
    })?;
    let id = match item.id {
        Some(Value::String(id)) => Some(id),
        Some(Value::Number(id)) => Some(id.to_string()),
        _ => None,
    };
    let turns = item
        .conversations
        .or(item.conversation)
        .or(item.messages)
        .or(item.items)
        .unwrap_or_default();
    if turns.is_empty() {
        return Err(Fault::NoTurns);
    }
    let (rounds, fault) = rounds(turns);
    match fault {
        Some(fault) if rounds.is_empty() => Err(fault),
        fault => Ok(Conversation { id, rounds, cut: fault.is_some() }),
    }
}

/// The sound rounds, and what is wrong with the next one.
fn rounds(turns: Vec<Turn<'_>>) -> (Vec<Round<'_>>, Option<Fault>) {
    let mut rounds = Vec::new();
    let mut system = Vec::new();
    let mut asked: Option<Cow<'_, str>> = None;
    for turn in turns {
        let Some(speaker) = turn.from.or(turn.role).as_deref().and_then(Speaker::of) else {
            return (rounds, Some(Fault::UnknownSpeaker));
        };
        let Some(text) =
            [turn.value, turn.content, turn.text].into_iter().flatten().find_map(|text| text.0)
        else {
            return (rounds, Some(Fault::NotText));
        };
        let empty = text.trim().is_empty();
        match (speaker, asked.take()) {
            (Speaker::System, pending) => {
                system.push(text);
                asked = pending;
            }
            (Speaker::User, None) if empty => return (rounds, Some(Fault::EmptyPrompt)),
            (Speaker::User, None) => asked = Some(text),
            (Speaker::User, Some(_)) => return (rounds, Some(Fault::TwoTurnsOfOneSpeaker)),
            // Data sets were cut into pieces; a piece may begin with the answer to the one before.
            (Speaker::Model, None) if rounds.is_empty() => {}
            (Speaker::Model, None) => return (rounds, Some(Fault::TwoTurnsOfOneSpeaker)),
            (Speaker::Model, Some(_)) if empty => return (rounds, Some(Fault::EmptyAnswer)),
            (Speaker::Model, Some(prompt)) => {
                rounds.push(Round { system: std::mem::take(&mut system), prompt, answer: text });
            }
        }
    }
    let fault = match asked {
        Some(_) => Some(Fault::NoAnswer),
        None if rounds.is_empty() => Some(Fault::NoPrompt),
        None => None,
    };
    (rounds, fault)
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    System,
    User,
    Model,
}

impl Speaker {
    fn of(name: &str) -> Option<Self> {
        const NAMES: [(Speaker, &[&str]); 3] = [
            (Speaker::System, &["system"]),
            (Speaker::User, &["human", "user", "prompter"]),
            (
                Speaker::Model,
                &["gpt", "assistant", "chatgpt", "bing", "bard", "model", "ai", "bot", "claude"],
            ),
        ];
        let is_it = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        NAMES.iter().find(|(_, names)| is_it(names)).map(|(speaker, _)| *speaker)
    }
}

/// An item as it stands in the file; which list of turns it has depends on who made the file.
#[derive(Deserialize)]
struct Item<'a> {
    id: Option<Value>,
    #[serde(borrow)]
    conversations: Option<Vec<Turn<'a>>>,
    #[serde(borrow)]
    conversation: Option<Vec<Turn<'a>>>,
    #[serde(borrow)]
    messages: Option<Vec<Turn<'a>>>,
    #[serde(borrow)]
    items: Option<Vec<Turn<'a>>>,
}

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow)]
    from: Option<Cow<'a, str>>,
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
}

/// A text, or something else in its place.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Text(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "prompt > answer" for each round, the system's words in front; or the reason.
    fn shown(item: &str) -> String {
        match read(item.as_bytes()) {
            Err(fault) => fault.to_string(),
            Ok(conversation) => {
                let round = |round: &Round| {
                    let system: String =
                        round.system.iter().map(|text| format!("({text}) ")).collect();
                    format!("{system}{} > {}", round.prompt, round.answer)
                };
                let rounds: Vec<String> = conversation.rounds.iter().map(round).collect();
                rounds.join(" | ") + if conversation.cut { " ..." } else { "" }
            }
        }
    }

    /// Turns written as "h text", "g text", "s text".
    #[track_caller]
    fn check(turns: &[&str], expected: &str) {
        let turns: Vec<Value> = turns
            .iter()
            .map(|turn| {
                let from = match &turn[..1] {
                    "h" => "human",
                    "g" => "gpt",
                    "s" => "system",
                    other => other,
                };
                serde_json::json!({"from": from, "value": turn[1..].trim_start_matches(' ')})
            })
            .collect();
        assert_eq!(shown(&serde_json::json!({"conversations": turns}).to_string()), expected);
    }

    #[test]
    fn rounds_are_taken_up_to_the_first_that_is_not_sound() {
        check(&["h A", "g B"], "A > B");
        check(&["h A", "g B", "h C", "g D"], "A > B | C > D");
        check(&["g Z", "h A", "g B"], "A > B");
        check(&["g Y", "g Z", "h A", "g B"], "A > B");
        check(&["s S", "h A", "g B"], "(S) A > B");
        check(&["s S", "h A", "g B", "s T", "h C", "g D"], "(S) A > B | (T) C > D");
        check(&["h A", "g B", "h C"], "A > B ...");
        check(&["h A", "g B", "g C"], "A > B ...");
        check(&["h A", "g B", "h", "g D"], "A > B ...");
        check(&["h A", "g B", "x C"], "A > B ...");
        check(&["h", "g B"], "empty prompt");
        check(&["h \n\t", "g B"], "empty prompt");
        check(&["h A"], "no answer");
        check(&["h A", "g"], "empty answer");
        check(&["h A", "h B", "g C"], "two turns of one speaker");
        check(&[], "no turns");
        check(&["g A"], "no prompt");
        check(&["x A", "g B"], "unknown speaker");
    }

    #[test]
    fn forms_of_other_makers_are_read_as_well() {
        for (item, expected) in [
            (
                r#"{"id": 3, "conversation": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}"#,
                "A > B",
            ),
            (
                r#"{"items": [{"from": "human", "value": "A"}, {"from": "chatgpt", "value": "B"}]}"#,
                "A > B",
            ),
            (
                r#"{"messages": [{"role": "User", "text": "A"}, {"from": "bing", "text": "B", "more": [1]}]}"#,
                "A > B",
            ),
            (
                r#"{"conversations": [{"from": "human", "value": null, "content": "A"}, {"from": "gpt", "value": "B"}]}"#,
                "A > B",
            ),
            (
                r#"{"conversations": [{"from": "human", "value": "\u0041\n"}, {"from": "gpt", "value": "B"}]}"#,
                "A\n > B",
            ),
            (r#"{"conversations": null}"#, "no turns"),
            (r#"{"prompt": "A"}"#, "no turns"),
            (
                r#"{"conversations": [{"from": "human", "value": ["A"]}]}"#,
                "a turn that is not text",
            ),
            (
                r#"{"conversations": [{"from": "human", "value": {"a": 1}}]}"#,
                "a turn that is not text",
            ),
            (r#"{"conversations": [{"from": "human", "value": 7}]}"#, "a turn that is not text"),
            (r#"{"conversations": ["A", "B"]}"#, "not a conversation"),
            (r#"{"conversations": "A"}"#, "not a conversation"),
            (r#"{"conversations": [}"#, "not JSON"),
            (r#"{"conversations": [{"from": "human", "value": "\q"}]}"#, "not JSON"),
        ] {
            assert_eq!(shown(item), expected, "{item}");
        }
    }

    #[test]
    fn texts_of_another_encoding_are_called_so() {
        let item = b"{\"conversations\": [{\"from\": \"human\", \"value\": \"caf\xe9\"}]}";
        assert_eq!(read(item), Err(Fault::NotUtf8));
    }

    #[test]
    fn values_keep_their_bytes() {
        let item = r#"{"conversations": [
            {"from": "human", "value": " <b>&lt;x&gt;</b> \u00e4 "}, {"from": "gpt", "value": "| a |\n|---|\t"}]}"#;
        let conversation = read(item.as_bytes()).unwrap();
        assert_eq!(conversation.rounds[0].prompt, " <b>&lt;x&gt;</b> ä ");
        assert_eq!(conversation.rounds[0].answer, "| a |\n|---|\t");
    }
}
