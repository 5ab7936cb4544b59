//! The record: what happened to one request, as facts, and the file that keeps it.
//!
//! A records file is JSON Lines. The first line is the [`Header`]; every other line is an
//! [`Entry`]: a [`Record`], or an [`Event`] of the run (its stages and the load generator's own
//! health). The file is only ever appended to, so one that was cut off by a crash is read up to
//! its last whole line. Times are nanoseconds on the run's monotonic clock, which reads 0 when
//! load starts. Nothing here is a latency: those are differences, made by the `analysis` crate.

mod event;
mod file;
mod header;
mod merge;
mod quick;
mod record;

pub use event::{
    Astray, BROKE_DOWN, BrokeDown, ClientSample, EndReason, Event, StageBegin, StageEnd,
    StagePhase, ThreadSample,
};
pub use file::{ReadError, Reader, Writer};
pub use header::{FORMAT, Header, LoopKind, StageInfo, VERSION, VersionError};
pub use merge::{MergeError, merge};
pub use record::{Connection, Failure, FailureKind, Record, UsageSource};

/// A line of a records file after its header.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// What happened to one request.
    Record(Box<Record>),
    /// Something that happened to the run.
    Event(Event),
}
