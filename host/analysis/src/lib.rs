//! Records in; metrics, statistics, charts and reports out.
