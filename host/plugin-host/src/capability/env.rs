//! `env`: time, seed and facts.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::instance::{Clock, State};
use crate::wit::{env, types};

/// What `env` gives.
pub(crate) struct Env {
    pub(crate) seed: u64,
    pub(crate) clock: Clock,
    pub(crate) features: Vec<String>,
    pub(crate) facts: Vec<(String, String)>,
}

impl env::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok((self.capabilities.env.clock)())
    }

    fn unix_now(&mut self) -> wasmtime::Result<u64> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    fn seed(&mut self) -> wasmtime::Result<u64> {
        Ok(self.capabilities.env.seed)
    }

    fn features(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.capabilities.env.features.clone())
    }

    fn facts(&mut self) -> wasmtime::Result<Vec<types::Label>> {
        let facts = self.capabilities.env.facts.iter();
        Ok(facts
            .map(|(key, value)| types::Label { key: key.clone(), value: value.clone() })
            .collect())
    }
}
