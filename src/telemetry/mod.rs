//! Logs and metrics.

mod histograms;
pub(crate) mod log_filter;
pub(crate) mod logs;
pub mod metrics;
