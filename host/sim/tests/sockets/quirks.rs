//! Quirks over real sockets: each shape as it goes over the wire, and what the truth log says of it.

use crate::support::{End, Response, Server, chat, instant};
use serde_json::json;
use sim::{Behavior, QUIRKS, Quirk, TruthLine};

/// A streamed answer of four tokens with a quirk.
fn answer(quirk: Quirk, path: &str) -> (Response, TruthLine) {
    let server = Server::start(Behavior { quirks: vec![quirk], ..instant() });
    let body = chat("a", json!({"prompt": "a", "max_tokens": 4, "ignore_eos": true}));
    let mut client = server.connect();
    let response = client.post(path, "", &body);
    if quirk == Quirk::CloseReused {
        client.send_post(path, "", &body);
        assert_eq!(client.read_end(), End::Closed);
    }
    let (_, mut truth) = server.stop();
    assert_eq!(truth.len(), 1, "{quirk}");
    (response, truth.remove(0))
}

/// Whether the bytes have this quirk. `chunks` are reads of the client.
fn shows(quirk: Quirk, is_chat: bool, response: &Response) -> bool {
    let body = String::from_utf8_lossy(&response.body);
    let count = |part: &str| body.matches(part).count();
    let usages = count("\"usage\"");
    match quirk {
        Quirk::EarlyRole if is_chat => {
            count("\"content\":null") == 1 && count("\"role\"") == 1 && body.starts_with("data: {")
        }
        Quirk::EarlyRole => count("\"text\":\"\"") == 1,
        Quirk::FilterResults => {
            count("\"choices\":[],\"prompt_filter_results\"") == 1 && count("\"choices\":[]") == 2
        }
        Quirk::PartialUtf8 => {
            let empty = if is_chat { "\"delta\":{\"content\":\"\"}" } else { "\"text\":\"\"" };
            count(empty) == 2 && count("日\"") == 2
        }
        Quirk::SplitEvents => count("日\"") == 4,
        Quirk::JoinedEvents => usages == 1,
        Quirk::Crlf => count("\n") == count("\r\n") && count("\r\n\r\n") > 5,
        Quirk::Comments => count(": ping\n\ndata: ") == count("data: "),
        Quirk::ContinuousUsage => usages == count("data: {") && usages > 4,
        Quirk::UsageInLast => usages == 1 && count("\"choices\":[]") == 0,
        Quirk::NoUsage => usages == 0,
        Quirk::FinishAlone => {
            let empty = if is_chat { "{\"content\":\"\"}" } else { "\"text\":\"\"" };
            let rest = body.split_once(empty).unwrap().1;
            rest.contains("\"finish_reason\":\"length\"") && !rest.contains("\"content\":\" ")
        }
        Quirk::Reasoning if is_chat => {
            count("{\"reasoning\":") == 2 && count("\"reasoning_tokens\":2") == 1
        }
        Quirk::ReasoningContent if is_chat => count("{\"reasoning_content\":") == 2,
        Quirk::ToolCalls if is_chat => {
            count("\"arguments\":") == 2
                && count("look_up") == 1
                && count("\"finish_reason\":\"tool_calls\"") == 1
        }
        Quirk::Reasoning | Quirk::ReasoningContent | Quirk::ToolCalls => {
            response.texts().len() == 4
        }
        Quirk::Logprobs => count("\"top_logprobs\"") == 4,
        Quirk::LongLine => body.split("\n\n").filter(|event| event.len() > 1 << 20).count() == 1,
        Quirk::UntilClose => {
            response.header("transfer-encoding").is_none() && response.end == End::Closed
        }
        Quirk::Close => response.header("connection") == Some("close"),
        Quirk::CloseReused => count("data: [DONE]") == 1,
        Quirk::TextType => response.header("content-type") == Some("text/plain"),
        Quirk::JsonType => response.header("content-type") == Some("application/json"),
        Quirk::Gzip => {
            response.header("content-encoding") == Some("gzip")
                && response.body.starts_with(&[0x1f, 0x8b])
        }
        Quirk::Redirect => {
            response.status == 307
                && response.header("location").is_some_and(|to| to.starts_with("/elsewhere/v1/"))
        }
    }
}

#[test]
fn every_quirk_of_the_table_shows_in_a_stream_and_the_truth_is_the_same() {
    for kind in QUIRKS {
        for path in ["/v1/chat/completions", "/v1/completions"] {
            let (response, truth) = answer(kind.quirk, path);
            let name = kind.name;
            let body = String::from_utf8_lossy(&response.body);
            let is_chat = path.contains("chat");
            assert!(
                shows(kind.quirk, is_chat, &response),
                "{name} {path}\n{}\n{body}",
                response.head
            );
            if kind.quirk == Quirk::Redirect {
                assert_eq!((truth.status, truth.tokens_ns.len()), (307, 0));
                continue;
            }
            assert_eq!(truth.output_tokens, 4, "{name}");
            let written = if kind.quirk == Quirk::PartialUtf8 { 2 } else { 4 };
            assert_eq!(truth.tokens_ns.len(), written, "{name}");
            assert!(truth.tokens_ns.is_sorted(), "{name}");
            assert!(truth.tokens_ns.last() <= truth.finished_ns.as_ref(), "{name}");
            if kind.quirk == Quirk::JoinedEvents {
                assert_eq!(truth.tokens_ns[0], truth.tokens_ns[1]);
                assert_eq!(truth.tokens_ns[2], truth.tokens_ns[3]);
            }
        }
    }
}

#[test]
fn what_comes_early_comes_long_before_the_first_token_and_parts_of_events_apart() {
    let server = Server::start(Behavior {
        ttft_ms: 30.0,
        quirks: vec![Quirk::EarlyRole, Quirk::SplitEvents],
        ..instant()
    });
    let body = chat("a", json!({"max_tokens": 2, "ignore_eos": true}));
    let response = server.post("/v1/chat/completions", "", &body);
    let (_, truth) = server.stop();
    assert!(response.chunks_ns[0] < truth[0].tokens_ns[0], "the role came before");
    assert_eq!(response.texts().len(), 2);
    // Three pauses of a millisecond lie before the write that completes an event.
    assert!(truth[0].tokens_ns[0] - truth[0].read_ns >= 33_000_000);
}
