//! Built components and a host for the tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use plugin_host::wit::types::Context;
use plugin_host::{Host, HostOptions, Plugin, Setup, Source};

/// One host for all tests of this program: its cache spares compiling the same plugin again.
pub(crate) fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let cache_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-cache"));
        Host::new(HostOptions {
            cache_dir,
            call_timeout: Duration::from_secs(1),
            ..HostOptions::default()
        })
        .unwrap()
    })
}

/// Every component of a folder of the workspace's target folder, sorted.
pub(crate) fn components(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.retain(|file| file.extension().is_some_and(|end| end == "wasm"));
    files.sort();
    assert!(!files.is_empty(), "{} is empty; run `cargo xtask plugins`", folder.display());
    files
}

/// The component of one test guest.
pub(crate) fn misbehave() -> PathBuf {
    components("guests")
        .into_iter()
        .find(|file| file.ends_with("misbehave.wasm"))
        .expect("run `cargo xtask plugins`")
}

pub(crate) fn load(file: &Path) -> Plugin {
    host().load(Source::File(file.to_owned())).unwrap_or_else(|error| panic!("{error:#}"))
}

pub(crate) fn setup(settings: serde_json::Value) -> Setup {
    Setup::new(
        settings,
        Context {
            run_id: "test".to_owned(),
            model: "model".to_owned(),
            model_alias: "model".to_owned(),
            namespace: None,
            seed: 7,
            labels: Vec::new(),
            target: None,
            cluster: None,
        },
    )
}
