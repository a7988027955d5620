//! Data types and rules without any input or output: runs, connections, permissions, reports.

pub mod access;
pub mod acknowledgement;
pub mod attempt;
pub mod circuit;
pub mod client_secret;
pub mod completion;
pub mod completion_event;
pub mod connection;
pub mod connection_facts;
pub mod credential;
pub mod credential_cause;
pub mod excess;
pub mod hint;
pub mod ids;
pub mod link;
pub mod module;
pub mod names;
pub mod onboarding;
pub mod overview;
pub mod permission;
pub mod plan;
pub mod reason;
pub mod report;
pub mod request;
pub mod run;
pub mod run_record;
pub mod server_address;
pub mod severity;
pub mod text_decoding;
pub mod time_input;
pub mod token;
pub mod webhook;

pub use ids::{
    AcknowledgementId, ConnectionId, DeliveryId, EndpointId, RunId, SessionId, TenantId, TokenId,
    WorkerId, WorkspaceId,
};
pub use reason::Reason;
pub use run::{OperationRun, Outcome, RunStatus, RunSummary};
