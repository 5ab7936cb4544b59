//! The promises that every built plugin keeps, and what becomes of files and plugins that keep none.

#![expect(clippy::unwrap_used, reason = "these are tests, helpers included")]

mod conformance;
mod misbehaviour;
mod refusals;
mod support;
