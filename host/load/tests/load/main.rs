//! Load against a scripted server.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod chunking;
mod requests;
mod runs;
mod streams;
mod support;
mod tls;
mod together;
