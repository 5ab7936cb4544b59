//! What comes out of records: the metrics of known cases, health, reports and charts.

mod cases;
mod charts;
mod client;
mod closed;
mod health;
mod report;
mod run;
mod windows;
