//! Harness: stages of load.
