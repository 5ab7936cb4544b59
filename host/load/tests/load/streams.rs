//! Streams from practice: what a record says of them.

use crate::support::{self, *};
use load::TokenCounter;
use records::{FailureKind, Record, UsageSource};

/// The records of these scripts, played one after the other on one connection where it lasts.
fn play(scripts: Vec<Script>) -> Vec<Record> {
    let sessions = scripts.len() as u64;
    let server = Server::start(scripts);
    let done = run(plan(&server.url(), vec![closed(sessions)]));
    assert_eq!(done.outcome.sent, sessions);
    done.records().into_iter().cloned().collect()
}

/// Times in the record, in whole milliseconds since the request was sent, are these or, on a busy
/// machine, up to so much later. What is taken for something else is too early.
const SLACK: u64 = 1_000;

fn assert_at(record: &Record, what: &str, at: u64, expected: u64) {
    let ms = (at - record.sent.unwrap()) as f64 / MS as f64;
    let range = expected as f64 - 1.0..=(expected + SLACK) as f64;
    assert!(range.contains(&ms), "{what} at {ms} ms instead of {expected}");
}

fn assert_tokens(record: &Record, expected: &[u64]) {
    assert_eq!(record.tokens.len(), expected.len(), "{record:?}");
    for (&at, &expected) in record.tokens.iter().zip(expected) {
        assert_at(record, "a token", at, expected);
    }
}

fn assert_fails(record: &Record, kind: FailureKind, message: &str) {
    let failure = record.error.as_ref().expect("it failed");
    assert_eq!(failure.kind, kind, "{failure:?}");
    assert!(failure.message.contains(message), "{failure:?}");
}

#[test]
fn c01_roles_empty_texts_and_chunks_without_choices_are_no_tokens() {
    let records = play(vec![
        Script::stream()
            .event(3, r#"{"id":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#)
            .event(5, r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}],"usage":null}"#)
            .content(100, "")
            .content(214, "A")
            .content(234, " B")
            .content(254, " C")
            .finish(255)
            .usage(256, 7, 3)
            .done(257),
    ]);
    let record = &records[0];
    assert_eq!(record.error, None);
    assert_tokens(record, &[214, 234, 254]);
    assert_at(record, "the first byte", record.first_byte.unwrap(), 3);
    assert_at(record, "the end", record.finished, 257);
    assert_eq!((record.input_tokens, record.output_tokens), (Some(7), Some(3)));
    assert_eq!(record.usage, UsageSource::Server);
    assert!(record.chunk_tokens.is_empty());
}

#[test]
fn c03_an_error_inside_a_stream_is_a_failure_of_its_own_kind() {
    let begin = || Script::stream().content(5, "The").content(7, " cat");
    let error = r#"{"error":{"message":"engine died","type":"InternalServerError","param":null,"code":500}}"#;
    let records = play(vec![
        begin().finish(9).usage(9, 4, 2).done(9),
        begin().event(9, error).done(9),
        begin().chunk(9, format!("event: error\ndata: {error}\n\n")).last_chunk(9),
        begin().event(9, r#"{"object":"error","message":"engine died","code":500}"#).done(9),
        begin().event(9, r#"{"error":"engine died"}"#).end(End::Close(10)),
        Script::json(error),
    ]);
    assert_eq!(records[0].error, None);
    for record in &records[1..] {
        assert_fails(record, FailureKind::ServerError, "engine died");
        assert_eq!(record.status, 200);
    }
    assert_fails(&records[1], FailureKind::ServerError, "InternalServerError, code 500");
    assert_eq!(records[1].tokens.len(), 2, "what came is kept");
    assert_eq!(records[1].output_tokens, None);
}

#[test]
fn c05_reasoning_is_output_and_the_answer_begins_later() {
    let stream = |field: &str| {
        Script::stream()
            .delta(2, r#"{"role":"assistant","content":""}"#)
            .delta(20, &format!(r#"{{"{field}":"Okay"}}"#))
            .delta(40, &format!(r#"{{"{field}":" so","content":null}}"#))
            .content(60, r"\n\n")
            .content(80, "4")
            .finish(81)
            .event(82, r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":2}}}"#)
            .done(83)
    };
    for record in play(vec![stream("reasoning"), stream("reasoning_content")]) {
        assert_eq!(record.error, None);
        assert_tokens(&record, &[20, 40, 60, 80]);
        assert_eq!(record.first_answer, Some(record.tokens[2]));
        assert_eq!((record.output_tokens, record.reasoning_tokens), (Some(4), Some(2)));
        assert_eq!(record.cached_tokens, Some(8));
    }
}

#[test]
fn c07_events_need_not_end_where_reads_end() {
    let event = format!("data: {}\n\n", chat(r#"{"content":"日"}"#));
    let cut = event.find('日').unwrap() + 1;
    let two =
        ["本", "語"].map(|c| format!("data: {}\n\n", chat(&format!(r#"{{"content":"{c}"}}"#))));
    let last = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":6,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
    let records = play(vec![
        Script::stream()
            .chunk(20, &event.as_bytes()[..cut])
            .chunk(80, &event.as_bytes()[cut..])
            .chunk(100, two.concat())
            .chunk(105, last)
            .last_chunk(105),
    ]);
    assert_eq!(records[0].error, None);
    assert_tokens(&records[0], &[80, 100, 100]);
    assert_eq!(records[0].tokens[1], records[0].tokens[2], "both came in one read");
    assert_eq!(records[0].output_tokens, Some(3));
}

#[test]
fn c07_a_stream_is_whole_only_if_it_says_so() {
    let begin = || Script::stream().content(5, "A").content(7, "B");
    let records = play(vec![
        begin().finish(8).usage(8, 6, 2).last_chunk(9),
        begin().event(8, "[DONE]").last_chunk(9),
        begin().last_chunk(9),
        begin().end(End::Close(9)),
        begin().finish(8).end(End::Close(9)),
        Script::raw("HTTP/1.1 200 OK\r\n\r\n")
            .write(
                1,
                format!("data: {}\n\ndata: [DONE]\n\n", chat(r#"{"content":"A"}"#)).as_bytes(),
            )
            .end(End::Close(5)),
    ]);
    assert_eq!((&records[0].error, records[0].output_tokens), (&None, Some(2)));
    assert_eq!(records[1].error, None);
    assert_fails(&records[2], FailureKind::StreamCut, "without a finish reason");
    assert_fails(&records[3], FailureKind::StreamCut, "in the middle of the answer");
    assert_fails(&records[4], FailureKind::StreamCut, "in the middle of the answer");
    assert_eq!(records[5].error, None, "a body that the close ends is whole with [DONE]");
}

#[test]
fn c21_running_counts_tell_how_many_tokens_a_chunk_carries() {
    let chunk = |text: &str, count: u32| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}],"usage":{{"prompt_tokens":8,"completion_tokens":{count}}}}}"#
        )
    };
    let records = play(vec![
        Script::stream()
            .event(20, &chunk("one two three", 3))
            .event(40, &chunk(" four five", 5))
            .event(60, &chunk(" six seven eight", 8))
            .event(80, &chunk(" nine ten", 10))
            .finish(81)
            .usage(82, 8, 10)
            .done(83),
        Script::stream().event(1, &chunk("a", 1)).event(2, &chunk("b", 2)).usage(3, 8, 2).done(3),
    ]);
    assert_eq!(records[0].chunk_tokens, [3, 2, 3, 2]);
    assert_tokens(&records[0], &[20, 40, 60, 80]);
    assert_eq!(records[0].output_tokens, Some(10));
    assert!(records[1].chunk_tokens.is_empty(), "one each needs no saying");
}

#[test]
fn tool_calls_are_output() {
    let records = play(vec![
        Script::stream()
            .delta(1, r#"{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":""}}]}"#)
            .delta(2, r#"{"tool_calls":[{"index":0,"function":{"arguments":""}}]}"#)
            .delta(3, r#"{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}"#)
            .finish(4)
            .done(4),
    ]);
    assert_eq!((&records[0].error, records[0].tokens.len()), (&None, 2));
    assert_eq!(records[0].first_answer, Some(records[0].tokens[0]));
    assert_eq!(records[0].usage, UsageSource::None);
}

#[test]
fn answers_that_say_nothing_or_nonsense_are_failures() {
    let records = play(vec![
        Script::stream().delta(1, r#"{"role":"assistant"}"#).finish(2).usage(2, 5, 0).done(3),
        Script::stream().content(1, "a").event(2, "{not json").content(3, "b").done(4),
        Script::json(r#"{"choices":[{"message":{"content":"a"}}]}"#),
        Script::raw("HTTP/1.1 200 OK\r\ncontent-length: nine\r\n\r\n"),
        Script::raw("ERR no http\r\n\r\n"),
    ]);
    assert_fails(&records[0], FailureKind::EmptyAnswer, "no output token");
    assert_fails(&records[1], FailureKind::BadStream, "{not json");
    assert_fails(&records[2], FailureKind::BadStream, "JSON where a stream was asked for");
    assert_fails(&records[3], FailureKind::BadStream, "content-length");
    assert_fails(&records[4], FailureKind::BadStream, "not HTTP");
    assert_eq!(records[1].tokens.len(), 2);
}

#[test]
fn statuses_are_kept_with_what_the_server_said() {
    let records = play(vec![
        Script::answer(1, 2),
        Script::body(
            "429 Too Many Requests",
            "application/json",
            r#"{"error":{"message":"slow down","type":"rate_limit","code":429}}"#,
        ),
        Script::body("503 Service Unavailable", "text/plain", "no upstream"),
        Script::body("500 Internal Server Error", "text/plain", &"x".repeat(100_000)),
        Script::body("502 Bad Gateway", "text/html", ""),
    ]);
    assert_fails(&records[1], FailureKind::HttpStatus, "slow down (rate_limit, code 429)");
    assert_fails(&records[2], FailureKind::HttpStatus, "no upstream");
    assert_fails(&records[3], FailureKind::HttpStatus, "xxxx");
    assert_fails(&records[4], FailureKind::HttpStatus, "502");
    let statuses: Vec<u16> = records.iter().map(|r| r.status).collect();
    assert_eq!(statuses, [200, 429, 503, 500, 502]);
    assert_eq!(records[3].error.as_ref().unwrap().message.len(), 2048);
}

#[test]
fn what_a_refusal_says_of_later_and_elsewhere_is_told() {
    let refuse =
        |head: &str| Script::raw(&format!("HTTP/1.1 {head}\r\ncontent-length: 9\r\n\r\nslow down"));
    let records = play(vec![
        refuse("429 Too Many Requests\r\nretry-after: 7"),
        refuse("503 X\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT"),
        refuse("307 X\r\nlocation: /elsewhere"),
        refuse("502 X\r\ncontent-encoding: gzip"),
    ]);
    let kind = FailureKind::HttpStatus;
    assert_fails(&records[0], kind, "slow down; retry after 7 s");
    assert_fails(&records[1], kind, "slow down; retry after Wed, 21 Oct 2026 07:28:00 GMT");
    assert_fails(&records[2], kind, "redirects to /elsewhere");
    assert_fails(&records[3], kind, "status 502; its body is compressed (content-encoding: gzip)");
    assert!(records.iter().all(|record| record.retries == 0), "nothing is sent again");
}

#[test]
fn a_compressed_answer_is_refused_because_compression_holds_tokens_back() {
    let head = |coding: &str| {
        Script::raw(&format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ntransfer-encoding: chunked\r\n\r\n"
        ))
    };
    let records = play(vec![
        head("gzip").chunk(1, b"\x1f\x8b\x08").last_chunk(2),
        head("Identity").content(1, "a").done(2),
    ]);
    assert_fails(&records[0], FailureKind::BadStream, "compressed (content-encoding: gzip)");
    assert_eq!(records[1].error, None);
}

#[test]
fn a_stream_is_known_by_its_bytes_and_not_by_its_type() {
    let head = |kind: &str| {
        Script::raw(&format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        ))
    };
    let answer = |kind: &str| head(kind).content(1, "a").content(2, "b").done(3);
    let unnamed = Script::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let page = || head("text/html").chunk(1, "<html><body>Please log in</body></html>\n");
    let records = play(vec![
        answer("application/json"),
        answer("text/plain"),
        answer("application/octet-stream"),
        head("text/event-stream").chunk(1, r#"{"error":{"message":"no"}}"#).last_chunk(2),
        page().last_chunk(2),
        head("text/event-stream").last_chunk(2),
        unnamed.content(1, "a").content(2, "b").done(3),
    ]);
    for record in records[..3].iter().chain(&records[6..]) {
        assert_eq!((&record.error, record.tokens.len()), (&None, 2));
    }
    assert_fails(&records[3], FailureKind::ServerError, "no");
    assert_fails(&records[4], FailureKind::EmptyAnswer, "its content type is text/html");
    assert_fails(&records[5], FailureKind::EmptyAnswer, "no output token");
    assert!(!records[5].error.as_ref().unwrap().message.contains("content type"));
}

#[test]
fn an_empty_finish_reason_is_none() {
    let event = |reason: &str| {
        format!(r#"{{"choices":[{{"delta":{{"content":"a"}},"finish_reason":{reason}}}]}}"#)
    };
    let stream = |last: &str| Script::stream().event(1, &event(r#""""#)).event(2, &event(last));
    let records = play(vec![stream(r#""""#).last_chunk(3), stream(r#""stop""#).last_chunk(3)]);
    assert_fails(&records[0], FailureKind::StreamCut, "without a finish reason");
    assert_eq!(records[1].error, None);
}

/// Plays a closed loop until it was in time, three times at most. On a busy machine the end of a
/// connection may come so late that a server may have had the request, which is not sent again then.
fn play_in_time(
    scripts: &[Script],
    sessions: u64,
    is_in_time: impl Fn(&Record) -> bool,
) -> (Server, Done) {
    let is_cut = |record: &Record| {
        let failure = record.error.as_ref();
        record.retries == 0 && failure.is_some_and(|f| f.kind == FailureKind::StreamCut)
    };
    (0..3)
        .map(|_| {
            let server = Server::start(scripts.to_vec());
            let done = run(plan(&server.url(), vec![closed(sessions)]));
            (server, done)
        })
        .find(|(_, done)| done.records().iter().all(|one| !is_cut(one) && is_in_time(one)))
        .expect("one of three runs is in time")
}

#[test]
fn connections_are_kept_until_the_server_closes_them() {
    let close = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let scripts = [
        Script::answer(1, 2),
        Script::answer(1, 2),
        Script::raw(close).content(1, "a").done(2).end(End::Close(2)),
        Script::answer(1, 2),
        // Reads the request on the kept connection and closes without a word.
        Script::default().end(End::Close(0)),
        Script::answer(1, 2),
        Script::default().end(End::Close(0)),
        Script::default().end(End::Close(0)),
    ];
    let (server, done) = play_in_time(&scripts, 6, |_| true);
    let connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 0, 1, 1, 2, 2, 3]);
    let records = done.records();
    let retries: Vec<_> = records.iter().map(|record| record.retries).collect();
    assert_eq!(retries, [0, 0, 0, 0, 1, 1]);
    use records::Connection::{New, Reused};
    let kinds: Vec<_> = records.iter().map(|record| record.connection).collect();
    // The first was opened before the stage began. Those that were sent again had found one open.
    assert_eq!(kinds, [Reused, Reused, Reused, New, Reused, Reused]);
    assert!(records[..5].iter().all(|record| record.error.is_none()));
    assert_fails(records[5], FailureKind::StreamCut, "before the answer");
}

#[test]
fn what_a_request_waited_for_before_it_was_sent_again_is_in_its_times() {
    let scripts =
        [Script::answer(1, 2), Script::default().end(End::Close(20)), Script::answer(1, 2)];
    // It was sent when it was sent first, which is soon.
    let is_in_time = |record: &Record| record.sent.unwrap() - record.started < 20 * MS;
    let (_, done) = play_in_time(&scripts, 2, is_in_time);
    let again = done.records()[1];
    assert_eq!((again.retries, &again.error), (1, &None));
    assert!(again.tokens[0] - again.sent.unwrap() >= 20 * MS, "{again:?}");
}

#[test]
fn a_server_that_had_a_request_and_closes_has_failed() {
    let server = Server::start(vec![
        Script::answer(1, 2),
        Script::default().end(End::Close(400)),
        Script::answer(1, 2),
    ]);
    let done = run(plan(&server.url(), vec![closed(3)]));
    let records = done.records();
    assert_fails(records[1], FailureKind::StreamCut, "before the answer");
    assert_eq!((records[1].retries, &records[2].error), (0, &None));
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_request_of_which_a_byte_was_answered_is_not_sent_again() {
    let server = Server::start(vec![
        Script::answer(1, 2),
        Script::raw("H").end(End::Close(5)),
        Script::answer(1, 2),
    ]);
    let done = run(plan(&server.url(), vec![closed(3)]));
    let records = done.records();
    assert_fails(records[1], FailureKind::StreamCut, "in the middle of the answer");
    assert_eq!((records[1].retries, records[1].connection), (0, records::Connection::Reused));
    assert_eq!((&records[2].error, records[2].retries), (&None, 0));
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn broken_connections_are_told_apart() {
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let done = run(plan(&refused, vec![closed(1)]));
    assert_fails(done.records()[0], FailureKind::Connect, "refused");
    assert_eq!((done.records()[0].sent, done.records()[0].status), (None, 0));

    let records = play(vec![
        // Long after the token, which a reset that came before it was read would take away.
        Script::stream().content(1, "a").end(End::Reset(300)),
        Script::default().end(End::Reset(0)),
    ]);
    assert_fails(&records[0], FailureKind::StreamCut, "broke");
    assert_eq!(records[0].tokens.len(), 1);
    assert_fails(&records[1], FailureKind::StreamCut, "before the answer");
    assert_eq!((records[1].retries, records[1].status), (0, 0));
}

#[test]
fn loops_whose_server_is_down_make_no_storm() {
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let stop = load::Stop { after: Some(2 * SECOND), ..load::Stop::default() };
    let stage = load::Stage { concurrency: Some(8), stop, ..closed(0) };
    let done = run(plan(&refused, vec![stage]));
    let records = done.records();
    assert!(records.iter().all(|r| r.error.as_ref().unwrap().kind == FailureKind::Connect));
    // Each tries at once, and then less and less often.
    assert!((8..200).contains(&records.len()), "{}", records.len());
    let late = records.iter().filter(|r| r.started - records[0].started > SECOND).count();
    assert!(late <= 2 * 8, "{late}");
}

#[test]
fn requests_that_take_too_long_or_are_to_be_broken_off_end_in_time() {
    let server = Server::start(vec![Script::stream().content(1, "a").content(5_000, "b")]);
    let mut impatient = plan(&server.url(), vec![closed(1)]);
    impatient.request_timeout = 500 * MS;
    let done = run(impatient);
    assert_fails(done.records()[0], FailureKind::Timeout, "within 0.5 s");
    assert_eq!(done.records()[0].tokens.len(), 1);

    let breaking = Server::start(vec![Script::stream().content(1, "a").content(5_000, "b")]);
    let mut request = request("x");
    request.cancel_after = Some(40 * MS);
    let sessions = [session_of(0, vec![turn(request, 0), turn(support::request("y"), 0)])];
    let done = begin(plan(&breaking.url(), vec![closed(1)]), vec![feed(sessions)]).finish();
    assert_eq!(done.records().len(), 1, "a turn that failed ends its session");
    assert_fails(done.records()[0], FailureKind::Cancelled, "as the workload asked");
    let record = done.records()[0];
    assert!(record.finished - record.started >= 40 * MS);
}

#[test]
fn an_answer_that_is_not_streamed_has_text_and_counts_but_no_token_times() {
    let server = Server::start(vec![Script::json(
        r#"{"choices":[{"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
    )]);
    let mut request = request("x");
    request.streamed = false;
    let sessions = [session_of(0, vec![turn(request, 0)])];
    let done = begin(plan(&server.url(), vec![closed(1)]), vec![feed(sessions)]).finish();
    let record = done.records()[0];
    assert_eq!((&record.error, record.tokens.len()), (&None, 0));
    assert_eq!((record.input_tokens, record.output_tokens), (Some(3), Some(1)));
    assert_eq!(server.seen()[0].json()["stream"], false);
}

#[test]
fn answers_without_usage_are_counted_where_there_is_a_tokenizer() {
    let check = |script: Script, expected: (Option<u32>, UsageSource)| {
        let server = Server::start(vec![script]);
        let mut plan = plan(&server.url(), vec![closed(1)]);
        plan.count_tokens = Some(TokenCounter::new(|text| match text.contains("uncountable") {
            true => None,
            false => u32::try_from(text.split_whitespace().count()).ok(),
        }));
        let done = run(plan);
        let record = done.records()[0];
        assert_eq!((record.output_tokens, record.usage), expected, "{record:?}");
    };
    let (by_tokenizer, by_nobody) = (UsageSource::Tokenizer, UsageSource::None);
    let begin = || Script::stream().content(1, "one two").content(2, " thr").content(3, "ee");
    check(begin().finish(4).done(4), (Some(3), by_tokenizer));
    check(begin().finish(4).usage(4, 5, 9).done(4), (Some(9), UsageSource::Server));
    check(
        Script::stream().delta(1, r#"{"reasoning":"a b"}"#).content(2, "c d e").done(3),
        (Some(5), by_tokenizer),
    );
    check(
        Script::stream().delta(1, r#"{"reasoning_content":"a","content":"b"}"#).done(3),
        (Some(2), by_tokenizer),
    );
    check(
        Script::stream()
            .content(1, "let me see")
            .delta(2, r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}}]}"#)
            .done(3),
        (None, by_nobody),
    );
    check(begin().content(4, "uncountable").done(4), (None, by_nobody));
    check(begin().end(End::Close(4)), (None, by_nobody));
}

#[test]
fn counting_changes_nothing_about_what_later_turns_quote() {
    let answer = || Script::stream().delta(1, r#"{"reasoning":"hm"}"#).content(2, "yes").done(3);
    let server = Server::start(vec![answer()]);
    let mut plan = plan(&server.url(), vec![closed(1)]);
    plan.count_tokens = Some(TokenCounter::new(|_| Some(1)));
    let mut second = request("again");
    second.history = true;
    let sessions = [session_of(0, vec![turn(request("is it"), 0), turn(second, 0)])];
    let done = begin(plan, vec![feed(sessions)]).finish();
    assert!(done.records().iter().all(|record| record.output_tokens == Some(2)));
    assert_eq!(server.seen()[1].json()["messages"][1]["content"], "yes");
}

#[test]
fn a_stream_without_end_is_broken_off_when_its_time_is_up_and_others_go_on_beside_it() {
    let event = format!("data: {{\"choices\":[],\"padding\":\"{}\"}}\n\n", "x".repeat(4_000));
    let flood = Script::stream().chunk(0, event).end(End::Flood);
    let server = Server::start(vec![flood, Script::answer(5, 10)]);
    let mut plan = plan(&server.url(), vec![closed(6)]);
    plan.threads = Some(1);
    plan.request_timeout = 2 * SECOND;
    plan.stages[0].concurrency = Some(2);
    let done = run(plan);
    let records = done.records();
    let (endless, others): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|record| record.error.is_some());
    assert_eq!((endless.len(), others.len()), (1, 5));
    assert_fails(endless[0], FailureKind::Timeout, "no whole answer within 2 s");
    // The slot of the flood may have taken one of them ahead.
    let beside = others.iter().filter(|other| other.finished < endless[0].finished).count();
    assert!(beside >= 4, "only {beside} were played while the flood lasted");
}

#[test]
fn an_answer_that_is_longer_than_any_model_says_ends_before_it_fills_the_memory() {
    let megabyte = "x".repeat(1 << 20);
    let records = play(vec![
        Script::stream().chunk(0, &megabyte).end(End::Flood),
        Script::raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            .write(0, megabyte.as_bytes())
            .end(End::Flood),
    ]);
    for record in &records {
        assert_fails(
            record,
            FailureKind::BadStream,
            "an event of the answer is longer than 64 MiB",
        );
    }
}

#[test]
fn a_refusal_is_heard_though_the_server_takes_no_more_of_the_request() {
    let refusal = Script::body("413 Too Large", "application/json", r#"{"error":"too large"}"#);
    let server = Server::start(vec![refusal.end(End::Reset(0))]);
    let mut long = session(0);
    long.turns[0].request.prompt = load::Prompt::Text("word ".repeat(2_000_000));
    let done = begin(plan(&server.url(), vec![closed(1)]), vec![feed([long].into_iter())]).finish();
    let records = done.records();
    assert_fails(records[0], FailureKind::HttpStatus, "too large");
    assert_eq!((records[0].status, records[0].retries), (413, 0));
}

#[test]
fn usage_that_says_less_later_takes_nothing_back_and_usage_without_output_counts_none() {
    let answer = |usages: &[&str]| {
        let begin = Script::stream().content(1, "a").content(2, "b").finish(2);
        let events = usages.iter().fold(begin, |script, usage| {
            script.event(3, &format!(r#"{{"choices":[],"usage":{usage}}}"#))
        });
        events.done(3)
    };
    let full =
        r#"{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3}}"#;
    let records = play(vec![
        answer(&[full, r#"{"prompt_tokens_details":{"cached_tokens":null}}"#, "{}"]),
        answer(&["{}"]),
        answer(&[r#"{"prompt_tokens":7}"#, r#"{"completion_tokens":2}"#]),
        answer(&[r#"{"prompt_tokens":7}"#]),
    ]);
    let said = |record: &Record| {
        (record.usage, record.input_tokens, record.output_tokens, record.cached_tokens)
    };
    use UsageSource::{None as Nobody, Server};
    assert_eq!(said(&records[0]), (Server, Some(7), Some(2), Some(3)));
    assert_eq!(said(&records[1]), (Nobody, None, None, None));
    assert_eq!(said(&records[2]), (Server, Some(7), Some(2), None));
    assert_eq!(said(&records[3]), (Nobody, Some(7), None, None));
}
