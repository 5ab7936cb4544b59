//! The settings of harness and workload.

use crate::profile::Profile;
use serde::{Deserialize, Serialize};

/// Whether the original is imitated or mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// The original's arithmetic, ignored parameters included.
    #[default]
    Compat,
    /// The rate that was asked for, and every parameter honoured.
    Corrected,
}

/// What the experiment file says under `harness.settings`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HarnessSettings {
    /// Name of the attached profile.
    pub(crate) profile: String,
    #[serde(default)]
    pub(crate) mode: Mode,
    model_name: Option<String>,
    scenarios: Option<String>,
    qps_values: Option<String>,
    num_users_warmup: Option<u32>,
    num_users: Option<u32>,
    num_rounds: Option<u32>,
    system_prompt: Option<u32>,
    chat_history: Option<u32>,
    answer_len: Option<u32>,
    init_user_id: Option<u64>,
    test_duration: Option<u32>,
    use_chat_completions: Option<bool>,
}

impl HarnessSettings {
    /// The profile with what is set here over it.
    pub(crate) fn over(&self, mut profile: Profile) -> Profile {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(value) = from {
                to.clone_from(value);
            }
        }
        set(&mut profile.model_name, &self.model_name);
        set(&mut profile.scenarios, &self.scenarios);
        set(&mut profile.qps_values, &self.qps_values);
        set(&mut profile.num_users_warmup, &self.num_users_warmup);
        set(&mut profile.num_users, &self.num_users);
        set(&mut profile.num_rounds, &self.num_rounds);
        set(&mut profile.system_prompt, &self.system_prompt);
        set(&mut profile.chat_history, &self.chat_history);
        set(&mut profile.answer_len, &self.answer_len);
        set(&mut profile.init_user_id, &self.init_user_id);
        set(&mut profile.test_duration, &self.test_duration);
        set(&mut profile.use_chat_completions, &self.use_chat_completions);
        profile
    }
}

/// What the experiment file says under `workload.settings`, and what the harness adds for a stage.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadSettings {
    /// Name of the attached file of requests. None: the synthetic set.
    pub(crate) dataset: Option<String>,
    /// Name of the attached file of requests that warm up.
    pub(crate) warmup_dataset: Option<String>,
    /// What a stage sends. None: the workload was not made for a stage.
    pub(crate) stage: Option<Part>,
}

/// How a server is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    /// The chat API rather than completions.
    pub(crate) chat: bool,
    /// The model that requests name. None: the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
}

/// What a stage sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Part {
    /// Ten requests that wake the server up.
    EngineWarmUp { call: Call },
    /// Users who ask one question after the other.
    Rounds(Rounds),
    /// Requests of a data set.
    Replay {
        /// Requests a second; stands before each prompt.
        qps: f64,
        call: Call,
        /// The set that warms up rather than the one that is measured.
        warm_up: bool,
    },
}

/// Users who ask one question after the other, with the parameters of `multi-round-qa`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rounds {
    /// Users under way, U.
    pub(crate) users: u32,
    /// Questions of a user, R.
    pub(crate) rounds: u32,
    /// Requests a second, q.
    pub(crate) qps: f64,
    /// Words of the beginning that all users share, S.
    pub(crate) system_prompt: u32,
    /// Words of a user's own beginning, H.
    pub(crate) chat_history: u32,
    /// Most tokens of an answer, A.
    pub(crate) answer_len: u32,
    /// Users are numbered from the next one, I.
    pub(crate) init_user_id: u64,
    /// Length in nanoseconds.
    pub(crate) length: u64,
    pub(crate) call: Call,
    pub(crate) mode: Mode,
}
