//! Faults, scripts and rough clients over real sockets.

use std::path::PathBuf;

use crate::support::{End, Response, Server, chat, instant};
use serde_json::{Value, json};
use sim::{Behavior, FAULTS};

const CHAT: &str = "/v1/chat/completions";
const MS: u64 = 1_000_000;

/// One request with a fault, 10 tokens, and another on the same connection if it is still there.
fn strike(fault: &str, stream: bool) -> (Response, Option<u16>) {
    let server = Server::start(instant());
    let options = if stream { json!({"include_usage": true}) } else { Value::Null };
    let body = chat(
        "a",
        json!({"max_tokens": 10, "ignore_eos": true, "stream": stream, "stream_options": options}),
    );
    let mut client = server.connect();
    let response = client.post(CHAT, &format!("x-sim-fault: {fault}\r\n"), &body);
    let next = (response.end == End::Clean && fault != "close_idle")
        .then(|| client.post(CHAT, "", &body).status);
    if fault == "close_idle" {
        assert_eq!(client.read_end(), End::Closed);
    }
    let (_, truth) = if fault == "crash" { server.join() } else { server.stop() };
    assert_eq!(truth[0].fault.as_deref(), Some(fault));
    assert_eq!(truth[0].finished_ns.is_some(), response.end == End::Clean, "{fault}");
    (response, next)
}

#[test]
fn every_fault_of_the_table_strikes_a_stream() {
    for kind in FAULTS {
        let name = kind.name;
        let fault = match name {
            "http" => "http:503".to_owned(),
            _ if kind.argument.is_some() => format!("{name}:30"),
            _ => name.to_owned(),
        };
        let (response, next) = strike(&fault, true);
        let (end, texts, is_done) = match name {
            "http" => (End::Clean, 0, false),
            "stall" | "slow_headers" | "close_idle" => (End::Clean, 10, true),
            "cut" | "crash" => (End::Closed, 5, false),
            "reset" => (End::Reset, 5, false),
            "stream_error" => (End::Clean, 5, true),
            "no_done" => (End::Clean, 10, false),
            "empty" => (End::Clean, 0, true),
            name => panic!("nothing is known of `{name}`"),
        };
        assert_eq!(response.end, end, "{fault}");
        assert_eq!(response.status, if name == "http" { 503 } else { 200 }, "{fault}");
        if name != "http" {
            // What a reset leaves to be read is up to the system.
            let read = response.texts().len();
            assert!(read == texts || (end == End::Reset && read < texts), "{fault}: {read}");
            assert_eq!(response.events().contains(&json!("[DONE]")), is_done, "{fault}");
        }
        let keeps = end == End::Clean && name != "close_idle";
        assert_eq!(next, keeps.then_some(200), "{fault}");
    }
}

#[test]
fn every_fault_strikes_a_plain_answer() {
    for (fault, status, end) in [
        ("http:400", 400, End::Clean),
        ("http:429", 429, End::Clean),
        ("http:500", 500, End::Clean),
        ("stall:20", 200, End::Clean),
        ("cut", 200, End::Closed),
        ("reset", 0, End::Reset),
        ("slow_headers:20", 200, End::Clean),
        ("stream_error", 500, End::Clean),
        ("no_done", 200, End::Clean),
        ("empty", 200, End::Clean),
        ("close_idle", 200, End::Clean),
        ("crash", 0, End::Closed),
    ] {
        let (response, _) = strike(fault, false);
        assert_eq!((response.status, response.end), (status, end), "{fault}");
        match fault {
            "http:429" => assert_eq!(response.header("retry-after"), Some("1")),
            "empty" => assert_eq!(response.json()["usage"]["completion_tokens"], 0),
            _ => {}
        }
        if status >= 400 {
            assert_eq!(response.json()["error"]["code"], status, "{fault}");
        }
    }
}

#[test]
fn an_error_event_stands_in_the_stream() {
    let (response, _) = strike("stream_error", true);
    let events = response.events();
    let error = &events[events.len() - 2]["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!(500), &json!("InternalServerError")));
}

#[test]
fn pauses_last_as_long_as_asked() {
    let (stalled, _) = strike("stall:80", true);
    let chunks = &stalled.chunks_ns;
    // The role, five tokens, the pause.
    assert!(chunks[6] - chunks[0] >= 79 * MS, "{}", chunks[6] - chunks[0]);

    let server = Server::start(instant());
    let mut client = server.connect();
    let body = chat("a", json!({"max_tokens": 2}));
    let sent_ns = crate::support::monotonic_ns();
    let response = client.post(CHAT, "x-sim-fault: slow_headers:80\r\n", &body);
    assert!(response.head_ns >= sent_ns + 80 * MS);
}

#[test]
fn an_unknown_fault_is_refused_with_the_names() {
    let server = Server::start(instant());
    let response = server.post(CHAT, "x-sim-fault: explode\r\n", &chat("a", json!({})));
    assert_eq!(response.status, 400);
    let message = response.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("failed to read `explode` as a fault"), "{message}");
    assert!(message.contains("slow_headers:<milliseconds>"), "{message}");
}

#[test]
fn scripts_are_played_in_turn_byte_by_byte() {
    let dir = tempfile::TempDir::new().unwrap();
    let write = |name: &str, lines: &[&str]| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    };
    let one = write(
        "one.jsonl",
        &[
            r#"{"status":200,"headers":{"content-type":"text/event-stream","x-a":"b"}}"#,
            r#"{"at_ms":20,"hex":"646174613a20e6"}"#,
            r#"{"at_ms":40,"hex":"97a5"}"#,
            r#"{"at_ms":41,"s":"\n\n"}"#,
            r#"{"at_ms":42,"end":"clean"}"#,
        ],
    );
    let two = write("two.jsonl", &[r#"{"status":503,"headers":{}}"#, r#"{"at_ms":5,"end":"fin"}"#]);
    let server = Server::start(Behavior { scripts: vec![one, two], ..instant() });
    let mut client = server.connect();
    let sent_ns = crate::support::monotonic_ns();
    let first = client.post(CHAT, "", &json!({}));
    assert_eq!((first.status, first.end, first.header("x-a")), (200, End::Clean, Some("b")));
    assert_eq!(String::from_utf8(first.body).unwrap(), "data: 日\n\n");
    assert_eq!(first.chunks_ns.len(), 3);
    assert!(first.chunks_ns[0] >= sent_ns + 20 * MS && first.chunks_ns[1] >= sent_ns + 40 * MS);
    assert_eq!(server.get("/v1/models").status, 200);
    let second = client.post("/v1/completions", "", &json!({}));
    assert_eq!((second.status, second.end), (503, End::Closed));
    assert_eq!(server.post(CHAT, "", &json!({})).status, 200, "the first again");
    let (_, truth) = server.stop();
    let names: Vec<_> = truth.iter().map(|line| line.script.as_deref().unwrap()).collect();
    assert_eq!(names, ["one.jsonl", "two.jsonl", "one.jsonl"]);
    assert_eq!(truth[0].tokens_ns.len(), 3);
}

#[test]
fn an_impossible_behavior_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let error = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behavior = Behavior { max_running: 0, ..instant() };
        sim::serve(listener, behavior, std::future::pending()).await.unwrap_err()
    });
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.get_ref().unwrap().is::<sim::BehaviorError>(), "{error}");
}

#[test]
fn the_server_ends_after_so_many_answers() {
    let server = Server::start(Behavior { exit_after_requests: Some(2), ..instant() });
    let body = chat("a", json!({"max_tokens": 2}));
    for _ in 0..2 {
        assert_eq!(server.post(CHAT, "", &body).status, 200);
    }
    let address = server.address;
    let (stats, truth) = server.join();
    assert_eq!((stats.completed, truth.len()), (2, 2));
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_client_that_leaves_makes_room() {
    let server = Server::start(Behavior { max_running: 1, ttft_ms: 60_000.0, ..instant() });
    let mut client = server.connect();
    client.send_post(CHAT, "", &chat("a", json!({})));
    server.await_metric(&["vllm:num_requests_running"], 1.0);
    drop(client);
    server.await_metric(&["vllm:num_requests_running"], 0.0);
    assert_eq!(server.metric(&["vllm:request_success_total", "abort"]), 1.0);
    let (stats, truth) = server.stop();
    assert_eq!((stats.requests, stats.completed), (1, 0));
    assert_eq!((truth[0].finished_ns, truth[0].output_tokens), (None, 0));
}

#[test]
fn stopping_cuts_open_streams_and_logs_them() {
    let server = Server::start(Behavior { ttft_ms: 60_000.0, ..instant() });
    let mut client = server.connect();
    client.send_post(CHAT, "", &chat("a", json!({})));
    server.await_metric(&["vllm:num_requests_running"], 1.0);
    let (_, truth) = server.stop();
    assert_eq!(truth.len(), 1);
    assert_eq!(client.read().end, End::Closed);
}

#[test]
fn requests_come_in_every_form_http_allows() {
    let server = Server::start(instant());
    let body = chat("a", json!({"max_tokens": 1})).to_string();
    let (length, half) = (body.len(), body.len() / 2);
    let post = format!("POST {CHAT} HTTP/1.1\r\nhost: sim\r\n");

    let mut client = server.connect();
    let chunked = format!(
        "{post}transfer-encoding: chunked\r\n\r\n{half:x}\r\n{}\r\n{:X};x=y\r\n{}\r\n0\r\nt: v\r\n\r\n",
        &body[..half],
        length - half,
        &body[half..],
    );
    // Byte by byte, and the next request in one piece with the last byte.
    for byte in chunked.as_bytes() {
        client.send(&[*byte]);
    }
    assert_eq!(client.read().status, 200);
    let sized = format!("{post}content-length: {length}\r\n\r\n{body}");
    client.send(format!("{sized}{sized}").as_bytes());
    assert_eq!((client.read().status, client.read().status), (200, 200));

    client
        .send(format!("{post}expect: 100-continue\r\ncontent-length: {length}\r\n\r\n").as_bytes());
    let interim = client.read_head().unwrap();
    client.send(body.as_bytes());
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    assert_eq!(client.read().status, 200);

    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        (format!("{post}content-length: -1\r\n\r\n"), 400),
        (format!("{post}content-length: 999999999999\r\n\r\n"), 413),
        (format!("{post}x: {}\r\n\r\n", "y".repeat(66_000)), 431),
        (format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n"), 400),
        ("GET /health HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("GET /health HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), 200),
    ] {
        let mut client = server.connect();
        client.send(request.as_bytes());
        let response = client.read();
        assert_eq!(response.status, status, "{request:.60}");
        assert_eq!(response.header("connection"), Some("close"), "{request:.60}");
        assert_ne!(client.read_end(), End::Clean);
    }
}
