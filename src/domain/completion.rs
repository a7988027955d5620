//! What a run ends with.

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

/// What a run ends with. The store writes all of it in one transaction.
#[derive(Clone, Debug)]
pub struct Completion {
    pub outcome: Outcome,
    /// The validated report, exactly as it is to be stored.
    pub report: Box<RawValue>,
    /// Same as the report's `fingerprint`.
    pub fingerprint: String,
    /// Same as the report's `summary.overall`.
    pub overall: String,
    pub failure_summary: Vec<FailureEntry>,
    /// Set when the outcome is `blocked`: `context.reason_code` and `context.next_steps`.
    pub blocked: Option<BlockedBy>,
    /// What was checked, where that is known: added to `context` where the producer left it out.
    pub checked: Option<CheckedTarget>,
    /// Set when the provider told what it has granted; null keeps the last known inventory.
    pub inventory: Option<Arc<InventoryRefresh>>,
    /// The connection whose latest report this is. Null when the run named no connection of its
    /// own tenant, so that a stranger's connection is never written to.
    pub connection: Option<ConnectionId>,
    /// What the check has learnt, where it is not kept yet. Written after the completion, on its own.
    pub facts: Option<KeptFacts>,
}

/// `context.provider` and `context.module`, as they were checked, and the directory's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedTarget {
    pub provider: String,
    pub module: String,
    /// A member of `target_scope` that is there.
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
