//! What users of llm-d-benchmark bring along: variables, scenarios, options, profiles, results.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod dry_run;
mod load;
mod results;
mod settings;
