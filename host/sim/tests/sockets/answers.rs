//! The server over real sockets: its API, its times, its faults and its truth log.

use std::time::Duration;

use crate::support::{Client, End, Response, Server, chat, instant, monotonic_ns};
use serde_json::{Value, json};
use sim::{Behavior, CacheReset, Fault, FaultRule};

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";
const MS: u64 = 1_000_000;

#[test]
fn a_chat_stream_has_the_events_of_vllm() {
    let server = Server::start(instant());
    let body = chat("one two three", json!({"max_tokens": 5, "ignore_eos": true}));
    let response = server.post(CHAT, "x-request-id: r-7\r\n", &body);
    assert_eq!((response.status, response.end), (200, End::Clean));
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(response.header("x-request-id"), Some("r-7"));

    let events = response.events();
    assert_eq!(events.len(), 1 + 5 + 1 + 1);
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    for event in &events[..7] {
        assert_eq!(event["id"], "chatcmpl-r-7");
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["model"], "sim");
    }
    assert_eq!(events[4]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(events[5]["choices"][0]["finish_reason"], "length");
    assert_eq!(events[6]["choices"], json!([]));
    let usage = json!({"prompt_tokens": 8, "total_tokens": 13, "completion_tokens": 5});
    assert_eq!(events[6]["usage"], usage);
    assert_eq!(events[7], "[DONE]");
    assert_eq!(response.texts().len(), 5);
    assert_eq!(response.texts().concat().split(' ').count(), 5);

    let (stats, truth) = server.stop();
    assert_eq!((stats.requests, stats.completed, stats.output_tokens), (1, 1, 5));
    assert_eq!(truth[0].id, "chatcmpl-r-7");
    assert_eq!(truth[0].x_request_id.as_deref(), Some("r-7"));
    assert_eq!((truth[0].input_tokens, truth[0].output_tokens), (8, 5));
    assert_eq!((truth[0].tokens_ns.len(), truth[0].status), (5, 200));
}

#[test]
fn the_forms_of_an_answer_say_the_same() {
    let server = Server::start(instant());
    let ask = |path: &str, fields: Value| {
        let mut body = chat("hello", json!({"max_tokens": 9, "ignore_eos": true}));
        body["prompt"] = json!("hello");
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        server.post(path, "", &body)
    };
    let whole = json!({"stream": false, "stream_options": null});
    for (path, text, object) in [
        (CHAT, "/choices/0/message/content", "chat.completion"),
        (COMPLETION, "/choices/0/text", "text_completion"),
    ] {
        let streamed = ask(path, json!({}));
        let plain = ask(path, whole.clone()).json();
        assert_eq!(plain["object"], object);
        assert_eq!(plain.pointer(text).unwrap(), &streamed.texts().concat());
        assert_eq!(plain["choices"][0]["finish_reason"], "length");
        let events = streamed.events();
        assert_eq!(plain["usage"], events[events.len() - 2]["usage"]);

        let running = json!({"include_usage": true, "continuous_usage_stats": true});
        let counted = ask(path, json!({"stream_options": running}));
        let counts: Vec<_> = counted
            .events()
            .iter()
            .filter_map(|event| event.pointer("/usage/completion_tokens")?.as_u64())
            .collect();
        let first = u64::from(path == COMPLETION);
        assert_eq!(counts, (first..=9).chain([9]).collect::<Vec<_>>(), "{path}");

        let bare = ask(path, json!({"stream_options": null})).events();
        assert!(bare.iter().all(|event| event.get("usage").is_none()));
        assert_eq!(bare.len(), events.len() - 1);
    }
}

#[test]
fn routes_answer_and_refuse_as_vllm_does() {
    let behavior = Behavior { max_model_len: 50, ..instant() };
    let server = Server::start(behavior);
    for (path, status, part) in [
        ("/health", 200, ""),
        ("/health?probe=1", 200, ""),
        ("/version", 200, "\"version\":\"sim-"),
        ("/v1/models", 200, "\"max_model_len\":50"),
        ("/metrics", 200, "vllm:num_requests_running{engine=\"0\",model_name=\"sim\"} 0.0\n"),
        ("/v1/nothing", 404, "{\"detail\":\"Not Found\"}"),
        ("/v1/chat/completions", 405, "{\"detail\":\"Method Not Allowed\"}"),
    ] {
        check(&server.get(path), status, part);
    }
    let user = |text: &str| json!([{"role": "user", "content": text}]);
    let long = "word ".repeat(50);
    for (path, body, status, part) in [
        ("/tokenize", json!({"prompt": "a b c"}), 200, "{\"count\":3,\"max_model_len\":50"),
        ("/tokenize", json!({"messages": user("a b c")}), 200, "{\"count\":8,"),
        ("/tokenize", json!({}), 400, "`prompt`"),
        ("/reset_prefix_cache", json!({}), 200, ""),
        ("/health", json!({}), 405, "Method Not Allowed"),
        (CHAT, json!({"model": "x", "messages": user("a")}), 404, "\"type\":\"NotFoundError\""),
        (CHAT, json!({"messages": user(&long)}), 400, "maximum context length is 50 tokens"),
        (CHAT, json!([]), 400, "\"type\":\"Bad Request\""),
    ] {
        check(&server.post(path, "", &body), status, part);
    }
    let error = server.post(CHAT, "", &json!({"model": "x", "messages": user("a")})).json();
    let message = "The model `x` does not exist.";
    let expected = json!({
        "message": message, "type": "NotFoundError", "param": "model", "code": 404,
    });
    assert_eq!(error["error"], expected);
    let (_, truth) = server.stop();
    let refused: Vec<_> = truth.iter().map(|line| line.status).collect();
    assert_eq!(refused, [404, 400, 400, 404]);
}

fn check(response: &Response, status: u16, part: &str) {
    let body = String::from_utf8_lossy(&response.body);
    assert_eq!(response.status, status, "{body}");
    assert!(body.contains(part), "{part:?} not in {body}");
}

#[test]
fn the_key_guards_what_lies_below_v1() {
    let server = Server::start(Behavior { api_key: Some("k1".to_owned().into()), ..instant() });
    let body = chat("a", json!({"max_tokens": 1}));
    for (header, status) in [
        ("", 401),
        ("authorization: Bearer k2\r\n", 401),
        ("authorization: k1\r\n", 401),
        ("authorization: Bearer k1\r\n", 200),
        ("Authorization: bearer k1\r\n", 200),
    ] {
        assert_eq!(server.post(CHAT, header, &body).status, status, "{header}");
    }
    assert_eq!(server.get("/v1/models").json(), json!({"error": "Unauthorized"}));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn answers_end_where_asked_or_by_themselves() {
    let server = Server::start(Behavior { default_output_tokens: 20, ..instant() });
    let finish = |prompt: &str, fields: Value| {
        let response = server.post(CHAT, "", &chat(prompt, fields));
        let events = response.events();
        let reason = events[events.len() - 3]["choices"][0]["finish_reason"].clone();
        (response.texts().len(), reason.as_str().unwrap().to_owned())
    };
    let mut lengths = Vec::new();
    for prompt in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let (natural, reason) = finish(prompt, json!({}));
        assert!((10..=30).contains(&natural), "{natural}");
        assert_eq!(reason, "stop");
        assert_eq!(finish(prompt, json!({})).0, natural, "the same prompt, another answer");
        assert_eq!(finish(prompt, json!({"max_tokens": 9})), (9, "length".to_owned()));
        assert_eq!(finish(prompt, json!({"min_tokens": 35})), (35, "stop".to_owned()));
        let exact = json!({"max_tokens": 40, "ignore_eos": true});
        assert_eq!(finish(prompt, exact), (40, "length".to_owned()));
        lengths.push(natural);
    }
    lengths.sort();
    lengths.dedup();
    assert!(lengths.len() > 1, "all answers have the same length");
}

#[test]
fn tokens_come_when_due_never_early_and_without_drift() {
    let server = Server::start(Behavior {
        ttft_ms: 40.0,
        prefill_us_per_token: 1000.0,
        itl_ms: 4.0,
        ..Behavior::default()
    });
    let body = chat(&"word ".repeat(15), json!({"max_tokens": 50, "ignore_eos": true}));
    let sent_ns = monotonic_ns();
    let response = server.post(CHAT, "", &body);
    let (_, truth) = server.stop();
    let line = &truth[0];
    assert!(
        line.read_ns >= sent_ns && response.head_ns < line.tokens_ns[0],
        "the head comes first"
    );
    let first_due = line.read_ns + 60 * MS;
    // The role event is the first chunk, the usage and [DONE] the last two.
    let chunks_ns = &response.chunks_ns[1..51];
    for (index, (&written, &read)) in line.tokens_ns.iter().zip(chunks_ns).enumerate() {
        let due = first_due + index as u64 * 4 * MS;
        assert!(written >= due, "token {index} is {} ns early", due - written);
        assert!(read >= written, "token {index} was read before it was written");
    }
    // If lateness added up, even 0.5 ms per token would be 25 ms by now.
    let last_due = first_due + 49 * 4 * MS;
    let least_late = line.tokens_ns.iter().enumerate().skip(25);
    let least_late = least_late.map(|(index, at)| at - first_due - index as u64 * 4 * MS).min();
    assert!(least_late.unwrap() < 10 * MS, "{least_late:?}");
    assert!(line.finished_ns.unwrap() >= last_due);
}

#[test]
fn jitter_spreads_delays_and_the_load_slows_them() {
    let jittery = Behavior { itl_ms: 4.0, jitter: 0.5, ..instant() };
    let server = Server::start(jittery);
    let body = chat("a", json!({"max_tokens": 40, "ignore_eos": true}));
    server.post(CHAT, "", &body);
    let (_, truth) = server.stop();
    let (first, last) = (truth[0].tokens_ns[0], truth[0].tokens_ns[39]);
    // 39 delays of 2 to 6 ms.
    assert!(last - first >= 39 * 2 * MS);

    let slope = Behavior { itl_ms: 1.0, itl_ms_per_running: 3.0, ..instant() };
    let server = Server::start(slope);
    // So many that the second comes long before the first has ended.
    let body = chat("a", json!({"max_tokens": 200, "ignore_eos": true}));
    let mut clients = [server.connect(), server.connect()];
    clients.iter_mut().for_each(|client| client.send_post(CHAT, "", &body));
    clients.iter_mut().for_each(|client| assert_eq!(client.read().end, End::Clean));
    let (_, truth) = server.stop();
    let longest = truth.iter().map(|line| line.tokens_ns[199] - line.tokens_ns[0]).max().unwrap();
    // While both run, a token takes 1 + 3 ms.
    assert!(longest > 199 * 2 * MS, "{longest}");
}

#[test]
fn requests_beyond_the_capacity_wait_in_order() {
    // Long enough that all come while the first runs.
    const TTFT_MS: u32 = 300;
    let server =
        Server::start(Behavior { max_running: 1, ttft_ms: f64::from(TTFT_MS), ..instant() });
    let body = chat("a", json!({"max_tokens": 1}));
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..4_u32 {
        let mut client = server.connect();
        client.send_post(CHAT, &format!("x-request-id: {number}\r\n"), &body);
        let waiting = f64::from(number);
        if number == 0 {
            server.await_metric(&["vllm:num_requests_running"], 1.0);
        } else if number < 3 {
            // The third may find the first gone on a slow machine.
            std::thread::sleep(Duration::from_millis(2));
            assert!(server.metric(&["vllm:num_requests_waiting"]) <= waiting);
        }
        clients.push(client);
    }
    // One in the queue gives up.
    drop(clients.remove(2));
    clients.iter_mut().for_each(|client| assert_eq!(client.read().end, End::Clean));
    server.await_metric(&["vllm:num_requests_running"], 0.0);
    assert_eq!(server.metric(&["vllm:num_requests_waiting"]), 0.0);
    let (stats, truth) = server.stop();
    assert_eq!(stats.completed, 3);
    let done: Vec<_> = truth.iter().filter(|line| line.finished_ns.is_some()).collect();
    let order: Vec<_> = done.iter().map(|line| line.x_request_id.as_deref().unwrap()).collect();
    assert_eq!(order, ["0", "1", "3"]);
    for pair in done.windows(2) {
        let apart = pair[1].tokens_ns[0] - pair[0].tokens_ns[0];
        assert!(apart >= u64::from(TTFT_MS) * MS, "two at once");
    }
}

#[test]
fn cached_prefixes_are_counted_and_save_prefill() {
    let server = Server::start(Behavior {
        cache_blocks: 1000,
        block_size: 4,
        prefill_us_per_token: 1000.0,
        ..instant()
    });
    let prompt = "word ".repeat(31);
    let cached = |body: &Value| {
        let events = server.post(CHAT, "", body).events();
        let usage = &events[events.len() - 2]["usage"];
        usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let first = chat(&prompt, json!({"max_tokens": 6, "ignore_eos": true}));
    assert_eq!(cached(&first), 0);
    assert_eq!(cached(&first), 32, "31 words and 5 tokens of the template, less the last block");

    // The answer is in the cache too: the next turn finds 36 + 6 tokens, in whole blocks 40.
    let answer = server.post(CHAT, "", &first).texts().concat();
    let mut next = first.clone();
    next["messages"] = json!([
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "go on"},
    ]);
    assert_eq!(cached(&next), 40);
    assert!(server.metric(&["vllm:prefix_cache_hits_total"]) >= 104.0);
    assert_eq!(server.metric(&["vllm:kv_cache_usage_perc"]), 0.0);

    assert_eq!(server.post("/reset_prefix_cache", "", &json!({})).status, 200);
    assert_eq!(cached(&first), 0);
    let (_, truth) = server.stop();
    for line in truth {
        let due = line.read_ns + u64::from(line.input_tokens - line.cached_tokens) * MS;
        assert!(line.tokens_ns[0] >= due, "{line:?}");
    }
}

#[test]
fn a_cache_is_forgotten_as_the_server_played_does_it() {
    // The statuses of vLLM's path and of SGLang's, and what is cached afterwards.
    for (cache_reset, statuses, cached) in [
        (CacheReset::Vllm, [200, 404], 0),
        (CacheReset::Sglang, [404, 200], 0),
        (CacheReset::None, [404, 404], 32),
        (CacheReset::Ignored, [200, 404], 32),
    ] {
        let server =
            Server::start(Behavior { cache_blocks: 1000, block_size: 4, cache_reset, ..instant() });
        let body = chat(&"word ".repeat(31), json!({"max_tokens": 1}));
        server.post(CHAT, "", &body);
        let paths = ["/reset_prefix_cache?reset_external=true", "/flush_cache"];
        let answers = paths.map(|path| server.post(path, "", &json!({})).status);
        assert_eq!(answers, statuses, "{cache_reset:?}");
        let events = server.post(CHAT, "", &body).events();
        let usage = &events[events.len() - 2]["usage"];
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], cached, "{cache_reset:?}");
    }
}

#[test]
fn chunks_of_several_tokens_come_when_their_last_is_due() {
    let server = Server::start(Behavior { tokens_per_chunk: 4, itl_ms: 2.0, ..instant() });
    let body = chat("a", json!({"max_tokens": 10, "ignore_eos": true}));
    let response = server.post(CHAT, "", &body);
    let words: Vec<_> =
        response.texts().iter().map(|text| text.split_whitespace().count()).collect();
    assert_eq!(words, [1, 4, 4, 1]);
    let (_, truth) = server.stop();
    let line = &truth[0];
    for (at, token) in line.tokens_ns.iter().zip([0, 4, 8, 9]) {
        assert!(*at >= line.read_ns + token * 2 * MS);
    }
    assert_eq!((line.tokens_ns.len(), line.output_tokens), (4, 10));
}

#[test]
fn an_answer_in_one_write_is_the_same_but_comes_at_its_end() {
    let body = chat("a", json!({"max_tokens": 10, "ignore_eos": true}));
    let [single, whole] = [false, true].map(|one_write| {
        let server = Server::start(Behavior { one_write, itl_ms: 2.0, ..instant() });
        let response = server.post(CHAT, "", &body);
        assert_eq!(response.end, End::Clean);
        (response.texts(), server.stop().1.remove(0))
    });
    assert_eq!(single.0, whole.0);
    let line = &whole.1;
    assert_eq!(line.tokens_ns, [line.finished_ns.unwrap(); 10]);
    assert!(line.tokens_ns[0] >= line.read_ns + 9 * 2 * MS);
}

#[test]
fn counters_agree_with_the_answers() {
    let server = Server::start(instant());
    let (mut prompts, mut outputs) = (0, 0);
    for number in 0..20 {
        let response = server.post(CHAT, "", &chat(&"x ".repeat(number), json!({})));
        let events = response.events();
        let usage = &events[events.len() - 2]["usage"];
        prompts += usage["prompt_tokens"].as_u64().unwrap();
        outputs += usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(usage["completion_tokens"], response.texts().len());
    }
    assert_eq!(server.metric(&["vllm:prompt_tokens_total"]), prompts as f64);
    assert_eq!(server.metric(&["vllm:generation_tokens_total"]), outputs as f64);
    assert_eq!(server.metric(&["vllm:time_to_first_token_seconds_count"]), 20.0);
    assert_eq!(server.metric(&["vllm:inter_token_latency_seconds_count"]), outputs as f64 - 20.0);
    assert_eq!(server.metric(&["vllm:e2e_request_latency_seconds_bucket", "+Inf"]), 20.0);
    let (stats, truth) = server.stop();
    assert_eq!((stats.input_tokens, stats.output_tokens), (prompts, outputs));
    assert_eq!(truth.iter().map(|line| u64::from(line.output_tokens)).sum::<u64>(), outputs);
}

#[test]
fn a_rate_befalls_its_share_and_the_same_requests_again() {
    let behavior = || Behavior {
        faults: vec![FaultRule { fault: Fault::Http(503), rate: 0.25 }],
        ..instant()
    };
    let statuses = || {
        let server = Server::start(behavior());
        let mut client = server.connect();
        let body = chat("a", json!({"max_tokens": 1}));
        (0..200).map(|_| client.post(CHAT, "", &body).status).collect::<Vec<_>>()
    };
    let first = statuses();
    let failed = first.iter().filter(|&&status| status == 503).count();
    assert!((25..=75).contains(&failed), "{failed} of 200");
    assert_eq!(statuses(), first);
}
