//! Finds, checks, limits and calls plugins: WebAssembly components behind the contract in `wit/`.
//!
//! A [`Host`] loads a [`Plugin`] from a file or from those embedded in the program; both go through the
//! same checks. A plugin says what it is and which settings it takes, and makes instances: each serves
//! one configuration in a store of its own, with a memory limit and a time limit for each call. The
//! only crate that knows wasmtime.
//!
//! What a plugin may do: return plans, and call the imports of `capability` as far as it was granted.
//! There is no WASI.

mod call;
mod capability;
mod embedded;
mod engine;
mod error;
mod grant;
mod instance;
mod kind;
mod load;
mod plugin;
mod settings;
pub mod wit;

pub use call::{AnalyzerInstance, BackendInstance, HarnessInstance, WorkloadInstance};
pub use capability::{Input, LogLine, contents};
pub use embedded::Embedded;
pub use engine::{Host, HostOptions, Source};
pub use error::{Details, Error, Fault};
pub use grant::{BadGrant, Grant, Objects};
pub use instance::{Clock, LogSink, Setup};
pub use kind::{Kind, NoSuchKind};
pub use plugin::Plugin;
pub use settings::{InputSetting, SettingError, merge};
