//! What verifyd is about, without any input or output: runs, connections, permissions, reports.

pub mod completion;
pub mod connection;
pub mod credential;
pub mod ids;
pub mod job;
pub mod link;
pub mod names;
pub mod permission;
pub mod reason;
pub mod report;
pub mod run;
pub mod severity;

pub use ids::{ConnectionId, RunId, TenantId, WorkerId, WorkspaceId};
pub use reason::Reason;
pub use run::{OperationRun, Outcome, RunStatus};
