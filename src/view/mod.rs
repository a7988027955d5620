//! What people are shown of runs and reports: one view model for every surface, so that terminal,
//! API and page can never disagree.

pub mod report;

pub use report::{CheckView, ReportView, RunView};
