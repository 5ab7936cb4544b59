//! What the author of an llmdbench plugin depends on.
//!
//! A plugin implements the trait of its kind - [`Backend`], [`Harness`], [`Workload`] or
//! [`Analyzer`], or several - and names it in [`export!`]. An instance of a plugin serves one
//! configuration: the host calls `configure`, the SDK keeps the value that it gives, and every later
//! call gets that value.
//!
//! ```
//! use llmdbench_plugin::requests::{Request, Session};
//! use llmdbench_plugin::{Context, Error, Info, Workload, workload::Size};
//!
//! #[derive(serde::Deserialize)]
//! struct Settings {
//!     requests: u64,
//! }
//!
//! struct Greetings {
//!     next: u64,
//!     end: u64,
//! }
//!
//! impl Workload for Greetings {
//!     type Settings = Settings;
//!
//!     fn configure(settings: Settings, _: Context) -> Result<Self, Error> {
//!         Ok(Greetings { next: 0, end: settings.requests })
//!     }
//!
//!     fn size(&self) -> Size {
//!         Size { sessions: Some(self.end), requests: Some(self.end), ..Size::default() }
//!     }
//!
//!     fn next_batch(&mut self, _stage: u32, max: u32) -> Result<Vec<Session>, Error> {
//!         let ids = self.next..self.end.min(self.next + u64::from(max));
//!         self.next = ids.end;
//!         Ok(ids.map(|id| Session::single(id, Request::text(format!("Hello, number {id}!")))).collect())
//!     }
//! }
//!
//! fn manifest() -> Info {
//!     llmdbench_plugin::info!().schema(
//!         r#"{"type": "object", "additionalProperties": false,
//!             "properties": {"requests": {"type": "integer", "minimum": 1, "default": 10}}}"#,
//!     )
//! }
//!
//! llmdbench_plugin::export! { manifest: manifest, workload: Greetings }
//! ```
//!
//! The crate of a plugin is an ordinary library, so its logic has ordinary tests. The imports
//! ([`env`], [`inputs`], [`tokenizer`], [`http`]) are there only inside the host: keep them at the edge,
//! and let the logic take `impl BufRead`, numbers and texts. [`log`] works everywhere; outside the
//! host it does nothing.

// The macros of the bindings speak of this crate by its name, in here as well.
extern crate self as llmdbench_plugin;

#[doc(hidden)]
pub mod bindings;
mod build;
mod duration;
mod error;
mod exported;
pub mod inputs;
mod kinds;
pub mod kubernetes;
pub mod log;
mod manifest;
pub mod model;

#[doc(hidden)]
pub use wit_bindgen;

pub use bindings::manifest::exports::llmdbench::plugin::manifest::{Info, Permission};
pub use bindings::shared::llmdbench::plugin::types::{Context, Error, ErrorKind, Label};
pub use bindings::shared::llmdbench::plugin::{
    commands, env, http, requests, results, stages, tokenizer, types,
};
pub use build::label;
pub use duration::Duration;
#[doc(hidden)]
pub use exported::Exported;
pub use kinds::{Analyzer, Backend, Dialogue, Harness, Importer, Steering, Workload};
pub use manifest::permission;

/// Types of the interface `backend`.
pub mod backend {
    pub use crate::bindings::backend::exports::llmdbench::plugin::backend::{
        Action, Condition, ConditionTest, Document, HttpCheck, Release, ReleaseRef, RemoteDocument,
        Secret, SecretEntry, Step, ValueTest, Wait,
    };
}

/// Types of the interface `harness`.
pub mod harness {
    pub use crate::bindings::harness::exports::llmdbench::plugin::harness::{
        CommandPlan, Execution,
    };
}

/// Types of the interface `steering`.
pub mod steering {
    pub use crate::bindings::steering::exports::llmdbench::plugin::steering::{
        Directive, Quantiles, Snapshot,
    };
}

/// Types of the interface `importer`.
pub mod importer {
    pub use crate::bindings::importer::exports::llmdbench::plugin::importer::Rows;
}

/// Types of the interface `workload`.
pub mod workload {
    pub use crate::bindings::workload::exports::llmdbench::plugin::workload::Size;
}

/// Types of the interface `analyzer`.
pub mod analyzer {
    pub use crate::bindings::analyzer::exports::llmdbench::plugin::analyzer::{
        Artifact, Axis, BarGroup, Bars, Cells, Chart, Drawing, Finding, Heatmap, Needs, Points,
        Report, Severity, Table, TableColumn,
    };
}
