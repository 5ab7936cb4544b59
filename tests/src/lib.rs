//! Tests that need a real part: the program, its processes, a real server.
//!
//! This is what they have in common: [`Bench`] runs the program in a folder of its own and reads
//! what it left, [`Server`] is the program's simulated server, [`Stub`] a server that says whatever
//! a test wants, [`Relay`] keeps what the program and a server say to each other, [`Stand`] is a namespace of a
//! real cluster. Everything is bounded in time and listens at a port that the system chose.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod bench;
mod eyes;
mod program;
mod relay;
mod server;
mod stand;
mod stub;

pub use bench::{Bench, Log, ms};
pub use program::{Ended, Running, lives, plugin, program, root, until, wait_until};
pub use relay::{Heard, Relay};
pub use server::{Server, TruthLine, metric};
pub use stand::{BrokenApi, Stand};
pub use stub::{Reply, Request, Stub, get};
