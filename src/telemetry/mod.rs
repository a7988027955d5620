//! Logs and metrics.

mod histograms;
pub(crate) mod logs;
pub mod metrics;
