//! The completion of a run.

use super::connection_facts::KeptFacts;
use super::ids::ConnectionId;
use super::permission::InventoryRefresh;
use super::reason::Reason;
use super::report::NextStep;
use super::run::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

/// One entry of `operation_runs.failure_summary`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureEntry {
    /// Key of the check that failed.
    pub check: String,
    pub reason_code: Reason,
    pub message: String,
}

/// Everything that the end of a run writes. The store writes it in one transaction.
#[derive(Clone, Debug)]
pub struct Completion {
    pub outcome: Outcome,
    /// The validated report, exactly as it is stored.
    pub report: Box<RawValue>,
    /// Same as the report's `fingerprint`.
    pub fingerprint: String,
    /// Same as the report's `summary.overall`.
    pub overall: String,
    pub failure_summary: Vec<FailureEntry>,
    /// Set when the outcome is `blocked`: `context.reason_code` and `context.next_steps`.
    pub blocked: Option<BlockedBy>,
    /// What was checked, where that is known. It is added to `context` where the producer left it out.
    pub checked: Option<CheckedTarget>,
    /// The inventory, when the provider could read it; `None` keeps the last known one.
    pub inventory: Option<Arc<InventoryRefresh>>,
    /// The connection that this report is the latest one of. `None` when the run named no connection of its
    /// own tenant, so that a connection of another tenant is never written to.
    pub connection: Option<ConnectionId>,
    /// New facts about the connection. They are written by a statement of their own after the completion.
    pub facts: Option<KeptFacts>,
}

/// `context.provider` and `context.module`, as they were checked, and the directory's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedTarget {
    pub provider: String,
    pub module: String,
    /// A member of `target_scope`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_scope: Option<CheckedScope>,
}

/// `context.target_scope.entra_tenant_name`, where the producer left it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedScope {
    pub entra_tenant_name: String,
}

/// `context.reason_code` and `context.next_steps` of a blocked run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockedBy {
    pub reason_code: Reason,
    pub next_steps: Vec<NextStep>,
}
