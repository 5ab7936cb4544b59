//! Requests of a data set: the original's prepared files, or ShareGPT conversations that are
//! prepared as the original prepared them.

use llmdbench_plugin::{Error, inputs, tokenizer};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use std::fmt;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Entry {
    /// The prompt.
    pub(crate) input: String,
    /// Most tokens of the answer.
    pub(crate) output_length: u32,
}

/// Conversations that the original took of a file, rounds that one must have, and the round that
/// is measured first; the one before it warms up.
const LIMIT: usize = 1000;
const MIN_ROUNDS: usize = 5;
const START_ROUND: usize = 3;
/// The length of an answer that the conversation does not have.
const NO_ANSWER: u32 = 20;

/// An item of the file, whichever kind it is.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Item {
    Entry(Entry),
    Conversation { conversations: Vec<Said> },
    Other(IgnoredAny),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Said {
    from: String,
    value: String,
}

/// Reads the requests of a file: those that are measured, or those that warm up.
///
/// # Errors
/// When the file is no array of requests or conversations, or conversations cannot be counted for
/// want of a tokenizer.
pub(crate) fn read(
    file: &str,
    warmup_file: Option<&str>,
    warm_up: bool,
) -> Result<Vec<Entry>, Error> {
    let (name, at) = match (warm_up, warmup_file) {
        (true, Some(own)) => (own, "/warmup_dataset"),
        _ => (file, "/dataset"),
    };
    let items = items(inputs::open(name)?).map_err(|error| error.at(at))?;
    let entries = match items {
        Items::Entries(entries) if warm_up && warmup_file.is_none() => {
            // Without a set of its own nothing says what would warm up these prompts.
            entries.into_iter().take(1).collect()
        }
        Items::Entries(entries) => entries,
        Items::Conversations(conversations) => {
            let rounds = rounds(&conversations, |texts| {
                tokenizer::count(texts).map_err(|error| {
                    let message = format!("answers cannot be counted: {}", error.message);
                    Error::invalid_settings(message)
                        .at(at)
                        .hint("give the model's tokenizer with --tokenizer, or the prepared run.json and warmup.json")
                })
            })?;
            if warm_up { warming(&rounds) } else { measured(&rounds) }
        }
    };
    if entries.is_empty() {
        return Err(Error::invalid_data("the file holds no request")
            .at(at)
            .hint("conversations must have five rounds and no two turns of one speaker in a row"));
    }
    Ok(entries)
}

#[derive(Debug, PartialEq, Eq)]
enum Items {
    Entries(Vec<Entry>),
    Conversations(Vec<Vec<Said>>),
}

fn items(source: impl std::io::Read) -> Result<Items, Error> {
    let wrong = |error: &dyn fmt::Display| {
        Error::invalid_data(format!("the file cannot be understood: {error}")).hint(
            "it must be a JSON array of {\"input\", \"output_length\"} or of ShareGPT conversations",
        )
    };
    let mut json = serde_json::Deserializer::from_reader(source);
    let read = json.deserialize_seq(First).map_err(|error| wrong(&error))?;
    let (entries, conversations) = read;
    match (entries.is_empty(), conversations.is_empty()) {
        (false, true) => Ok(Items::Entries(entries)),
        (true, _) => Ok(Items::Conversations(conversations)),
        (false, false) => Err(wrong(&"requests and conversations are mixed")),
    }
}

/// Reads all requests, or as many conversations as the original took.
struct First;

impl<'de> Visitor<'de> for First {
    type Value = (Vec<Entry>, Vec<Vec<Said>>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of requests or conversations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let (mut entries, mut conversations) = (Vec::new(), Vec::new());
        while let Some(item) = items.next_element::<Item>()? {
            match item {
                Item::Entry(entry) => entries.push(entry),
                Item::Conversation { conversations: said } => {
                    if said.windows(2).all(|two| two[0].from != two[1].from) {
                        conversations.push(said);
                    }
                    if conversations.len() == LIMIT {
                        break;
                    }
                }
                Item::Other(_) => {
                    return Err(serde::de::Error::custom(
                        "an item is neither a request nor a conversation",
                    ));
                }
            }
        }
        // What is left is not needed, yet must be passed over.
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok((entries, conversations))
    }
}

/// The rounds of each conversation that has enough: all that was said up to a question, and how
/// long the answer to it is.
fn rounds(
    conversations: &[Vec<Said>],
    count: impl Fn(&[String]) -> Result<Vec<u32>, Error>,
) -> Result<Vec<Vec<Entry>>, Error> {
    let mut kept = Vec::new();
    for said in conversations {
        let mut rounds: Vec<(String, Option<String>)> = Vec::new();
        let mut text = String::new();
        for (i, turn) in said.iter().enumerate() {
            text.push_str(&turn.value);
            text.push('\n');
            if turn.from == "human" {
                let next = said.get(i + 1).filter(|next| next.from == "gpt");
                rounds.push((text.trim().to_owned(), next.map(|next| next.value.clone())));
            }
        }
        if rounds.len() >= MIN_ROUNDS {
            kept.push(rounds);
        }
    }
    let answers: Vec<String> =
        kept.iter().flatten().filter_map(|(_, answer)| answer.clone()).collect();
    let mut lengths = count(&answers)?.into_iter();
    Ok(kept
        .into_iter()
        .map(|rounds| {
            rounds
                .into_iter()
                .map(|(input, answer)| Entry {
                    input,
                    output_length: answer.and_then(|_| lengths.next()).unwrap_or(NO_ANSWER),
                })
                .collect()
        })
        .collect())
}

/// Round after round of all conversations.
pub(crate) fn measured(conversations: &[Vec<Entry>]) -> Vec<Entry> {
    let longest = conversations.iter().map(Vec::len).max().unwrap_or(0);
    (START_ROUND..=longest)
        .flat_map(|round| conversations.iter().filter_map(move |rounds| rounds.get(round - 1)))
        .cloned()
        .collect()
}

/// The round before, of every conversation.
pub(crate) fn warming(conversations: &[Vec<Entry>]) -> Vec<Entry> {
    conversations.iter().filter_map(|rounds| rounds.get(START_ROUND - 2)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(name: &str, rounds: usize) -> Vec<Said> {
        (0..2 * rounds)
            .map(|i| Said {
                from: if i % 2 == 0 { "human" } else { "gpt" }.to_owned(),
                value: format!("{name}{i}"),
            })
            .collect()
    }

    fn words(texts: &[String]) -> Result<Vec<u32>, Error> {
        Ok(texts.iter().map(|text| text.len() as u32).collect())
    }

    #[test]
    fn conversations_are_asked_round_after_round_with_all_that_was_said() {
        let mut odd = conversation("c", 5);
        odd.pop();
        let all = [conversation("a", 5), conversation("b", 4), odd, conversation("d", 6)];
        let rounds = rounds(&all, words).unwrap();
        assert_eq!(rounds.len(), 3, "four rounds are too few");
        let measured: Vec<(String, u32)> = measured(&rounds)
            .into_iter()
            .map(|entry| (entry.input.lines().last().unwrap().to_owned(), entry.output_length))
            .collect();
        let expected = [
            ("a4", 2),
            ("c4", 2),
            ("d4", 2),
            ("a6", 2),
            ("c6", 2),
            ("d6", 2),
            ("a8", 2),
            ("c8", NO_ANSWER),
            ("d8", 2),
            ("d10", 3),
        ];
        assert_eq!(measured, expected.map(|(text, n)| (text.to_owned(), n)));
        let warm: Vec<String> = warming(&rounds).into_iter().map(|entry| entry.input).collect();
        assert_eq!(warm, ["a0\na1\na2", "c0\nc1\nc2", "d0\nd1\nd2"]);
    }

    #[test]
    fn both_kinds_of_files_are_read_and_nothing_else() {
        let entries = items(r#"[{"input": "a", "output_length": 3}]"#.as_bytes()).unwrap();
        assert_eq!(entries, Items::Entries(vec![Entry { input: "a".into(), output_length: 3 }]));
        let text = r#"[{"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]},
                      {"id": "2", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]"#;
        let Items::Conversations(kept) = items(text.as_bytes()).unwrap() else { panic!("no") };
        assert_eq!(kept.len(), 1, "two turns of one speaker in a row");
        let one = r#"{"conversations": [{"from": "human", "value": "a"}]}"#;
        let many = format!("[{}]", vec![one; LIMIT + 2].join(","));
        let Items::Conversations(kept) = items(many.as_bytes()).unwrap() else { panic!("no") };
        assert_eq!(kept.len(), LIMIT, "as many as the original took");
        for bad in [r#"{"a": 1}"#, "[1]", "[{\"input\": \"a\"}]", "x"] {
            let error = items(bad.as_bytes()).unwrap_err();
            assert!(error.message.contains("cannot be understood"), "{bad}: {}", error.message);
        }
    }
}
