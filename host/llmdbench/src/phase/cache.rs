//! Brings the server's prefix cache into the state that was asked for, just before the load.
//!
//! A cold cache holds nothing of before the run. Servers that can are made to forget; where one of them
//! cannot, a marker of the run goes in front of every prompt, so that nothing of before fits. What a
//! run's own prompts share stays shared either way. For a warm cache the beginnings that prompts share
//! are sent once, in a stage that is not measured.

use crate::cache;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::phase::supply::Supply;
use crate::plan::Plan;
use crate::printer::Printer;
use crate::probe::Probe;
use crate::run_dir::{self, Results};
use crate::secrets::Secrets;
use crate::translate::PlannedStage;
use analysis::{CacheState, CacheWish};
use load::{Arrival, Endpoint, Session};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

/// How servers are made to forget: the first that one knows is taken.
///
/// llama.cpp has nothing of the kind: erasing its slots leaves the copies in its host memory.
const RESETS: &[(&str, &str)] = &[
    // In its development mode only; the second cache is the one of KV connectors.
    ("vLLM", "/reset_prefix_cache?reset_external=true"),
    // Refused as long as requests run.
    ("SGLang", "/flush_cache"),
];

/// A server that is busy is asked so many times, so long apart.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(300);

/// Sessions under way at least while the cache is warmed up.
const WARM_UP_SESSIONS: u32 = 4;
/// The name of that stage.
const WARM_UP: &str = "cache-warm-up";

/// The name of the format.
const FORMAT: &str = "llmdbench.cache";
/// The version that is written.
const VERSION: &str = "1.0";

/// The cache made ready, as `results/cache.json` has it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ready {
    format: String,
    version: String,
    asked: CacheWish,
    /// What was done, in a sentence.
    done: String,
    /// What servers answered to the wish that they forget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resets: Vec<Answer>,
    /// What stands in front of every prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) marker: Option<String>,
    /// Prompts that warm the cache up.
    #[serde(default)]
    warm_up_requests: usize,
    /// The same as sessions.
    #[serde(skip)]
    pub(crate) warm_up: Vec<Session>,
    /// So many of these are under way at a time.
    #[serde(skip)]
    at_once: u32,
}

/// What a server answered to the wish that it forget.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    url: String,
    /// The HTTP status.
    status: u16,
}

/// Does what the experiment asks. `look_ahead` gives the first sessions of each stage.
pub(crate) fn make_ready(
    plan: &Plan,
    endpoints: &[Endpoint],
    secrets: &Secrets,
    supply: &Supply,
    look_ahead: impl FnOnce() -> Result<Vec<Vec<Session>>>,
    printer: &Printer,
) -> Result<Ready> {
    let experiment = &plan.experiment;
    let mut ready = Ready {
        format: FORMAT.to_owned(),
        version: VERSION.to_owned(),
        asked: experiment.cache,
        ..Ready::default()
    };
    ready.done = match experiment.cache {
        CacheWish::AsIs => "Nothing was done: the cache held what it held.".to_owned(),
        CacheWish::Cold => {
            let mut all_reset = true;
            for endpoint in endpoints {
                let probe = Probe::new(endpoint, secrets, &experiment.tls(), experiment.timeout())?;
                all_reset &= reset(&probe, endpoint, &mut ready.resets)?;
            }
            if all_reset {
                "The server was told to forget its cache and said that it did.".to_owned()
            } else if supply.takes_marker() {
                ready.marker = Some(cache::marker(&plan.run));
                "The server cannot be made to forget its cache: a marker in front of every prompt, the same \
                 for the whole run, makes all of them new to it, and some tokens longer."
                    .to_owned()
            } else {
                return Err(not_cold(&ready.resets));
            }
        }
        CacheWish::Warm => {
            let shared = cache::warm_up(&look_ahead()?);
            let everywhere =
                shared.iter().flat_map(|one| iter::repeat(one).zip(0..endpoints.len()));
            let numbered = |(id, (one, endpoint)): (u64, (&Session, usize))| Session {
                id,
                user: id,
                endpoint: Some(endpoint),
                ..one.clone()
            };
            ready.warm_up = (0..).zip(everywhere).map(numbered).collect();
            // Where several make the load, each of them has a share of the sessions, and needs a place for it.
            ready.at_once = experiment.load.shards.max(WARM_UP_SESSIONS);
            ready.warm_up_requests = ready.warm_up.len();
            match shared.len() {
                0 => "The first prompts of sessions share no beginning worth the while: nothing was sent.",
                _ => "The beginnings that prompts share were sent once before the load.",
            }
            .to_owned()
        }
    };
    if experiment.cache != CacheWish::AsIs {
        printer.step(&format!("cache: {}: {}", experiment.cache.name(), ready.done));
    }
    Ok(ready)
}

/// Makes a server forget. Says whether it claims to have.
fn reset(probe: &Probe<'_>, endpoint: &Endpoint, answers: &mut Vec<Answer>) -> Result<bool> {
    for (_, path) in RESETS {
        for attempt in 1..=TRIES {
            let status = probe.post(path)?;
            let is_there = ![404, 405, 501].contains(&status);
            let is_busy =
                is_there && !(200..300).contains(&status) && ![401, 403].contains(&status);
            if is_busy && attempt < TRIES {
                std::thread::sleep(PAUSE);
                interrupt::check()?;
                continue;
            }
            answers.push(Answer { url: endpoint.url(path), status });
            if (200..300).contains(&status) {
                return Ok(true);
            }
            break;
        }
    }
    Ok(false)
}

fn not_cold(answers: &[Answer]) -> Error {
    let mut error = Error::usage(
        "`cache: cold` cannot be had: the server has no way to forget its cache, and the workload's prompts \
         are token ids or whole bodies, into which no marker can be put",
    );
    for Answer { url, status } in answers {
        error = error.cause(format!("{url} answers {status}"));
    }
    error.hint("start vLLM with VLLM_SERVER_DEV_MODE=1, or ask for `cache: as-is`")
}

impl Ready {
    /// The stage that warms the cache up. None: there is nothing to send.
    pub(crate) fn stage(&self) -> Option<PlannedStage> {
        let sessions = u32::try_from(self.warm_up.len()).ok().filter(|n| *n > 0)?;
        Some(PlannedStage {
            stage: load::Stage {
                name: WARM_UP.to_owned(),
                arrival: Arrival::Closed,
                concurrency: Some(sessions.min(self.at_once)),
                max_in_flight: None,
                stop: load::Stop::default(),
                warm_up: true,
                settle: 0,
                quantum: None,
                drain: None,
                cool_down: 0,
                labels: BTreeMap::new(),
            },
            workload_settings: None,
        })
    }

    /// Writes it.
    pub(crate) fn write(&self, results: &Results) -> Result<()> {
        run_dir::write_json(&results.cache(), self)
    }
}

/// What was asked of the cache of a run. None: nobody wrote it down.
pub(crate) fn state(results: &Results) -> Option<CacheState> {
    let ready = run_dir::read_json::<Ready>(&results.cache()).ok()??;
    Some(CacheState { asked: ready.asked, done: ready.done })
}
