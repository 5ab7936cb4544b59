//! The stages of a profile: for each rate of each scenario a warm-up, the load itself and a pause,
//! as `run_benchmarks.sh` of LMBenchmark ran them.

use crate::profile::Profile;
use crate::schedule::{TICK, end, gap, users};
use crate::settings::{Call, Mode, Part, Rounds};
use llmdbench_plugin::stages::{Arrival, LoadPlan, Stage, Stop};
use llmdbench_plugin::{Error, label, log};
use serde_json::json;

/// Requests that wake the server up before each run of a generator.
const ENGINE_WARM_UP: u32 = 10;
const SECOND: u64 = 1_000_000_000;
/// Between two runs of a generator.
const PAUSE: u64 = 10 * SECOND;

/// A scenario of LMBenchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    ShareGpt,
    ShortInput,
    LongInput,
    LongLong,
}

impl Scenario {
    const ALL: [(&str, Self); 4] = [
        ("sharegpt", Self::ShareGpt),
        ("short-input", Self::ShortInput),
        ("long-input", Self::LongInput),
        ("long-long", Self::LongLong),
    ];

    /// The scenarios that the profile's word means.
    fn meant_by(word: &str) -> Result<Vec<Self>, Error> {
        // The original's `all` is not all: long-long must be asked for.
        if word == "all" {
            return Ok(vec![Self::ShareGpt, Self::ShortInput, Self::LongInput]);
        }
        match Self::ALL.iter().find(|(name, _)| *name == word) {
            Some((_, scenario)) => Ok(vec![*scenario]),
            None => Err(Error::invalid_settings(format!("there is no scenario `{word}`"))
                .at("/scenarios")
                .hint("write one of sharegpt, short-input, long-input, long-long, all")),
        }
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scenario)| *scenario == self).map_or("", |(name, _)| name)
    }

    /// What the original ran instead of what the profile says.
    fn imposed(self, profile: &Profile) -> Profile {
        let fixed = |answer_len, num_users_warmup| Profile {
            num_users: 320,
            num_rounds: 20,
            // A count of the words of "0" and of "256" or "2000".
            system_prompt: 1,
            chat_history: 1,
            answer_len,
            init_user_id: 1,
            test_duration: 100,
            num_users_warmup,
            ..profile.clone()
        };
        match self {
            Self::ShortInput => fixed(20, 400),
            Self::LongLong => fixed(1000, 750),
            Self::ShareGpt | Self::LongInput => profile.clone(),
        }
    }
}

/// What is to be done.
///
/// # Errors
/// When the profile makes no sense.
pub(crate) fn plan(profile: &Profile, mode: Mode) -> Result<LoadPlan, Error> {
    let rates = rates(&profile.qps_values)?;
    let mut stages: Vec<Stage> = Vec::new();
    for scenario in Scenario::meant_by(&profile.scenarios)? {
        let profile = match mode {
            Mode::Compat => scenario.imposed(profile),
            Mode::Corrected => profile.clone(),
        };
        check(scenario, &profile)?;
        let mut first_user = profile.init_user_id;
        for (text, qps) in &rates {
            let named = Named { scenario, text, qps: *qps };
            if scenario == Scenario::ShareGpt {
                stages.extend(named.replay(&profile));
            } else {
                stages.extend(named.rounds(&profile, mode, &mut first_user));
            }
        }
    }
    // Nothing comes after the last one.
    if let Some(last) = stages.last_mut() {
        last.cool_down = 0;
    }
    Ok(LoadPlan { stages, request_timeout: None, tick_every: None })
}

/// The rates, each with its literal text.
fn rates(text: &str) -> Result<Vec<(String, f64)>, Error> {
    let rates: Vec<(String, f64)> = text
        .split_whitespace()
        .map(|word| match word.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok((word.to_owned(), rate)),
            _ => Err(Error::invalid_settings(format!("`{word}` is no rate"))
                .at("/qps_values")
                .hint("write requests per second, divided by blanks: \"0.5 1 2\"")),
        })
        .collect::<Result<_, _>>()?;
    for (i, (word, _)) in rates.iter().enumerate() {
        if rates[..i].iter().any(|(other, _)| other == word) {
            return Err(
                Error::invalid_settings(format!("the rate {word} stands twice")).at("/qps_values")
            );
        }
    }
    if rates.is_empty() {
        return Err(Error::invalid_settings("there is no rate").at("/qps_values"));
    }
    Ok(rates)
}

fn check(scenario: Scenario, profile: &Profile) -> Result<(), Error> {
    if scenario == Scenario::ShareGpt {
        return Ok(());
    }
    // Beyond these, a plan would not fit into memory, or would not end.
    for (name, value, least, most) in [
        ("num_users", profile.num_users, 1, 100_000),
        ("num_rounds", profile.num_rounds, 1, 10_000),
        ("answer_len", profile.answer_len, 1, u32::MAX),
        ("test_duration", profile.test_duration, 1, 7 * 24 * 3600),
        ("num_users_warmup", profile.num_users_warmup, 0, 7 * 24 * 3600),
        ("system_prompt", profile.system_prompt, 0, 1_000_000),
        ("chat_history", profile.chat_history, 0, 1_000_000),
    ] {
        if !(least..=most).contains(&value) {
            let message = format!("`{name}` is {value}");
            let hint = format!("choose a number from {least} to {most}");
            return Err(Error::invalid_settings(message).at(format!("/{name}")).hint(hint));
        }
    }
    Ok(())
}

/// A scenario at one rate.
struct Named<'a> {
    scenario: Scenario,
    /// The rate as the profile writes it.
    text: &'a str,
    qps: f64,
}

impl Named<'_> {
    fn replay(&self, profile: &Profile) -> Vec<Stage> {
        let call = call(profile);
        let send = |name: &str, warm_up: bool| Stage {
            warm_up,
            cool_down: PAUSE,
            ..self.stage(
                name,
                Arrival::Constant(self.qps),
                &Part::Replay { qps: self.qps, call: call.clone(), warm_up },
            )
        };
        vec![send("-warm-up", true), send("", false)]
    }

    /// `first_user` is moved on to where the next rate begins.
    fn rounds(&self, profile: &Profile, mode: Mode, first_user: &mut u64) -> Vec<Stage> {
        let call = call(profile);
        let measured = Rounds {
            users: profile.num_users,
            rounds: profile.num_rounds,
            qps: self.qps,
            system_prompt: profile.system_prompt,
            chat_history: profile.chat_history,
            answer_len: profile.answer_len,
            init_user_id: *first_user,
            length: u64::from(profile.test_duration) * SECOND,
            call: call.clone(),
            mode,
        };
        for warning in self.warnings(&measured) {
            log::warn(warning);
        }
        // The original moves on by the users that warm up, so that rates may share users and
        // prompts; corrected, each has its own.
        let own = match mode {
            Mode::Compat => 0,
            Mode::Corrected => {
                users(&measured).iter().map(|user| user.id - *first_user).max().unwrap_or(0)
            }
        };
        *first_user += own.max(u64::from(profile.num_users_warmup));
        let warm_up = Rounds {
            users: 1,
            rounds: 2,
            qps: 2.0,
            length: u64::from(profile.num_users_warmup / 2) * SECOND,
            // What it is for, warm prompts of the users to come, the original's arithmetic does.
            mode: Mode::Compat,
            ..measured.clone()
        };
        let wake = |name: &str| Stage {
            concurrency: Some(ENGINE_WARM_UP),
            stop: Stop { sessions: Some(u64::from(ENGINE_WARM_UP)), ..no_end() },
            warm_up: true,
            ..self.stage(name, Arrival::Closed, &Part::EngineWarmUp { call: call.clone() })
        };
        let ask = |name: &str, rounds: &Rounds| Stage {
            stop: Stop { after: Some(end(rounds)), ..no_end() },
            quantum: (rounds.mode == Mode::Compat).then_some(TICK),
            ..self.stage(name, Arrival::Trace(1.0), &Part::Rounds(rounds.clone()))
        };
        vec![
            wake("-engine-warm-up"),
            Stage { warm_up: true, ..ask("-warm-up", &warm_up) },
            wake("-engine-warm-up-2"),
            Stage { cool_down: PAUSE, ..ask("", &measured) },
        ]
    }

    fn stage(&self, suffix: &str, arrival: Arrival, part: &Part) -> Stage {
        Stage {
            workload_settings: Some(json!({"stage": part}).to_string()),
            labels: vec![label("scenario", self.scenario.name()), label("qps", self.text)],
            ..Stage::new(format!("{}-qps-{}{suffix}", self.scenario.name(), self.text), arrival)
        }
    }

    /// What the plan cannot do of what the profile says, with the arithmetic.
    fn warnings(&self, rounds: &Rounds) -> Vec<String> {
        let (q, r, u) = (self.text, rounds.rounds, rounds.users);
        let mut warnings = Vec::new();
        if rounds.mode == Mode::Compat {
            if r == 1 {
                warnings.push(format!(
                    "with 1 round a user comes every (R-1)/q = 0 s: the load is one request each {} s, about 10/s, instead of {q}/s; `mode: corrected` keeps the rate",
                    TICK as f64 / 1e9
                ));
            } else {
                warnings.push(format!(
                    "a user comes every (R-1)/q and asks R = {r} times: the load is q*R/(R-1) = {:.4}/s instead of {q}/s; `mode: corrected` keeps the rate",
                    self.qps * f64::from(r) / f64::from(r - 1)
                ));
            }
        }
        let fit = rounds.length.div_ceil(gap(rounds)).max(1);
        if u64::from(r) > fit {
            warnings.push(format!(
                "{r} rounds do not fit at {q}/s: a user asks every U/q = {u}/{q} = {:.2} s, and the stage lasts {} s, so that a new user asks at most {fit} of them",
                gap(rounds) as f64 / 1e9,
                rounds.length / SECOND
            ));
        }
        warnings
    }
}

fn call(profile: &Profile) -> Call {
    let model = Some(profile.model_name.clone()).filter(|name| !name.is_empty());
    Call { chat: profile.use_chat_completions, model }
}

fn no_end() -> Stop {
    Stop { after: None, sessions: None, requests: None, errors: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(scenarios: &str, qps: &str) -> Profile {
        Profile {
            scenarios: scenarios.into(),
            qps_values: qps.into(),
            num_users_warmup: 5,
            num_users: 3,
            num_rounds: 5,
            system_prompt: 512,
            chat_history: 2048,
            answer_len: 64,
            test_duration: 300,
            ..Profile::default()
        }
    }

    fn parts(plan: &LoadPlan) -> Vec<Part> {
        let settings = plan.stages.iter().map(|stage| stage.workload_settings.as_deref().unwrap());
        settings
            .map(|text| serde_json::from_str::<crate::settings::WorkloadSettings>(text).unwrap())
            .map(|settings| settings.stage.unwrap())
            .collect()
    }

    #[test]
    fn every_rate_has_its_warm_ups_its_users_and_its_pause() {
        let plan = plan(&profile("long-input", "0.1 2"), Mode::Compat).unwrap();
        let shown: Vec<_> = plan
            .stages
            .iter()
            .map(|s| {
                (
                    s.name.as_str(),
                    s.warm_up,
                    s.stop.after.unwrap_or(0) / SECOND,
                    s.cool_down / SECOND,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("long-input-qps-0.1-engine-warm-up", true, 0, 0),
                ("long-input-qps-0.1-warm-up", true, 2, 0),
                ("long-input-qps-0.1-engine-warm-up-2", true, 0, 0),
                ("long-input-qps-0.1", false, 300, 10),
                ("long-input-qps-2-engine-warm-up", true, 0, 0),
                ("long-input-qps-2-warm-up", true, 2, 0),
                ("long-input-qps-2-engine-warm-up-2", true, 0, 0),
                ("long-input-qps-2", false, 300, 0),
            ]
        );
        let parts = parts(&plan);
        let (Part::Rounds(warm), Part::Rounds(measured)) = (&parts[5], &parts[7]) else {
            panic!("{parts:?}")
        };
        assert_eq!((warm.users, warm.rounds, warm.qps, warm.init_user_id), (1, 2, 2.0, 6));
        let measured =
            (measured.users, measured.rounds, measured.system_prompt, measured.init_user_id);
        assert_eq!(measured, (3, 5, 512, 6));
    }

    #[test]
    fn the_original_ignores_most_of_the_profile_for_short_input_and_corrected_does_not() {
        let check = |mode, scenario: &str, expected: [u64; 6]| {
            let plan = plan(&profile(scenario, "2"), mode).unwrap();
            let parts = parts(&plan);
            let (Part::Rounds(warm), Part::Rounds(r)) = (&parts[1], &parts[3]) else {
                panic!("{parts:?}")
            };
            let found = [
                u64::from(r.users),
                u64::from(r.rounds),
                u64::from(r.system_prompt),
                u64::from(r.answer_len),
                r.length / SECOND,
                warm.length / SECOND,
            ];
            assert_eq!(found, expected, "{scenario}");
            assert_eq!(plan.stages[3].quantum.is_some(), mode == Mode::Compat);
        };
        check(Mode::Compat, "short-input", [320, 20, 1, 20, 100, 200]);
        check(Mode::Compat, "long-long", [320, 20, 1, 1000, 100, 375]);
        check(Mode::Corrected, "short-input", [3, 5, 512, 64, 300, 2]);
        check(Mode::Compat, "long-input", [3, 5, 512, 64, 300, 2]);
    }

    #[test]
    fn corrected_no_two_rates_share_a_user() {
        let plan = plan(&profile("long-input", "2 4"), Mode::Corrected).unwrap();
        let ids: Vec<Vec<u64>> = parts(&plan)
            .iter()
            .filter_map(|part| match part {
                Part::Rounds(rounds) if rounds.mode == Mode::Corrected => {
                    Some(users(rounds).iter().map(|user| user.id).collect())
                }
                _ => None,
            })
            .collect();
        assert!(ids[0].iter().max() < ids[1].iter().min(), "{ids:?}");
    }

    #[test]
    fn sharegpt_warms_up_with_its_own_set_at_the_same_rate() {
        let plan = plan(&profile("all", "1 1.0"), Mode::Compat).unwrap();
        let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names[..2], ["sharegpt-qps-1-warm-up", "sharegpt-qps-1"]);
        assert_eq!(names.len(), 2 * (2 + 4 + 4));
        assert_eq!(
            parts(&plan)[0],
            Part::Replay { qps: 1.0, call: Call { chat: true, model: None }, warm_up: true }
        );
        assert!(matches!(plan.stages[1].arrival, Arrival::Constant(rate) if rate == 1.0));
        assert_eq!(plan.stages[1].stop.after, None);
    }

    #[test]
    fn every_stage_asks_for_the_model_and_the_api_of_the_profile() {
        let profile = Profile { model_name: "adapter".into(), ..profile("all", "1") };
        let plan = plan(&profile, Mode::Compat).unwrap();
        for part in parts(&plan) {
            let (Part::EngineWarmUp { call }
            | Part::Replay { call, .. }
            | Part::Rounds(Rounds { call, .. })) = part;
            assert_eq!(call, Call { chat: true, model: Some("adapter".into()) });
        }
    }

    #[test]
    fn a_plan_that_cannot_do_what_the_profile_says_warns_with_the_arithmetic() {
        let warnings = |users, rounds, mode| {
            let rounds = Rounds {
                users,
                rounds,
                qps: 0.5,
                system_prompt: 1,
                chat_history: 1,
                answer_len: 1,
                init_user_id: 1,
                length: 100 * SECOND,
                call: Call { chat: false, model: None },
                mode,
            };
            let named = Named { scenario: Scenario::LongInput, text: "0.5", qps: 0.5 };
            named.warnings(&rounds).join("\n")
        };
        let check = |text: String, expected: &[&str], none: &str| {
            for part in expected {
                assert!(text.contains(part), "{part} not in {text}");
            }
            assert!(!text.contains(none), "{text}");
        };
        check(
            warnings(1, 1, Mode::Compat),
            &["(R-1)/q = 0 s", "about 10/s, instead of 0.5/s"],
            "fit",
        );
        check(
            warnings(320, 20, Mode::Compat),
            &["q*R/(R-1) = 0.5263/s", "U/q = 320/0.5 = 640.00 s", "at most 1 of them"],
            "(R-1)/q = 0",
        );
        check(warnings(320, 20, Mode::Corrected), &["20 rounds do not fit"], "R/(R-1)");
        assert_eq!(warnings(3, 5, Mode::Corrected), "");
    }

    #[test]
    fn what_is_no_scenario_or_rate_is_refused() {
        let check = |scenarios: &str, qps: &str, at: &str| {
            let error = plan(&profile(scenarios, qps), Mode::Compat).unwrap_err();
            assert_eq!(error.at.as_deref(), Some(at), "{}", error.message);
        };
        check("sharegpt long-input", "1", "/scenarios");
        check("sharegpt", "1 fast", "/qps_values");
        check("sharegpt", "1 1", "/qps_values");
        check("sharegpt", " ", "/qps_values");
    }
}
