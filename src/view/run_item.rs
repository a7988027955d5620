//! A run as it stands in lists: made of a summary, never of a report.

use super::report::verdict_in_list;
use crate::domain::RunId;
use crate::domain::report::Overall;
use crate::domain::run::{Outcome, ReportPresence, RunStatus, RunSummary};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// A run as it stands in lists.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RunItem {
    pub operation_run_id: i64,
    pub workspace_id: Option<i64>,
    pub tenant_id: Option<i64>,
    /// As the producer named it.
    pub provider_connection_id: Option<i64>,
    pub provider: Option<String>,
    pub module: Option<String>,
    pub display_name: Option<String>,
    pub status: RunStatus,
    pub outcome: Option<Outcome>,
    pub recorded_at: Option<DateTime<Utc>>,
    pub completed_at: Option<DateTime<Utc>>,
    /// Whether it is not completed, and other runs have its id, so that no worker claims it.
    pub shares_id: bool,
    /// `pending`, `missing`, `other_version`, `unreadable` or `readable`. A list does not validate
    /// reports: the run itself says whether its report is valid.
    #[schema(value_type = String)]
    pub report: ReportPresence,
    /// Null without a report that can be read.
    pub overall: Option<Overall>,
    pub fingerprint: Option<String>,
    /// Reason code of the most important problem.
    pub main_reason: Option<String>,
    /// Checks that failed or warn.
    pub problems: u64,
    /// Path of the run.
    pub href: String,
    /// For people: names no permission, and does not know what people have accepted.
    #[serde(skip)]
    pub verdict: String,
}

impl From<RunSummary> for RunItem {
    fn from(run: RunSummary) -> Self {
        Self {
            verdict: verdict_in_list(&run),
            operation_run_id: run.id.0,
            workspace_id: run.workspace_id.map(|id| id.0),
            tenant_id: run.tenant_id.map(|id| id.0),
            provider_connection_id: run.provider_connection_id.map(|id| id.0),
            provider: run.provider,
            module: run.module,
            display_name: run.display_name,
            status: run.status,
            outcome: run.outcome,
            recorded_at: run.created_at,
            completed_at: run.completed_at,
            shares_id: run.shares_id,
            report: run.report,
            overall: run.overall,
            fingerprint: run.fingerprint,
            main_reason: run.reason_code,
            problems: run.problems,
            href: Self::href(run.id),
        }
    }
}

impl RunItem {
    /// The path of a run in the API.
    pub fn href(id: RunId) -> String {
        format!("/v1/runs/{id}")
    }
}
