//! Makes the sessions: a pure function of seed, stage and number, so that neither the size of the
//! batches nor what other stages asked for changes them.

use crate::distribution::Source;
use crate::settings::Settings;
use llmdbench_plugin::Error;
use llmdbench_plugin::requests::{Pacing, Prompt, Request, Session, SharedPrefix, Synthetic, Turn};
use llmdbench_plugin::workload::Size;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// So many sessions are looked at to say how long prompts and answers are on average.
const SAMPLE: u64 = 1000;

/// Longest prompt or answer, in tokens: more than any model takes.
const MOST_TOKENS: u32 = 10_000_000;

/// Most turns that a session may have; each needs all before it.
const MOST_TURNS: u32 = 10_000;

/// The sessions of all stages.
#[derive(Debug)]
pub(crate) struct Sessions {
    settings: Settings,
    seed: u64,
    input: Source,
    output: Source,
    turns: Source,
    think: Source,
    /// The number of the next session of each stage that has begun.
    next: BTreeMap<u32, u64>,
}

impl Sessions {
    /// Sessions as the settings say. `seed` counts where the settings have none.
    ///
    /// # Errors
    /// When a setting makes no sense.
    pub(crate) fn new(settings: Settings, seed: u64) -> Result<Self, Error> {
        let zero = [
            ("prefix_groups", settings.prefix_groups == 0),
            ("users", settings.users == Some(0)),
            ("sessions", settings.sessions == Some(0)),
        ];
        if let Some((name, _)) = zero.iter().find(|(_, zero)| *zero) {
            let hint = format!("choose at least 1, or leave out `{name}`");
            return Err(Error::invalid_settings("the value is 0")
                .at(format!("/{name}"))
                .hint(hint));
        }
        if settings.prefix_groups > 1 && settings.shared_prefix_tokens == 0 {
            return Err(Error::invalid_settings("there is no prefix for the groups to share")
                .at("/prefix_groups")
                .hint("add `shared_prefix_tokens: 128`, or leave out `prefix_groups`"));
        }
        Ok(Self {
            seed: settings.seed.unwrap_or(seed),
            input: Source::amounts(&settings.input_tokens, MOST_TOKENS, "input_tokens")?,
            output: Source::amounts(&settings.output_tokens, MOST_TOKENS, "output_tokens")?,
            turns: Source::amounts(&settings.turns, MOST_TURNS, "turns")?,
            think: Source::pauses(&settings.think_time, "think_time")?,
            next: BTreeMap::new(),
            settings,
        })
    }

    /// How much there is. Lengths are means over the first sessions: limits shift the mean of a
    /// distribution.
    pub(crate) fn size(&self) -> Size {
        let sample = self.settings.sessions.unwrap_or(SAMPLE).min(SAMPLE);
        let (mut requests, mut input, mut output) = (0u64, 0u64, 0u64);
        for number in 0..sample {
            // What the history adds: the earlier prompts and answers are part of each later prompt.
            let mut before = 0;
            for turn in self.session(0, number).turns {
                let Prompt::Synthetic(words) = &turn.request.prompt else { continue };
                let prompt = before
                    + u64::from(
                        words.tokens + words.prefix.as_ref().map_or(0, |prefix| prefix.tokens),
                    );
                let answer = u64::from(turn.request.max_output_tokens.unwrap_or(0));
                requests += 1;
                input += prompt;
                output += answer;
                before = prompt + answer;
            }
        }
        let requests_exactly = match self.settings.turns {
            crate::distribution::Amount::Fixed(turns) => {
                self.settings.sessions.map(|all| all * u64::from(turns))
            }
            crate::distribution::Amount::Drawn(_) => {
                self.settings.sessions.filter(|all| *all <= SAMPLE).map(|_| requests)
            }
        };
        Size {
            sessions: self.settings.sessions,
            requests: requests_exactly,
            mean_input_tokens: Some(input as f64 / requests as f64),
            mean_output_tokens: Some(output as f64 / requests as f64),
            skipped: Vec::new(),
        }
    }

    /// The next sessions of a stage.
    pub(crate) fn next_batch(&mut self, stage: u32, max: u32) -> Vec<Session> {
        let from = self.next.get(&stage).copied().unwrap_or(0);
        let to = (from + u64::from(max)).min(self.settings.sessions.unwrap_or(u64::MAX));
        self.next.insert(stage, to);
        (from..to).map(|number| self.session(stage, number)).collect()
    }

    fn session(&self, stage: u32, number: u64) -> Session {
        // Four thousand million sessions are more than a stage can start.
        let id = (u64::from(stage) << 32) | number;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(id);
        let group = random.random_range(0..self.settings.prefix_groups);
        let count = self.turns.draw(&mut random);
        let turns = (0..count).map(|index| self.turn(index == 0, group, &mut random)).collect();
        let mut session = Session::new(id, turns);
        if let Some(users) = self.settings.users {
            session.user = number % users;
        }
        session
    }

    fn turn(&self, first: bool, group: u64, random: &mut impl Rng) -> Turn {
        // Both are whole numbers that fit, by the limits of the sources.
        let tokens = self.input.draw(random) as u32;
        let answer = self.output.draw(random) as u32;
        let prefix = (first && self.settings.shared_prefix_tokens > 0).then(|| SharedPrefix {
            id: self.prefix_id(group),
            tokens: self.settings.shared_prefix_tokens,
        });
        let words = Synthetic { tokens, seed: random.random(), prefix };
        let request = Request {
            history: !first,
            streamed: self.settings.streamed,
            max_output_tokens: Some(answer),
            exact_output: self.settings.exact_output,
            expected_output_tokens: Some(answer),
            ..Request::new(Prompt::Synthetic(words))
        };
        // Nobody thinks before the first question.
        let pause = if first { 0 } else { self.think.draw(random) };
        Turn { pacing: Pacing::AfterPreviousEnd(pause), ..Turn::new(request) }
    }

    /// The same in all stages, another for another seed: a server that cached the prefixes of an
    /// earlier run must not find them again.
    fn prefix_id(&self, group: u64) -> u64 {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        // Streams of sessions stay below, for stages are few.
        random.set_stream(u64::MAX - group);
        random.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sessions(settings: Value) -> Sessions {
        Sessions::new(serde_json::from_value(settings).unwrap(), 42).unwrap()
    }

    fn words(turn: &Turn) -> &Synthetic {
        match &turn.request.prompt {
            Prompt::Synthetic(words) => words,
            other => panic!("not synthetic: {other:?}"),
        }
    }

    fn drawn() -> Value {
        json!({
            "input_tokens": {"distribution": "normal", "mean": 200, "std_dev": 50},
            "output_tokens": {"distribution": "uniform", "min": 5, "max": 9},
            "turns": {"distribution": "uniform", "min": 1, "max": 4},
            "think_time": {"distribution": "exponential", "mean": "1s"},
            "shared_prefix_tokens": 100, "prefix_groups": 3,
        })
    }

    #[test]
    fn defaults_are_as_the_schema_says() {
        let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        let filled: Value = properties
            .iter()
            .filter_map(|(name, property)| Some((name.clone(), property.get("default")?.clone())))
            .collect::<serde_json::Map<_, _>>()
            .into();
        assert!(filled.as_object().unwrap().len() > 5);
        let by_schema = format!("{:?}", serde_json::from_value::<Settings>(filled).unwrap());
        assert_eq!(by_schema, format!("{:?}", Settings::default()));

        let refusal = serde_json::from_value::<Settings>(json!({"?": 0})).unwrap_err().to_string();
        let mut known: Vec<&str> = refusal.split('`').skip(3).step_by(2).collect();
        let mut named: Vec<&str> = properties.keys().map(String::as_str).collect();
        known.sort_unstable();
        named.sort_unstable();
        assert_eq!(named, known);
    }

    #[test]
    fn sessions_do_not_depend_on_batches_or_other_stages() {
        let whole = sessions(drawn()).next_batch(3, 100);
        let mut piecewise = sessions(drawn());
        let mut pieces = Vec::new();
        for max in [1, 7, 32, 60] {
            piecewise.next_batch(2, 5);
            pieces.extend(piecewise.next_batch(3, max));
        }
        assert_eq!(whole, pieces);
    }

    #[test]
    fn stages_and_seeds_have_sessions_of_their_own() {
        let mut first = sessions(drawn());
        let mut other = Sessions::new(serde_json::from_value(drawn()).unwrap(), 43).unwrap();
        let seeds = |batch: Vec<Session>| -> Vec<u64> {
            batch
                .iter()
                .flat_map(|session| session.turns.iter().map(|turn| words(turn).seed))
                .collect()
        };
        let (a, b, c) = (
            seeds(first.next_batch(0, 50)),
            seeds(first.next_batch(1, 50)),
            seeds(other.next_batch(0, 50)),
        );
        assert!(a.iter().all(|seed| !b.contains(seed) && !c.contains(seed)));
    }

    #[test]
    fn ids_are_unique_over_stages() {
        let mut sessions = sessions(json!({}));
        let mut ids: Vec<u64> = [0, 1, 2, 0]
            .into_iter()
            .flat_map(|stage| sessions.next_batch(stage, 100))
            .map(|session| session.id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 400);
    }

    #[test]
    fn a_plain_request_has_the_lengths_asked_for() {
        let made = sessions(json!({"input_tokens": 512, "output_tokens": 128})).next_batch(0, 1);
        let turn = &made[0].turns[0];
        assert_eq!((words(turn).tokens, words(turn).prefix.as_ref()), (512, None));
        let request = &turn.request;
        assert_eq!(request.max_output_tokens, Some(128));
        assert!(request.exact_output && request.streamed && !request.history);
    }

    #[test]
    fn later_turns_carry_the_history_and_think_first() {
        let made = sessions(json!({"turns": 3, "think_time": "2s", "shared_prefix_tokens": 64}))
            .next_batch(0, 1);
        let seen: Vec<_> = made[0]
            .turns
            .iter()
            .map(|turn| (turn.request.history, words(turn).prefix.is_some(), turn.pacing))
            .collect();
        let pause = Pacing::AfterPreviousEnd;
        assert_eq!(
            seen,
            [
                (false, true, pause(0)),
                (true, false, pause(2_000_000_000)),
                (true, false, pause(2_000_000_000)),
            ]
        );
    }

    #[test]
    fn groups_share_a_prefix_in_all_stages() {
        let mut sessions = sessions(json!({"shared_prefix_tokens": 100, "prefix_groups": 3}));
        let mut ids: Vec<u64> = (0..4)
            .flat_map(|stage| sessions.next_batch(stage, 50))
            .map(|session| words(&session.turns[0]).prefix.as_ref().unwrap().id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn users_come_round_and_the_limit_ends_each_stage() {
        let mut sessions = sessions(json!({"users": 2, "sessions": 5}));
        let users: Vec<u64> =
            sessions.next_batch(1, 3).iter().map(|session| session.user).collect();
        assert_eq!(users, [0, 1, 0]);
        assert_eq!(sessions.next_batch(1, 3).len(), 2);
        assert_eq!(sessions.next_batch(1, 3).len(), 0);
        assert_eq!(sessions.next_batch(2, 9).len(), 5);
    }

    #[test]
    fn the_size_counts_prefix_and_history() {
        let size = sessions(json!({
            "input_tokens": 10, "output_tokens": 4, "shared_prefix_tokens": 100, "turns": 2, "sessions": 7,
        }))
        .size();
        // 110 the first time; then 110 and 4 before 10 more.
        assert_eq!(size.mean_input_tokens, Some(117.0));
        assert_eq!(size.mean_output_tokens, Some(4.0));
        assert_eq!((size.sessions, size.requests), (Some(7), Some(14)));
        assert_eq!(sessions(json!({})).size().sessions, None);
    }

    #[test]
    fn settings_without_sense_are_refused() {
        for (settings, at) in [
            (json!({"prefix_groups": 0}), "/prefix_groups"),
            (json!({"prefix_groups": 4}), "/prefix_groups"),
            (json!({"users": 0}), "/users"),
            (json!({"sessions": 0}), "/sessions"),
            (json!({"turns": 0}), "/turns"),
            (json!({"output_tokens": 0}), "/output_tokens"),
        ] {
            let error = Sessions::new(serde_json::from_value(settings).unwrap(), 1).unwrap_err();
            assert_eq!(error.at.as_deref(), Some(at));
            assert!(error.hint.is_some());
        }
    }
}
