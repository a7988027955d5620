//! Runs as lists show them, for both databases. Statements cut every text, so that a row is small
//! whatever a producer wrote.

use super::from_row::from_row;
use super::rows::name;
use super::tolerant_decoding::{Text, Time};
use crate::domain::report::SCHEMA_VERSION;
use crate::domain::run::{ReportPresence, RunState, RunStatus, RunSummary};
use crate::domain::{ConnectionId, RunId, TenantId, WorkspaceId};
use crate::ports::store_error::StoreError;

from_row! {
    /// A run without its context; `listed` is false where that is too large for a list. `report_type` is
    /// as JSON calls it; it and what follows are NULL where there is no report.
    #[derive(Debug)]
    pub(super) struct SummaryRow {
        id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        status: Text,
        outcome: Option<Text>,
        created_at: Option<Time>,
        started_at: Option<Time>,
        completed_at: Option<Time>,
        listed: bool,
        connection: Option<Text>,
        provider: Option<Text>,
        module: Option<Text>,
        display_name: Option<Text>,
        report_type: Option<Text>,
        schema_version: Option<Text>,
        overall: Option<Text>,
        fingerprint: Option<Text>,
        failed: Option<Text>,
        warned: Option<Text>,
        main_reason: Option<Text>,
    }
}

impl TryFrom<SummaryRow> for RunSummary {
    type Error = StoreError;
    fn try_from(row: SummaryRow) -> Result<Self, StoreError> {
        const TABLE: &str = "operation_runs";
        let id = row.id;
        let text = |text: Option<Text>| text.map(|text| text.0).filter(|t| !t.trim().is_empty());
        let count = |count: Option<Text>| count.and_then(|n| n.0.parse::<u64>().ok()).unwrap_or(0);
        let status: RunStatus = name(TABLE, "status", id, &row.status.0)?;
        let report = match (row.report_type.as_ref().map(|t| t.0.as_str()), status) {
            _ if !row.listed => match status {
                RunStatus::Completed => ReportPresence::Unreadable,
                _ => ReportPresence::Pending,
            },
            (None | Some("null"), RunStatus::Completed) => ReportPresence::Missing,
            (None | Some("null"), _) => ReportPresence::Pending,
            (Some("object"), _) => version(row.schema_version.as_ref().map(|t| t.0.as_str())),
            (Some(_), _) => ReportPresence::Unreadable,
        };
        let overall = row.overall.and_then(|overall| overall.0.parse().ok());
        // A report without a verdict is none.
        let report = match (report, overall) {
            (ReportPresence::Readable, None) => ReportPresence::Unreadable,
            (report, _) => report,
        };
        let readable = report == ReportPresence::Readable;
        Ok(Self {
            id: RunId(id),
            workspace_id: row.workspace_id.map(WorkspaceId),
            tenant_id: row.tenant_id.map(TenantId),
            status,
            outcome: row
                .outcome
                .map(|text| name(TABLE, "outcome", id, &text.0))
                .transpose()?,
            provider_connection_id: row
                .connection
                .and_then(|id| id.0.parse().ok())
                .map(ConnectionId),
            provider: text(row.provider),
            module: text(row.module),
            display_name: text(row.display_name),
            report,
            overall: overall.filter(|_| readable),
            fingerprint: text(row.fingerprint).filter(|_| readable),
            reason_code: text(row.main_reason).filter(|_| readable),
            problems: match readable {
                true => count(row.failed).saturating_add(count(row.warned)),
                false => 0,
            },
            created_at: row.created_at.and_then(Time::known),
            started_at: row.started_at.and_then(Time::known),
            completed_at: row.completed_at.and_then(Time::known),
        })
    }
}

/// Whether a report of this version can be read here.
fn version(version: Option<&str>) -> ReportPresence {
    let parts = |version: &str| -> Option<(u32, u32)> {
        let mut parts = version.splitn(3, '.').map(|part| part.parse().ok());
        Some((parts.next()??, parts.next()??))
    };
    match version.map(parts) {
        Some(Some(found)) if Some(found) == parts(SCHEMA_VERSION) => ReportPresence::Readable,
        Some(Some(_)) => ReportPresence::OtherVersion,
        _ => ReportPresence::Unreadable,
    }
}

from_row! {
    #[derive(Debug)]
    pub(super) struct StateRow {
        id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        status: Text,
    }
}

impl TryFrom<StateRow> for RunState {
    type Error = StoreError;
    fn try_from(row: StateRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: RunId(row.id),
            workspace_id: row.workspace_id.map(WorkspaceId),
            tenant_id: row.tenant_id.map(TenantId),
            status: name("operation_runs", "status", row.id, &row.status.0)?,
        })
    }
}
