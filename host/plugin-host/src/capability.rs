//! What a plugin may ask of the host: one file for each import, each without knowledge of wasm.

pub(crate) mod env;
pub(crate) mod http;
pub(crate) mod inputs;
pub(crate) mod log;
pub(crate) mod tokenizer;

#[expect(unreachable_pub, reason = "the generated bindings export the resource's type")]
pub use inputs::Reader;
pub use inputs::{Input, contents};
pub use log::LogLine;

use wasmtime::component::ResourceTable;

use crate::instance::{Setup, State};
use crate::kind::Kind;
use crate::wit::{commands, requests, results, stages, types};

/// All imports of one instance.
pub(crate) struct Capabilities {
    pub(crate) log: log::Log,
    pub(crate) env: env::Env,
    pub(crate) inputs: inputs::Inputs,
    pub(crate) tokenizer: tokenizer::Tokens,
    pub(crate) http: http::Http,
    /// Readers that the plugin holds.
    pub(crate) table: ResourceTable,
}

impl Capabilities {
    /// What a setup allows.
    pub(crate) fn new(plugin: &str, kind: Kind, setup: &Setup) -> Self {
        Self {
            log: log::Log::new(plugin, Some(kind), setup.log_level, setup.log.clone()),
            env: env::Env {
                seed: env::mix(setup.seed, plugin, kind),
                clock: setup.clock.clone(),
                features: setup.features.clone(),
                facts: setup.facts.clone(),
            },
            inputs: inputs::Inputs::new(setup.inputs.clone()),
            tokenizer: tokenizer::Tokens(setup.tokenizer.clone()),
            http: http::Http::new(&setup.grants, setup.context.target.as_ref()),
            table: table(),
        }
    }

    /// Everything refused.
    pub(crate) fn none(plugin: &str) -> Self {
        Self {
            log: log::Log::new(
                plugin,
                None,
                crate::wit::log::Level::Error,
                std::sync::Arc::new(|_| ()),
            ),
            env: env::Env {
                seed: 0,
                clock: std::sync::Arc::new(|| 0),
                features: Vec::new(),
                facts: Vec::new(),
            },
            inputs: inputs::Inputs::new(Vec::new()),
            tokenizer: tokenizer::Tokens(None),
            http: http::Http::new(&[], None),
            table: table(),
        }
    }
}

fn table() -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(inputs::MOST_OPEN);
    table
}

/// An error for the plugin, which may pass it on to the user.
pub(crate) fn error(kind: types::ErrorKind, message: impl Into<String>) -> types::Error {
    types::Error { kind, message: message.into(), at: None, hint: None, retry_after: None }
}

// Interfaces that have only types.
impl types::Host for State {}
impl stages::Host for State {}
impl requests::Host for State {}
impl commands::Host for State {}
impl results::Host for State {}
