//! Responses of every shape, cut by the network in every way, say the same.

use load::Api;
use load::chunking::{Response, fuzz};
use proptest::prelude::*;
use records::FailureKind;
use std::path::Path;

/// Events of real servers, and some that none should send.
const EVENTS: [&str; 27] = [
    r#"{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#,
    r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}],"usage":null}"#,
    r#"{"choices":[{"index":0,"delta":{"content":""}}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"日本"},"finish_reason":null}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":" a"},"finish_reason":null}]}"#,
    "{\"choices\":[{\"index\":0,\ndata: \"delta\":{\"content\":\" two lines\"}}]}",
    r#"{"choices":[{"index":0,"delta":{"content":"\n\"q\" é"},"finish_reason":null}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":" b"},"logprobs":{"content":[{"token":" b","logprob":-0.1,"top_logprobs":[{"token":"\"}]"}]}]},"finish_reason":""}]}"#,
    r#"{"choices":[{"index":0,"delta":{"reasoning":"Hm"}}]}"#,
    r#"{"choices":[{"index":0,"delta":{"reasoning_content":" so","content":null}}]}"#,
    r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
    r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":1}"}}]}}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"c d"}}],"usage":{"prompt_tokens":4,"completion_tokens":2}}"#,
    r#"{"choices":[{"index":0,"delta":{"content":"e"}}],"usage":{"prompt_tokens":4,"completion_tokens":5}}"#,
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    r#"{"choices":[{"index":0,"text":" t","finish_reason":null}]}"#,
    r#"{"choices":[{"index":0,"text":"é","finish_reason":null}]}"#,
    r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}],"usage":{"prompt_tokens":4,"completion_tokens":3}}"#,
    r#"{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}}"#,
    r#"{"error":{"message":"engine died","type":"InternalServerError","code":500}}"#,
    r#"{"object":"error","message":"engine died","code":500}"#,
    "[DONE]",
    "{not json",
    "",
    "\u{feff}{}",
    r#"{"choices":[{"index":0,"delta":{"content":" f"},"finish_reason":"stop"}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":" g"},"finish_reason":null}],"error":{"message":"late"}}"#,
];

/// What an event may begin with: which answer it belongs to. Streams of a server differ in it.
const NAMES: [&str; 7] = [
    "",
    r#""id":"c-1","created":1764418000,"#,
    r#""id":"c-22","created":1764418001,"#,
    r#""created":7,"id":"c-1","#,
    r#""id":"c\"3","created":1764418002,"#,
    r#""id":"","created":-1.5e3,"#,
    r#""id":null,"created":null,"#,
];

/// How a response goes over the wire.
#[derive(Debug, Clone)]
struct Form {
    status: u16,
    line_end: &'static str,
    /// Bytes between events.
    between: &'static str,
    framing: Framing,
    /// The response goes no further than this share of it.
    cut: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    /// Chunks of so many bytes.
    Chunks(usize),
    Length,
    UntilClose,
}

fn form() -> impl Strategy<Value = Form> {
    (
        prop_oneof![8 => Just(200), 1 => Just(429), 1 => Just(503)],
        prop_oneof![Just("\n"), Just("\r\n")],
        prop_oneof![
            4 => Just(""),
            1 => Just(": ping\n\n"),
            1 => Just("event: error\n"),
            1 => Just("id: 7\r\nretry: 1\r\n\r\n"),
        ],
        prop_oneof![
            2 => (1..400_usize).prop_map(Framing::Chunks),
            1 => Just(Framing::Length),
            1 => Just(Framing::UntilClose),
        ],
        prop::option::weighted(0.2, 0..100_usize),
    )
        .prop_map(|(status, line_end, between, framing, cut)| Form {
            status,
            line_end,
            between,
            framing,
            cut,
        })
}

fn response(events: &[(usize, usize)], form: &Form) -> Vec<u8> {
    let Form { status, line_end, between, framing, cut } = form;
    let event = |&(event, names): &(usize, usize)| match EVENTS[event].strip_prefix("{\"choices\"")
    {
        Some(rest) => format!("{{{}\"choices\"{rest}", NAMES[names]),
        None => EVENTS[event].to_owned(),
    };
    let body: String = events
        .iter()
        .map(|named| format!("{between}data: {}{line_end}{line_end}", event(named)))
        .collect();
    let mut bytes = format!("HTTP/1.1 {status} X\r\nContent-Type: text/event-stream\r\n");
    match framing {
        Framing::Length => bytes += &format!("content-length: {}\r\n\r\n", body.len()),
        Framing::Chunks(_) => bytes += "retry-after: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Framing::UntilClose => bytes += "connection: close\r\n\r\n",
    }
    let mut bytes = bytes.into_bytes();
    match framing {
        Framing::Chunks(size) => {
            for chunk in body.as_bytes().chunks(*size) {
                bytes.extend_from_slice(format!("{:X};x=1\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nT: v\r\n\r\n");
        }
        _ => bytes.extend_from_slice(body.as_bytes()),
    }
    if let Some(share) = cut {
        bytes.truncate(bytes.len() * share / 100);
    }
    bytes
}

fn api() -> impl Strategy<Value = Api> {
    prop_oneof![Just(Api::Chat), Just(Api::Completions)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn cuts_anywhere_change_no_fact_and_no_time_but_to_the_end_of_its_read(
        api in api(),
        streamed in prop::bool::weighted(0.9),
        events in prop::collection::vec((0..EVENTS.len(), 0..NAMES.len()), 0..8),
        form in form(),
        cuts in prop::collection::vec(prop::collection::vec(0..2000_usize, 0..12), 1..8),
    ) {
        let bytes = response(&events, &form);
        let response = Response::new(api, streamed, &bytes);
        response.check(&[]);
        for cuts in &cuts {
            response.check(cuts);
        }
        // Where a line ends within an event, what follows may look like an event of its own.
        let lines: Vec<usize> = (1..=bytes.len()).filter(|&end| bytes[end - 1] == b'\n').collect();
        response.check(&lines);
    }
}

/// What the fuzzer begins with: an answer each, and before it what says what was asked for.
fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

#[test]
fn what_the_fuzzer_begins_with_holds() {
    let seeds = seeds();
    assert!(seeds.len() > 10, "{}", seeds.len());
    seeds.iter().for_each(|seed| fuzz(seed));
}

proptest! {
    #[test]
    fn what_the_fuzzer_begins_with_holds_with_bytes_changed(
        seed in any::<prop::sample::Selector>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = seed.select(seeds());
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        fuzz(&bytes);
    }
}

/// A stream with this line end and an early hint before it.
fn stream(line_end: &str) -> Vec<u8> {
    let form = Form {
        status: 200,
        line_end: if line_end == "\n" { "\n" } else { "\r\n" },
        between: ": ping\n\n",
        framing: Framing::Chunks(70),
        cut: None,
    };
    let hints = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".to_vec();
    let events = [1, 3, 4, 5, 6, 7, 8, 11, 14, 18, 21].map(|event| (event, 0));
    [hints, response(&events, &form)].concat()
}

#[test]
fn every_cut_in_two_gives_the_same() {
    for line_end in ["\n", "\r\n"] {
        let bytes = stream(line_end);
        let response = Response::new(Api::Chat, true, &bytes);
        let reading = response.reading();
        assert_eq!(reading.record.error, None);
        assert_eq!((reading.record.tokens.len(), reading.record.output_tokens), (7, Some(3)));
        assert_eq!(reading.text.as_deref(), Some("日本 a two lines\n\"q\" é b"));
        for cut in 0..=bytes.len() {
            response.check(&[cut]);
        }
    }
}

#[test]
fn an_event_that_the_read_before_called_an_error_is_one() {
    let token = format!("data: {}\n\n", EVENTS[4]);
    let parts = ["HTTP/1.1 200 OK\r\n\r\n", &token, &token, "event: error\n", &token];
    let ends = parts.iter().scan(0, |end, part| {
        *end += part.len();
        Some(*end)
    });
    let ends: Vec<usize> = ends.collect();
    let bytes = parts.concat().into_bytes();
    let response = Response::new(Api::Chat, true, &bytes);
    let record = &response.reading().record;
    let kind = record.error.as_ref().map(|error| error.kind);
    assert_eq!((record.tokens.len(), kind), (2, Some(FailureKind::ServerError)));
    response.check(&ends);
}

#[test]
fn every_end_before_the_last_byte_is_a_failure_and_cut_however_it_was_read() {
    let bytes = stream("\n");
    for length in 0..bytes.len() {
        let response = Response::new(Api::Chat, true, &bytes[..length]);
        let error = response.reading().record.error.as_ref();
        assert_eq!(error.map(|error| error.kind), Some(FailureKind::StreamCut), "{length} bytes");
        response.check(&[]);
        response.check(&[length / 2, length.saturating_sub(1)]);
    }
}
