//! Operation runs: the record of truth, as rows of `operation_runs`.

use super::ids::{ConnectionId, RunId, TenantId, WorkspaceId};
use super::names::text_enum;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The only `operation_runs.type` that verifyd ever reads or writes.
pub const RUN_TYPE: &str = "provider.connection.check";

/// `operation_runs.status`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Queued,
    Running,
    Completed,
}

/// `operation_runs.outcome`; null until the run is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    Failed,
    Blocked,
}

text_enum!(RunStatus, "status", Queued => "queued", Running => "running", Completed => "completed");
text_enum!(Outcome, "outcome", Succeeded => "succeeded", Failed => "failed", Blocked => "blocked");

/// One row of `operation_runs`. `context` and `failure_summary` are kept as they were found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationRun {
    pub id: RunId,
    pub workspace_id: Option<WorkspaceId>,
    /// Null for platform runs.
    pub tenant_id: Option<TenantId>,
    #[serde(rename = "type")]
    pub run_type: String,
    pub status: RunStatus,
    pub outcome: Option<Outcome>,
    pub context: Value,
    pub failure_summary: Value,
    pub created_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub completed_at: Option<DateTime<Utc>>,
}

impl OperationRun {
    /// What the producer asked for, as far as `context` can be understood.
    pub fn request(&self) -> RunRequest {
        RunRequest::from_context(&self.context)
    }

    /// The stored verification report, when there is one.
    pub fn report(&self) -> Option<&Value> {
        self.context
            .get("verification_report")
            .filter(|v| !v.is_null())
    }
}

/// What a producer put into `context`. Every member is optional here: what is missing or of the
/// wrong type is preflight's to name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunRequest {
    pub provider: Option<String>,
    pub module: Option<String>,
    pub provider_connection_id: Option<ConnectionId>,
    pub target_scope: Option<TargetScope>,
    /// Members that are there but of the wrong type: (path, what is allowed).
    pub malformed: Vec<(&'static str, &'static str)>,
}

/// `context.target_scope`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetScope {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entra_tenant_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entra_tenant_name: Option<String>,
}

impl RunRequest {
    /// Reads `context` leniently; never fails.
    pub fn from_context(context: &Value) -> Self {
        let mut request = Self::default();
        let mut text = |value: Option<&Value>, path: &'static str| -> Option<String> {
            match value {
                None | Some(Value::Null) => None,
                Some(Value::String(s)) if s.trim().is_empty() => None,
                Some(Value::String(s)) => Some(s.clone()),
                Some(_) => {
                    request.malformed.push((path, "a text"));
                    None
                }
            }
        };
        let provider = text(context.get("provider"), "context.provider");
        let module = text(context.get("module"), "context.module");
        let scope = match context.get("target_scope") {
            None | Some(Value::Null) => None,
            Some(Value::Object(scope)) => Some(TargetScope {
                entra_tenant_id: text(
                    scope.get("entra_tenant_id"),
                    "context.target_scope.entra_tenant_id",
                ),
                entra_tenant_name: text(
                    scope.get("entra_tenant_name"),
                    "context.target_scope.entra_tenant_name",
                ),
            }),
            Some(_) => {
                request
                    .malformed
                    .push(("context.target_scope", "an object"));
                None
            }
        };
        request.provider = provider;
        request.module = module;
        request.target_scope = scope;
        request.provider_connection_id = match context.get("provider_connection_id") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let id = value
                    .as_i64()
                    .or_else(|| value.as_str().and_then(|s| s.parse().ok()));
                if id.is_none() {
                    request
                        .malformed
                        .push(("context.provider_connection_id", "an integer"));
                }
                id.map(ConnectionId)
            }
        };
        request
    }
}
