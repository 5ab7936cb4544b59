//! Reading request bodies as vLLM reads them, and its error bodies.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::behavior::Behavior;
use crate::tokens;

/// The two ways to ask for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Chat,
    Completion,
}

/// A request for an answer, understood and found possible.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) dialect: Dialect,
    pub(crate) prompt: Vec<u32>,
    pub(crate) stream: bool,
    /// A last event with the usage.
    pub(crate) include_usage: bool,
    /// The usage so far in every event.
    pub(crate) continuous_usage: bool,
    /// The most tokens to generate.
    pub(crate) limit: u32,
    /// The fewest.
    pub(crate) at_least: u32,
    pub(crate) ignore_eos: bool,
}

/// A refusal, with vLLM's body.
#[derive(Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    /// JSON.
    pub(crate) body: Value,
}

impl ApiError {
    /// An error found by vLLM's own checks.
    pub(crate) fn new(status: u16, kind: &str, param: Option<&str>, message: &str) -> Self {
        let error = json!({"message": message, "type": kind, "param": param, "code": status});
        Self { status, body: json!({ "error": error }) }
    }

    /// A path or method without a route.
    pub(crate) fn no_route(status: u16, detail: &str) -> Self {
        Self { status, body: json!({ "detail": detail }) }
    }

    /// A missing or wrong key.
    pub(crate) fn unauthorized() -> Self {
        Self { status: 401, body: json!({"error": "Unauthorized"}) }
    }

    /// A request that is well-formed and impossible.
    pub(crate) fn impossible(param: Option<&str>, message: &str) -> Self {
        Self::new(400, "BadRequestError", param, message)
    }

    fn malformed(message: &str) -> Self {
        Self::new(400, "Bad Request", None, message)
    }

    fn no_model(model: &str) -> Self {
        let message = format!("The model `{model}` does not exist.");
        Self::new(404, "NotFoundError", Some("model"), &message)
    }
}

/// Reads the body of `/v1/chat/completions` or `/v1/completions`.
pub(crate) fn read_ask(
    dialect: Dialect,
    body: &[u8],
    behavior: &Behavior,
) -> Result<Ask, ApiError> {
    let body: AskBody = read_json(body)?;
    check_model(body.model.as_deref(), behavior)?;
    let prompt = tokens(dialect, body.messages.as_deref(), body.prompt.as_ref())?;
    if body.n.is_some_and(|n| n != 1) {
        return Err(ApiError::impossible(Some("n"), "the simulated server answers only n=1"));
    }
    let stream = body.stream.unwrap_or(false);
    if body.stream_options.is_some() && !stream {
        let message = "Stream options can only be defined when `stream=True`.";
        return Err(ApiError::impossible(Some("stream_options"), message));
    }
    let requested = match dialect {
        Dialect::Chat => body.max_completion_tokens.or(body.max_tokens),
        // The default of the older API.
        Dialect::Completion => Some(body.max_tokens.unwrap_or(16)),
    };
    let limit = limit(requested, prompt.len(), behavior.max_model_len)?;
    let at_least = body.min_tokens.unwrap_or(0);
    if at_least > limit {
        let message =
            format!("min_tokens must be less than or equal to max_tokens={limit}, got {at_least}.");
        return Err(ApiError::impossible(Some("min_tokens"), &message));
    }
    let options = body.stream_options.unwrap_or_default();
    Ok(Ask {
        dialect,
        prompt,
        stream,
        include_usage: options.include_usage,
        continuous_usage: options.include_usage && options.continuous_usage_stats,
        limit,
        at_least,
        ignore_eos: body.ignore_eos,
    })
}

/// Reads the body of `/tokenize`; returns the tokens.
pub(crate) fn read_tokenize(body: &[u8], behavior: &Behavior) -> Result<Vec<u32>, ApiError> {
    let body: TokenizeBody = read_json(body)?;
    check_model(body.model.as_deref(), behavior)?;
    let dialect = if body.messages.is_some() { Dialect::Chat } else { Dialect::Completion };
    tokens(dialect, body.messages.as_deref(), body.prompt.as_ref())
}

/// The `usage` object.
pub(crate) fn usage(
    prompt: u32,
    completion: u32,
    cached: Option<u32>,
    reasoning: Option<u32>,
) -> Value {
    let mut usage = json!({
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    });
    if let Some(cached) = cached {
        usage["prompt_tokens_details"] = json!({"cached_tokens": cached});
    }
    if let Some(reasoning) = reasoning {
        usage["completion_tokens_details"] = json!({"reasoning_tokens": reasoning});
    }
    usage
}

#[derive(Deserialize)]
struct AskBody {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    prompt: Option<Value>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u32>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    min_tokens: Option<u32>,
    #[serde(default)]
    ignore_eos: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
    continuous_usage_stats: bool,
}

#[derive(Deserialize)]
struct TokenizeBody {
    model: Option<String>,
    messages: Option<Vec<Message>>,
    prompt: Option<Value>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Value,
}

/// The tokens of a prompt, whichever of its two forms the dialect wants.
fn tokens(
    dialect: Dialect,
    messages: Option<&[Message]>,
    prompt: Option<&Value>,
) -> Result<Vec<u32>, ApiError> {
    let mut tokens = Vec::new();
    match (dialect, messages, prompt) {
        (Dialect::Chat, Some([]), _) => {
            return Err(ApiError::impossible(Some("messages"), "`messages` is empty"));
        }
        (Dialect::Chat, Some(messages), _) => {
            for message in messages {
                message.append(&mut tokens)?;
            }
            tokens::append_opening(&mut tokens);
        }
        (Dialect::Completion, _, Some(prompt)) => append_prompt(prompt, &mut tokens)?,
        (Dialect::Chat, None, _) => return Err(missing("messages")),
        (Dialect::Completion, _, None) => return Err(missing("prompt")),
    }
    Ok(tokens)
}

impl Message {
    fn append(&self, tokens: &mut Vec<u32>) -> Result<(), ApiError> {
        let text = match &self.content {
            Value::String(text) => Cow::Borrowed(text.as_str()),
            Value::Null => Cow::Borrowed(""),
            Value::Array(parts) => {
                let texts = parts.iter().map(|part| part["text"].as_str());
                let texts = texts.collect::<Option<Vec<_>>>().ok_or_else(|| {
                    ApiError::impossible(None, "the simulated model is not a multimodal model")
                })?;
                Cow::Owned(texts.join("\n"))
            }
            _ => return Err(ApiError::malformed("`content` must be a string or a list of parts")),
        };
        tokens::append_message(&self.role, &text, tokens);
        Ok(())
    }
}

fn append_prompt(prompt: &Value, tokens: &mut Vec<u32>) -> Result<(), ApiError> {
    let wrong = || {
        ApiError::impossible(
            Some("prompt"),
            "the simulated server takes one prompt: a string or a list of token ids",
        )
    };
    match prompt {
        Value::String(text) => tokens::append_text(text, tokens),
        Value::Array(items) => match items.as_slice() {
            [one @ (Value::String(_) | Value::Array(_))] => return append_prompt(one, tokens),
            ids => {
                for id in ids {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    tokens.push(id.ok_or_else(wrong)?);
                }
            }
        },
        _ => return Err(wrong()),
    }
    if tokens.is_empty() {
        return Err(ApiError::impossible(Some("prompt"), "The decoder prompt cannot be empty"));
    }
    Ok(())
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let kind = if error.is_data() { "validation error" } else { "JSON decode error" };
        ApiError::malformed(&format!("{kind}: {error}"))
    })
}

fn missing(field: &str) -> ApiError {
    ApiError::malformed(&format!("validation error: missing field `{field}`"))
}

fn check_model(model: Option<&str>, behavior: &Behavior) -> Result<(), ApiError> {
    match model {
        // As vLLM does, an absent or empty name means the model served.
        Some(model) if !model.is_empty() && model != behavior.model => {
            Err(ApiError::no_model(model))
        }
        _ => Ok(()),
    }
}

/// The most tokens the answer may have.
fn limit(requested: Option<i64>, prompt: usize, context: u32) -> Result<u32, ApiError> {
    let (prompt, context) = (prompt as i64, i64::from(context));
    if let Some(requested) = requested
        && requested < 1
    {
        let message = format!("max_tokens must be at least 1, got {requested}.");
        return Err(ApiError::impossible(Some("max_tokens"), &message));
    }
    let wanted = requested.unwrap_or(context - prompt);
    if wanted < 1 || prompt.saturating_add(wanted) > context {
        let output = requested.unwrap_or(0);
        let total = prompt.saturating_add(requested.unwrap_or(1));
        let message = format!(
            "This model's maximum context length is {context} tokens. However, you requested \
             {output} output tokens and your prompt contains at least {prompt} input tokens, for a \
             total of at least {total} tokens. Please reduce the length of the input prompt or the \
             number of requested output tokens. (parameter=input_tokens, value={prompt})"
        );
        return Err(ApiError::impossible(Some("input_tokens"), &message));
    }
    Ok(wanted as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(dialect: Dialect, body: &str) -> Result<Ask, ApiError> {
        let behavior = Behavior { max_model_len: 100, ..Behavior::default() };
        read_ask(dialect, body.as_bytes(), &behavior)
    }

    fn check_refusal(dialect: Dialect, body: &str, status: u16, part: &str) {
        let error = ask(dialect, body).expect_err(body);
        assert_eq!(error.status, status, "{body}");
        assert_eq!(error.body["error"]["code"], status, "{body}");
        assert!(error.body.to_string().contains(part), "{body}: {}", error.body);
    }

    #[test]
    fn prompts_are_counted_with_the_template() {
        let chat = |messages: &str| {
            ask(Dialect::Chat, &format!(r#"{{"messages":{messages}}}"#)).unwrap().prompt.len()
        };
        assert_eq!(chat(r#"[{"role":"user","content":"one two three"}]"#), 3 + 3 + 2);
        assert_eq!(chat(r#"[{"role":"system","content":""},{"role":"user"}]"#), 3 + 3 + 2);
        let parts = r#"[{"type":"text","text":"a b"},{"type":"text","text":"c"}]"#;
        assert_eq!(chat(&format!(r#"[{{"role":"user","content":{parts}}}]"#)), 3 + 3 + 2);

        for prompt in [r#""a b c""#, r#"["a b c"]"#, "[5,6,7]", "[[5,6,7]]"] {
            let ask = ask(Dialect::Completion, &format!(r#"{{"prompt":{prompt}}}"#)).unwrap();
            assert_eq!(ask.prompt.len(), 3, "{prompt}");
            assert_eq!(ask.limit, 16, "{prompt}");
        }
    }

    #[test]
    fn limits_come_from_the_request_or_the_context() {
        let limit = |fields: &str| {
            let body = format!(r#"{{"messages":[{{"role":"user","content":"a"}}]{fields}}}"#);
            ask(Dialect::Chat, &body).unwrap().limit
        };
        assert_eq!(limit(""), 94);
        assert_eq!(limit(r#","max_tokens":7"#), 7);
        assert_eq!(limit(r#","max_tokens":7,"max_completion_tokens":8"#), 8);
        assert_eq!(limit(r#","max_tokens":94,"unknown":{"x":[1]},"stream":null"#), 94);
    }

    #[test]
    fn impossible_requests_are_refused() {
        let chat = r#""messages":[{"role":"user","content":"a"}]"#;
        for (fields, status, part) in [
            (r#","model":"x""#, 404, "The model `x` does not exist."),
            (r#","max_tokens":0"#, 400, "max_tokens must be at least 1, got 0."),
            (r#","max_tokens":95"#, 400, "at least 101 tokens"),
            (r#","max_tokens":9223372036854775807"#, 400, "maximum context length is 100"),
            (r#","max_tokens":4,"min_tokens":5"#, 400, "max_tokens=4, got 5"),
            (r#","n":2"#, 400, "n=1"),
            (r#","stream_options":{"include_usage":true}"#, 400, "stream=True"),
            (r#","max_tokens":"many""#, 400, "validation error"),
        ] {
            check_refusal(Dialect::Chat, &format!("{{{chat}{fields}}}"), status, part);
        }
        check_refusal(Dialect::Chat, "{", 400, "JSON decode error");
        check_refusal(Dialect::Chat, "{}", 400, "`messages`");
        check_refusal(Dialect::Chat, r#"{"messages":[]}"#, 400, "empty");
        let image = r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#;
        check_refusal(Dialect::Chat, image, 400, "multimodal");
        check_refusal(Dialect::Completion, "{}", 400, "`prompt`");
        check_refusal(Dialect::Completion, r#"{"prompt":["a","b"]}"#, 400, "one prompt");
        check_refusal(Dialect::Completion, r#"{"prompt":""}"#, 400, "empty");
    }
}
