//! Data types and rules without any input or output: runs, connections, permissions, reports.

pub mod access;
pub mod acknowledgement;
pub(crate) mod attempt;
pub mod audit;
pub mod budget;
pub mod circuit;
pub(crate) mod client_secret;
pub mod completion;
pub mod completion_event;
pub mod connection;
pub mod connection_facts;
pub mod credential;
pub mod credential_cause;
pub(crate) mod excess;
pub mod groups;
pub mod hint;
pub(crate) mod host_list;
mod ids;
pub mod json;
pub mod link;
pub(crate) mod module;
pub(crate) mod names;
pub(crate) mod onboarding;
pub(crate) mod overview;
pub(crate) mod pause;
pub mod permission;
pub mod plan;
pub mod reason;
pub mod report;
pub(crate) mod request;
pub mod run;
pub(crate) mod run_record;
pub(crate) mod server_address;
mod severity;
pub(crate) mod text_decoding;
pub(crate) mod time_input;
pub mod tls_cause;
pub mod token;
pub mod trace_parent;
pub(crate) mod web_address;
pub mod webhook;

pub use ids::{
    ALLOWED_ID, AcknowledgementId, AuditEntryId, ConnectionId, DeliveryId, EndpointId, InvalidId,
    ObjectId, RunId, SessionId, TenantId, TokenId, WorkerId, WorkspaceId,
};
pub use reason::Reason;
pub use run::{OperationRun, Outcome, RunStatus, RunSummary};
