//! What all connections share: the queue, the cache, the counters, and the draws.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::behavior::Behavior;
use crate::cache::PrefixCache;
use crate::clock::{Clock, monotonic_ns, unix_ns};
use crate::fault::Fault;
use crate::http::{Connection, Gone};
use crate::metrics::{Finish, Metrics};
use crate::script::Script;
use crate::truth::{TruthLine, TruthLog};

/// What a server did in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// Requests for an answer, also those refused.
    pub requests: u64,
    /// Answers that were generated and sent whole.
    pub completed: u64,
    /// Prompt tokens of answers that began.
    pub input_tokens: u64,
    /// Tokens sent.
    pub output_tokens: u64,
}

/// The state of the server.
pub(crate) struct Engine {
    pub(crate) behavior: Behavior,
    pub(crate) clock: Clock,
    /// When the server started, in seconds since 1970.
    pub(crate) started_unix_s: u64,
    scripts: Vec<Script>,
    truth: Option<TruthLog>,
    places: Arc<Semaphore>,
    state: Mutex<State>,
    stop: Notify,
}

/// What changes from request to request.
pub(crate) struct State {
    pub(crate) metrics: Metrics,
    pub(crate) cache: PrefixCache,
    connections: u64,
    requests: u64,
    ended: u64,
    next_script: usize,
    /// Why the server has to end.
    failure: Option<io::Error>,
}

impl Engine {
    /// Must be called inside a Tokio runtime.
    pub(crate) fn new(behavior: Behavior) -> io::Result<Self> {
        let scripts = behavior
            .checked()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let truth = match &behavior.truth_log {
            Some(path) => Some(TruthLog::create(path).map_err(|error| {
                let message = format!("create the truth log `{}`: {error}", path.display());
                io::Error::new(error.kind(), message)
            })?),
            None => None,
        };
        let cache = PrefixCache::new(behavior.cache_blocks as usize, behavior.block_size as usize);
        Ok(Self {
            clock: Clock::new()?,
            started_unix_s: unix_s(),
            scripts,
            truth,
            places: Arc::new(Semaphore::new(behavior.max_running as usize)),
            state: Mutex::new(State {
                metrics: Metrics::new(),
                cache,
                connections: 0,
                requests: 0,
                ended: 0,
                next_script: 0,
                failure: None,
            }),
            stop: Notify::new(),
            behavior,
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    /// The number of a new connection.
    pub(crate) fn count_connection(&self) -> u64 {
        let mut state = self.lock();
        state.connections += 1;
        state.connections
    }

    /// The number of a new request for an answer.
    pub(crate) fn count_request(&self) -> u64 {
        let mut state = self.lock();
        state.requests += 1;
        state.requests
    }

    /// The script whose turn it is, if scripts are played.
    pub(crate) fn next_script(&self) -> Option<&Script> {
        let mut state = self.lock();
        let script = self.scripts.get(state.next_script)?;
        state.next_script = (state.next_script + 1) % self.scripts.len();
        Some(script)
    }

    /// Waits for a place among the running requests, first come, first served.
    pub(crate) async fn admit(
        &self,
        connection: &mut Connection,
        demand: Demand<'_>,
    ) -> Result<Running<'_>, Gone> {
        // Only a request that finds nobody waiting gets a place at once.
        let (place, start_ns) = match self.places.clone().try_acquire_owned() {
            Ok(place) => (place, demand.read_ns),
            Err(_) => {
                let _waiting = Waiting::enter(self);
                let place = connection.unless_gone(self.places.clone().acquire_owned()).await?;
                (place.expect("the semaphore is never closed"), monotonic_ns())
            }
        };

        let mut state = self.lock();
        let cached = state.cache.cached_tokens(demand.prompt);
        let State { metrics, cache, .. } = &mut *state;
        if self.behavior.cache_blocks > 0 {
            metrics.cache_queries += demand.prompt.len() as u64;
            metrics.cache_hits += cached as u64;
            cache.insert(demand.prompt);
        }
        let tokens = demand.prompt.len() as u64 + u64::from(demand.output);
        let blocks = tokens.div_ceil(u64::from(self.behavior.block_size));
        metrics.running += 1;
        metrics.held_blocks += blocks;
        let cached = cached as u32;
        Ok(Running {
            engine: self,
            cached,
            start_ns,
            finish: Finish::Abort,
            read_ns: demand.read_ns,
            blocks,
            place: Some(place),
        })
    }

    /// The fault the seed has for a request.
    pub(crate) fn draw_fault(&self, rng: &mut ChaCha8Rng) -> Option<Fault> {
        let rules = &self.behavior.faults;
        rules.iter().find(|rule| rng.random_bool(rule.rate)).map(|rule| rule.fault)
    }

    /// Draws that differ from request to request: timing and faults.
    pub(crate) fn request_rng(&self, number: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(mix(self.behavior.seed, number))
    }

    /// Draws that are the same for equal prompts, whenever they come: answers and their lengths.
    pub(crate) fn answer_rng(&self, prompt: &[u32]) -> ChaCha8Rng {
        let seed = prompt.iter().fold(self.behavior.seed, |seed, &token| mix(seed, token.into()));
        ChaCha8Rng::seed_from_u64(seed)
    }

    /// Makes [`stopped`](Self::stopped) complete.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Completes when the behaviour wants the server to end.
    pub(crate) async fn stopped(&self) {
        self.stop.notified().await;
    }

    /// What the server did, or why it had to end.
    pub(crate) fn outcome(&self) -> io::Result<Stats> {
        let mut state = self.lock();
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        let metrics = &state.metrics;
        Ok(Stats {
            connections: state.connections,
            requests: state.requests,
            completed: metrics.finished(Finish::Stop) + metrics.finished(Finish::Length),
            input_tokens: metrics.prompt_tokens,
            output_tokens: metrics.generation_tokens,
        })
    }

    fn end_request(&self, line: &TruthLine) {
        let written = self.truth.as_ref().map_or(Ok(()), |truth| truth.append(line));
        let mut state = self.lock();
        state.ended += 1;
        let is_last = self.behavior.exit_after_requests == Some(state.ended);
        if is_last || written.is_err() {
            self.stop();
        }
        if let Err(error) = written {
            let message = format!("write the truth log: {error}");
            state.failure = Some(io::Error::new(error.kind(), message));
        }
    }
}

/// Seconds since 1970 (UTC).
pub(crate) fn unix_s() -> u64 {
    unix_ns() / 1_000_000_000
}

/// What a request needs.
pub(crate) struct Demand<'a> {
    pub(crate) prompt: &'a [u32],
    /// Tokens it will generate.
    pub(crate) output: u32,
    pub(crate) read_ns: u64,
}

/// A request's line in the truth log, written when it is dropped: however the request ends.
pub(crate) struct Truth<'a> {
    pub(crate) line: TruthLine,
    engine: &'a Engine,
}

impl<'a> Truth<'a> {
    pub(crate) fn new(engine: &'a Engine, line: TruthLine) -> Self {
        Self { line, engine }
    }
}

impl Drop for Truth<'_> {
    fn drop(&mut self) {
        self.engine.end_request(&self.line);
    }
}

/// A request's place among the running ones; leaving or dropping it makes room.
pub(crate) struct Running<'a> {
    engine: &'a Engine,
    /// Prompt tokens found in the prefix cache.
    pub(crate) cached: u32,
    /// When the work began: when the request was read, or when its place became free.
    pub(crate) start_ns: u64,
    /// How the request ended; an abort until something else is known.
    pub(crate) finish: Finish,
    read_ns: u64,
    blocks: u64,
    place: Option<OwnedSemaphorePermit>,
}

impl Running<'_> {
    /// Gives the place to the next request; at the latest when dropped.
    pub(crate) fn leave(&mut self) {
        if self.place.take().is_none() {
            return;
        }
        let after_ns = monotonic_ns() - self.read_ns;
        let metrics = &mut self.engine.lock().metrics;
        metrics.running -= 1;
        metrics.held_blocks -= self.blocks;
        metrics.finish(self.finish, after_ns);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request's place in the queue.
struct Waiting<'a>(&'a Engine);

impl<'a> Waiting<'a> {
    fn enter(engine: &'a Engine) -> Self {
        engine.lock().metrics.waiting += 1;
        Self(engine)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().metrics.waiting -= 1;
    }
}

/// Two numbers as one seed, so that neighbours have nothing in common.
fn mix(seed: u64, number: u64) -> u64 {
    seed.rotate_left(32).wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
