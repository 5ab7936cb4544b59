//! C01 C03 C05 C07 C21: what streams do that clients take for something else.

use acceptance::{Bench, Log, Server, ms, root};
use records::{FailureKind, Record, UsageSource};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A run over scripted streams, one for each request.
struct Played {
    log: Log,
    summary: Value,
    exit: i32,
    stdout: String,
}

impl Played {
    fn metric(&self, name: &str) -> &Value {
        &self.summary["stages"][0]["metrics"][name]
    }

    fn notes(&self) -> String {
        self.summary["notes"].to_string()
    }
}

fn play(scripts: &[PathBuf]) -> Played {
    let server = Server::play(scripts);
    let bench = Bench::new();
    let requests = scripts.len().to_string();
    let ended = bench.load(
        &server,
        &["--api", "chat", "--requests", &requests, "--concurrency", "1", "--warmup", "0"],
    );
    // Scripts answer at once: beside such a TTFT any pause of the client is long, and it says so.
    let exit = if ended.code == 7 { 0 } else { ended.code };
    assert!([0, 4].contains(&exit), "{}", ended.output());
    let log = bench.log();
    assert_eq!(log.records.len(), scripts.len());
    Played { log, summary: bench.summary(), exit, stdout: ended.stdout }
}

fn cases(names: &[&str]) -> Vec<PathBuf> {
    let file = |name: &&str| root().join(format!("tests/cases/{name}.stream.jsonl"));
    names.iter().map(file).collect()
}

/// Plays streams until the machine was quiet enough to judge their times: nothing may ever come
/// early, but on a busy machine anything may come late. `times` are arrivals of the output chunks
/// and of the end in milliseconds after the request was sent, by request; none where it fails.
fn play_in_time(scripts: &[PathBuf], times: &[Option<(&[f64], f64)>]) -> Played {
    const LATE: f64 = 15.0;
    let mut latest = 0.0;
    for _ in 0..8 {
        let played = play(scripts);
        latest = 0.0_f64;
        for (record, right) in played.log.records.iter().zip(times) {
            let Some((chunks, end)) = right else { continue };
            let arrivals = arrivals(record);
            assert_eq!(arrivals.len(), chunks.len(), "{record:?}");
            let pairs = arrivals.iter().zip(*chunks);
            let end = (ms(record.sent.unwrap(), record.finished), *end);
            for (got, right) in pairs.map(|(got, right)| (*got, *right)).chain([end]) {
                assert!(got >= right, "{got} ms is before {right} ms: {record:?}");
                latest = latest.max(got - right);
            }
        }
        if latest < LATE {
            return played;
        }
    }
    panic!("in eight runs something was late by more than {LATE} ms; in the last by {latest} ms");
}

fn arrivals(record: &Record) -> Vec<f64> {
    record.tokens.iter().map(|&at| ms(record.sent.unwrap(), at)).collect()
}

/// What the metrics of one request must be, reckoned from its record alone.
#[track_caller]
fn check_metrics(played: &Played, itl: &[f64]) {
    let [record] = &played.log.records[..] else { panic!("one request") };
    let arrivals = arrivals(record);
    let output = f64::from(record.output_tokens.unwrap());
    let latency = ms(record.sent.unwrap(), record.finished);
    let tpot = (arrivals.last().unwrap() - arrivals[0]) / (output - 1.0);
    let check = |name: &str, right: f64| {
        let got = played.metric(name)["mean"].as_f64().unwrap();
        assert!((got - right).abs() < 0.001, "{name} is {got}, not {right}");
    };
    check("ttft", arrivals[0]);
    check("latency", latency);
    check("tpot", tpot);
    check("ntpot", latency / output);
    check("itl", itl.iter().sum::<f64>() / itl.len() as f64);
    assert_eq!(played.metric("itl")["n"], itl.len());
    let mut sorted = itl.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = played.metric("itl")["p50"].as_f64().unwrap();
    assert!((median - sorted[itl.len().div_ceil(2) - 1]).abs() < 0.001, "{median}: {sorted:?}");
}

fn gaps(record: &Record) -> Vec<f64> {
    arrivals(record).windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Makes a script: writes with their times, and how it ends.
fn script(bench: &Bench, name: &str, writes: &[(u64, Vec<u8>)], end: &str) -> PathBuf {
    let mut text =
        json!({"status": 200, "headers": {"content-type": "text/event-stream"}}).to_string();
    let mut last = 0;
    for (at, bytes) in writes {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&format!("\n{}", json!({"at_ms": at, "hex": hex})));
        last = *at;
    }
    text.push_str(&format!("\n{}\n", json!({"at_ms": last, "end": end})));
    bench.write(name, text);
    bench.path(name)
}

/// A script of whole events: at 2 ms what comes first, the others 5 ms apart.
fn events(bench: &Bench, name: &str, events: &[&str], end: &str) -> PathBuf {
    let times = std::iter::once(2).chain((0..).map(|n| 20 + n * 5));
    let writes: Vec<_> =
        times.zip(events).map(|(at, text)| (at, format!("{text}\n\n").into_bytes())).collect();
    script(bench, name, &writes, end)
}

fn delta(delta: &str) -> String {
    format!(r#"data: {{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#)
}

const ROLE: &str = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const A: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"A"},"finish_reason":null}]}"#;
const B: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"B"},"finish_reason":null}]}"#;
const C_STOP: &str =
    r#"data: {"choices":[{"index":0,"delta":{"content":"C"},"finish_reason":"length"}]}"#;
const STOP: &str = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str =
    r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
const DONE: &str = "data: [DONE]";

#[test]
fn c01_a_role_an_empty_text_and_an_empty_list_are_no_token() {
    let times: (&[f64], f64) = (&[214.0, 234.0, 254.0], 257.0);
    let played = play_in_time(&cases(&["C01"]), &[Some(times)]);
    let record = &played.log.records[0];
    assert_eq!(played.exit, 0);
    assert_eq!((record.input_tokens, record.output_tokens), (Some(7), Some(3)));
    assert_eq!(record.usage, UsageSource::Server);
    check_metrics(&played, &gaps(record));
}

#[test]
fn c01_whatever_stands_before_the_first_text_is_no_token() {
    let bench = Bench::new();
    let firsts = [
        ("usage_first", r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":0,"total_tokens":7}}"#.to_owned()),
        ("no_choices", r#"data: {"id":"r","object":"chat.completion.chunk"}"#.to_owned()),
        ("null_choices", r#"data: {"id":"r","choices":null}"#.to_owned()),
        ("empty_delta", delta("{}")),
        ("null_delta", delta("null")),
        ("null_content", delta(r#"{"role":"assistant","content":null}"#)),
        ("null_reasoning", delta(r#"{"reasoning_content":null,"content":""}"#)),
        ("empty_tools", delta(r#"{"content":null,"tool_calls":[]}"#)),
        ("comment", ": ping".to_owned()),
        ("named_event", "event: ping\ndata:".to_owned()),
        ("retry", "retry: 3000".to_owned()),
        ("two_roles", format!("{ROLE}\n\n{ROLE}")),
    ];
    let scripts: Vec<_> = firsts
        .iter()
        .map(|(name, first)| events(&bench, name, &[first, A, B, C_STOP, USAGE, DONE], "clean"))
        .collect();
    let played = play(&scripts);
    for ((name, _), record) in firsts.iter().zip(&played.log.records) {
        assert_eq!(record.error, None, "{name}");
        assert_eq!(record.tokens.len(), 3, "{name}");
        assert_eq!(record.output_tokens, Some(3), "{name}");
        assert!(arrivals(record)[0] > 18.0, "{name}: {record:?}");
    }
}

#[test]
fn c01_the_end_of_an_answer_has_many_forms() {
    let bench = Bench::new();
    let usage_with_choices =
        STOP.replace("}]}", r#"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#);
    let no_details = USAGE.replace(r#""total_tokens":10"#, r#""prompt_tokens_details":null"#);
    let ends: [(&str, Vec<&str>); 5] = [
        ("reason_with_text", vec![C_STOP, USAGE, DONE]),
        ("reason_alone", vec![&A, STOP, USAGE, DONE]),
        ("usage_beside_the_reason", vec![&A, &usage_with_choices, DONE]),
        ("null_details", vec![&A, STOP, &no_details, DONE]),
        ("done_alone", vec![&A, USAGE, DONE]),
    ];
    let scripts: Vec<_> = ends
        .iter()
        .map(|(name, end)| {
            let all: Vec<&str> = [ROLE, A, B].into_iter().chain(end.iter().copied()).collect();
            events(&bench, name, &all, "clean")
        })
        .collect();
    let played = play(&scripts);
    for ((name, _), record) in ends.iter().zip(&played.log.records) {
        assert_eq!(record.error, None, "{name}");
        assert_eq!((record.tokens.len(), record.output_tokens), (3, Some(3)), "{name}");
        assert_eq!(record.input_tokens, Some(7), "{name}");
    }
}

#[test]
fn c01_without_usage_nobody_counted_and_nothing_is_made_up() {
    let bench = Bench::new();
    let played = play(&[events(&bench, "s", &[ROLE, A, B, STOP, DONE], "clean")]);
    let record = &played.log.records[0];
    assert_eq!((record.error.as_ref(), record.usage), (None, UsageSource::None));
    assert_eq!((record.input_tokens, record.output_tokens), (None, None));
    assert_eq!(played.metric("output_tokens"), &Value::Null);
    assert_eq!(played.metric("tpot"), &Value::Null);
    assert_eq!(played.metric("ttft")["n"], 1);
    assert!(played.notes().contains("nobody counted the tokens"), "{}", played.notes());
}

#[test]
fn c01_a_tool_call_is_output_and_an_answer_without_output_is_empty() {
    let bench = Bench::new();
    let call = delta(
        r#"{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":"{"}}]}"#,
    );
    let played = play(&[
        events(&bench, "tool", &[ROLE, &call, STOP, DONE], "clean"),
        events(&bench, "empty", &[ROLE, STOP, USAGE, DONE], "clean"),
    ]);
    assert_eq!(played.log.records[0].error, None);
    assert_eq!(played.log.records[0].tokens.len(), 1);
    let error = played.log.records[1].error.as_ref().unwrap();
    assert_eq!(error.kind, FailureKind::EmptyAnswer);
    assert_eq!(played.summary["stages"][0]["errors"], json!({"empty_answer": 1}));
}

#[test]
fn c03_an_error_inside_a_good_stream_is_a_failure() {
    let good: (&[f64], f64) = (&[50.0, 70.0, 90.0], 96.0);
    let played = play_in_time(&cases(&["C03-works", "C03-fails"]), &[Some(good), None]);
    assert_eq!(played.exit, 0);
    let error = played.log.records[1].error.as_ref().unwrap();
    assert_eq!(error.kind, FailureKind::ServerError);
    for part in ["engine died", "InternalServerError", "500"] {
        assert!(error.message.contains(part), "{}", error.message);
    }
    let stage = &played.summary["stages"][0];
    assert_eq!((&stage["sent"], &stage["failed"]), (&json!(2), &json!(1)));
    assert_eq!(stage["errors"], json!({"server_error": 1}));
    let record = &played.log.records[0];
    let latency = ms(record.sent.unwrap(), record.finished);
    for (name, right) in
        [("ttft", arrivals(record)[0]), ("latency", latency), ("output_tokens", 3.0)]
    {
        let metric = played.metric(name);
        assert_eq!(metric["n"], 1, "{name}");
        assert!((metric["mean"].as_f64().unwrap() - right).abs() < 0.001, "{name}: {metric}");
    }
    let tokens = played.metric("output_token_throughput")["value"].as_f64().unwrap()
        * stage["window_s"].as_f64().unwrap();
    assert!((tokens - 3.0).abs() < 0.01, "{tokens} tokens of requests that finished");
}

#[test]
fn c03_an_error_is_seen_in_every_form_and_place() {
    let bench = Bench::new();
    let object = r#"data: {"error":{"message":"engine died","type":"X","code":500}}"#;
    let forms: [(&str, Vec<&str>, &str); 9] = [
        ("first", vec![object, DONE], "clean"),
        ("after_role", vec![ROLE, object, DONE], "clean"),
        ("after_tokens", vec![ROLE, A, object, DONE], "clean"),
        ("without_done", vec![ROLE, A, object], "clean"),
        ("then_cut", vec![ROLE, A, object], "fin"),
        ("after_the_reason", vec![ROLE, A, STOP, object, DONE], "clean"),
        ("as_text", vec![ROLE, A, r#"data: {"error":"engine died"}"#, DONE], "clean"),
        (
            "named_event",
            vec![ROLE, A, "event: error\ndata: {\"message\":\"engine died\"}"],
            "clean",
        ),
        (
            "old_vllm",
            vec![ROLE, A, r#"data: {"object":"error","message":"engine died","code":500}"#, DONE],
            "clean",
        ),
    ];
    let scripts: Vec<_> =
        forms.iter().map(|(name, list, end)| events(&bench, name, list, end)).collect();
    let played = play(&scripts);
    for ((name, ..), record) in forms.iter().zip(&played.log.records) {
        let error = record.error.as_ref().unwrap_or_else(|| panic!("{name} counts as success"));
        assert_eq!(error.kind, FailureKind::ServerError, "{name}: {}", error.message);
        assert!(error.message.contains("engine died"), "{name}: {}", error.message);
    }
    assert_eq!(played.exit, 4, "no request succeeded");
    assert_eq!(played.metric("ttft"), &Value::Null);
}

#[test]
fn c05_reasoning_is_output_in_both_spellings() {
    let times: (&[f64], f64) = (&[80.0, 100.0, 120.0, 140.0], 143.0);
    for case in ["C05-a", "C05-b"] {
        let played = play_in_time(&cases(&[case]), &[Some(times)]);
        let record = &played.log.records[0];
        assert_eq!((record.output_tokens, record.reasoning_tokens), (Some(4), Some(2)), "{case}");
        assert_eq!(record.first_answer, Some(record.tokens[2]), "a line break is a token");
        check_metrics(&played, &gaps(record));
        let answer = played.metric("answer_ttft")["mean"].as_f64().unwrap();
        assert!((answer - arrivals(record)[2]).abs() < 0.001, "{answer}");
    }
}

#[test]
fn c05_an_answer_of_reasoning_alone_has_no_first_answer() {
    let bench = Bench::new();
    let thought = [r#"{"reasoning":"Hm"}"#, r#"{"reasoning_content":"Hm","content":""}"#];
    let scripts: Vec<_> = thought
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let thought = delta(text);
            events(&bench, &n.to_string(), &[ROLE, &thought, &thought, STOP, DONE], "clean")
        })
        .collect();
    let played = play(&scripts);
    for record in &played.log.records {
        assert_eq!((record.error.as_ref(), record.first_answer), (None, None));
        assert_eq!(record.tokens.len(), 2);
    }
    assert_eq!(played.metric("ttft")["n"], 2);
    assert_eq!(played.metric("answer_ttft"), &Value::Null);
}

#[test]
fn c07_events_end_where_they_end_and_streams_when_they_are_done() {
    let a: (&[f64], f64) = (&[130.0, 150.0, 150.0], 155.0);
    let b: (&[f64], f64) = (&[50.0, 70.0], 73.0);
    let files = cases(&["C07-a", "C07-b", "C07-c", "C07-d"]);
    let played = play_in_time(&files, &[Some(a), Some(b), None, None]);
    let [a, b, c, d] = &played.log.records[..] else { panic!("four requests") };
    assert_eq!((a.output_tokens, b.output_tokens), (Some(3), Some(2)));
    assert_eq!(a.tokens[1], a.tokens[2], "both came in one read");
    for cut in [c, d] {
        assert_eq!(cut.error.as_ref().unwrap().kind, FailureKind::StreamCut);
    }
    let stage = &played.summary["stages"][0];
    assert_eq!((&stage["sent"], &stage["failed"]), (&json!(4), &json!(2)));
    assert_eq!(played.metric("latency")["n"], 2);
}

#[test]
fn c07_what_comes_in_one_read_is_a_gap_of_nothing() {
    let times: (&[f64], f64) = (&[130.0, 150.0, 150.0], 155.0);
    let played = play_in_time(&cases(&["C07-a"]), &[Some(times)]);
    let gaps = gaps(&played.log.records[0]);
    assert_eq!(gaps[1], 0.0);
    check_metrics(&played, &gaps);
}

/// Three tokens of three bytes each, the end in all its parts.
fn stream(line_end: &str) -> Vec<u8> {
    let text = [ROLE.to_owned(), A.replace('A', "日"), A.replace('A', "本"), A.replace('A', "語")];
    let mut all: Vec<String> = text.into();
    all.extend([STOP, USAGE, DONE].map(str::to_owned));
    all.iter().map(|event| format!("{event}{line_end}{line_end}")).collect::<String>().into_bytes()
}

#[test]
fn c07_a_stream_may_be_cut_into_reads_at_every_byte() {
    let bench = Bench::new();
    let mut scripts = Vec::new();
    for (end, name) in [("\n", "lf"), ("\r\n", "crlf")] {
        let bytes = stream(end);
        for at in 1..bytes.len() {
            let halves = [(0, bytes[..at].to_vec()), (1, bytes[at..].to_vec())];
            scripts.push(script(&bench, &format!("{name}-{at}"), &halves, "clean"));
        }
        let each: Vec<_> = bytes.iter().map(|byte| (0, vec![*byte])).collect();
        scripts.push(script(&bench, &format!("{name}-each"), &each, "clean"));
        scripts.push(script(&bench, &format!("{name}-whole"), &[(0, bytes)], "clean"));
    }
    let played = play(&scripts);
    for (file, record) in scripts.iter().zip(&played.log.records) {
        assert_eq!(record.error, None, "{}", file.display());
        assert_eq!((record.tokens.len(), record.output_tokens), (3, Some(3)), "{}", file.display());
    }
}

#[test]
fn c07_a_stream_that_ends_anywhere_before_its_end_is_cut() {
    let bench = Bench::new();
    let bytes = stream("\n");
    let finish = bytes.windows(13).position(|w| w == b"\"finish_reaso").unwrap();
    let stop = bytes.windows(6).rposition(|w| w == b"\"stop\"").unwrap();
    assert!(finish < stop);
    let mut scripts = Vec::new();
    for end in ["clean", "fin"] {
        // Up to here the client has seen no reason to stop.
        for at in (0..stop).step_by(37) {
            let part = [(0, bytes[..at.max(1)].to_vec())];
            scripts.push(script(&bench, &format!("{end}-{at}"), &part, end));
        }
    }
    let played = play(&scripts);
    for (file, record) in scripts.iter().zip(&played.log.records) {
        let error =
            record.error.as_ref().unwrap_or_else(|| panic!("{} counts as success", file.display()));
        // An orderly end between two events and before the first token is an empty answer.
        let empty = error.kind == FailureKind::EmptyAnswer && record.tokens.is_empty();
        assert!(error.kind == FailureKind::StreamCut || empty, "{}: {error:?}", file.display());
    }
    assert_eq!(played.exit, 4);
}

#[test]
fn c21_a_chunk_of_several_tokens_is_several_gaps() {
    let times: (&[f64], f64) = (&[100.0, 120.0, 140.0, 160.0], 163.0);
    let played = play_in_time(&cases(&["C21"]), &[Some(times)]);
    let record = &played.log.records[0];
    assert_eq!(record.output_tokens, Some(10));
    assert_eq!(record.chunk_tokens, [3, 2, 3, 2]);
    let counts = [2.0, 3.0, 2.0];
    let spread: Vec<f64> = gaps(record)
        .iter()
        .zip(counts)
        .flat_map(|(gap, tokens)| vec![gap / tokens; tokens as usize])
        .collect();
    assert_eq!(spread.len(), 7);
    check_metrics(&played, &spread);
    assert_eq!(played.summary["stages"][0]["several_token_chunks"], 1.0);
    assert!(played.notes().contains("4 of 4 chunks"), "{}", played.notes());
    assert!(played.notes().contains("the two differ"), "{}", played.notes());
    assert!(!played.stdout.is_empty());
}

#[test]
fn c21_counts_of_every_kind_give_tokens_their_share_or_say_that_they_cannot() {
    let bench = Bench::new();
    let usage = |n: u32| format!(r#"}}],"usage":{{"prompt_tokens":7,"completion_tokens":{n}}}}}"#);
    let counted = |text: &str, n: u32| text.replace("}]}", &usage(n));
    let last = USAGE.replace("\"completion_tokens\":3", "\"completion_tokens\":6");
    let one_each = [counted(A, 1), counted(B, 2), counted(C_STOP, 3)];
    let mixed = [counted(A, 1), counted(B, 4), counted(C_STOP, 6)];
    let list = |chunks: &[String; 3], usage: &str, name: &str| {
        events(&bench, name, &[ROLE, &chunks[0], &chunks[1], &chunks[2], usage, DONE], "clean")
    };
    let check = |script: PathBuf, chunks: &[u32], several: Value, itl: usize, note: &str| {
        let played = play(&[script]);
        let record = &played.log.records[0];
        assert_eq!((record.error.as_ref(), &record.chunk_tokens[..]), (None, chunks));
        assert_eq!(played.summary["stages"][0]["several_token_chunks"], several);
        assert_eq!(played.metric("itl")["n"], itl);
        assert!(played.notes().contains(note), "{}", played.notes());
    };
    check(list(&one_each, USAGE, "one"), &[], json!(0.0), 2, "");
    check(list(&mixed, &last, "mixed"), &[1, 3, 2], json!(0.666667), 5, "2 of 3 chunks");
    let plain = [A, B, C_STOP].map(str::to_owned);
    let note = "did not count tokens chunk by chunk";
    check(list(&plain, &last, "final_only"), &[], json!(0.0), 2, note);
}
