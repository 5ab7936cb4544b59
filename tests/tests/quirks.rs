//! The quirks of real servers: for each of them, and for both APIs, what the program records is what
//! the simulated server says that it did.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use acceptance::{Bench, Server, TruthLine, ms, program, root};
use load::Api;
use load::chunking::Response;
use records::{Connection, FailureKind, Record, UsageSource};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::process::Command;

const REQUESTS: usize = 4;
const TOKENS: u32 = 8;
const APIS: [&str; 2] = ["chat", "completions"];

/// A run against a server that has a quirk.
struct Played {
    name: String,
    /// Records with what the server says of them.
    pairs: Vec<(Record, TruthLine)>,
    exit: i32,
    summary: Value,
}

impl Played {
    fn records(&self) -> impl Iterator<Item = &Record> {
        self.pairs.iter().map(|(record, _)| record)
    }

    fn metric(&self, name: &str) -> &Value {
        &self.summary["stages"][0]["metrics"][name]
    }
}

fn play(api: &str, args: &[&str]) -> Played {
    let played = (0..3).find_map(|_| try_to_play(api, args));
    played.expect("in one of three runs whatever met a closed connection is sent again")
}

/// None: on a busy machine the end of a kept connection came so late that the server might have had
/// the request, which was not sent again then.
fn try_to_play(api: &str, args: &[&str]) -> Option<Played> {
    let name = format!("{} {api}", args.join(" "));
    let delays = ["--ttft", "50ms", "--itl", "20ms"];
    let server = Server::start(&[&delays[..], args].concat());
    let bench = Bench::new();
    let (requests, tokens) = (REQUESTS.to_string(), TOKENS.to_string());
    let load = ["--api", api, "--requests", &requests, "--concurrency", "2", "--warmup", "0"];
    let lengths = ["--input-tokens", "12", "--output-tokens", &tokens];
    let ended = bench.load(&server, &[&load[..], &lengths].concat());
    assert!([0, 4, 7].contains(&ended.code), "{name}: {}", ended.output());
    let records = bench.log().records;
    let is_cut = |record: &Record| {
        let failure = record.error.as_ref();
        record.retries == 0 && failure.is_some_and(|f| f.kind == FailureKind::StreamCut)
    };
    if args.iter().any(|arg| arg.starts_with("close_")) && records.iter().any(is_cut) {
        return None;
    }
    let mut truth: BTreeMap<u64, TruthLine> = BTreeMap::new();
    for line in server.truth() {
        let id = line.id.unwrap_or_else(|| panic!("{name}: {line:?} is none of ours"));
        assert!(truth.insert(id, line).is_none(), "{name}: request {id} was answered twice");
    }
    assert_eq!((records.len(), truth.len()), (REQUESTS, REQUESTS), "{name}");
    let pairs = records.into_iter().map(|record| {
        let line = truth.remove(&record.id).unwrap();
        (record, line)
    });
    Some(Played { name, pairs: pairs.collect(), exit: ended.code, summary: bench.summary() })
}

/// How late the records of runs are against the truth, in milliseconds: of each class of requests
/// each token, and at last the end, of the request in which it was least late. A busy machine makes
/// anything late, but not each time.
#[derive(Default)]
struct Lateness(BTreeMap<Class, Vec<f64>>);

/// Whether a request was sent again, whether it opened its connection, and whether another had gone
/// over that before: each could make all such requests late, while others are in time.
type Class = [bool; 3];

impl Lateness {
    /// Takes a run in, in which nothing may be early. Gives the latest of the classes that the run
    /// has: one that comes up only where the machine is busy may not come up again.
    fn add(&mut self, played: &Played) -> f64 {
        let name = &played.name;
        let mut classes = BTreeSet::new();
        for (record, line) in &played.pairs {
            let sent = record.sent.unwrap();
            assert_eq!(record.tokens.len(), line.tokens.len(), "{name}: {record:?}");
            let seen = record.tokens.iter().chain([&record.finished]);
            let written = line.tokens.iter().chain(&line.finished);
            let late: Vec<f64> = seen
                .zip(written)
                .map(|(&seen, &written)| ms(sent, seen) - ms(line.read, written))
                .collect();
            assert_eq!(late.len(), record.tokens.len() + 1, "{name}: {line:?} has no end");
            let early = late.iter().copied().fold(0.0, f64::min);
            assert!(early >= 0.0, "{name}: {early} ms before it was written: {record:?}");
            let is_before =
                |other: &TruthLine| other.connection == line.connection && other.read < line.read;
            let is_kept = played.pairs.iter().any(|(_, other)| is_before(other));
            let class = [record.retries > 0, record.connection == Connection::New, is_kept];
            let least = self.0.entry(class).or_default();
            least.resize(late.len(), f64::INFINITY);
            for (least, late) in least.iter_mut().zip(late) {
                *least = least.min(late);
            }
            classes.insert(class);
        }
        classes.iter().flat_map(|class| &self.0[class]).copied().fold(0.0, f64::max)
    }
}

/// The summary's means are those of the records.
fn check_summary(played: &Played) {
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let of = |value: &dyn Fn(&Record) -> f64| mean(played.records().map(value).collect());
    let same = |metric: &str, right: f64| {
        let got = played.metric(metric)["mean"].as_f64().unwrap();
        let name = &played.name;
        assert!((got - right).abs() < 0.001, "{name}: {metric} is {got} ms, not {right}");
    };
    same("ttft", of(&|record| ms(record.sent.unwrap(), record.tokens[0])));
    same("latency", of(&|record| ms(record.sent.unwrap(), record.finished)));
    let span = |record: &Record| ms(record.tokens[0], *record.tokens.last().unwrap());
    // Where tokens are counted event by event, gaps are shared out to them.
    let counted = played.records().all(|record| !record.chunk_tokens.is_empty());
    let samples = |record: &Record| match counted {
        true => record.chunk_tokens[1..].iter().sum::<u32>() as f64,
        false => record.tokens.len() as f64 - 1.0,
    };
    let all: f64 = played.records().map(samples).sum();
    same("itl", played.records().map(span).sum::<f64>() / all);
    assert_eq!(played.metric("itl")["n"], all as u64, "{}", played.name);
}

/// Plays until each token, and the end, of each class of requests was once recorded as soon as it
/// was written: nothing may ever come early, but on a busy machine anything may come late.
fn play_in_time(api: &str, args: &[&str]) -> Played {
    // An event of a megabyte takes its time on the way.
    let most = if args.contains(&"long_line") { 10.0 } else { 2.0 };
    let mut lateness = Lateness::default();
    let mut latest = f64::INFINITY;
    for _ in 0..8 {
        let played = play(api, args);
        assert!(played.exit != 4, "{}: {:?}", played.name, played.records().next());
        for record in played.records() {
            assert_eq!((record.error.as_ref(), record.status), (None, 200), "{}", played.name);
        }
        check_summary(&played);
        latest = lateness.add(&played);
        if latest < most {
            return played;
        }
    }
    panic!("{args:?} {api}: something was {latest} ms late, or more, in each of eight tries");
}

/// A quirk that changes nothing but the shape: all is counted by the server, and all in time.
fn check(args: &[&str], detail: impl Fn(&str, &Record)) {
    for api in APIS {
        let played = play_in_time(api, args);
        let name = &played.name;
        for (record, line) in &played.pairs {
            let counted = (record.input_tokens, record.output_tokens, record.usage);
            let truth = [line.input_tokens, line.output_tokens].map(|n| u32::try_from(n).ok());
            assert_eq!(counted, (truth[0], truth[1], UsageSource::Server), "{name}");
            assert_eq!(line.output_tokens, u64::from(TOKENS), "{name}");
            assert_eq!(record.retries, 0, "{name}");
            detail(api, record);
        }
        assert_eq!(played.metric("output_tokens")["mean"], f64::from(TOKENS), "{name}");
        assert_eq!(played.summary["stages"][0]["failed"], 0, "{name}");
    }
}

/// The same where every token comes in an event of its own and nothing else is to be said.
fn check_plain(args: &[&str]) {
    check(args, |_, record| {
        assert_eq!(record.tokens.len(), TOKENS as usize);
        assert!(record.chunk_tokens.is_empty());
        assert_eq!(record.first_answer, Some(record.tokens[0]));
        assert_eq!(record.reasoning_tokens, None);
    });
}

#[test]
fn a_server_without_quirks_is_measured_rightly() {
    check_plain(&[]);
}

#[test]
fn events_before_the_first_token_are_no_tokens() {
    for quirk in ["early_role", "filter_results"] {
        check(&["--quirk", quirk], |_, record| {
            let waited = ms(record.first_byte.unwrap(), record.tokens[0]);
            assert!(waited > 20.0, "{quirk}: {waited} ms from the first byte to the first token");
        });
    }
}

#[test]
fn an_event_with_empty_text_is_no_output_and_its_token_is_counted_with_the_next() {
    check(&["--quirk", "partial_utf8"], |_, record| {
        assert_eq!((record.tokens.len(), record.chunk_tokens.len()), (4, 0));
    });
    check(&["--quirk", "partial_utf8", "--quirk", "continuous_usage"], |_, record| {
        assert_eq!(record.chunk_tokens, [2, 2, 2, 2]);
    });
}

#[test]
fn several_tokens_in_an_event_are_counted() {
    check(&["--tokens-per-chunk", "3"], |_, record| {
        assert_eq!((record.tokens.len(), record.chunk_tokens.len()), (4, 0));
    });
    check(&["--tokens-per-chunk", "3", "--quirk", "continuous_usage"], |_, record| {
        assert_eq!(record.chunk_tokens, [1, 3, 3, 1]);
    });
}

#[test]
fn events_and_reads_need_not_be_the_same() {
    check_plain(&["--quirk", "split_events"]);
    check(&["--quirk", "joined_events"], |_, record| {
        assert_eq!(record.tokens.len(), TOKENS as usize);
        let gaps = record.tokens.windows(2).map(|pair| ms(pair[0], pair[1]));
        let near = gaps.enumerate().all(|(n, gap)| n % 2 == 1 || gap < 10.0);
        assert!(near, "two tokens come at a time: {record:?}");
    });
}

#[test]
fn line_ends_and_comments_are_no_matter() {
    check_plain(&["--quirk", "crlf"]);
    check_plain(&["--quirk", "comments"]);
    check_plain(&["--quirk", "crlf", "--quirk", "comments", "--quirk", "split_events"]);
}

#[test]
fn usage_is_found_wherever_it_stands() {
    check_plain(&["--quirk", "usage_in_last"]);
    check_plain(&["--quirk", "continuous_usage"]);
    check_plain(&["--quirk", "usage_in_last", "--quirk", "finish_alone"]);
}

#[test]
fn without_usage_nobody_counts_and_tokens_have_their_times_all_the_same() {
    for api in APIS {
        let played = play_in_time(api, &["--quirk", "no_usage"]);
        for (record, line) in &played.pairs {
            assert_eq!(record.usage, UsageSource::None);
            assert_eq!((record.input_tokens, record.output_tokens), (None, None));
            assert_eq!(record.tokens.len() as u64, line.output_tokens);
        }
        assert_eq!(played.metric("output_tokens"), &Value::Null);
    }
}

#[test]
fn a_finish_reason_of_its_own_is_no_token() {
    check_plain(&["--quirk", "finish_alone"]);
}

#[test]
fn reasoning_is_output_and_the_answer_begins_after_it() {
    for quirk in ["reasoning", "reasoning_content"] {
        check(&["--quirk", quirk], |api, record| {
            let (begin, reasoning) = if api == "chat" { (4, Some(4)) } else { (0, None) };
            assert_eq!(record.tokens.len(), TOKENS as usize);
            assert_eq!(record.first_answer, Some(record.tokens[begin]), "{quirk} {api}");
            assert_eq!(record.reasoning_tokens, reasoning, "{quirk} {api}");
        });
    }
    check(&["--quirk", "reasoning", "--quirk", "reasoning_content"], |api, record| {
        let begin = if api == "chat" { 4 } else { 0 };
        assert_eq!(record.first_answer, Some(record.tokens[begin]), "{api}");
    });
}

#[test]
fn arguments_of_a_tool_call_are_tokens() {
    check_plain(&["--quirk", "tool_calls"]);
}

#[test]
fn probabilities_of_tokens_are_no_matter() {
    check_plain(&["--quirk", "logprobs"]);
}

#[test]
fn an_event_of_a_megabyte_is_one_token() {
    check_plain(&["--quirk", "long_line"]);
}

#[test]
fn a_wrong_content_type_is_no_matter() {
    check_plain(&["--quirk", "text_type"]);
    check_plain(&["--quirk", "json_type"]);
}

#[test]
fn a_pause_before_the_head_or_within_the_answer_is_in_the_times_and_nowhere_else() {
    check_plain(&["--faults", "slow_headers:120=1"]);
    check_plain(&["--faults", "stall:120=1"]);
}

#[test]
fn a_complete_stream_needs_no_done() {
    check_plain(&["--faults", "no_done=1"]);
}

#[test]
fn a_connection_that_is_closed_after_every_answer_costs_a_new_one_each_and_no_retry() {
    for quirk in ["close", "until_close"] {
        for api in APIS {
            let played = play_in_time(api, &["--quirk", quirk]);
            let connections: BTreeSet<u64> =
                played.pairs.iter().map(|(_, line)| line.connection).collect();
            assert_eq!(connections.len(), REQUESTS, "{}", played.name);
            for record in played.records() {
                // Opened ahead of need, or for the request: never one that had been used.
                assert_eq!(record.retries, 0);
                assert_eq!(record.output_tokens, Some(TOKENS));
            }
        }
    }
}

#[test]
fn a_kept_connection_that_turns_out_to_be_closed_is_tried_again_and_that_is_counted() {
    for api in APIS {
        let played = play_in_time(api, &["--quirk", "close_reused"]);
        let connections: BTreeSet<u64> =
            played.pairs.iter().map(|(_, line)| line.connection).collect();
        assert_eq!(connections.len(), REQUESTS, "{}", played.name);
        // Two go over new connections; the others are tried over those first.
        assert_eq!(played.records().map(|record| record.retries).sum::<u32>(), 2);
        assert!(played.records().all(|record| record.retries <= 1));

        let played = play_in_time(api, &["--faults", "close_idle=1"]);
        assert!(played.records().all(|record| record.output_tokens == Some(TOKENS)));
    }
}

/// A quirk that fails every request: kind, message, and how many tokens came before.
fn check_failure(
    args: &[&str],
    kind: FailureKind,
    message: &[&str],
    tokens: RangeInclusive<usize>,
) {
    for api in APIS {
        let played = play(api, args);
        let name = &played.name;
        for (record, line) in &played.pairs {
            let error = record.error.as_ref().unwrap_or_else(|| panic!("{name} went well"));
            assert_eq!(error.kind, kind, "{name}: {error:?}");
            for part in message {
                assert!(error.message.contains(part), "{name}: no `{part}` in {}", error.message);
            }
            assert!(tokens.contains(&record.tokens.len()), "{name}: {record:?}");
            assert_eq!(record.retries, 0, "{name}");
            assert_eq!(u64::from(record.status), line.status, "{name}");
        }
        assert_eq!(played.exit, 4, "{name}");
        let stage = &played.summary["stages"][0];
        assert_eq!(stage["errors"], json!({kind.name(): REQUESTS}), "{name}");
        assert_eq!(played.metric("ttft"), &Value::Null, "{name}");
    }
}

#[test]
fn an_error_after_tokens_is_a_failure_and_the_tokens_are_kept() {
    let message = ["this error was asked for", "InternalServerError"];
    check_failure(&["--faults", "stream_error=1"], FailureKind::ServerError, &message, 4..=4);
    check_failure(&["--faults", "cut=1"], FailureKind::StreamCut, &["in the middle of"], 4..=4);
}

#[test]
fn a_reset_keeps_what_had_been_read_and_an_answer_without_a_token_is_none() {
    // A reset takes away what the system had and nobody had read.
    check_failure(&["--faults", "reset=1"], FailureKind::StreamCut, &["reset"], 0..=4);
    check_failure(&["--faults", "empty=1"], FailureKind::EmptyAnswer, &["no output token"], 0..=0);
}

#[test]
fn too_many_requests_are_a_failure_that_says_when_to_try_again_and_are_not_tried_again() {
    let message = ["this error was asked for", "429", "retry after 1 s"];
    check_failure(&["--faults", "http:429=1"], FailureKind::HttpStatus, &message, 0..=0);
}

#[test]
fn a_redirect_is_a_failure_that_says_where_to() {
    check_failure(
        &["--quirk", "redirect"],
        FailureKind::HttpStatus,
        &["redirects to /elsewhere/v1/"],
        0..=0,
    );
}

#[test]
fn a_compressed_stream_is_a_failure_that_says_what_to_do() {
    let message = ["content-encoding: gzip", "switch compression off"];
    check_failure(&["--quirk", "gzip"], FailureKind::BadStream, &message, 0..=0);
}

/// The names of faults and of quirks, as the help of the server has them.
fn names() -> (Vec<String>, Vec<String>) {
    let help = Command::new(program()).args(["sim", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, tables) = help.split_once("\nFaults").unwrap();
    let (faults, quirks) = tables.split_once("\nQuirks").unwrap();
    let names = |table: &str| {
        let rows = table.lines().filter_map(|line| line.strip_prefix("  "));
        let names = rows.filter(|row| !row.starts_with(' '));
        names.map(|row| row.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    (names(faults), names(quirks))
}

/// The bytes of an answer of four tokens.
fn capture(path: &str, args: &[&str]) -> Vec<u8> {
    let server = Server::start(&[&["--ttft", "2ms", "--itl", "1ms"], args].concat());
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let body = json!({
        "messages": [{"role": "user", "content": "a"}], "prompt": "a", "stream": true,
        "stream_options": {"include_usage": true}, "max_tokens": 4, "ignore_eos": true,
    });
    let (body, close) = (body.to_string(), "connection: close");
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: h\r\n{close}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut bytes = Vec::new();
    // What a reset cuts off is no matter.
    let _ = stream.read_to_end(&mut bytes);
    assert!(bytes.starts_with(b"HTTP/1.1 "), "{args:?}");
    bytes
}

/// Where a response is cut in two: everywhere, but of a megabyte only here and there.
fn cuts(length: usize) -> Vec<usize> {
    let edges = |cut: &usize| *cut < 600 || cut + 600 > length;
    let step = length / 50;
    (0..=length).filter(|cut| length < 50_000 || edges(cut) || cut % step == 0).collect()
}

#[test]
fn however_the_network_cuts_an_answer_with_a_quirk_its_facts_are_the_same() {
    let (faults, quirks) = names();
    let faults =
        faults.iter().filter(|name| !["http", "stall", "slow_headers"].contains(&&***name));
    let mut all: Vec<[String; 2]> =
        quirks.iter().map(|name| ["--quirk".to_owned(), name.clone()]).collect();
    all.extend(faults.map(|name| ["--faults".to_owned(), format!("{name}=1")]));
    all.push(["--faults".to_owned(), "http:429=1".to_owned()]);
    assert!(all.len() > 28, "{all:?}");
    let mut random = 1_u64;
    for args in &all {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        for (api, path) in
            [(Api::Chat, "/v1/chat/completions"), (Api::Completions, "/v1/completions")]
        {
            let bytes = capture(path, &args);
            let response = Response::new(api, true, &bytes);
            for cut in cuts(bytes.len()) {
                response.check(&[cut]);
            }
            for pieces in 2..40 {
                let cuts: Vec<usize> = (0..pieces)
                    .map(|_| {
                        // Good enough to cut with, and the same every time.
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (random >> 33) as usize % bytes.len()
                    })
                    .collect();
                response.check(&cuts);
            }
        }
    }
}

/// Ends the whole server, and with it the run: `lifecycle` has it.
const TESTED_ELSEWHERE: &str = "crash";

#[test]
fn every_quirk_and_fault_is_tested_here_and_described() {
    let (faults, quirks) = names();
    let page = std::fs::read_to_string(root().join("docs/quirks.md")).unwrap();
    let own = include_str!("quirks.rs");
    assert!(quirks.len() > 20 && faults.len() > 8, "{quirks:?} {faults:?}");
    for name in quirks.iter().chain(&faults) {
        assert!(page.contains(&format!("`{name}`")), "docs/quirks.md does not have `{name}`");
    }
    for name in quirks {
        assert!(own.contains(&format!("\"{name}\"")), "nothing tests `{name}`");
    }
    assert!(faults.iter().any(|name| name == TESTED_ELSEWHERE));
    for name in faults.iter().filter(|name| *name != TESTED_ELSEWHERE) {
        let checked =
            ["=1", ":"].iter().any(|end| own.contains(&format!("\"--faults\", \"{name}{end}")));
        assert!(checked, "nothing tests `{name}`");
    }
}
