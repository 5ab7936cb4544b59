//! Tests of bodies and pieces in both dialects.

use super::*;
use crate::plan::{Message, Pacing, Tls};
use serde_json::{Map, json};
use std::collections::BTreeMap;

fn target() -> Target {
    Target {
        endpoints: Vec::new(),
        api: Api::Chat,
        model: "m".into(),
        run: "r".into(),
        headers: Vec::new(),
        api_key: None,
        extra_body: Map::new(),
        tls: Tls::default(),
        exact_output: true,
    }
}

fn request(prompt: Prompt) -> Request {
    Request {
        api: None,
        path: None,
        model: None,
        prompt,
        history: false,
        streamed: true,
        max_output_tokens: None,
        exact_output: false,
        cancel_after: None,
        asked_input_tokens: None,
        extra: Map::new(),
        headers: Vec::new(),
        labels: BTreeMap::new(),
    }
}

fn text(words: &str) -> Request {
    request(Prompt::Text(words.into()))
}

fn message(role: &str, parts: Vec<Part>) -> Message {
    Message { role: role.into(), parts, extra: Map::new() }
}

fn words(text: &str) -> Part {
    Part::Text(text.into())
}

fn body_of(
    target: &Target,
    request: &Request,
    before: &[(Request, &str)],
) -> Result<Value, BodyError> {
    let pacing = Pacing::AfterPreviousEnd(0);
    let turns: Vec<Turn> =
        before.iter().map(|(request, _)| Turn { request: request.clone(), pacing }).collect();
    let answers: Vec<String> = before.iter().map(|(_, answer)| (*answer).to_owned()).collect();
    let bytes = body(target, request, Past { turns: &turns, answers: &answers })?;
    Ok(serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn a_chat_body_asks_for_a_stream_with_usage() {
    assert_eq!(
        body_of(&target(), &text("hi"), &[]).unwrap(),
        json!({
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": true,
            "stream_options": {"include_usage": true},
            "temperature": 0
        })
    );
}

#[test]
fn output_lengths_are_asked_for_as_the_server_allows() {
    let exact = Request { max_output_tokens: Some(5), exact_output: true, ..text("hi") };
    let vllm = body_of(&target(), &exact, &[]).unwrap();
    assert_eq!([&vllm["max_tokens"], &vllm["min_tokens"]], [5, 5]);
    assert_eq!(vllm["ignore_eos"], true);
    let openai = body_of(&Target { exact_output: false, ..target() }, &exact, &[]).unwrap();
    assert_eq!(openai["max_tokens"], 5);
    assert_eq!((openai.get("min_tokens"), openai.get("ignore_eos")), (None, None));
}

#[test]
fn fields_of_the_target_win_over_the_request_and_both_over_the_rest() {
    let map = |value: Value| value.as_object().unwrap().clone();
    let request = Request {
        model: Some("other".into()),
        extra: map(json!({"temperature": 1, "top_p": 0.5})),
        ..text("hi")
    };
    let target = Target { extra_body: map(json!({"top_p": 0.9, "user": "u"})), ..target() };
    let body = body_of(&target, &request, &[]).unwrap();
    assert_eq!([&body["temperature"], &body["top_p"]], [&json!(1), &json!(0.9)]);
    assert_eq!([&body["user"], &body["model"]], ["u", "other"]);
}

#[test]
fn a_chat_history_holds_earlier_prompts_and_real_answers() {
    let system = message("system", vec![words("be kind")]);
    let first = request(Prompt::Messages(vec![system, message("user", vec![words("one")])]));
    let second = Request { history: true, ..text("two") };
    let third = Request {
        history: true,
        ..request(Prompt::Messages(vec![message("user", vec![words("not "), Part::OutputOf(0)])]))
    };
    let body = body_of(&target(), &third, &[(first, "ONE"), (second, "TWO")]).unwrap();
    let said: Vec<String> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| format!("{}: {}", m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
        .collect();
    assert_eq!(
        said,
        [
            "system: be kind",
            "user: one",
            "assistant: ONE",
            "user: two",
            "assistant: TWO",
            "user: not ONE"
        ]
    );
}

#[test]
fn a_completion_prompt_is_text_lines_or_tokens() {
    let target = Target { api: Api::Completions, ..target() };
    let prompt = |request: &Request, before: &[(Request, &str)]| {
        body_of(&target, request, before).unwrap()["prompt"].clone()
    };
    let chat = |text: &str| request(Prompt::Messages(vec![message("user", vec![words(text)])]));
    assert_eq!(prompt(&text("hi"), &[]), "hi");
    assert_eq!(prompt(&request(Prompt::TokenIds(vec![1, 2])), &[]), json!([1, 2]));
    let asking = Request { history: true, ..chat("two") };
    assert_eq!(prompt(&asking, &[(chat("one"), "ONE")]), "USER: one\nASSISTANT: ONE\nUSER: two");
    let plain = Request { history: true, ..text("two") };
    assert_eq!(prompt(&plain, &[(text("one"), "ONE")]), "one\nONE\ntwo");
}

#[test]
fn a_prompt_comes_through_whatever_is_in_it() {
    for prompt in ["", "plain words", "日本 \u{7f}", "\"quoted\"", "a\nb", "\\", "\u{1}"] {
        let body = body_of(&target(), &text(prompt), &[]).unwrap();
        assert_eq!(body["messages"], json!([{"role": "user", "content": prompt}]));
    }
}

#[test]
fn a_raw_body_is_sent_as_it_is_to_its_own_path() {
    let request = Request { path: Some("/v1/x".into()), ..request(Prompt::Raw("{ }".into())) };
    let past = Past { turns: &[], answers: &[] };
    assert_eq!(body(&target(), &request, past).unwrap(), b"{ }");
    assert_eq!(path(&target(), &request), "/v1/x");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let check = |request: &Request, before: &[(Request, &str)], expected: BodyError| {
        assert_eq!(body_of(&target(), request, before), Err(expected));
    };
    check(&request(Prompt::TokenIds(vec![1])), &[], BodyError::TokenIds);
    let raw = request(Prompt::Raw("{}".into()));
    let asking = Request { history: true, ..text("x") };
    check(&asking, &[(raw, "a")], BodyError::History(0));
    let quoting = request(Prompt::Messages(vec![message("user", vec![Part::OutputOf(1)])]));
    check(&quoting, &[(text("x"), "a")], BodyError::OutputOf(1));
}

#[test]
fn answers_are_kept_only_where_a_later_turn_quotes_them() {
    let turn = |request| Turn { request, pacing: Pacing::At(0) };
    let quoting = request(Prompt::Messages(vec![message("user", vec![Part::OutputOf(1)])]));
    let turns = [turn(text("a")), turn(text("b")), turn(text("c")), turn(quoting)];
    assert_eq!([0, 1, 2, 3].map(|i| is_quoted(&turns, i)), [false, true, false, false]);
    let turns = [turn(text("a")), turn(Request { history: true, ..text("b") })];
    assert_eq!([0, 1].map(|i| is_quoted(&turns, i)), [true, false]);
}

#[test]
fn pieces_of_completions_are_text() {
    let json = br#"{"choices":[{"index":0,"text":"a\"b","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":1,"total_tokens":3,"completion_tokens":2}}"#;
    let piece = read(Api::Completions, json).unwrap();
    assert_eq!((piece.output, &*piece.text, piece.finished), (Some(Output::Answer), "a\"b", true));
    assert_eq!(piece.usage.unwrap().completion_tokens, Some(2));
    assert_eq!(read(Api::Completions, br#"{"choices":[]}"#).unwrap(), Piece::default());
}

#[test]
fn error_bodies_of_every_form_give_their_message() {
    let check = |body: &str, text: &str| assert_eq!(error_text(body.as_bytes()), text);
    check(r#"{"error":{"message":"no","type":"T","code":400}}"#, "no (T, code 400)");
    check(r#"{"error":{"message":"no","code":"bad"}}"#, "no (code bad)");
    check(r#"{"error":"no"}"#, "no");
    check(r#"{"object":"error","message":"no","code":404}"#, "no (code 404)");
    check(r#"{"detail":"Not Found"}"#, "Not Found");
    check(r#"{"detail":[{"msg":"x"}]}"#, r#"[{"msg":"x"}]"#);
    check("  plain\n", "plain");
    check("", "");
}

#[test]
fn a_chunk_with_both_a_delta_and_a_message_says_what_its_delta_says() {
    let both = |delta: &str, message: &str| {
        let chunk = format!(r#"{{"choices":[{{"delta":{delta},"message":{message}}}]}}"#);
        read(Api::Chat, chunk.as_bytes()).map(|piece| piece.text.into_owned()).unwrap()
    };
    assert_eq!(both(r#"{"content":"b"}"#, r#"{"content":"ab"}"#), "b");
    assert_eq!(both(r#"{"content":"b"}"#, "null"), "b");
    assert_eq!(both("null", r#"{"content":"ab"}"#), "ab");
}
