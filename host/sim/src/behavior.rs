//! What the simulated server is told to do, and the check that it makes sense.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fault::FaultRule;
use crate::quirk::Quirk;
use crate::script::{self, Script};

/// How the server behaves. Every field has a default; all draws come from [`seed`](Self::seed).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behavior {
    /// The name of the one model served.
    pub model: String,
    /// The longest prompt plus answer, in tokens.
    pub max_model_len: u32,
    /// The key requests to `/v1/..` must bear, if any. It is never written anywhere.
    #[serde(skip_serializing)]
    pub api_key: Option<ApiKey>,

    /// Time from the start of a request's work to its first token, in milliseconds, before prefill.
    pub ttft_ms: f64,
    /// What each input token that is not cached adds to the time to first token, in microseconds.
    pub prefill_us_per_token: f64,
    /// Time from one token to the next, in milliseconds.
    pub itl_ms: f64,
    /// What each further running request adds to the time between tokens, in milliseconds.
    pub itl_ms_per_running: f64,
    /// Each delay is multiplied by a factor drawn uniformly from 1 - jitter to 1 + jitter (0 to 1).
    pub jitter: f64,
    /// The seed of jitter, faults, answers and their lengths.
    pub seed: u64,

    /// How many requests generate at once; further ones wait, first come, first served.
    pub max_running: u32,
    /// The size of the prefix cache in blocks; 0 switches it off.
    pub cache_blocks: u32,
    /// Tokens per block.
    pub block_size: u32,
    /// How the server takes the wish that it forget its prefix cache.
    pub cache_reset: CacheReset,
    /// Tokens per event after the first token, which always comes alone. An event of several tokens
    /// is written when its last token is due.
    pub tokens_per_chunk: u32,
    /// Each streamed answer goes out with one write when its last event is due, as through a proxy
    /// that buffers.
    pub one_write: bool,
    /// The mean natural length of an answer in tokens: what is generated unless `max_tokens` is less
    /// or `ignore_eos` is set. Lengths are uniform from half of it to one and a half.
    pub default_output_tokens: u32,

    /// Faults for a share of the requests; the first rule that is drawn applies. A request may ask
    /// for a fault itself with the header `x-sim-fault`.
    pub faults: Vec<FaultRule>,
    /// Quirks of all answers.
    pub quirks: Vec<Quirk>,
    /// Files with scripted streams, played in turn instead of generated answers, whatever is asked
    /// for; delays, faults and quirks do not apply to them.
    pub scripts: Vec<PathBuf>,
    /// Stop the server when this many answers have ended.
    pub exit_after_requests: Option<u64>,
    /// Where to write what really happened, if anywhere; an existing file is replaced.
    pub truth_log: Option<PathBuf>,
}

/// How the server takes the wish that it forget its prefix cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheReset {
    /// `POST /reset_prefix_cache`, as vLLM in its development mode.
    #[default]
    Vllm,
    /// `POST /flush_cache`, as SGLang, which refuses while requests run.
    Sglang,
    /// Neither is there.
    None,
    /// It answers vLLM's path with 200 and keeps everything.
    Ignored,
}

impl CacheReset {
    /// All of them, by the names in files and on the command line.
    pub const ALL: [(&str, Self); 4] = [
        ("vllm", Self::Vllm),
        ("sglang", Self::Sglang),
        ("none", Self::None),
        ("ignored", Self::Ignored),
    ];

    /// Where the wish is posted to.
    pub(crate) fn path(self) -> Option<&'static str> {
        match self {
            Self::Vllm | Self::Ignored => Some("/reset_prefix_cache"),
            Self::Sglang => Some("/flush_cache"),
            Self::None => None,
        }
    }
}

impl Default for Behavior {
    fn default() -> Self {
        Self {
            model: "sim".to_owned(),
            max_model_len: 131_072,
            api_key: None,
            ttft_ms: 50.0,
            prefill_us_per_token: 50.0,
            itl_ms: 10.0,
            itl_ms_per_running: 0.0,
            jitter: 0.0,
            seed: 0,
            max_running: 256,
            cache_blocks: 0,
            block_size: 16,
            cache_reset: CacheReset::Vllm,
            tokens_per_chunk: 1,
            one_write: false,
            default_output_tokens: 128,
            faults: Vec::new(),
            quirks: Vec::new(),
            scripts: Vec::new(),
            exit_after_requests: None,
            truth_log: None,
        }
    }
}

impl Behavior {
    /// Checks all values and reads the scripts, as [`serve`](crate::serve) does first.
    pub fn check(&self) -> Result<(), BehaviorError> {
        self.checked().map(drop)
    }

    /// Checks all values; returns the scripts.
    pub(crate) fn checked(&self) -> Result<Vec<Script>, BehaviorError> {
        let delays = [
            ("ttft_ms", self.ttft_ms),
            ("prefill_us_per_token", self.prefill_us_per_token),
            ("itl_ms", self.itl_ms),
            ("itl_ms_per_running", self.itl_ms_per_running),
        ];
        for (field, value) in delays {
            require((0.0..=1e9).contains(&value), field, value, "0 to 1e9")?;
        }
        require((0.0..=1.0).contains(&self.jitter), "jitter", self.jitter, "0 to 1")?;
        for rule in &self.faults {
            require((0.0..=1.0).contains(&rule.rate), "faults.rate", rule.rate, "0 to 1")?;
        }
        let all: f64 = self.faults.iter().map(|rule| rule.rate).sum();
        require(all <= 1.0 + 1e-9, "faults.rate", all, "0 to 1 of all together")?;
        let counts = [
            ("max_running", self.max_running),
            ("block_size", self.block_size),
            ("tokens_per_chunk", self.tokens_per_chunk),
            ("default_output_tokens", self.default_output_tokens),
            ("max_model_len", self.max_model_len),
        ];
        for (field, value) in counts {
            require(value >= 1, field, value, "1 or more")?;
        }
        require(!self.model.is_empty(), "model", "\"\"", "a name")?;
        require(self.exit_after_requests != Some(0), "exit_after_requests", 0, "1 or more")?;
        self.scripts.iter().map(|path| script::read(path)).collect()
    }
}

fn require(
    holds: bool,
    field: &'static str,
    value: impl fmt::Display,
    wanted: &'static str,
) -> Result<(), BehaviorError> {
    if holds {
        return Ok(());
    }
    Err(BehaviorError::Value { field, value: value.to_string(), wanted })
}

/// A key for the API, which is never printed.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct ApiKey(String);

impl ApiKey {
    /// Whether an `Authorization` header's value bears this key.
    pub(crate) fn is_borne_by(&self, authorization: &str) -> bool {
        let (scheme, key) = authorization.split_once(' ').unwrap_or_default();
        scheme.eq_ignore_ascii_case("bearer") && key == self.0
    }
}

impl From<String> for ApiKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ApiKey(hidden)")
    }
}

/// The behaviour asked for is impossible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BehaviorError {
    /// A value outside its range.
    #[error("use `{field}: {value}` for the simulated server; it must be {wanted}")]
    Value {
        /// The field of [`Behavior`].
        field: &'static str,
        /// What it was set to.
        value: String,
        /// What it may be.
        wanted: &'static str,
    },
    /// A script that cannot be played.
    #[error("read the script `{}`", path.display())]
    Script {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        kind: BehaviorErrorKind,
    },
}

impl BehaviorError {
    pub(crate) fn script(path: &Path, kind: BehaviorErrorKind) -> Self {
        Self::Script { path: path.to_owned(), kind }
    }
}

/// What is wrong with a script.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BehaviorErrorKind {
    /// The file cannot be read.
    #[error(transparent)]
    Io(io::Error),
    /// Nothing in it.
    #[error("the file is empty; its first line must be {{\"status\":..,\"headers\":{{..}}}}")]
    EmptyScript,
    /// A line that is not in the form.
    #[error("line {number}: {reason}")]
    Line {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// The last line is missing.
    #[error("the last line must have `end`: \"clean\", \"fin\" or \"hold\"")]
    NoEnd,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: Result<(), &str>) {
        let outcome = match serde_json::from_str::<Behavior>(json) {
            Ok(behavior) => behavior.check().map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match (outcome, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.contains(part), "{json}: {error}"),
            (outcome, expected) => panic!("{json}: {outcome:?}, not {expected:?}"),
        }
    }

    #[test]
    fn values_are_checked() {
        check("{}", Ok(()));
        check(r#"{"ttft_ms":0,"itl_ms":0.5,"jitter":1,"cache_blocks":0}"#, Ok(()));
        check(r#"{"faults":[{"fault":"stall:50","rate":0.1}]}"#, Ok(()));
        check(r#"{"ttft_ms":-1}"#, Err("`ttft_ms: -1`"));
        check(r#"{"jitter":1.5}"#, Err("`jitter: 1.5`"));
        check(r#"{"max_running":0}"#, Err("`max_running: 0`"));
        check(r#"{"model":""}"#, Err("`model: \"\"`"));
        check(r#"{"faults":[{"fault":"cut","rate":2}]}"#, Err("`faults.rate: 2`"));
        let both = r#"{"faults":[{"fault":"cut","rate":0.75},{"fault":"reset","rate":0.5}]}"#;
        check(both, Err("`faults.rate: 1.25`"));
        check(r#"{"faults":[{"fault":"explode","rate":1}]}"#, Err("`explode`"));
        check(r#"{"quirks":["crlf","gzip"]}"#, Ok(()));
        check(r#"{"quirks":["odd"]}"#, Err("unknown variant `odd`"));
        check(r#"{"ttft":3}"#, Err("unknown field `ttft`"));
        check(r#"{"scripts":["does-not-exist.jsonl"]}"#, Err("does-not-exist.jsonl"));
    }

    #[test]
    fn the_key_is_neither_printed_nor_serialized() {
        let behavior =
            Behavior { api_key: Some("s3cret".to_owned().into()), ..Behavior::default() };
        assert!(!format!("{behavior:?}").contains("s3cret"));
        assert!(!serde_json::to_string(&behavior).unwrap().contains("s3cret"));
    }
}
