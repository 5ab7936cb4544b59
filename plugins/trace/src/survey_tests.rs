//! What is said of a trace before it is replayed.

use super::*;
use serde_json::{Value, json};
use std::fmt::Write;

const MOONCAKE: &str = include_str!("../../../tests/cases/C11-mooncake.jsonl");
const BURSTGPT: &str = include_str!("../../../tests/cases/C13-burstgpt.csv");

fn survey(file: &str, mut settings: Value) -> Survey {
    settings["file"] = "data".into();
    Survey::of(file.as_bytes(), &serde_json::from_value(settings).unwrap()).unwrap()
}

/// A trace of rows at these seconds.
fn at(times: impl IntoIterator<Item = f64>) -> String {
    let mut file = "Timestamp,Request tokens,Response tokens\n".to_owned();
    for time in times {
        writeln!(file, "{time},10,20").unwrap();
    }
    file
}

/// Rows of these lengths and ids, in blocks of 10.
fn reuse(rows: &[(u32, &[u64])]) -> u64 {
    let mut reuse = Reuse::default();
    for (length, ids) in rows {
        reuse.add(ids, *length, 10);
    }
    reuse.tokens
}

#[test]
fn notes_tell_requests_tokens_span_rate_and_reuse() {
    for (file, settings, notes) in [
        (
            MOONCAKE,
            json!({}),
            vec![
                "Mooncake trace, numeric times in ms: 4 in 5.999 s = 0.667/s as recorded, \
                 with 3,748 input and 66 output tokens",
                "best possible prefix reuse: 2,048 of 3,748 tokens = 54.6 %",
            ],
        ),
        (
            BURSTGPT,
            json!({}),
            vec![
                "BurstGPT trace, numeric times in s: 4 in 205 s = 0.0195/s as recorded, \
                 with 1,880 input and 474 output tokens",
            ],
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68059,374,44\n\
             2023-11-16 18:15:50.68059,396,109\n",
            json!({}),
            vec!["Azure trace: 2 in 4 s = 0.5/s as recorded, with 770 input and 153 output tokens"],
        ),
        (
            MOONCAKE,
            json!({"limit": 2, "time_unit": "us"}),
            vec![
                "Mooncake trace, numeric times in us: 2 at once as recorded, \
                 with 2,636 input and 25 output tokens",
                "best possible prefix reuse: 1,024 of 2,636 tokens = 38.8 %",
            ],
        ),
        (
            r#"{"timestamp": 0, "prompt": "Hello"}"#,
            json!({}),
            vec![
                "trace of messages, numeric times in ms: 1 at once as recorded, \
                 with about 2 input and an unknown number of output tokens",
            ],
        ),
    ] {
        assert_eq!(survey(file, settings).notes(), notes);
    }
}

#[test]
fn traces_that_offer_hardly_any_load_are_warned_of() {
    let sparse = "the trace is very sparse: 0.0195 requests/s";
    let steady = |count: u32, gap: f64| (0..count).map(move |i| f64::from(i) * gap);
    // 100 requests in 990 s, then 10 in each second.
    let slow_start = || steady(100, 10.0).chain(steady(2000, 0.1).map(|time| 1000.0 + time));
    for (file, settings, warning) in [
        (BURSTGPT.to_owned(), json!({}), Some(sparse)),
        (at(steady(200, 9.0)), json!({}), None),
        (at(steady(200, 11.0)), json!({}), Some("the trace is very sparse: 0.0914 requests/s")),
        (
            at(slow_start()),
            json!({}),
            Some(
                "the trace starts very sparsely: its first 100 requests come at 0.101/s, \
                 all of them at 1.75/s",
            ),
        ),
        (at(slow_start()), json!({"window": {"from": "1000s"}}), None),
        (at([0.0, 0.0]), json!({}), None),
    ] {
        let warnings = survey(&file, settings).warnings();
        assert_eq!(warnings.len(), usize::from(warning.is_some()), "{warnings:?}");
        for (found, expected) in warnings.iter().zip(warning) {
            assert!(found.starts_with(expected), "{found}");
            assert!(found.ends_with("by `window`, or raise the stage's `speed`"), "{found}");
        }
    }
}

#[test]
fn fractions_of_milliseconds_are_warned_of_unless_the_unit_was_chosen() {
    let file = MOONCAKE.replace("3000", "3000.25");
    let warnings = survey(&file, json!({})).warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("set `time_unit: s`"), "{}", warnings[0]);
    assert!(survey(&file, json!({"time_unit": "ms"})).warnings().is_empty());
    assert!(survey(MOONCAKE, json!({})).warnings().is_empty());
}

#[test]
fn reuse_counts_common_beginnings_alone() {
    for (rows, tokens) in [
        (&[(25, &[1, 2, 3][..]), (30, &[1, 2, 4])][..], 20),
        // The same block after another beginning is another text for a cache.
        (&[(20, &[1, 2]), (20, &[3, 2])], 0),
        (&[(20, &[1, 2]), (20, &[2, 1])], 0),
        // A rest is the beginning of its whole block, and the other way round.
        (&[(13, &[1, 2]), (20, &[1, 2])], 13),
        (&[(20, &[1, 2]), (13, &[1, 2])], 13),
        (&[(20, &[1, 2]), (13, &[1, 2]), (20, &[1, 2])], 33),
        // The whole prompt again.
        (&[(25, &[1, 2, 3]), (25, &[1, 2, 3])], 25),
        // A rest without id is never shared.
        (&[(15, &[1]), (15, &[1])], 10),
        (&[(15, &[])], 0),
    ] {
        assert_eq!(reuse(rows), tokens, "{rows:?}");
    }
}

#[test]
fn reuse_that_cannot_remember_all_blocks_says_so() {
    let mut survey = survey(MOONCAKE, json!({}));
    assert!(!survey.reuse.is_full);
    let many: Vec<u64> = (0..Reuse::MOST as u64).collect();
    survey.reuse.add(&many, many.len() as u32, 1);
    assert!(survey.reuse.is_full && survey.reuse.longest.len() == Reuse::MOST);
    let note = survey.notes().pop().unwrap();
    assert!(note.starts_with("best possible prefix reuse: at least "), "{note}");
}

#[test]
fn numbers_are_short_and_readable() {
    for (number, text) in
        [(0, "0"), (999, "999"), (1000, "1,000"), (3748, "3,748"), (1_234_567, "1,234,567")]
    {
        assert_eq!(grouped(number), text);
    }
    for (number, text) in [
        (4.0 / 205.0, "0.0195"),
        (0.5, "0.5"),
        (1.25, "1.25"),
        (418.4, "418"),
        (20.0, "20"),
        (12345.6, "12346"),
    ] {
        assert_eq!(digits(number), text);
    }
    for (nanos, text) in [
        (205_000_000_000, "205"),
        (5_999_000_000, "5.999"),
        (250_000_000, "0.25"),
        (200, "0.0000002"),
    ] {
        assert_eq!(seconds(nanos), text);
    }
}
