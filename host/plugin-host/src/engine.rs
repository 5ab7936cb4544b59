//! The engine that all plugins share: what is compiled how, cached where, and stopped when.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Cache, CacheConfig, Config, Engine};

use crate::embedded::{EMBEDDED, Embedded};
use crate::error::{Error, Fault};
use crate::instance::State;
use crate::plugin::Plugin;
use crate::wit::PluginHost;

/// How often a running plugin looks whether its time is over. Each time a processor wakes for it, also while load is
/// measured.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Where a plugin comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The program itself.
    Embedded(&'static Embedded),
    /// A file.
    File(PathBuf),
}

/// What holds for all plugins of a [`Host`].
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Absolute path of the folder that keeps compiled plugins. None: each load compiles.
    pub cache_dir: Option<PathBuf>,
    /// Linear memory in MiB for a plugin that does not say what it needs.
    pub default_memory_mib: u32,
    /// Linear memory in MiB that no plugin may exceed.
    pub max_memory_mib: u32,
    /// How long a call may take. Each mebibyte of an attached file that is read for the first time
    /// starts it anew.
    pub call_timeout: Duration,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            default_memory_mib: 256,
            max_memory_mib: 1024,
            call_timeout: Duration::from_secs(10),
        }
    }
}

/// Loads plugins.
pub struct Host {
    pub(crate) options: HostOptions,
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Host {
    /// Makes a host.
    ///
    /// # Errors
    /// When the processor has no compiler, or the thread that stops plugins cannot be started.
    pub fn new(options: HostOptions) -> Result<Self, Error> {
        let failed =
            |error: &dyn std::fmt::Display| Error::new("host", Fault::NotUsable, error.to_string());
        let engine =
            Engine::new(&configuration(&options)).map_err(|error| failed(&format!("{error:#}")))?;
        let mut linker = Linker::new(&engine);
        PluginHost::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)
            .map_err(|error| failed(&format!("{error:#}")))?;
        tick(&engine).map_err(|error| failed(&error))?;
        Ok(Self { options, engine, linker })
    }

    /// The plugins that are part of the program. Empty when it was built without them.
    pub fn embedded() -> &'static [Embedded] {
        EMBEDDED
    }

    /// Reads, checks and compiles a plugin and lets it introduce itself.
    ///
    /// # Errors
    /// When the file cannot be read or is no plugin for this host; the message says what it is instead.
    pub fn load(&self, source: Source) -> Result<Plugin, Error> {
        crate::load::load(self, source)
    }
}

fn configuration(options: &HostOptions) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true).wasm_backtrace_max_frames(std::num::NonZeroUsize::new(24));
    if let Some(folder) = &options.cache_dir {
        let mut cache = CacheConfig::new();
        cache.with_directory(folder);
        // A folder that cannot be written costs time, but is no reason to refuse the work.
        config.cache(Cache::new(cache).ok());
    }
    config
}

/// Lets time pass for the engine until it is gone.
fn tick(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    let thread = thread::Builder::new().name("plugin-clock".to_owned()).spawn(move || {
        loop {
            thread::sleep(TICK);
            let Some(engine) = engine.upgrade() else { break };
            engine.increment_epoch();
        }
    })?;
    drop(thread);
    Ok(())
}
