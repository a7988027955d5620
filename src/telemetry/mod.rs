//! Logs, metrics, traces, and what this program was built from.

pub mod build_info;
mod histograms;
mod library_limit;
pub(crate) mod log_filter;
pub(crate) mod logs;
pub mod metrics;
#[cfg(test)]
mod own_process;
pub mod sampling;
mod source_path;
pub mod traces;
