//! What surfaces ask for: one file for each operation, so that CLI, API, pages and library follow the same
//! rules. Each takes what whoever asks may reach, and ends with the same [`OperationError`].

pub mod acknowledge;
pub mod connections;
mod error;
pub mod plan;
pub mod read_run;
pub mod start_check;
mod text;
pub mod tokens;
pub mod webhooks;
pub mod workers;

pub use connections::find_connection;
pub use error::OperationError;
pub use read_run::{find_run, read_run, read_session, wait_for_run};
pub use start_check::{CheckRequest, StartedCheck, start_check};
pub use workers::{list_workers, may_list_workers};
