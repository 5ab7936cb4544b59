//! The phases of a benchmark: plan, standup, smoketest, run, analyze, teardown. Each reads what
//! the one before it wrote, so that each can be repeated alone.

mod analyzer_report;

pub(crate) mod analyze;
pub(crate) mod analyzers;
pub(crate) mod cache;
pub(crate) mod calibrate;
pub(crate) mod dry_run;
pub(crate) mod environment;
pub(crate) mod evidence;
pub(crate) mod hidden;
pub(crate) mod inside;
pub(crate) mod lmbench;
pub(crate) mod nvidia_smi;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod server_metrics;
pub(crate) mod smoketest;
pub(crate) mod standup;
pub(crate) mod supply;
pub(crate) mod teardown;
