//! What can go wrong with a plugin, told such that its user knows which one, where, and what to do.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::kind::Kind;
use crate::wit::types;

/// A plugin could not be loaded, or a call of it failed.
///
/// `{}` is one fragment that names plugin, version and kind; `{:#}` adds the hint and, for a crash, the
/// plugin's own backtrace.
#[derive(Clone, Debug)]
pub struct Error(Box<Details>);

/// What an [`Error`] tells.
#[derive(Clone, Debug)]
pub struct Details {
    /// The plugin's name, or the path of its file as long as it has not said its name.
    pub plugin: String,
    /// The plugin's version, as soon as it has said it.
    pub version: Option<String>,
    /// The kind that was asked.
    pub kind: Option<Kind>,
    /// The class of what went wrong.
    pub fault: Fault,
    /// What went wrong.
    pub message: String,
    /// JSON pointer into the settings of this kind, where one setting is to blame.
    pub at: Option<String>,
    /// What the user can do about it.
    pub hint: Option<String>,
    /// Functions of the plugin under way when it crashed, innermost first.
    pub backtrace: Option<String>,
}

/// Classes of what can go wrong.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The file cannot be read.
    File,
    /// The file is no component that this host could use.
    NotUsable,
    /// The plugin speaks another version of the contract.
    Version,
    /// The plugin is not of the kind that was asked.
    WrongKind,
    /// A permission that the plugin needs was not granted.
    Denied,
    /// The plugin answered with an error of its own.
    Answer(types::ErrorKind),
    /// The plugin crashed. The instance is dead.
    Crash,
    /// The plugin took longer than it may. The instance is dead.
    Time,
    /// The plugin needed more memory than it may. The instance is dead.
    Memory,
    /// The plugin returned more than it may. The instance is dead.
    TooMuch,
}

impl Error {
    pub(crate) fn new(plugin: impl Into<String>, fault: Fault, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            plugin: plugin.into(),
            version: None,
            kind: None,
            fault,
            message: message.into(),
            at: None,
            hint: None,
            backtrace: None,
        }))
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the settings, and not the plugin, are to blame.
    pub fn blames_settings(&self) -> bool {
        matches!(self.fault, Fault::Answer(types::ErrorKind::InvalidSettings))
    }
}

impl Deref for Error {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl DerefMut for Error {
    fn deref_mut(&mut self) -> &mut Details {
        &mut self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {}", self.plugin)?;
        if let Some(version) = &self.version {
            write!(f, " {version}")?;
        }
        if let Some(kind) = self.kind {
            write!(f, " ({kind})")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(at) = &self.at {
            write!(f, " (at {at})")?;
        }
        if f.alternate() {
            if let Some(hint) = &self.hint {
                write!(f, "\nhint: {hint}")?;
            }
            if let Some(backtrace) = &self.backtrace {
                write!(f, "\nwhere the plugin was:\n{backtrace}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
