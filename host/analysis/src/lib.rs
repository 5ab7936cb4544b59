//! Records in; metrics, statistics, charts and reports out.
//!
//! Everything here is a pure function of a run's entries: the same records give the same bytes.
//! No files are touched and no time is taken. A [`Collector`] takes the entries one by one and
//! gives an [`Analysis`], from which [`report`] and [`charts`] make what people look at.

mod analysis;
mod cache;
mod calibration;
pub mod charts;
mod collector;
mod gaps;
mod health;
pub mod lmbench;
mod metric;
mod notes;
mod plugin;
pub mod report;
pub mod server;
mod slo;
mod statistics;
mod steady;
mod summarise;
mod summary;
mod timeline;

pub use analysis::{Analysis, Curve, Options, StageCurves};
pub use cache::{CacheState, CacheSummary, CacheView, CacheWish, EXPECTED_CACHED};
pub use calibration::{Calibration, Deviation, Equals, Headroom, Machine};
pub use collector::Collector;
pub use health::{About, Doubt, Health, Reason, STEADY_FROM, Verdict, health_markdown};
pub use metric::{Better, METRICS, Metric, metric, metrics_markdown};
pub use notes::{Note, Severity};
pub use plugin::{PluginChart, PluginFinding, PluginMetric, PluginReport, PluginResults, Table};
pub use slo::{Limit, Slo, SloError};
pub use statistics::{P50, P99, Percentile, sorted, tidy};
pub use summary::{
    AllSent, Distribution, FORMAT, Measured, Pace, Single, StageSummary, Summary, VERSION,
};
pub use timeline::{Bin, Phase, Timeline};
