//! Which sessions a data set makes, for a host that holds the file in memory.

use super::*;
use llmdbench_plugin::ErrorKind;
use serde_json::{Value, json};
use std::io::{BufReader, Cursor};

/// A host with one file, and a tokenizer for which every word is a token.
struct Memory {
    file: Vec<u8>,
    tokenizer: bool,
}

impl Tokenizer for Memory {
    fn count(&self, texts: &[String]) -> Result<Vec<u32>, Error> {
        match self.tokenizer {
            true => Ok(texts.iter().map(|text| text.split_whitespace().count() as u32).collect()),
            false => Err(Error::new(ErrorKind::Unavailable, "no tokenizer")),
        }
    }
}

impl Host for Memory {
    type Source = BufReader<Cursor<Vec<u8>>>;

    fn open(&self, name: &str) -> Result<Self::Source, Error> {
        assert_eq!(name, "data");
        Ok(BufReader::with_capacity(100, Cursor::new(self.file.clone())))
    }
}

fn dataset(file: &str, mut settings: Value, tokenizer: bool) -> Result<Dataset<Memory>, Error> {
    settings["file"] = "data".into();
    Dataset::new(
        serde_json::from_value(settings).unwrap(),
        42,
        Memory { file: file.as_bytes().to_vec(), tokenizer },
    )
}

/// Conversations "p0 > a0", "p1 > a1", ... of `rounds` rounds.
fn numbered(count: usize, rounds: usize) -> String {
    let conversation = |index: usize| {
        let turns: Vec<Value> = (0..rounds)
            .flat_map(|round| {
                [
                    json!({"from": "human", "value": format!("p{index} {round}")}),
                    json!({"from": "gpt", "value": format!("a{index} {round} is the answer")}),
                ]
            })
            .collect();
        json!({"id": format!("c{index}"), "conversations": turns})
    };
    Value::from_iter((0..count).map(conversation)).to_string()
}

fn ids(sessions: &[Session]) -> Vec<String> {
    sessions.iter().map(|session| session.labels[0].value.clone()).collect()
}

/// Each message of a request as "role: text", or the text alone.
fn asked(turn: &Turn) -> Vec<String> {
    match &turn.request.prompt {
        Prompt::Text(text) => vec![text.clone()],
        Prompt::Messages(messages) => messages
            .iter()
            .map(|message| match &message.parts[..] {
                [Part::Text(text)] => format!("{}: {text}", message.role),
                other => panic!("{other:?}"),
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// Case C09: turns that are missing, empty, doubled or in front.
const C09: &str = r#"[
 {"id": "c1", "conversations": [{"from": "human", "value": "What is 2+2?"}, {"from": "gpt", "value": "4"}]},
 {"id": "c2", "conversations": [{"from": "gpt", "value": "Sure, here is more."}, {"from": "human", "value": "Go on"},
   {"from": "gpt", "value": "And so on."}]},
 {"id": "c3", "conversations": [{"from": "system", "value": "Answer in French."}, {"from": "human", "value": "Hello"},
   {"from": "gpt", "value": "Bonjour"}]},
 {"id": "c4", "conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": "Hello?"}]},
 {"id": "c5", "conversations": [{"from": "human", "value": "Only a question"}]},
 {"id": "c6", "conversations": [{"from": "human", "value": "Tell me a joke"}, {"from": "gpt", "value": ""}]},
 {"id": "c7", "conversations": [{"from": "human", "value": "A"}, {"from": "human", "value": "B"},
   {"from": "gpt", "value": "C"}]},
 {"id": "c8", "conversations": [
   {"from": "human", "value": "<div class=\"markdown prose\"><p>Use &lt;b&gt; here</p></div>"},
   {"from": "gpt", "value": "```html\n<b>x</b>\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"}]},
 {"id": "c9", "conversations": []},
 {"id": "c10", "conversations": [{"from": "human", "value": "First?"}, {"from": "gpt", "value": "One."},
   {"from": "human", "value": "Second?"}, {"from": "gpt", "value": "Two."}]}
]"#;

#[test]
fn odd_turns_come_out_right() {
    let mut dataset = dataset(C09, json!({"shuffle": false}), true).unwrap();
    let size = dataset.size();
    assert_eq!((size.sessions, size.requests), (Some(5), Some(6)));
    assert_eq!(
        size.skipped,
        [
            label("empty prompt", "1"),
            label("no answer", "1"),
            label("empty answer", "1"),
            label("two turns of one speaker", "1"),
            label("no turns", "1"),
        ]
    );
    assert_eq!(
        dataset.survey.finding().as_deref(),
        Some(
            "5 of 10 conversations are left out: 1 empty prompt, 1 no answer, 1 empty answer, \
             1 two turns of one speaker, 1 no turns"
        )
    );

    let sessions = dataset.next_batch(0, 100).unwrap();
    assert_eq!(ids(&sessions), ["c1", "c2", "c3", "c8", "c10"]);
    let asked: Vec<Vec<String>> =
        sessions.iter().flat_map(|session| session.turns.iter().map(asked)).collect();
    let html = "<div class=\"markdown prose\"><p>Use &lt;b&gt; here</p></div>";
    assert_eq!(html.len(), 59);
    assert_eq!(
        asked,
        [
            vec!["What is 2+2?"],
            vec!["Go on"],
            vec!["system: Answer in French.", "user: Hello"],
            vec![html],
            vec!["First?"],
            vec!["Second?"],
        ]
    );
    let history: Vec<bool> = sessions[4].turns.iter().map(|turn| turn.request.history).collect();
    assert_eq!(history, [false, true]);
}

#[test]
fn first_turns_alone_can_be_asked() {
    let mut dataset = dataset(C09, json!({"mode": "first_turn"}), true).unwrap();
    assert_eq!(dataset.size().requests, Some(5));
    assert!(dataset.next_batch(0, 100).unwrap().iter().all(|session| session.turns.len() == 1));
}

#[test]
fn answers_may_become_as_long_as_recorded_or_as_told() {
    for (settings, tokenizer, expected) in [
        // "a0 0 is the answer": five words, 18 characters.
        (json!({}), true, 5),
        (json!({}), false, 5),
        (json!({"output": "as_recorded"}), true, 5),
        (json!({"output": 32}), true, 32),
    ] {
        let mut dataset = dataset(&numbered(3, 1), settings, tokenizer).unwrap();
        for session in dataset.next_batch(0, 9).unwrap() {
            let request = &session.turns[0].request;
            assert_eq!(request.max_output_tokens, Some(expected));
            assert_eq!(request.expected_output_tokens, Some(expected));
            assert!(request.streamed && !request.exact_output);
        }
    }
}

#[test]
fn conversations_are_cut_or_left_out_where_they_grow_too_long() {
    // Each prompt has 2 words, each answer 5: prompts of 2, 9 and 16 with their history.
    for (limits, turns) in [
        (json!({"max_input_tokens": 16}), Some(3)),
        (json!({"max_input_tokens": 15}), Some(2)),
        (json!({"max_input_tokens": 2}), Some(1)),
        (json!({"max_input_tokens": 1}), None),
        (json!({"max_output_tokens": 5}), Some(3)),
        (json!({"max_output_tokens": 4}), None),
    ] {
        match (dataset(&numbered(1, 3), limits.clone(), true), turns) {
            (Ok(mut dataset), Some(turns)) => {
                assert_eq!(dataset.next_batch(0, 9).unwrap()[0].turns.len(), turns, "{limits}");
                assert_eq!(dataset.survey.note().is_some(), turns < 3);
            }
            (Err(error), None) => {
                assert!(error.message.contains("none of 1 conversations"), "{}", error.message)
            }
            (got, _) => panic!("{limits}: {:?}", got.map(|_| ()).map_err(|error| error.message)),
        }
    }
}

#[test]
fn every_stage_has_the_whole_data_set_in_an_order_of_its_own() {
    let mut dataset = dataset(&numbered(50, 1), json!({}), true).unwrap();
    let mut orders = Vec::new();
    for stage in 0..4 {
        let sessions = dataset.next_batch(stage, 1000).unwrap();
        assert!(dataset.next_batch(stage, 10).unwrap().is_empty());
        let order = ids(&sessions);
        let mut sorted = order.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 50);
        orders.push(order);
    }
    orders.dedup();
    assert_eq!(orders.len(), 4);
}

#[test]
fn the_order_depends_on_the_seed_alone() {
    let order = |settings: Value, batch: u32| {
        let mut dataset = dataset(&numbered(40, 1), settings, true).unwrap();
        let mut order = Vec::new();
        loop {
            dataset.next_batch(1, 3).unwrap();
            let sessions = dataset.next_batch(2, batch).unwrap();
            if sessions.is_empty() {
                return order;
            }
            order.extend(ids(&sessions));
        }
    };
    assert_eq!(order(json!({}), 1), order(json!({}), 17));
    assert_ne!(order(json!({}), 7), order(json!({"seed": 1}), 7));
    let filed: Vec<String> = (0..40).map(|index| format!("c{index}")).collect();
    assert_eq!(order(json!({"shuffle": false}), 9), filed);
}

#[test]
fn a_limit_ends_a_stage_and_repetition_goes_on() {
    for shuffle in [false, true] {
        let mut limited =
            dataset(&numbered(9, 1), json!({"sessions": 4, "shuffle": shuffle}), true).unwrap();
        assert_eq!(limited.size().sessions, Some(4));
        assert_eq!(limited.next_batch(0, 3).unwrap().len(), 3);
        assert_eq!(limited.next_batch(0, 3).unwrap().len(), 1);
        assert_eq!(limited.next_batch(0, 3).unwrap().len(), 0);

        let mut endless =
            dataset(&numbered(3, 1), json!({"repeat": true, "shuffle": shuffle}), true).unwrap();
        assert_eq!(endless.size().sessions, None);
        let sessions = endless.next_batch(5, 100).unwrap();
        let mut numbers: Vec<u64> = sessions.iter().map(|session| session.id).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), 100);
    }
}

#[test]
fn later_turns_wait_for_the_think_time() {
    let mut dataset = dataset(&numbered(1, 2), json!({"think_time": "1.5s"}), true).unwrap();
    let pacing: Vec<Pacing> =
        dataset.next_batch(0, 1).unwrap()[0].turns.iter().map(|turn| turn.pacing).collect();
    assert_eq!(pacing, [Pacing::AfterPreviousEnd(0), Pacing::AfterPreviousEnd(1_500_000_000)]);
}

#[test]
fn stages_that_are_over_are_forgotten() {
    let mut dataset = dataset(&numbered(3, 1), json!({}), true).unwrap();
    for stage in 0..100 {
        dataset.next_batch(stage, 1).unwrap();
        assert!(dataset.stages.len() <= OPEN_STAGES);
    }
    assert_eq!(dataset.next_batch(5, 1).unwrap_err().kind, ErrorKind::Internal);
}

#[test]
fn means_are_in_tokens() {
    // Prompts "p0 0", answers "a0 0 is the answer".
    let size = dataset(&numbered(5, 1), json!({}), true).unwrap().size();
    // 22 characters for 7 words.
    let per_token = 22.0 / 7.0;
    assert!((size.mean_input_tokens.unwrap() - 4.0 / per_token).abs() < 1e-9);
    assert!((size.mean_output_tokens.unwrap() - 18.0 / per_token).abs() < 1e-9);
    let size = dataset(&numbered(5, 1), json!({}), false).unwrap().size();
    assert_eq!(size.mean_output_tokens, Some(4.5));
}

#[test]
fn data_and_settings_without_use_are_refused() {
    for (file, settings, at, message) in [
        ("[]", json!({}), "/file", "no conversation"),
        (
            r#"{"prompt": "x"}"#,
            json!({}),
            "/file",
            "none of 1 conversations can be used: 1 no turns",
        ),
        ("id,text", json!({}), "/file", "where an object should begin"),
        ("[]", json!({"sessions": 0}), "/sessions", "is 0"),
        ("[]", json!({"output": 0}), "/output", "is 0"),
        ("[]", json!({"max_input_tokens": 0}), "/max_input_tokens", "is 0"),
    ] {
        let error = dataset(file, settings, true).map(|_| ()).unwrap_err();
        assert_eq!(error.at.as_deref(), Some(at));
        assert!(error.message.contains(message), "{}", error.message);
        assert!(error.hint.is_some());
    }
}

#[test]
fn the_schema_names_every_setting_and_its_default() {
    let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    let refusal = serde_json::from_value::<Settings>(json!({"?": 0})).unwrap_err().to_string();
    let mut known: Vec<&str> = refusal.split('`').skip(3).step_by(2).collect();
    let mut named: Vec<&str> = properties.keys().map(String::as_str).collect();
    known.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, known);

    let mut filled = json!({"file": "data"});
    for (name, property) in properties {
        if let Some(default) = property.get("default") {
            filled[name] = default.clone();
        }
    }
    let read =
        |settings: Value| format!("{:?}", serde_json::from_value::<Settings>(settings).unwrap());
    assert_eq!(read(filled), read(json!({"file": "data"})));
}
