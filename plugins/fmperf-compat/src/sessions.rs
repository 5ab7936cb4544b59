//! The workload: what users and data sets ask, word for word as the original's generators did.

use crate::schedule::{self, User};
use crate::settings::{Call, Part, Rounds, WorkloadSettings};
use crate::sharegpt::{self, Entry};
use crate::synthetic;
use llmdbench_plugin::requests::{Message, Pacing, Part as Piece, Prompt, Request, Session, Turn};
use llmdbench_plugin::workload::Size;
use llmdbench_plugin::{Context, Error, Workload, label};

/// What is left to be sent in a stage.
pub(crate) struct Compat {
    source: Source,
    given: usize,
}

enum Source {
    /// It was not made for a stage.
    Nothing,
    EngineWarmUp(Call),
    Rounds(Rounds, Vec<User>),
    Replay {
        qps: f64,
        call: Call,
        entries: Vec<Entry>,
    },
}

/// The label of a user's last question.
pub(crate) const LAST_ROUND: &str = "last_round";

/// Requests that wake the server up.
const ENGINE_WARM_UP: usize = 10;

impl Workload for Compat {
    type Settings = WorkloadSettings;

    fn configure(settings: WorkloadSettings, _: Context) -> Result<Self, Error> {
        let source = match settings.stage {
            None => Source::Nothing,
            Some(Part::EngineWarmUp { call }) => Source::EngineWarmUp(call),
            Some(Part::Rounds(rounds)) => {
                let users = schedule::users(&rounds);
                Source::Rounds(rounds, users)
            }
            Some(Part::Replay { qps, call, warm_up }) => Source::Replay {
                qps,
                call,
                entries: match (&settings.dataset, &settings.warmup_dataset) {
                    (Some(file), warmup) => sharegpt::read(file, warmup.as_deref(), warm_up)?,
                    (None, Some(_)) => {
                        return Err(Error::invalid_settings("there is no data set to warm up for")
                            .at("/warmup_dataset")
                            .hint("give `dataset` as well"));
                    }
                    (None, None) => synthetic::entries(warm_up),
                },
            },
        };
        Ok(Self { source, given: 0 })
    }

    fn size(&self) -> Size {
        let count = |n: usize| u64::try_from(n).ok();
        match &self.source {
            Source::Nothing => Size::default(),
            Source::EngineWarmUp(_) => Size {
                sessions: count(ENGINE_WARM_UP),
                requests: count(ENGINE_WARM_UP),
                ..Size::default()
            },
            Source::Rounds(_, users) => Size { sessions: count(users.len()), ..Size::default() },
            Source::Replay { entries, .. } => Size {
                sessions: count(entries.len()),
                requests: count(entries.len()),
                mean_output_tokens: Some(
                    entries.iter().map(|entry| f64::from(entry.output_length)).sum::<f64>()
                        / entries.len().max(1) as f64,
                ),
                ..Size::default()
            },
        }
    }

    fn next_batch(&mut self, _stage: u32, max: u32) -> Result<Vec<Session>, Error> {
        let from = self.given;
        let until = |all: usize| all.min(from + max as usize);
        let sessions: Vec<Session> = match &self.source {
            Source::Nothing => Vec::new(),
            Source::EngineWarmUp(call) => {
                (from..until(ENGINE_WARM_UP)).map(|i| engine_warm_up(i as u64, call)).collect()
            }
            Source::Rounds(rounds, users) => users[from..until(users.len())]
                .iter()
                .map(|user| user_session(rounds, *user))
                .collect(),
            Source::Replay { qps, call, entries } => (from..until(entries.len()))
                .map(|i| replayed(i as u64, *qps, call, &entries[i]))
                .collect(),
        };
        self.given += sessions.len();
        Ok(sessions)
    }
}

fn request(call: &Call, text: String, most: u32) -> Request {
    Request {
        model: call.model.clone(),
        api: Some(if call.chat { "chat" } else { "completions" }.to_owned()),
        max_output_tokens: Some(most),
        expected_output_tokens: Some(most),
        extra: Some(r#"{"temperature":0.0}"#.to_owned()),
        ..Request::new(Prompt::Messages(vec![Message {
            role: "user".to_owned(),
            parts: vec![Piece::Text(text)],
            extra: None,
        }]))
    }
}

fn engine_warm_up(id: u64, call: &Call) -> Session {
    let words = "hi ".repeat(100);
    let text = format!("WARMUP: Hi, I'm user {id}. Here are some text: {words}.");
    Session::single(id, request(call, text, 100))
}

/// Everything a user asks from his first question on.
fn user_session(rounds: &Rounds, user: User) -> Session {
    let gap = schedule::gap(rounds);
    let turns = (user.first_question..=rounds.rounds)
        .map(|question| {
            let is_first = question == user.first_question;
            let beginning = if is_first { beginning(rounds, user.id) } else { String::new() };
            let text = format!(
                "{beginning}Here's question #{question}: can you tell me a new long story with a happy ending?"
            );
            let request = Request {
                history: !is_first,
                headers: vec![label("x-user-id", user.id.to_string())],
                // With its answer the session is over, which decides the order of the CSV files.
                labels: match question == rounds.rounds {
                    true => vec![label(LAST_ROUND, "true")],
                    false => Vec::new(),
                },
                ..request(&rounds.call, text, rounds.answer_len)
            };
            let pacing = if is_first { 0 } else { gap };
            Turn { pacing: Pacing::AfterPreviousStart(pacing), ..Turn::new(request) }
        })
        .collect();
    Session { user: user.id, start: Some(user.start), ..Session::new(user.id, turns) }
}

/// What stands before a user's first question.
fn beginning(rounds: &Rounds, user: u64) -> String {
    let words = |count: u32| vec!["hi"; count as usize].join(" ");
    format!(
        "Hi, here's some system prompt: {}.For user {user}, here are some other context: {}.",
        words(rounds.system_prompt),
        words(rounds.chat_history)
    )
}

/// The rate before each prompt keeps the rates from each other's prefixes.
fn replayed(id: u64, qps: f64, call: &Call, entry: &Entry) -> Session {
    let text = format!("{qps:?} {}", entry.input);
    Session::single(id, request(call, text, entry.output_length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Mode;

    const COMPLETIONS: Call = Call { chat: false, model: None };

    fn rounds() -> Rounds {
        Rounds {
            users: 2,
            rounds: 3,
            qps: 1.0,
            system_prompt: 2,
            chat_history: 3,
            answer_len: 5,
            init_user_id: 10,
            length: 4_000_000_000,
            call: Call { chat: true, model: Some("adapter".into()) },
            mode: Mode::Compat,
        }
    }

    fn text(session: &Session, turn: usize) -> &str {
        match &session.turns[turn].request.prompt {
            Prompt::Messages(messages) => match messages[0].parts.as_slice() {
                [Piece::Text(text)] => text,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn users_ask_word_for_word_what_the_original_asked() {
        let user = User { id: 12, start: 7, first_question: 2 };
        let session = user_session(&rounds(), user);
        assert_eq!(
            text(&session, 0),
            "Hi, here's some system prompt: hi hi.For user 12, here are some other context: hi hi hi.Here's question #2: can you tell me a new long story with a happy ending?"
        );
        assert_eq!(
            text(&session, 1),
            "Here's question #3: can you tell me a new long story with a happy ending?"
        );
        assert_eq!((session.turns.len(), session.user, session.start), (2, 12, Some(7)));
        let second = &session.turns[1];
        assert!(second.request.history && !session.turns[0].request.history);
        assert!(matches!(second.pacing, Pacing::AfterPreviousStart(2_000_000_001)));
        let request = &second.request;
        assert_eq!(request.headers[0].key, "x-user-id");
        assert_eq!(request.headers[0].value, "12");
        assert_eq!(request.max_output_tokens, Some(5));
        assert_eq!(request.api.as_deref(), Some("chat"));
        assert_eq!(request.model.as_deref(), Some("adapter"));
        assert_eq!(request.extra.as_deref(), Some(r#"{"temperature":0.0}"#));
        assert!(request.streamed && !request.exact_output);
    }

    #[test]
    fn ten_requests_wake_the_server_up() {
        let mut workload = Compat { source: Source::EngineWarmUp(COMPLETIONS), given: 0 };
        let sessions = workload.next_batch(0, 64).unwrap();
        assert_eq!(sessions.len(), 10);
        let expected =
            format!("WARMUP: Hi, I'm user 9. Here are some text: {}.", "hi ".repeat(100));
        assert_eq!(text(&sessions[9], 0), expected);
        assert_eq!(sessions[9].turns[0].request.max_output_tokens, Some(100));
        assert!(sessions[9].turns[0].request.headers.is_empty());
        assert!(workload.next_batch(0, 64).unwrap().is_empty());
    }

    #[test]
    fn replayed_prompts_begin_with_the_rate_as_the_original_printed_it() {
        let entry = Entry { input: "a\nb".into(), output_length: 9 };
        let begins = |qps: f64| text(&replayed(0, qps, &COMPLETIONS, &entry), 0).to_owned();
        assert_eq!([begins(1.0), begins(1.34)], ["1.0 a\nb", "1.34 a\nb"]);
        let session = replayed(3, 0.5, &COMPLETIONS, &entry);
        assert_eq!(session.turns[0].request.api.as_deref(), Some("completions"));
        assert_eq!(session.turns[0].request.max_output_tokens, Some(9));
    }

    #[test]
    fn users_come_in_batches_in_the_order_of_their_starts() {
        let users = schedule::users(&rounds());
        let mut workload = Compat { source: Source::Rounds(rounds(), users), given: 0 };
        let mut starts = Vec::new();
        loop {
            let batch = workload.next_batch(0, 2).unwrap();
            starts.extend(batch.iter().map(|session| session.start.unwrap()));
            if batch.len() < 2 {
                break;
            }
        }
        assert!(starts.is_sorted() && starts.len() >= 3, "{starts:?}");
    }
}
