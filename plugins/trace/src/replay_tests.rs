//! Which sessions a trace makes, for a host that holds the file in memory.

use super::*;
use serde_json::{Value, json};
use std::io::{BufReader, Cursor};

const MOONCAKE: &str = include_str!("../../../tests/cases/C11-mooncake.jsonl");
const BURSTGPT: &str = include_str!("../../../tests/cases/C13-burstgpt.csv");

/// A host with one file.
struct Memory(Vec<u8>);

impl Host for Memory {
    type Source = BufReader<Cursor<Vec<u8>>>;

    fn open(&self, name: &str) -> Result<Self::Source, Error> {
        assert_eq!(name, "data");
        Ok(BufReader::with_capacity(50, Cursor::new(self.0.clone())))
    }
}

fn replay(file: &str, mut settings: Value) -> Result<Replay<Memory>, Error> {
    settings["file"] = "data".into();
    let settings = serde_json::from_value(settings).unwrap();
    Replay::new(settings, 42, Memory(file.as_bytes().to_vec()))
}

fn sessions(file: &str, settings: Value) -> Vec<Session> {
    replay(file, settings).unwrap().next_batch(0, 1000).unwrap()
}

fn asked(session: &Session) -> &Request {
    assert_eq!(session.turns.len(), 1);
    &session.turns[0].request
}

/// Start in milliseconds and most tokens of the answer.
fn dues(sessions: &[Session]) -> Vec<(u64, u32)> {
    let due = |session: &Session| {
        let start = session.start.unwrap();
        assert_eq!(start % 1_000_000, 0);
        (start / 1_000_000, asked(session).max_output_tokens.unwrap())
    };
    sessions.iter().map(due).collect()
}

/// Length and seed of each synthetic part of a prompt.
fn parts(session: &Session) -> Vec<(u32, u64)> {
    let words = |words: &Synthetic| {
        assert_eq!(words.prefix, None);
        (words.tokens, words.seed)
    };
    match &asked(session).prompt {
        Prompt::Synthetic(synthetic) => vec![words(synthetic)],
        Prompt::Messages(messages) => {
            assert_eq!((messages.len(), messages[0].role.as_str()), (1, "user"));
            let part = |part: &Part| match part {
                Part::Synthetic(synthetic) => words(synthetic),
                other => panic!("{other:?}"),
            };
            messages[0].parts.iter().map(part).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn length(session: &Session) -> u32 {
    parts(session).iter().map(|(tokens, _)| tokens).sum()
}

/// Tokens with which both prompts begin: a text begins like a longer one of the same seed.
fn shared(one: &Session, other: &Session) -> u32 {
    let mut shared = 0;
    for (a, b) in parts(one).into_iter().zip(parts(other)) {
        if a.1 != b.1 {
            break;
        }
        shared += a.0.min(b.0);
        if a.0 != b.0 {
            break;
        }
    }
    shared
}

#[test]
fn case_c11_mooncake_rows_keep_times_lengths_and_common_prefixes() {
    let replay = replay(MOONCAKE, json!({})).unwrap();
    let size = replay.size();
    assert_eq!((size.sessions, size.requests), (Some(4), Some(4)));
    assert_eq!(size.mean_input_tokens, Some(3748.0 / 4.0));
    assert_eq!(size.mean_output_tokens, Some(66.0 / 4.0));
    assert_eq!(size.skipped, []);

    let made = sessions(MOONCAKE, json!({}));
    assert_eq!(dues(&made), [(0, 20), (0, 5), (3000, 40), (5999, 1)]);
    assert!(made.iter().all(|session| asked(session).exact_output));
    assert!(made.iter().all(|session| asked(session).streamed));
    // Whole blocks, and the rest by the last one.
    let lengths = |session: &Session| -> Vec<u32> {
        parts(session).iter().map(|(tokens, _)| *tokens).collect()
    };
    assert_eq!(lengths(&made[0]), [512, 512, 76]);
    assert_eq!(lengths(&made[1]), [512, 512, 512]);
    assert_eq!(lengths(&made[2]), [512, 88]);
    assert_eq!(lengths(&made[3]), [512]);
    assert_eq!(made.iter().map(length).sum::<u32>(), 3748);
    assert_eq!(shared(&made[0], &made[1]), 1024);
    assert_eq!([&made[0], &made[1]].map(|earlier| shared(&made[2], earlier)), [512; 2]);
    assert_eq!([&made[0], &made[1], &made[2]].map(|earlier| shared(&made[3], earlier)), [512; 3]);
}

#[test]
fn case_c13_rows_that_failed_at_the_source_are_left_out_and_counted() {
    let replay = replay(BURSTGPT, json!({})).unwrap();
    let size = replay.size();
    assert_eq!(size.requests, Some(4));
    assert_eq!(size.mean_input_tokens, Some(1880.0 / 4.0));
    assert_eq!(size.mean_output_tokens, Some(474.0 / 4.0));
    assert_eq!(size.skipped, [llmdbench_plugin::label("no answer at the source", "1")]);

    let made = sessions(BURSTGPT, json!({}));
    assert_eq!(dues(&made), [(0, 20), (40_000, 200), (113_000, 250), (205_000, 4)]);
    assert_eq!(made.iter().map(length).collect::<Vec<_>>(), [400, 1000, 450, 30]);
    let mut seeds: Vec<u64> = made.iter().map(|session| parts(session)[0].1).collect();
    seeds.dedup();
    assert_eq!(seeds.len(), 4, "prompts without blocks have nothing in common");
}

#[test]
fn burstgpt_with_sessions_and_azure_are_told_by_their_columns() {
    for (name, file, expected) in [
        (
            "third release of BurstGPT",
            "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
             19440110.0,aa-1,43,GPT-4,906,446,1352,Conversation log\n\
             19440161.0,bb-2,2,ChatGPT,36,29,65,Conversation log\n",
            [(0, 906, 446), (51_000, 36, 29)],
        ),
        (
            "columns in another order, quoted, with missing values elsewhere",
            "\"Log Type\",\"Response tokens\",\"Request tokens\",\"Timestamp\"\r\n\
             \"API log\",\"446\",\"906.0\",\"5\"\r\n,29,36,6.5\r\n",
            [(0, 906, 446), (1500, 36, 29)],
        ),
        (
            "Azure 2023",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n\
             2023-11-16 23:59:59.9305900,374,44\n\
             2023-11-17 00:00:00.1305900,396,109\n",
            [(0, 374, 44), (200, 396, 109)],
        ),
        (
            "Azure 2024, out of order",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n\
             2024-05-10 00:00:01.009930+00:00,396,109\n\
             2024-05-10 00:00:00.009930+00:00,374,44\n",
            [(0, 374, 44), (1000, 396, 109)],
        ),
    ] {
        let made = sessions(file, json!({}));
        let found: Vec<_> = made
            .iter()
            .zip(dues(&made))
            .map(|(session, (due, answer))| (due, length(session), answer))
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn messages_are_sent_as_they_stand() {
    let file = r#"{"timestamp": 1500, "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?"}], "name": "ann"}], "max_tokens": 8}
{"timestamp": 2000, "prompt": "Once upon a time", "output_length": 30, "input_length": 5}
{"timestamp": "1970-01-01T00:00:03Z", "messages": [{"role": "assistant", "content": null, "tool_calls": []}]}
"#;
    let replay = replay(file, json!({})).unwrap();
    // 9 and 12 characters, five tokens as said, none.
    assert_eq!(replay.size().skipped, [llmdbench_plugin::label("no prompt at the source", "1")]);
    assert_eq!(replay.size().mean_input_tokens, Some((6.0 + 5.0) / 2.0));

    let made = sessions(file, json!({}));
    assert_eq!(dues(&made), [(0, 8), (500, 30)]);
    assert!(made.iter().all(|session| !asked(session).exact_output));
    let message = |role: &str, text: &str, extra: Option<&str>| Message {
        role: role.into(),
        parts: vec![Part::Text(text.into())],
        extra: extra.map(str::to_owned),
    };
    assert_eq!(
        asked(&made[0]).prompt,
        Prompt::Messages(vec![
            message("system", "Be short.", None),
            message("user", "What is 2+2?", Some(r#"{"name":"ann"}"#)),
        ])
    );
    assert_eq!(asked(&made[1]).prompt, Prompt::Text("Once upon a time".into()));
}

#[test]
fn answers_of_unknown_length_are_left_to_the_server() {
    let file = r#"{"timestamp": 0, "prompt": "Hello"}"#;
    let replay = replay(file, json!({"exact_output": true})).unwrap();
    assert_eq!(replay.size().mean_output_tokens, None);
    let made = sessions(file, json!({"exact_output": true}));
    assert_eq!(asked(&made[0]).max_output_tokens, None);
    assert!(!asked(&made[0]).exact_output, "exactly of nothing");
}

/// Rows at 0, 1, ... 9 s with prompts of 1 to 10 and answers of 10 to 1 tokens.
fn ten() -> String {
    (0..10).fold("Timestamp,Request tokens,Response tokens\n".to_owned(), |file, i| {
        file + &format!("{i},{},{}\n", i + 1, 10 - i)
    })
}

#[test]
fn settings_choose_rows_and_the_first_of_them_is_due_at_once() {
    for (settings, expected, left_out) in [
        (json!({"window": {"from": "3s", "to": "6s"}}), vec![(0, 7), (1000, 6), (2000, 5)], 0),
        (json!({"window": {"from": "7500ms"}}), vec![(0, 2), (1000, 1)], 0),
        (json!({"window": {"to": "1s"}}), vec![(0, 10)], 0),
        (json!({"limit": 2}), vec![(0, 10), (1000, 9)], 0),
        (json!({"max_input_tokens": 2}), vec![(0, 10), (1000, 9)], 8),
        (json!({"max_output_tokens": 2}), vec![(0, 2), (1000, 1)], 8),
        (
            json!({"max_output_tokens": 9, "window": {"to": "5s"}, "limit": 2}),
            vec![(0, 9), (1000, 8)],
            1,
        ),
        (json!({"time_unit": "ms", "limit": 3}), vec![(0, 10), (1, 9), (2, 8)], 0),
        (json!({"format": "burstgpt", "limit": 1}), vec![(0, 10)], 0),
    ] {
        assert_eq!(dues(&sessions(&ten(), settings.clone())), expected, "{settings}");
        let size = replay(&ten(), settings.clone()).unwrap().size();
        assert_eq!(size.requests, Some(expected.len() as u64), "{settings}");
        let counts: u64 =
            size.skipped.iter().map(|label| label.value.parse::<u64>().unwrap()).sum();
        assert_eq!(counts, left_out, "{settings}");
    }
}

#[test]
fn times_count_the_unit_that_the_settings_name() {
    for (unit, last) in [("auto", 5999), ("s", 5_999_000), ("ms", 5999)] {
        let made = sessions(MOONCAKE, json!({"time_unit": unit}));
        assert_eq!(dues(&made)[3].0, last, "{unit}");
    }
    let nanos = sessions(MOONCAKE, json!({"time_unit": "ns"}));
    assert_eq!(nanos[3].start, Some(5999));
}

#[test]
fn blocks_may_be_of_another_size_and_the_last_may_lack_its_id() {
    let row = |length: u32, ids: &str| {
        format!(
            r#"{{"timestamp": 0, "input_length": {length}, "output_length": 1, "hash_ids": {ids}}}"#
        ) + "\n"
    };
    let file = row(40, "[7, 8, 9]") + &row(40, "[7, 8]") + &row(40, "[7, 8]") + &row(5, "[]");
    let made = sessions(&file, json!({"block_tokens": 16}));
    assert_eq!(made.iter().map(length).collect::<Vec<_>>(), [40, 40, 40, 5]);
    assert_eq!(shared(&made[0], &made[1]), 32);
    assert_eq!(shared(&made[1], &made[2]), 32, "a rest without id is like nothing else");

    let whole = row(40, "null").replace(r#", "hash_ids": null"#, "");
    assert_eq!(length(&sessions(&whole, json!({}))[0]), 40);
}

#[test]
fn sessions_do_not_depend_on_batches_and_stages_begin_anew_with_words_of_their_own() {
    let whole = replay(MOONCAKE, json!({})).unwrap().next_batch(1, 100).unwrap();
    let mut piecewise = replay(MOONCAKE, json!({})).unwrap();
    let first = piecewise.next_batch(0, 100).unwrap();
    let mut pieces = piecewise.next_batch(1, 1).unwrap();
    pieces.extend(piecewise.next_batch(1, 2).unwrap());
    pieces.extend(piecewise.next_batch(1, 9).unwrap());
    assert_eq!(pieces, whole);
    assert!(piecewise.next_batch(1, 9).unwrap().is_empty());
    assert_eq!(dues(&first), dues(&whole));
    assert_eq!(shared(&first[0], &whole[0]), 0);
    assert!(first.iter().zip(&whole).all(|(a, b)| a.id != b.id));

    piecewise.next_batch(2, 1).unwrap();
    assert!(piecewise.next_batch(0, 1).is_err(), "stages come in order");

    let mut other = replay(MOONCAKE, json!({"seed": 43})).unwrap();
    assert_eq!(shared(&first[0], &other.next_batch(0, 1).unwrap()[0]), 0);
}

#[test]
fn rows_that_are_none_are_refused_with_line_and_reason() {
    let csv = |row: &str| format!("Timestamp,Request tokens,Response tokens\n1,2,3\n\n{row}\n");
    let json = |row: &str| {
        format!("{}\n{row}\n", r#"{"timestamp": 1, "input_length": 5, "output_length": 5}"#)
    };
    let chat = |row: &str| format!("{}\n{row}\n", r#"{"timestamp": 1, "prompt": "Hello"}"#);
    for (file, message) in [
        (csv("soon,2,3"), r#"line 4: "soon" is no time: a number of s or a date"#),
        (csv("2,x,3"), r#"line 4: the prompt's tokens are "x", where a whole number should be"#),
        (csv("2,3,-1"), r#"line 4: the answer's tokens are "-1", where a whole number"#),
        (csv("2,3,1.5"), r#"line 4: the answer's tokens are "1.5""#),
        (csv("2,3"), "line 4: there are 2 fields, and 3 columns"),
        (csv("2,99999999,3"), "line 4: a prompt of 99999999 tokens is longer than any model"),
        (json("{\"timestamp\": 2"), "line 2: EOF while parsing an object (column 15)"),
        (json(r#"{"timestamp": 2, "input_length": 5}"#), "line 2: missing field `output_length`"),
        (json(r#"{"input_length": 5, "output_length": 1}"#), "line 2: missing field `timestamp`"),
        (
            json(r#"{"timestamp": 2, "input_length": "many", "output_length": 1}"#),
            r#"line 2: invalid type: string "many", expected u32"#,
        ),
        (
            json(r#"{"timestamp": null, "input_length": 5, "output_length": 1}"#),
            r#"line 2: "null" is no time"#,
        ),
        (
            json(
                r#"{"timestamp": 2, "input_length": 40, "output_length": 1, "hash_ids": [1, 2, 3]}"#,
            ),
            "line 2: there are 3 hash ids, and 40 tokens make 1 blocks of 512 (`block_tokens: 14` would fit)",
        ),
        (
            json(
                r#"{"timestamp": 2, "input_length": 1600, "output_length": 1, "hash_ids": [1, 2]}"#,
            ),
            "line 2: there are 2 hash ids, and 1600 tokens make 4 blocks of 512",
        ),
        (chat(r#"{"timestamp": 2}"#), "line 2: there is neither `messages` nor `prompt`"),
        (chat(r#"{"timestamp": 2, "messages": []}"#), "line 2: there is no message"),
        (
            chat(r#"{"timestamp": 2, "prompt": "a", "messages": []}"#),
            "line 2: there are both `messages` and `prompt`",
        ),
        (
            chat(
                r#"{"timestamp": 2, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#,
            ),
            r#"line 2: a message has a part of the type "image_url", and only text can be sent"#,
        ),
    ] {
        let error = replay(&file, json!({})).err().unwrap_or_else(|| panic!("{file} is read"));
        assert!(error.message.starts_with(message), "{file}: {}", error.message);
        assert_eq!(error.at.as_deref(), Some("/file"));
        assert!(error.hint.unwrap().starts_with("wanted ("), "{file}");
    }
}

#[test]
fn files_and_settings_without_sense_are_refused() {
    let failed =
        BURSTGPT.lines().filter(|line| !line.starts_with(char::is_numeric) || line.contains(",0,"));
    let failed = failed.collect::<Vec<_>>().join("\n");
    for (file, settings, at, message) in [
        ("", json!({}), "/file", "the file is empty"),
        ("[1, 2]\n", json!({}), "/file", "line 1 is of none of the formats that are known"),
        ("id,text\n1,2\n", json!({}), "/file", "line 1 is of none of the formats"),
        (
            BURSTGPT,
            json!({"format": "azure"}),
            "/file",
            r#"line 1: there is no column "ContextTokens""#,
        ),
        (BURSTGPT, json!({"format": "mooncake"}), "/file", "line 1: expected value"),
        (
            "Timestamp,Request tokens,Response tokens\n",
            json!({}),
            "/file",
            "the file holds no request",
        ),
        (
            &failed,
            json!({}),
            "/file",
            "none of the requests can be sent: 1 no answer at the source",
        ),
        (BURSTGPT, json!({"window": {"from": "1h"}}), "/window", "no request of the trace lies in"),
        (
            BURSTGPT,
            json!({"window": {"from": "2m", "to": "90s"}}),
            "/window/to",
            "the window ends at 90s, and begins at 120s",
        ),
        (BURSTGPT, json!({"limit": 0}), "/limit", "the value is 0"),
        (BURSTGPT, json!({"max_input_tokens": 0}), "/max_input_tokens", "the value is 0"),
        (BURSTGPT, json!({"max_output_tokens": 0}), "/max_output_tokens", "the value is 0"),
        (BURSTGPT, json!({"block_tokens": 0}), "/block_tokens", "the value is 0"),
    ] {
        let error = replay(file, settings.clone()).err().unwrap_or_else(|| panic!("{settings}"));
        assert!(error.message.starts_with(message), "{}", error.message);
        assert_eq!(error.at.as_deref(), Some(at), "{}", error.message);
        assert!(error.hint.is_some(), "{}", error.message);
    }
}

#[test]
fn the_schema_names_the_settings_and_their_defaults() {
    let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    let mut filled: Value = properties
        .iter()
        .filter_map(|(name, property)| Some((name.clone(), property.get("default")?.clone())))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert!(filled.as_object().unwrap().len() >= 4);
    filled["file"] = "data".into();
    let read =
        |settings: Value| format!("{:?}", serde_json::from_value::<Settings>(settings).unwrap());
    assert_eq!(read(filled), read(json!({"file": "data"})));

    let refusal = serde_json::from_value::<Settings>(json!({"?": 0})).unwrap_err().to_string();
    let mut known: Vec<&str> = refusal.split('`').skip(3).step_by(2).collect();
    let mut named: Vec<&str> = properties.keys().map(String::as_str).collect();
    known.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, known);
}
