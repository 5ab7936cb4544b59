//! [`Templates`]: recognises the events of streams that differ from an earlier one in nothing but
//! their text and what names the answer, so that they need not be parsed. Pure.
//!
//! A chat chunk is some 200 bytes of JSON around a few bytes of text. What stands around the text
//! stays the same, within a stream and, but for the answer's `id` and the time at which it was
//! `created`, between the streams of a server; comparing it costs a tenth of parsing it. Within a
//! stream these are the same, too: then two comparisons do.

use crate::api::{Output, Piece};
use crate::plan::Api;
use crate::scan::{digits, is_utf8, plain};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Shapes that are remembered: for a few models those of the first event, of reasoning, of answers,
/// and of the end.
const MOST: usize = 16;
/// Stretches in which events of a shape differ: two names and the text.
const HOLES: usize = 3;
/// Shapes are learned so often without use; from then on only as they prove useful.
const TRIALS: u64 = 64;

/// The shapes of events that were seen, the one met last first.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    known: Vec<Template>,
    learned: u64,
    met: u64,
}

impl Templates {
    /// What `event` says, if it has a shape that is known: by far most often that of the one before it.
    pub(crate) fn read<'a>(&mut self, api: Api, event: &'a [u8]) -> Option<Said<'a>> {
        let first = self.known.first()?;
        if first.api == api
            && let Some(text) = first.of_same_answer(event)
        {
            self.met += 1;
            return Some(first.said(text));
        }
        self.search(api, event)
    }

    #[inline(never)]
    fn search<'a>(&mut self, api: Api, event: &'a [u8]) -> Option<Said<'a>> {
        for (index, known) in self.known.iter_mut().enumerate() {
            if known.api == api
                && let Some(said) = known.read(event)
            {
                if index > 0 {
                    self.known[..=index].rotate_right(1);
                }
                self.met += 1;
                return Some(said);
            }
        }
        None
    }

    /// Remembers the shape of an event whose meaning is known, if others can be told by it.
    pub(crate) fn learn(&mut self, api: Api, event: &[u8], piece: &Piece<'_>) {
        // Where no event is like another, it would be tried in vain for each of them.
        if self.learned > TRIALS + self.met / 8 {
            return;
        }
        if let Some(template) = Template::of(api, event, piece) {
            self.learned += 1;
            self.known.truncate(MOST - 1);
            self.known.insert(0, template);
        }
    }
}

/// What an event of a known shape says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    /// The output that it carries.
    pub(crate) output: Option<Output>,
    /// The model gave a reason to stop.
    pub(crate) finished: bool,
    /// The text of the output, which is UTF-8.
    text: &'a [u8],
}

impl<'a> Said<'a> {
    /// The same in full, for whoever keeps the text.
    pub(crate) fn piece(self) -> Piece<'a> {
        let Self { output, finished, text } = self;
        let text = String::from_utf8_lossy(text);
        let piece = Piece { output, finished, ..Piece::default() };
        match output {
            Some(Output::Reasoning) => Piece { reasoning: text, ..piece },
            _ => Piece { text, ..piece },
        }
    }
}

/// The event that others are compared with: one of its shape, of the answer that was met last.
#[derive(Debug)]
struct Template {
    api: Api,
    /// All of the event's bytes.
    event: Vec<u8>,
    /// Where others may differ, in order.
    holes: Vec<Hole>,
    /// Which of them is the text.
    text: Option<usize>,
    /// What the event carries.
    output: Option<Output>,
    finished: bool,
}

/// A stretch of an event.
#[derive(Debug, Clone, Copy)]
struct Hole {
    kind: Kind,
    begin: usize,
    end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The text that matters, from behind its opening quote to its closing one.
    Text,
    /// A string that does not matter, likewise.
    Name,
    /// A number that does not matter.
    Number,
}

impl Hole {
    /// Where a part of an event lies in it. None: it lies elsewhere.
    fn at(kind: Kind, part: &str, event: &[u8]) -> Option<Self> {
        let begin = (part.as_ptr() as usize).checked_sub(event.as_ptr() as usize)?;
        let end = begin.checked_add(part.len()).filter(|&end| end <= event.len())?;
        Some(Self { kind, begin, end })
    }

    /// Takes what may stand here off the front of an event.
    fn fill<'a>(&self, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let end = match self.kind {
            Kind::Text | Kind::Name => plain(rest),
            Kind::Number => digits(rest),
        };
        let (found, behind) = rest.split_at(end);
        *rest = behind;
        let is_good = match self.kind {
            Kind::Text | Kind::Name => behind.first() == Some(&b'"'),
            Kind::Number => found.len() == 1 || !found.starts_with(b"0"),
        };
        (is_good && !found.is_empty()).then_some(found)
    }
}

impl Template {
    /// A template of an event whose meaning is known. None: it says more than its text and its end.
    fn of(api: Api, event: &[u8], piece: &Piece<'_>) -> Option<Self> {
        let (output, finished) = (piece.output, piece.finished);
        let (text, other) = match output {
            Some(Output::Reasoning) => (&piece.reasoning, &piece.text),
            _ => (&piece.text, &piece.reasoning),
        };
        let more = piece.calls || piece.usage.is_some() || piece.error.is_some();
        if more || output.is_some() == text.is_empty() || !other.is_empty() {
            return None;
        }
        // Data of several lines would be taken for data of one.
        if event.contains(&b'\n') {
            return None;
        }
        let mut holes: Vec<Hole> = names(event).collect();
        if output.is_some() {
            // Text with escapes was copied and lies nowhere in the event.
            let Cow::Borrowed(text) = text else { return None };
            holes.push(Hole::at(Kind::Text, text, event)?);
        }
        holes.sort_unstable_by_key(|hole| hole.begin);
        let text = holes.iter().position(|hole| hole.kind == Kind::Text);
        Some(Self { api, event: event.into(), holes, text, output, finished })
    }

    /// What `event` says, if it is this one but for its holes.
    fn read<'a>(&mut self, event: &'a [u8]) -> Option<Said<'a>> {
        let text = match self.of_same_answer(event) {
            Some(text) => text,
            None => self.of_another(event)?,
        };
        Some(self.said(text))
    }

    fn said<'a>(&self, text: &'a [u8]) -> Said<'a> {
        Said { output: self.output, finished: self.finished, text }
    }

    /// The text of an event that differs from this one in nothing else, as those of one answer do; they
    /// often follow each other.
    fn of_same_answer<'a>(&self, event: &'a [u8]) -> Option<&'a [u8]> {
        let Some(hole) = self.text.map(|text| self.holes[text]) else {
            return (event == self.event).then_some(&[]);
        };
        let rest = event.strip_prefix(&self.event[..hole.begin])?;
        let text = rest.strip_suffix(&self.event[hole.end..])?;
        // Behind the text stands its closing quote: what is plain ends there or before.
        (!text.is_empty() && plain(rest) == text.len() && is_utf8(text)).then_some(text)
    }

    /// The text of an event that is this one but for all of its holes. It takes the place of this one.
    fn of_another<'a>(&mut self, event: &'a [u8]) -> Option<&'a [u8]> {
        // Equal bytes around strings that neither end early nor have escapes, and around numbers:
        // the two events are the same JSON but for these.
        let end = self.holes.last().map_or(0, |hole| hole.end);
        // What differs from this one does so at its end, as a rule.
        if !event.ends_with(&self.event[end..]) {
            return None;
        }
        let (mut rest, mut at, mut text) = (event, 0, &[][..]);
        let mut places = [(0, 0); HOLES];
        for (hole, place) in self.holes.iter().zip(&mut places) {
            rest = rest.strip_prefix(&self.event[at..hole.begin])?;
            let begin = event.len() - rest.len();
            let found = hole.fill(&mut rest)?;
            *place = (begin, begin + found.len());
            if hole.kind == Kind::Text {
                text = found;
            }
            at = hole.end;
        }
        if *rest != self.event[at..] || !is_utf8(text) {
            return None;
        }
        for (hole, place) in self.holes.iter_mut().zip(places) {
            (hole.begin, hole.end) = place;
        }
        self.event.clear();
        self.event.extend_from_slice(event);
        Some(text)
    }
}

/// Where an event says which answer it belongs to.
fn names(event: &[u8]) -> impl Iterator<Item = Hole> {
    #[derive(Default, Deserialize)]
    struct Names<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(borrow)]
        created: Option<&'a RawValue>,
    }
    let Names { id, created } = serde_json::from_slice(event).unwrap_or_default();
    let id = id.and_then(|id| {
        let id = id.get().strip_prefix('"')?.strip_suffix('"')?;
        Hole::at(Kind::Name, id, event).filter(|_| !id.is_empty() && !id.contains('\\'))
    });
    let created = created.and_then(|created| {
        let digits = created.get().bytes().all(|byte| byte.is_ascii_digit());
        Hole::at(Kind::Number, created.get(), event).filter(|_| digits)
    });
    id.into_iter().chain(created)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;
    use crate::plan::Api;
    use proptest::prelude::*;

    /// What a template of `first` says about `second`: its text, if it knows it.
    fn known(api: Api, first: &str, second: &str) -> Option<String> {
        let mut templates = Templates::default();
        templates.learn(api, first.as_bytes(), &api::read(api, first.as_bytes()).unwrap());
        let piece = templates.read(api, second.as_bytes())?.piece();
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
    fn an_event_of_another_stream_is_known_whatever_its_id_and_time() {
        let event = |id: &str, created: &str, text: &str| {
            format!(
                r#"{{"id":{id},"created":{created},"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#
            )
        };
        let first = event(r#""chat-1""#, "1764418000", "a");
        let check = |id: &str, created: &str, text: Option<&str>| {
            let second = event(id, created, "b");
            assert_eq!(known(Api::Chat, &first, &second).as_deref(), text, "{second}");
        };
        check(r#""chat-22""#, "1764418001", Some("b"));
        check(r#""""#, "1764418001", None);
        check(r#""a"b""#, "1764418001", None);
        check("null", "1764418001", None);
        check(r#""c""#, "-1", None);
        check(r#""c""#, "1.5", None);
        let other = |text: &str| {
            format!(r#"{{"choices":[{{"text":"{text}"}}],"created":7,"id":"x{text}","z":1}}"#)
        };
        assert_eq!(known(Api::Completions, &other("a"), &other("b")), Some("b".into()));
    }

    #[test]
    fn a_shape_stays_known_while_answers_take_turns() {
        let mut templates = Templates::default();
        let event = |id: &str, text: &str| {
            format!(r#"{{"id":"{id}","choices":[{{"delta":{{"content":"{text}"}}}}]}}"#)
        };
        let first = event("a", "x");
        let piece = api::read(Api::Chat, first.as_bytes()).unwrap();
        templates.learn(Api::Chat, first.as_bytes(), &piece);
        let mut last = first;
        for (id, text) in
            [("a", "yy"), ("bcd", "z"), ("bcd", ""), ("bcd", "zz"), ("e", "y"), ("a", "日")]
        {
            let event = event(id, text);
            let said = templates.read(Api::Chat, event.as_bytes()).map(|said| said.text.to_vec());
            assert_eq!(said, (!text.is_empty()).then(|| text.as_bytes().to_vec()), "{event}");
            // It is compared with the first event of the answer that was met last.
            let is_another = !last.starts_with(&format!(r#"{{"id":"{id}""#));
            last = if is_another { event } else { last };
            assert_eq!(String::from_utf8_lossy(&templates.known[0].event), last);
        }
    }

    #[test]
    fn shapes_are_told_apart_by_api_and_the_last_ones_stay() {
        let mut templates = Templates::default();
        let event = |model: usize, text: &str| {
            format!(r#"{{"m":{model},"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#)
        };
        let learn = |templates: &mut Templates, event: &str| {
            let piece = api::read(Api::Chat, event.as_bytes()).unwrap();
            templates.learn(Api::Chat, event.as_bytes(), &piece);
        };
        for model in 0..=MOST {
            learn(&mut templates, &event(model, "a"));
        }
        let knows = |templates: &mut Templates, api, model| {
            templates.read(api, event(model, "b").as_bytes()).is_some()
        };
        for model in [MOST, 1, 5, 1] {
            assert!(knows(&mut templates, Api::Chat, model), "{model}");
            assert!(!knows(&mut templates, Api::Completions, model), "{model}");
        }
        assert!(!knows(&mut templates, Api::Chat, 0));
    }

    #[test]
    fn where_no_event_is_like_another_learning_ends() {
        let mut templates = Templates::default();
        for number in 0..1000 {
            let event = chat(&format!(r#""content":"a","n":{number}"#));
            assert!(templates.read(Api::Chat, event.as_bytes()).is_none());
            let piece = api::read(Api::Chat, event.as_bytes()).unwrap();
            templates.learn(Api::Chat, event.as_bytes(), &piece);
        }
        assert_eq!(templates.learned, TRIALS + 1);
    }

    #[test]
    fn events_that_begin_or_end_a_stream_are_known() {
        let check = |first: &str, second: &str, text: Option<&str>| {
            assert_eq!(known(Api::Chat, first, second).as_deref(), text, "{first} and {second}");
        };
        let role = r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
        check(role, role, Some(""));
        check(role, r#"{"choices":[{"delta":{"role":"assistant","content":"a"}}]}"#, None);
        let end = r#"{"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}"#;
        check(end, end, Some(""));
        check(end, r#"{"choices":[{"delta":{"content":""},"finish_reason":"length"}]}"#, None);
        let last = r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#;
        check(last, r#"{"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}"#, Some("b"));
        check(last, r#"{"choices":[{"delta":{"content":"b"},"finish_reason":null}]}"#, None);
    }

    #[test]
    fn events_that_count_call_or_fail_teach_nothing() {
        let check = |first: &str| assert_eq!(known(Api::Chat, first, first), None, "{first}");
        check(r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"completion_tokens":1}}"#);
        check(r#"{"choices":[],"usage":{"completion_tokens":1}}"#);
        check(r#"{"choices":[{"delta":{"content":"a"}}],"error":"no"}"#);
        check(r#"{"choices":[{"delta":{"tool_calls":[{"function":{"name":"f"}}]}}]}"#);
        check("{\"choices\":\n[{\"delta\":{\"content\":\"a\"}}]}");
    }

    #[test]
    fn text_that_is_not_utf8_is_left_to_the_parser() {
        let first = chat(r#""content":"Z""#);
        let piece = api::read(Api::Chat, first.as_bytes()).unwrap();
        let mut template = Template::of(Api::Chat, first.as_bytes(), &piece).unwrap();
        let with = |z: u8| first.bytes().map(|b| if b == b'Z' { z } else { b }).collect::<Vec<_>>();
        assert!(template.read(&with(b'Y')).is_some());
        assert!(template.read(&with(0xff)).is_none());
    }

    proptest! {
        #[test]
        fn templates_say_what_the_parser_says_of_the_events_of_several_answers(
            events in prop::collection::vec(
                (
                    "[ab]{0,3}",
                    prop_oneof![0..20_u32, any::<u32>()],
                    prop_oneof![4 => "[a 日]{1,3}", 1 => r#"[a"\\\n]{0,3}"#],
                    prop::bool::weighted(0.1),
                ),
                2..20,
            ),
        ) {
            let mut templates = Templates::default();
            for (id, created, text, is_nameless) in events {
                let delta = serde_json::json!({"content": text});
                let id = if is_nameless { String::new() } else { format!(r#""id":"{id}","#) };
                let event = format!(
                    r#"{{{id}"created":{created},"choices":[{{"delta":{delta}}}]}}"#
                );
                let piece = api::read(Api::Chat, event.as_bytes()).unwrap();
                match templates.read(Api::Chat, event.as_bytes()) {
                    Some(said) => prop_assert_eq!(said.piece(), piece),
                    None => templates.learn(Api::Chat, event.as_bytes(), &piece),
                }
            }
        }

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
