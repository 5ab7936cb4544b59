//! Faults that users of such tools reported, each with its right outcome, and each for its whole kind.
//!
//! The numbers are those of the list of cases that the project began with.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod data;
mod metrics;
mod streams;
mod traces;
mod waiting;
mod writing;
