//! Operation runs, as rows of `operation_runs`.

use super::ids::{ConnectionId, RunId, TenantId, WorkspaceId};
use super::json::{self, Json};
use super::names::text_enum;
use super::report::Overall;
pub use super::request::{ContextProblem, RunRequest, TargetScope};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

/// The only `operation_runs.type` that verifyd ever reads or writes.
pub const RUN_TYPE: &str = "provider.connection.check";

text_enum! {
    /// `operation_runs.status`
    pub enum RunStatus: "status" {
        Queued => "queued",
        Running => "running",
        Completed => "completed",
    }
}

text_enum! {
    /// `operation_runs.outcome`; `None` until the run is completed.
    pub enum Outcome: "outcome" {
        Succeeded => "succeeded",
        Failed => "failed",
        Blocked => "blocked",
    }
}

/// One row of `operation_runs`. `context` and `failure_summary` are kept as they were found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationRun {
    pub id: RunId,
    pub workspace_id: Option<WorkspaceId>,
    /// `None` for platform runs.
    pub tenant_id: Option<TenantId>,
    #[serde(rename = "type")]
    pub run_type: String,
    pub status: RunStatus,
    pub outcome: Option<Outcome>,
    pub context: Json,
    pub failure_summary: Json,
    pub created_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub completed_at: Option<DateTime<Utc>>,
    /// Whether it is not completed, and other runs have its id: nobody can tell them apart, so no worker claims any of them.
    #[serde(skip)]
    pub shares_id: bool,
    /// Whether the context gives the report more than once, so that readers would take different ones: none is read.
    #[serde(skip)]
    pub repeats_report: bool,
}

impl OperationRun {
    /// Returns the request of the producer, as far as `context` can be understood.
    pub fn request(&self) -> RunRequest {
        RunRequest::from_json(self.context.text())
    }

    /// The stored verification report as it is written, when there is exactly one.
    pub fn report(&self) -> Option<&str> {
        match self.repeats_report {
            true => None,
            false => json::member(self.context.text(), "verification_report"),
        }
    }

    /// The row as JSON, all of it parsed: for a process that reads no other run meanwhile.
    pub fn parsed(&self) -> serde_json::Result<Value> {
        let mut row = serde_json::to_value(Self {
            context: Json::default(),
            failure_summary: Json::default(),
            ..self.clone()
        })?;
        row["context"] = self.context.value();
        row["failure_summary"] = self.failure_summary.value();
        Ok(row)
    }
}

/// A run that was claimed: what working on it needs. Its context is not kept, however large it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedRun {
    pub id: RunId,
    pub workspace_id: Option<WorkspaceId>,
    /// None for platform runs.
    pub tenant_id: Option<TenantId>,
    /// The request of the producer, as far as `context` can be understood.
    pub request: RunRequest,
    /// None where it is no time that can be a run's.
    pub created_at: Option<DateTime<Utc>>,
}

text_enum! {
    /// What a list says of a run's report. The report is not validated before a person opens the run.
    pub enum ReportPresence: "report" {
        /// The run is not completed yet.
        Pending => "pending",
        /// A completed run without a report: another writer completed it.
        Missing => "missing",
        /// A report of a version that this build does not read.
        OtherVersion => "other_version",
        /// A document that is no report, or a row that is too large for a list.
        Unreadable => "unreadable",
        Readable => "readable",
    }
}

/// A run as lists show it: a few columns and members, none of them longer than people read.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    pub id: RunId,
    pub workspace_id: Option<WorkspaceId>,
    /// None for platform runs.
    pub tenant_id: Option<TenantId>,
    pub status: RunStatus,
    pub outcome: Option<Outcome>,
    /// The connection that the producer named. The report says whether it belongs to the tenant.
    pub provider_connection_id: Option<ConnectionId>,
    pub provider: Option<String>,
    pub module: Option<String>,
    pub display_name: Option<String>,
    pub report: ReportPresence,
    /// `summary.overall` of the report, where it is one of the four words.
    pub overall: Option<Overall>,
    pub fingerprint: Option<String>,
    /// Reason code of the most important problem.
    pub reason_code: Option<String>,
    /// Number of checks that failed or warn, by the report.
    pub problems: u64,
    pub created_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub completed_at: Option<DateTime<Utc>>,
    /// Of a queued run that is not due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Whether it is not completed, and other runs have its id: nobody can tell them apart, so no worker claims any of them.
    pub shares_id: bool,
}

/// What is read of a run while its progress is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunState {
    pub id: RunId,
    pub workspace_id: Option<WorkspaceId>,
    pub tenant_id: Option<TenantId>,
    pub status: RunStatus,
}
