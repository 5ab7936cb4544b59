//! Drives traffic into an inference endpoint and times it.
//!
//! A [`Plan`] says what load is asked for; sessions come through a bounded [`ring`] for each
//! stage; [`start`] sets the threads going; what happened to each request is appended to a records
//! file. Latencies are not computed here: a record keeps facts, `analysis` subtracts.
//!
//! One thread paces: it sleeps to absolute times and hands out sessions the moment they are due.
//! A few threads load: each is a loop around connections of its own, sends, and reads; each read of
//! a socket has one time stamp, the kernel's. One thread writes the records.

mod alarm;
mod answer;
mod api;
mod client;
mod clock;
mod conductor;
mod endpoint;
mod exchange;
mod health;
mod hide;
mod http;
mod journal;
mod lengths;
mod live;
mod machine;
mod open;
mod plan;
mod prepare;
mod resolve;
mod ring;
mod run;
mod scan;
mod schedule;
mod session;
mod sse;
mod stage;
mod tasks;
mod template;
mod times;
mod tls;
mod together;
mod wire;
mod worker;

pub use endpoint::{Endpoint, EndpointError};
pub use live::{Percentiles, Progress};
pub use plan::*;
pub use ring::{Closed, Feeder, Supply, ring};
pub use run::{NotFound, Outcome, Run, StartError, start};
pub use together::{Agree, Agreement, Readiness, Shard, Together};

#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod chunking;
