//! The kinds of plugins, and the optional abilities beside them.

use std::fmt;
use std::str::FromStr;

/// What a plugin can be; one component can be several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Sets up, finds and removes a system under test.
    Backend,
    /// Says how load is made.
    Harness,
    /// Says what is asked.
    Workload,
    /// Says what the measurements mean.
    Analyzer,
}

impl Kind {
    /// Every kind, in the order in which a run needs them.
    pub const ALL: [Self; 4] = [Self::Backend, Self::Harness, Self::Workload, Self::Analyzer];

    /// The name, which is also that of the interface: "backend".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Harness => "harness",
            Self::Workload => "workload",
            Self::Analyzer => "analyzer",
        }
    }

    /// The name with its article: "a backend", "an analyzer".
    pub fn with_article(self) -> &'static str {
        match self {
            Self::Backend => "a backend",
            Self::Harness => "a harness",
            Self::Workload => "a workload",
            Self::Analyzer => "an analyzer",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is none of the kinds.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no kind of plugin; the kinds are backend, harness, workload and analyzer")]
pub struct NoSuchKind(String);

impl FromStr for Kind {
    type Err = NoSuchKind;

    fn from_str(text: &str) -> Result<Self, NoSuchKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| NoSuchKind(text.to_owned()))
    }
}
