//! What verifyd is about, without any input or output: runs, connections, permissions, reports.

pub mod access;
pub mod acknowledgement;
pub(crate) mod address;
pub(crate) mod attempt;
pub mod circuit;
pub(crate) mod client_secret;
pub mod completion;
pub mod completion_event;
pub mod connection;
pub mod connection_facts;
pub mod credential;
pub mod credential_cause;
pub(crate) mod excess;
mod ids;
pub mod job;
pub mod link;
pub(crate) mod module;
pub(crate) mod moment;
pub(crate) mod names;
pub(crate) mod onboarding;
pub(crate) mod outside_text;
pub(crate) mod overview;
pub mod permission;
pub mod plan;
pub mod reason;
pub mod report;
pub(crate) mod request;
pub mod run;
pub(crate) mod run_record;
mod severity;
pub mod token;
pub mod webhook;

pub use ids::{
    AcknowledgementId, ConnectionId, DeliveryId, EndpointId, RunId, SessionId, TenantId, TokenId,
    WorkerId, WorkspaceId,
};
pub use reason::Reason;
pub use run::{OperationRun, Outcome, RunStatus, RunSummary};
