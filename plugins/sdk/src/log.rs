//! Lines for the run's log. Lines of level warn and error that are written in `configure` or `plan`
//! also stand in the plan and in the report: the place for "the result may not be what you think".
//!
//! Outside the host (in unit tests) the functions do nothing.

pub use crate::bindings::shared::llmdbench::plugin::log::Level;

use crate::Label;
use crate::bindings::shared::llmdbench::plugin::log as host;

/// Whether the host keeps lines of this level, for those that are costly to make.
pub fn is_kept(level: Level) -> bool {
    cfg!(target_arch = "wasm32") && level as u8 >= host::max_level() as u8
}

/// Writes one line with fields.
pub fn write(level: Level, message: &str, fields: &[Label]) {
    if cfg!(target_arch = "wasm32") {
        host::write(level, message, fields);
    }
}

/// What the plugin's author wants to see.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref(), &[]);
}

/// What the user may want to see.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref(), &[]);
}

/// The result may not be what the user thinks.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref(), &[]);
}

/// Something failed.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref(), &[]);
}
