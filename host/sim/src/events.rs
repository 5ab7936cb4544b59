//! Rendering answers: what is the same for all events of a stream is rendered once per request.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use crate::api::{Ask, Dialect};
use crate::http::stream_head;
use crate::quirk::Quirk;

/// The last event.
const DONE: &[u8] = b"data: [DONE]\n\n";
/// The end of the chunked body.
pub(crate) const END: &[u8] = b"0\r\n\r\n";
/// How much a long line has too much, in bytes.
const LONG: usize = 1 << 20;

/// What a text is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Answer,
    Reasoning,
    /// A tool call, or its beginning.
    Call {
        first: bool,
    },
}

/// What one event with text says.
pub(crate) struct Said<'a> {
    pub(crate) text: &'a str,
    pub(crate) form: Form,
    /// Why the model stopped.
    pub(crate) finish: Option<&'a str>,
    pub(crate) usage: Option<&'a Value>,
    /// It is to be a long line.
    pub(crate) long: bool,
}

/// What goes around the texts of one answer.
pub(crate) struct Envelope {
    dialect: Dialect,
    id: String,
    created: u64,
    model: String,
    quirks: Vec<Quirk>,
    body: Body,
    /// Everything before the text of an event.
    before: Vec<u8>,
    event: Vec<u8>,
}

impl Envelope {
    pub(crate) fn new(ask: &Ask, id: &str, created: u64, model: &str, quirks: &[Quirk]) -> Self {
        let dialect = ask.dialect;
        let choice = match dialect {
            Dialect::Chat => r#"{"index":0,"delta":{"content":""#,
            Dialect::Completion => r#"{"index":0,"text":""#,
        };
        let object = object(dialect);
        let head = json!({"id": id, "object": object, "created": created, "model": model});
        let head = head.to_string();
        let open = head.strip_suffix('}').unwrap_or(&head);
        let before = format!("data: {open},\"choices\":[{choice}").into_bytes();
        Self {
            dialect,
            id: id.to_owned(),
            created,
            model: model.to_owned(),
            quirks: quirks.to_vec(),
            body: Body::new(quirks),
            before,
            event: Vec::with_capacity(512),
        }
    }

    fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    /// Appends the head of a streamed response. `headers` are whole lines.
    pub(crate) fn head(&self, out: &mut Vec<u8>, headers: &str) {
        self.body.head(out, headers);
    }

    /// Appends what comes long before the first token, if anything does.
    pub(crate) fn early(&mut self, out: &mut Vec<u8>, usage: Option<&Value>) {
        if self.has(Quirk::FilterResults) {
            let results = json!([{"prompt_index": 0, "content_filter_results": {}}]);
            let event = json!({"choices": [], "prompt_filter_results": results});
            self.data(out, &event);
        }
        if self.has(Quirk::EarlyRole) {
            match self.dialect {
                Dialect::Chat => self.role(out, Value::Null, usage),
                Dialect::Completion => {
                    let (form, finish, long) = (Form::Answer, None, false);
                    self.text(out, &Said { text: "", form, finish, usage, long });
                }
            }
        }
    }

    /// Appends an event with text. Words of answers need no JSON escapes.
    pub(crate) fn text(&mut self, out: &mut Vec<u8>, said: &Said<'_>) {
        if said.long || said.form != Form::Answer || self.has(Quirk::Logprobs) {
            return self.unusual(out, said);
        }
        self.event.clear();
        self.event.extend_from_slice(&self.before);
        self.event.extend_from_slice(said.text.as_bytes());
        self.event.extend_from_slice(match self.dialect {
            Dialect::Chat => b"\"},\"logprobs\":null,\"finish_reason\":",
            Dialect::Completion => b"\",\"logprobs\":null,\"finish_reason\":",
        });
        match said.finish {
            Some(finish) => {
                self.event.push(b'"');
                self.event.extend_from_slice(finish.as_bytes());
                self.event.extend_from_slice(b"\",\"stop_reason\":null}]");
            }
            None if self.dialect == Dialect::Chat => self.event.extend_from_slice(b"null}]"),
            None => self.event.extend_from_slice(b"null,\"stop_reason\":null}]"),
        }
        if let Some(usage) = said.usage {
            self.event.extend_from_slice(b",\"usage\":");
            self.event.extend_from_slice(usage.to_string().as_bytes());
        }
        self.event.extend_from_slice(b"}\n\n");
        self.body.event(out, &self.event);
    }

    /// Appends the first event of a chat, which has the role and no text.
    pub(crate) fn role(&mut self, out: &mut Vec<u8>, content: Value, usage: Option<&Value>) {
        let delta = json!({"role": "assistant", "content": content});
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null});
        self.choices(out, json!([choice]), usage, false);
    }

    /// Appends the last event of a stream that was asked for its usage.
    pub(crate) fn usage(&mut self, out: &mut Vec<u8>, usage: &Value) {
        self.choices(out, json!([]), Some(usage), false);
    }

    /// Appends an event with this JSON.
    pub(crate) fn data(&mut self, out: &mut Vec<u8>, json: &Value) {
        self.body.event(out, format!("data: {json}\n\n").as_bytes());
    }

    /// Appends the end of the body, after `[DONE]` if it is to come.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>, done: bool) {
        if done {
            self.body.event(out, DONE);
        }
        self.body.end(out);
    }

    /// The body of an answer that is not streamed.
    pub(crate) fn whole(&self, text: &str, finish: &str, usage: &Value) -> Value {
        let (object, choice) = match self.dialect {
            Dialect::Chat => {
                let message = json!({
                    "role": "assistant", "content": text, "refusal": null, "annotations": null,
                    "audio": null, "function_call": null, "tool_calls": [], "reasoning": null,
                });
                let choice = json!({
                    "index": 0, "message": message, "logprobs": null, "finish_reason": finish,
                    "stop_reason": null, "token_ids": null,
                });
                ("chat.completion", choice)
            }
            Dialect::Completion => {
                let choice = json!({
                    "index": 0, "text": text, "logprobs": null, "finish_reason": finish,
                    "stop_reason": null, "token_ids": null, "prompt_logprobs": null,
                    "prompt_token_ids": null,
                });
                ("text_completion", choice)
            }
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": [choice], "service_tier": null, "system_fingerprint": null, "usage": usage,
        })
    }

    /// An event with text that is not like the others.
    fn unusual(&mut self, out: &mut Vec<u8>, said: &Said<'_>) {
        let text = said.text;
        let logprobs = match self.has(Quirk::Logprobs) && !text.is_empty() {
            true => logprobs(self.dialect, text),
            false => Value::Null,
        };
        let mut choice = match self.dialect {
            Dialect::Chat => json!({"index": 0, "delta": self.delta(text, said.form)}),
            Dialect::Completion => json!({"index": 0, "text": text}),
        };
        choice["logprobs"] = logprobs;
        choice["finish_reason"] = said.finish.into();
        self.choices(out, json!([choice]), said.usage, said.long);
    }

    fn delta(&self, text: &str, form: Form) -> Value {
        match form {
            Form::Answer => json!({"content": text}),
            Form::Reasoning => {
                let spellings = [
                    (Quirk::Reasoning, "reasoning"),
                    (Quirk::ReasoningContent, "reasoning_content"),
                ];
                let used = spellings.iter().filter(|(quirk, _)| self.has(*quirk));
                used.map(|(_, name)| ((*name).to_owned(), text.into()))
                    .collect::<Map<_, _>>()
                    .into()
            }
            Form::Call { first: true } => json!({"tool_calls": [{
                "index": 0, "id": format!("call-{}", self.id), "type": "function",
                "function": {"name": "look_up", "arguments": text},
            }]}),
            Form::Call { first: false } => {
                json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})
            }
        }
    }

    fn choices(&mut self, out: &mut Vec<u8>, choices: Value, usage: Option<&Value>, long: bool) {
        let object = object(self.dialect);
        let mut event = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            event["usage"] = usage.clone();
        }
        if long {
            event["obfuscation"] = "x".repeat(LONG).into();
        }
        self.data(out, &event);
    }
}

fn object(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Chat => "chat.completion.chunk",
        Dialect::Completion => "text_completion",
    }
}

fn logprobs(dialect: Dialect, token: &str) -> Value {
    let (other, bytes) = ("\"}]", token.as_bytes());
    match dialect {
        Dialect::Chat => json!({"content": [{
            "token": token, "logprob": -0.5, "bytes": bytes,
            "top_logprobs": [
                {"token": token, "logprob": -0.5, "bytes": bytes},
                {"token": other, "logprob": -2.5, "bytes": other.as_bytes()},
            ],
        }]}),
        Dialect::Completion => json!({
            "text_offset": [0], "tokens": [token], "token_logprobs": [-0.5],
            "top_logprobs": [{token: -0.5, other: -2.5}],
        }),
    }
}

/// How events become the bytes of a response.
struct Body {
    content_type: &'static str,
    chunked: bool,
    crlf: bool,
    comments: bool,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl Body {
    fn new(quirks: &[Quirk]) -> Self {
        let has = |quirk| quirks.contains(&quirk);
        let content_type = match (has(Quirk::JsonType), has(Quirk::TextType)) {
            (true, _) => "application/json",
            (_, true) => "text/plain",
            _ => "text/event-stream; charset=utf-8",
        };
        Self {
            content_type,
            chunked: !has(Quirk::UntilClose),
            crlf: has(Quirk::Crlf),
            comments: has(Quirk::Comments),
            gzip: has(Quirk::Gzip).then(|| GzEncoder::new(Vec::new(), Compression::fast())),
        }
    }

    fn head(&self, out: &mut Vec<u8>, headers: &str) {
        let coding = if self.gzip.is_some() { "content-encoding: gzip\r\n" } else { "" };
        let framing = if self.chunked { "transfer-encoding: chunked\r\n" } else { "" };
        stream_head(out, self.content_type, &format!("{framing}{coding}{headers}"));
    }

    fn event(&mut self, out: &mut Vec<u8>, event: &[u8]) {
        if !self.crlf && !self.comments && self.gzip.is_none() {
            return self.frame(out, event);
        }
        let mut text = String::from_utf8_lossy(event).into_owned();
        if self.comments {
            text.insert_str(0, ": ping\n\n");
        }
        if self.crlf {
            text = text.replace('\n', "\r\n");
        }
        match &mut self.gzip {
            None => self.frame(out, text.as_bytes()),
            Some(gzip) => {
                let written = gzip.write_all(text.as_bytes()).and_then(|()| gzip.flush());
                written.expect("a vector takes all bytes");
                let bytes = std::mem::take(gzip.get_mut());
                self.frame(out, &bytes);
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if let Some(gzip) = &mut self.gzip {
            gzip.try_finish().expect("a vector takes all bytes");
            let bytes = std::mem::take(gzip.get_mut());
            self.frame(out, &bytes);
        }
        if self.chunked {
            out.extend_from_slice(END);
        }
    }

    fn frame(&self, out: &mut Vec<u8>, bytes: &[u8]) {
        if self.chunked {
            write!(out, "{:x}\r\n", bytes.len()).expect("a vector takes all bytes");
        }
        out.extend_from_slice(bytes);
        if self.chunked {
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behavior::Behavior;

    fn envelope(dialect: Dialect) -> Envelope {
        let body: &[u8] = br#"{"messages":[{"role":"user","content":"a"}],"prompt":"a"}"#;
        let ask = crate::api::read_ask(dialect, body, &Behavior::default()).unwrap();
        Envelope::new(&ask, "id-\"1\"", 7, "m\\n", &[])
    }

    fn unframe(out: &[u8]) -> Value {
        let text = std::str::from_utf8(out).unwrap();
        let (size, rest) = text.split_once("\r\n").unwrap();
        let event = rest.strip_suffix("\r\n").unwrap();
        assert_eq!(usize::from_str_radix(size, 16).unwrap(), event.len());
        serde_json::from_str(event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap())
            .unwrap()
    }

    #[test]
    fn text_events_are_whole_json() {
        for (dialect, text) in
            [(Dialect::Chat, "/choices/0/delta/content"), (Dialect::Completion, "/choices/0/text")]
        {
            let mut envelope = envelope(dialect);
            for (finish, usage) in [(None, None), (Some("length"), Some(json!({"x": 1})))] {
                for long in [false, true] {
                    let mut out = Vec::new();
                    let (form, usage) = (Form::Answer, usage.as_ref());
                    envelope.text(&mut out, &Said { text: " river", form, finish, usage, long });
                    assert_eq!(out.len() > LONG, long);
                    let event = unframe(&out);
                    assert_eq!(event["id"], "id-\"1\"");
                    assert_eq!(event["model"], "m\\n");
                    assert_eq!(event.pointer(text).unwrap(), " river");
                    assert_eq!(event["choices"][0]["finish_reason"].as_str(), finish);
                    assert_eq!(event.get("usage"), usage);
                }
            }
        }
    }

    #[test]
    fn the_end_is_framed_rightly() {
        let mut out = Vec::new();
        envelope(Dialect::Chat).end(&mut out, true);
        assert_eq!(out, b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    }
}
