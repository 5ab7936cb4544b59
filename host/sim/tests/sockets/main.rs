//! Tests of the server over real sockets, with a client on a bare socket.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the right end")]

mod answers;
mod faults;
mod quirks;
mod support;
