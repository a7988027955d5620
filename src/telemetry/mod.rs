//! Logs and metrics.

mod histograms;
pub mod logs;
pub mod metrics;
