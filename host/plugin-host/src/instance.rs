//! One configured instance: its store, its limits, and how a call of it can end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokenizers::Tokenizer;
use wasmtime::component::Instance as Component;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline, WasmBacktrace};

use crate::capability::{Capabilities, Input, LogLine};
use crate::engine::TICK;
use crate::error::{Error, Fault};
use crate::grant::Grant;
use crate::kind::Kind;
use crate::plugin::Plugin;
use crate::wit::{log, types};

/// Takes the lines that a plugin logs.
pub type LogSink = Arc<dyn Fn(LogLine) + Send + Sync>;

/// Gives the time on the run's clock in nanoseconds; 0 before load starts.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What an instance is made with.
#[derive(Clone)]
pub struct Setup {
    /// The settings, checked by [`Plugin::check_settings`], names of inputs in place of paths.
    pub settings: Value,
    /// The run.
    pub context: types::Context,
    /// The run's seed. `env.seed` mixes it with the plugin's name and kind.
    pub seed: u64,
    /// The attached files.
    pub inputs: Vec<Input>,
    /// What the plugin may do, as [`Plugin::grants`] gives it.
    pub grants: Vec<Grant>,
    /// Takes its log lines.
    pub log: LogSink,
    /// The least important level that is kept.
    pub log_level: log::Level,
    /// What `env.features` gives.
    pub features: Vec<String>,
    /// What `env.facts` gives.
    pub facts: Vec<(String, String)>,
    /// The tokenizer of the run's model. None: there is none.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The run's clock.
    pub clock: Clock,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("settings", &self.settings)
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

impl Setup {
    /// A setup with settings and context, the context's seed, and nothing else: no inputs, no grants,
    /// no log.
    pub fn new(settings: Value, context: types::Context) -> Self {
        Self {
            settings,
            seed: context.seed,
            context,
            inputs: Vec::new(),
            grants: Vec::new(),
            log: Arc::new(|_| ()),
            log_level: log::Level::Info,
            features: Vec::new(),
            facts: Vec::new(),
            tokenizer: None,
            clock: Arc::new(|| 0),
        }
    }
}

/// What the store of an instance holds: what the plugin may ask for, and its limits.
pub(crate) struct State {
    pub(crate) capabilities: Capabilities,
    /// Bytes that all its linear memories together may have, and have.
    memory_limit: usize,
    memory: usize,
    /// Elements of all its tables together.
    table_elements: usize,
    /// The plugin asked for more memory than its limit.
    memory_refused: bool,
    /// When the call under way must have ended.
    deadline: Instant,
    /// The deadline passed.
    timed_out: bool,
    call_timeout: Duration,
}

impl State {
    pub(crate) fn new(
        capabilities: Capabilities,
        memory_limit: usize,
        call_timeout: Duration,
    ) -> Self {
        Self {
            capabilities,
            memory_limit,
            memory: 0,
            table_elements: 0,
            memory_refused: false,
            deadline: Instant::now(),
            timed_out: false,
            call_timeout,
        }
    }

    /// Starts the time of the call anew: it made progress that is sure to end, like reading on in a file.
    pub(crate) fn progress(&mut self) {
        self.deadline = Instant::now() + self.call_timeout;
    }

    /// What is left of the time of the call.
    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Ends the call once its time is over.
    ///
    /// # Errors
    /// The trap that stops the plugin.
    pub(crate) fn check_time(&mut self) -> wasmtime::Result<()> {
        if self.time_left().is_zero() {
            self.timed_out = true;
            return Err(wasmtime::format_err!("the time is over"));
        }
        Ok(())
    }
}

/// A component may have several memories and tables: the limits are for all of them together.
impl ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory.saturating_add(desired.saturating_sub(current));
        let is_granted = total <= self.memory_limit && maximum.is_none_or(|most| desired <= most);
        if is_granted {
            self.memory = total;
        }
        self.memory_refused |= !is_granted;
        Ok(is_granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        let is_granted = total <= MAX_TABLE_ELEMENTS;
        if is_granted {
            self.table_elements = total;
        }
        Ok(is_granted)
    }
}

/// A store that stops its plugin at the deadline of the state.
pub(crate) fn store(engine: &wasmtime::Engine, state: State) -> Store<State> {
    let mut store = Store::new(engine, state);
    store.limiter(|state| state);
    store.set_hostcall_fuel(MAX_ANSWER);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut context| {
        let state = context.data_mut();
        state.check_time()?;
        let ticks = state.time_left().as_millis() / TICK.as_millis();
        Ok(UpdateDeadline::Continue(u64::try_from(ticks).unwrap_or(u64::MAX / 2).max(1)))
    });
    store
}

/// Most bytes that one call may return, as the host counts them.
const MAX_ANSWER: usize = 128 << 20;
/// Most elements of all tables together.
const MAX_TABLE_ELEMENTS: usize = 1_000_000;

/// An instance of one kind.
pub(crate) struct Instance {
    pub(crate) plugin: Plugin,
    pub(crate) kind: Kind,
    pub(crate) component: Component,
    pub(crate) store: Store<State>,
    /// Why it can no longer be called.
    dead: Option<Error>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("plugin", &self.plugin)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Instance {
    /// Makes an instance that is not configured yet.
    pub(crate) fn new(plugin: &Plugin, kind: Kind, setup: &Setup) -> Result<Self, Error> {
        if !plugin.kinds().contains(&kind) {
            let kinds: Vec<&str> = plugin.kinds().iter().map(|kind| kind.with_article()).collect();
            let message = format!("is no {kind}; it is {}", kinds.join(" and "));
            return Err(plugin
                .error(Fault::WrongKind, None, message)
                .hint(format!("name a plugin of the kind {kind}")));
        }
        let inner = &plugin.inner;
        let capabilities = Capabilities::new(plugin.name(), kind, setup);
        let state = State::new(capabilities, inner.memory, inner.call_timeout);
        let mut store = store(inner.pre.engine(), state);
        store.data_mut().progress();
        match inner.pre.instantiate(&mut store) {
            Ok(component) => {
                Ok(Self { plugin: plugin.clone(), kind, component, store, dead: None })
            }
            Err(error) => Err(crash(plugin, Some(kind), "start", &error, &store)),
        }
    }

    /// Calls the plugin. Any end but an answer kills the instance.
    pub(crate) fn call<A>(
        &mut self,
        function: &'static str,
        call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<Result<A, types::Error>>,
    ) -> Result<A, Error> {
        if let Some(dead) = &self.dead {
            return Err(dead.clone());
        }
        self.store.data_mut().progress();
        self.store.data_mut().capabilities.log.begin_call(matches!(function, "configure" | "plan"));
        match call(&mut self.store) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.answered(error)),
            Err(error) => {
                Err(self.kill(crash(&self.plugin, Some(self.kind), function, &error, &self.store)))
            }
        }
    }

    /// Checks that the plugin returned at most `most` of something.
    pub(crate) fn cap(&mut self, what: &str, count: usize, most: usize) -> Result<(), Error> {
        if count <= most {
            return Ok(());
        }
        let message = format!("returned {count} {what}, at most {most} are allowed");
        Err(self.kill(self.plugin.error(Fault::TooMuch, Some(self.kind), message)))
    }

    fn kill(&mut self, error: Error) -> Error {
        self.dead = Some(error.clone());
        error
    }

    fn answered(&self, error: types::Error) -> Error {
        let message = match &error.kind {
            types::ErrorKind::Denied(permission) => {
                format!("{} (needs `{permission}`)", error.message)
            }
            _ => error.message,
        };
        let mut own = self.plugin.error(Fault::Answer(error.kind), Some(self.kind), message);
        own.at = error.at.filter(|at| !at.is_empty());
        own.hint = error.hint;
        own
    }
}

/// Says why a call did not come back.
pub(crate) fn crash(
    plugin: &Plugin,
    kind: Option<Kind>,
    function: &str,
    error: &wasmtime::Error,
    store: &Store<State>,
) -> Error {
    let (fault, message) = reason(function, error, store.data());
    let mut own = plugin.error(fault, kind, message);
    own.backtrace = backtrace(error);
    own
}

/// Class and words for a call that did not come back.
pub(crate) fn reason(function: &str, error: &wasmtime::Error, state: &State) -> (Fault, String) {
    let panic = state.capabilities.log.last_panic();
    let root = error.root_cause().to_string();
    if state.timed_out {
        let limit = state.call_timeout.as_secs_f64();
        (Fault::Time, format!("`{function}` did not return within {limit} s and was stopped"))
    } else if root.contains("fuel allocated for hostcalls") {
        let most = MAX_ANSWER >> 20;
        (Fault::TooMuch, format!("`{function}` returned more than {most} MiB and was stopped"))
    } else if state.memory_refused && panic.is_none_or(|text| text.contains("alloc")) {
        let limit = state.memory_limit >> 20;
        (
            Fault::Memory,
            format!(
                "`{function}` needed more than the {limit} MiB of memory it may use and was stopped"
            ),
        )
    } else if let Some(text) = panic {
        (Fault::Crash, format!("`{function}` crashed: {text}"))
    } else {
        (Fault::Crash, format!("`{function}` crashed: {root}"))
    }
}

/// The functions under way, demangled, innermost first. The first line of wasmtime's text is a heading.
fn backtrace(error: &wasmtime::Error) -> Option<String> {
    let text = error.downcast_ref::<WasmBacktrace>()?.to_string();
    let (_, frames) = text.split_once('\n')?;
    (!frames.trim().is_empty()).then(|| without_hashes(frames.trim_end()))
}

/// Rust puts a hash behind the name of each crate, "std[d730ca44a121e5f3]", which tells a reader nothing.
fn without_hashes(text: &str) -> String {
    let mut parts = text.split('[');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((hash, rest))
                if hash.len() >= 15 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
            {
                plain.push_str(rest);
            }
            _ => {
                plain.push('[');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_memories_and_tables_share_one_limit() {
        let mut state = State::new(Capabilities::none("p"), 100, Duration::ZERO);
        let mut memory = |current, desired| state.memory_growing(current, desired, None).unwrap();
        assert!(memory(0, 60));
        assert!(!memory(0, 60));
        assert!(memory(60, 80));
        assert!(memory(0, 20));
        assert!(!memory(80, 81));
        let mut table = |current, desired| state.table_growing(current, desired, None).unwrap();
        assert!(table(0, MAX_TABLE_ELEMENTS - 1));
        assert!(!table(0, 2));
        assert!(table(0, 1));
    }

    #[test]
    fn hashes_of_crates_are_left_out_of_backtraces() {
        let text = "0: std[d730ca44a121e5f3]::panic\n1: <[u8] as my[0123456789abcdef]::T>::f";
        assert_eq!(without_hashes(text), "0: std::panic\n1: <[u8] as my::T>::f");
    }
}
