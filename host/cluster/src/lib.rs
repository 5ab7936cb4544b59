//! Kubernetes, as far as a benchmark needs it: connect, apply, wait with the reason shown, observe, read logs, run
//! commands in pods, forward ports, delete until gone. Nothing here knows what is deployed or why.
//!
//! | module | responsible for |
//! | --- | --- |
//! | `connection` | who the cluster is and which kinds it knows |
//! | `object` | names of objects, their order, and who owns them |
//! | `answer` | requests that must be answered in time |
//! | `apply`, `delete` | bringing objects there and removing them, both by owner |
//! | `find` | what an owner has anywhere, and what others have |
//! | `wait` | watching until a condition holds, or cannot hold any more |
//! | `condition` | whether objects are as they should be; pure |
//! | `signals`, `diagnosis` | what is wrong with objects, and what to do about it; pure |
//! | `pod` | logs, commands and ports of pods |
//! | `evidence` | what there is to see of an owner's objects: pods, logs, events, nodes |
//!
//! Everything that asks the cluster is a future of tokio's; dropping one cancels it. Progress is told to a closure.

mod answer;
mod apply;
mod condition;
mod connection;
mod delete;
mod diagnosis;
mod error;
mod evidence;
#[cfg(test)]
mod fake;
mod find;
mod object;
mod pod;
mod secret;
mod signals;
mod wait;

pub use apply::{Applied, Effect};
pub use condition::Condition;
pub use connection::{Access, Cluster};
pub use delete::{Left, Removal};
pub use diagnosis::{Diagnosis, Log, Observed, diagnose, explain};
pub use error::{Error, Result};
pub use evidence::{ContainerLog, Evidence};
pub use find::{Found, Search};
pub use object::{MANAGER, ObjectRef, Owner, PREPARED_LABEL, RUN_LABEL, Selection, Which};
pub use pod::{CommandOutput, Forward, LogOptions, Pipe, PodPort};
pub use signals::{Patience, Place, SIGNALS, Signal};
pub use wait::Progress;
