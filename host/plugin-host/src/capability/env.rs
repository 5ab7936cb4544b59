//! `env`: time, seed and facts.

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::instance::{Clock, State};
use crate::kind::Kind;
use crate::wit::{env, types};

/// What `env` gives.
pub(crate) struct Env {
    pub(crate) seed: u64,
    pub(crate) clock: Clock,
    pub(crate) features: Vec<String>,
    pub(crate) facts: Vec<(String, String)>,
}

/// A seed of the plugin's own, the same on every machine.
pub(crate) fn mix(seed: u64, plugin: &str, kind: Kind) -> u64 {
    let digest = Sha256::digest(format!("{seed} {plugin} {kind}"));
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_and_kinds_have_seeds_of_their_own_that_stay() {
        let seed = mix(7, "synthetic", Kind::Workload);
        assert_eq!(seed, mix(7, "synthetic", Kind::Workload));
        for other in [
            mix(8, "synthetic", Kind::Workload),
            mix(7, "sharegpt", Kind::Workload),
            mix(7, "synthetic", Kind::Harness),
        ] {
            assert_ne!(seed, other);
        }
    }
}
