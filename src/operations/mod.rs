//! What surfaces ask for: one file for each operation, so that CLI, API, pages and library follow the same
//! rules.

pub mod acknowledge;
pub mod plan;
pub mod read_run;
pub mod start_check;
