//! Ctrl-C and SIGTERM, counted: the first asks for an orderly end, the second for a quick one.

use crate::error::{Error, Exit, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Starts to count. Called once, by `main`.
pub(crate) fn watch() -> std::result::Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        COUNT.fetch_add(1, Ordering::SeqCst);
    })
}

/// How often the user asked for an end.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::SeqCst)
}

/// An error when the user asked for an end.
pub(crate) fn check() -> Result<()> {
    check_beyond(0)
}

/// An error when the user asked for an end more often than so many times, which were heeded already.
pub(crate) fn check_beyond(heeded: usize) -> Result<()> {
    if count() > heeded { Err(Error::new(Exit::Interrupted, "interrupted")) } else { Ok(()) }
}
