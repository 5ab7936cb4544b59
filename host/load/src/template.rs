//! [`Template`]: recognises the events of a stream that differ from an earlier one in nothing but
//! their text, so that they need not be parsed. Pure.
//!
//! A chat chunk is some 200 bytes of JSON around a few bytes of text. What stands around the text
//! stays the same within a stream, as a rule, and comparing it costs a tenth of parsing it.

use crate::api::{Output, Piece};
use std::borrow::Cow;

/// The event that later ones are compared with.
#[derive(Debug)]
pub(crate) struct Template {
    /// All of the event's bytes.
    event: Vec<u8>,
    /// Where its text begins in them: just behind a string's opening quote.
    begin: usize,
    /// Where its text ends: at the closing quote.
    end: usize,
    /// What the event carries.
    output: Output,
}

impl Template {
    /// A template of an event whose meaning is known. None: it says more than its text.
    pub(crate) fn of(event: &[u8], piece: &Piece<'_>) -> Option<Self> {
        let output = piece.output?;
        let (text, other) = match output {
            Output::Answer => (&piece.text, &piece.reasoning),
            Output::Reasoning => (&piece.reasoning, &piece.text),
        };
        let more = piece.finished || piece.calls || piece.usage.is_some() || piece.error.is_some();
        if more || text.is_empty() || !other.is_empty() {
            return None;
        }
        // Text with escapes was copied and lies nowhere in the event.
        let Cow::Borrowed(text) = text else { return None };
        let begin = (text.as_ptr() as usize).checked_sub(event.as_ptr() as usize)?;
        let end = begin.checked_add(text.len()).filter(|&end| end <= event.len())?;
        Some(Self { event: event.to_vec(), begin, end, output })
    }

    /// What `event` says, if it is this one with another text.
    pub(crate) fn read<'a>(&self, event: &'a [u8]) -> Option<Piece<'a>> {
        let text =
            event.strip_prefix(&self.event[..self.begin])?.strip_suffix(&self.event[self.end..])?;
        // Equal bytes around a string that neither ends early nor has escapes: the two events are
        // the same JSON but for this string.
        let plain = |&byte: &u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        if text.is_empty() || !text.iter().all(plain) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let mut piece = Piece { output: Some(self.output), ..Piece::default() };
        match self.output {
            Output::Answer => piece.text = text.into(),
            Output::Reasoning => piece.reasoning = text.into(),
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;
    use crate::plan::Api;
    use proptest::prelude::*;

    /// What a template of `first` says about `second`: its text, if it knows it.
    fn known(api: Api, first: &str, second: &str) -> Option<String> {
        let piece = api::read(api, first.as_bytes()).unwrap();
        let template = Template::of(first.as_bytes(), &piece)?;
        let piece = template.read(second.as_bytes())?;
        assert_eq!(piece, api::read(api, second.as_bytes()).unwrap(), "{second}");
        Some(format!("{}{}", piece.text, piece.reasoning))
    }

    fn chat(delta: &str) -> String {
        format!(r#"{{"id":"c-1","choices":[{{"delta":{{{delta}}},"finish_reason":null}}]}}"#)
    }

    #[test]
    fn an_event_that_differs_in_its_text_only_is_known() {
        let check = |first: &str, second: &str, text: Option<&str>| {
            let found = known(Api::Chat, &chat(first), &chat(second));
            assert_eq!(found.as_deref(), text, "{first} and {second}");
        };
        check(r#""content":"a""#, r#""content":" 日本 {[]}:,""#, Some(" 日本 {[]}:,"));
        check(r#""content":"id""#, r#""content":"b""#, Some("b"));
        check(r#""reasoning":"a""#, r#""reasoning":"bc""#, Some("bc"));
        check(r#""content":null,"reasoning":"a""#, r#""content":null,"reasoning":"b""#, Some("b"));
        check(r#""content":"a""#, r#""content":"""#, None);
        check(r#""content":"a""#, r#""content":"\n""#, None);
        check(r#""content":"a""#, r#""content":"b","tool_calls":[]"#, None);
        check(r#""content":"a""#, r#""content":"b","reasoning":"c""#, None);
        check(r#""content":"a""#, r#""reasoning":"b""#, None);
        check(r#""content":"\n""#, r#""content":"b""#, None);
        check(r#""content":"a","reasoning":"b""#, r#""content":"c","reasoning":"b""#, None);
        let text = |text: &str| format!(r#"{{"choices":[{{"text":"{text}"}}]}}"#);
        assert_eq!(known(Api::Completions, &text("a"), &text("b")), Some("b".into()));
    }

    #[test]
    fn events_that_end_a_stream_or_count_teach_nothing() {
        let check = |first: &str| assert_eq!(known(Api::Chat, first, first), None, "{first}");
        check(r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#);
        check(r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"completion_tokens":1}}"#);
        check(r#"{"choices":[{"delta":{"content":"a"}}],"error":"no"}"#);
        check(r#"{"choices":[{"delta":{"role":"assistant"}}]}"#);
    }

    #[test]
    fn text_that_is_not_utf8_is_left_to_the_parser() {
        let first = chat(r#""content":"Z""#);
        let piece = api::read(Api::Chat, first.as_bytes()).unwrap();
        let template = Template::of(first.as_bytes(), &piece).unwrap();
        let with = |z: u8| first.bytes().map(|b| if b == b'Z' { z } else { b }).collect::<Vec<_>>();
        assert!(template.read(&with(b'Y')).is_some());
        assert_eq!(template.read(&with(0xff)), None);
    }

    proptest! {
        #[test]
        fn a_template_says_what_the_parser_says(
            deltas in prop::collection::vec(
                (0..4_usize, r#"[a"\\{},: \n日]{0,4}"#, "[ab]{0,2}"),
                2,
            ),
        ) {
            let event = |(form, text, other): &(usize, String, String)| {
                let (text, other) = (serde_json::json!(text), serde_json::json!(other));
                chat(&match form {
                    0 => format!(r#""content":{text}"#),
                    1 => format!(r#""content":{text},"reasoning":{other}"#),
                    2 => format!(r#""reasoning":{other},"reasoning_content":{text}"#),
                    _ => format!(
                        r#""content":{text}}}}},{{"delta":{{"content":{other}"#
                    ),
                })
            };
            // `known` compares.
            known(Api::Chat, &event(&deltas[0]), &event(&deltas[1]));
        }
    }
}
