//! Rendering answers: what is the same for all events of a stream is rendered once per request.

use std::io::Write;

use serde_json::{Value, json};

use crate::api::{Ask, Dialect};

/// The last event, framed.
pub(crate) const DONE: &[u8] = b"e\r\ndata: [DONE]\n\n\r\n";
/// The end of the chunked body.
pub(crate) const END: &[u8] = b"0\r\n\r\n";

/// What goes around the texts of one answer.
pub(crate) struct Envelope {
    dialect: Dialect,
    id: String,
    created: u64,
    model: String,
    /// Everything before the text of an event.
    before: Vec<u8>,
    event: Vec<u8>,
}

impl Envelope {
    pub(crate) fn new(ask: &Ask, id: &str, created: u64, model: &str) -> Self {
        let dialect = ask.dialect;
        let (object, choice) = match dialect {
            Dialect::Chat => ("chat.completion.chunk", r#"{"index":0,"delta":{"content":""#),
            Dialect::Completion => ("text_completion", r#"{"index":0,"text":""#),
        };
        let head = json!({"id": id, "object": object, "created": created, "model": model});
        let head = head.to_string();
        let open = head.strip_suffix('}').unwrap_or(&head);
        let before = format!("data: {open},\"choices\":[{choice}").into_bytes();
        let (id, model) = (id.to_owned(), model.to_owned());
        Self { dialect, id, created, model, before, event: Vec::with_capacity(512) }
    }

    /// Appends a framed event with text. Words of answers need no JSON escapes.
    pub(crate) fn text(
        &mut self,
        out: &mut Vec<u8>,
        text: &str,
        finish: Option<&str>,
        usage: Option<&Value>,
    ) {
        self.event.clear();
        self.event.extend_from_slice(&self.before);
        self.event.extend_from_slice(text.as_bytes());
        self.event.extend_from_slice(match self.dialect {
            Dialect::Chat => b"\"},\"logprobs\":null,\"finish_reason\":",
            Dialect::Completion => b"\",\"logprobs\":null,\"finish_reason\":",
        });
        match finish {
            Some(finish) => {
                self.event.push(b'"');
                self.event.extend_from_slice(finish.as_bytes());
                self.event.extend_from_slice(b"\",\"stop_reason\":null}]");
            }
            None if self.dialect == Dialect::Chat => self.event.extend_from_slice(b"null}]"),
            None => self.event.extend_from_slice(b"null,\"stop_reason\":null}]"),
        }
        if let Some(usage) = usage {
            self.event.extend_from_slice(b",\"usage\":");
            self.event.extend_from_slice(usage.to_string().as_bytes());
        }
        self.event.extend_from_slice(b"}\n\n");
        frame(out, &self.event);
    }

    /// Appends the first event of a chat, which has the role and no text.
    pub(crate) fn role(&self, out: &mut Vec<u8>, usage: Option<&Value>) {
        let delta = json!({"role": "assistant", "content": ""});
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null});
        self.event(out, json!([choice]), usage);
    }

    /// Appends the last event of a stream that was asked for its usage.
    pub(crate) fn usage(&self, out: &mut Vec<u8>, usage: &Value) {
        self.event(out, json!([]), Some(usage));
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

    fn event(&self, out: &mut Vec<u8>, choices: Value, usage: Option<&Value>) {
        let object = match self.dialect {
            Dialect::Chat => "chat.completion.chunk",
            Dialect::Completion => "text_completion",
        };
        let mut event = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            event["usage"] = usage.clone();
        }
        data(out, &event);
    }
}

/// Appends one framed event with this JSON.
pub(crate) fn data(out: &mut Vec<u8>, json: &Value) {
    frame(out, format!("data: {json}\n\n").as_bytes());
}

/// Appends bytes as one chunk of a chunked body.
fn frame(out: &mut Vec<u8>, bytes: &[u8]) {
    write!(out, "{:x}\r\n", bytes.len()).expect("a vector takes all bytes");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behavior::Behavior;

    fn envelope(dialect: Dialect) -> Envelope {
        let body: &[u8] = br#"{"messages":[{"role":"user","content":"a"}],"prompt":"a"}"#;
        let ask = crate::api::read_ask(dialect, body, &Behavior::default()).unwrap();
        Envelope::new(&ask, "id-\"1\"", 7, "m\\n")
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
                let mut out = Vec::new();
                envelope.text(&mut out, " river", finish, usage.as_ref());
                let event = unframe(&out);
                assert_eq!(event["id"], "id-\"1\"");
                assert_eq!(event["model"], "m\\n");
                assert_eq!(event.pointer(text).unwrap(), " river");
                assert_eq!(event["choices"][0]["finish_reason"].as_str(), finish);
                assert_eq!(event.get("usage"), usage.as_ref());
            }
        }
    }

    #[test]
    fn the_last_event_is_framed_rightly() {
        let mut framed = Vec::new();
        frame(&mut framed, b"data: [DONE]\n\n");
        assert_eq!(framed, DONE);
    }
}
