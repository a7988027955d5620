//! Runs as lists and live streams read them: a few columns and members, never a whole context. Statements cut
//! every text, so that a row is small whatever a producer wrote.

use super::bounds::{connection_of_context, is_listed, is_shown, member, repeats_report};
use super::dialect::{at, now, own, run_type};
use super::due::{next_attempt_at, not_before};
use super::filters::{push_binding, push_run_filter};
use super::from_row::from_row;
use super::repeated_ids::{is_newest_of_id, shares_active_id};
use super::rows::{self, name, optional_name};
use super::sql::{both, sql_for};
use super::sql_store::{SqlStore, fetch_all, fetch_optional};
use super::statement::{Sql, Statement};
use super::tolerant_decoding::{Text, Time};
use crate::domain::access::Binding;
use crate::domain::report::SCHEMA_VERSION;
use crate::domain::run::{ReportPresence, RunState, RunStatus, RunSummary};
use crate::domain::{RunId, TenantId, WorkspaceId};
use crate::ports::runs::{RunFilter, SummaryStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// Before the statement that chooses the rows of a page... In PostgreSQL one expression reads the members `m`
/// of a run, so that each context is unpacked once; it is NULL where the list does not look into the context.
/// (Joined to the page, contexts could become keys of the planner's cache, which unpacks all of them.) Of a
/// report that has more checks than verifyd writes, the main reason is not looked for.
const SUMMARIES: Sql = Sql {
    postgres: sql_for!(
        postgres "SELECT p.id, p.workspace_id, p.tenant_id, p.status, p.outcome, p.created_at, p.started_at,
                p.completed_at, p.shares_id, " next_attempt_at!("p") " AS next_attempt_at,
                p.m IS NOT NULL AS listed, p.m[1] AS connection, p.m[2] AS provider,
                p.m[3] AS module, p.m[4] AS display_name, p.m[5] AS report_type, p.m[6] AS schema_version,
                p.m[7] AS overall, p.m[8] AS fingerprint, p.m[9] AS failed, p.m[10] AS warned,
                p.m[11] AS main_reason
         FROM (SELECT p.*, (SELECT ARRAY[" member!("x.context", provider_connection_id) ", "
        member!("x.context", provider) ", " member!("x.context", module) ", "
        member!("x.context", target_scope entra_tenant_name) ", jsonb_typeof(x.report), "
        member!("x.report", schema_version) ", " member!("x.report", summary overall) ", "
        member!("x.report", fingerprint) ", " member!("x.report", summary counts fail) ", "
        member!("x.report", summary counts warn) ",
         (SELECT left(k.c ->> 'reason_code', 300)
          FROM jsonb_array_elements(
                  CASE WHEN CASE jsonb_typeof(x.report -> 'checks')
                            WHEN 'array' THEN jsonb_array_length(x.report -> 'checks') END <= 200
                       THEN x.report -> 'checks' ELSE '[]' END)
              WITH ORDINALITY AS k (c, place)
          WHERE k.c -> 'status' IN ('\"fail\"', '\"warn\"')
            AND jsonb_typeof(k.c -> 'reason_code') = 'string'
          ORDER BY k.c -> 'status' <> '\"fail\"',
                   k.c -> 'status' = '\"fail\"' AND k.c -> 'blocking' = 'true' DESC,
                   array_position(ARRAY['\"critical\"', '\"high\"', '\"medium\"', '\"low\"',
                                        '\"info\"']::jsonb[], k.c -> 'severity') NULLS LAST,
                   k.place LIMIT 1)]
             FROM (SELECT c.context, c.context -> 'verification_report' AS report
                   FROM (SELECT p.context #> '{}' AS context WHERE " is_listed!("p.context")
        " OFFSET 0) c OFFSET 0) x) AS m FROM ("
    ),
    sqlite: sql_for!(
        sqlite "SELECT p.id, p.workspace_id, p.tenant_id, p.status, p.outcome, p.created_at, p.started_at,
                p.completed_at, p.shares_id, " next_attempt_at!("p") " AS next_attempt_at, p.listed, "
        member!("p.context", provider_connection_id) " AS connection, " member!("p.context", provider) " AS provider, "
        member!("p.context", module) " AS module, "
        member!("p.context", target_scope entra_tenant_name)
        " AS display_name, CASE WHEN " repeats_report!("p.context")
        " THEN 'repeated' ELSE json_type(p.context, '$.verification_report') END AS report_type, "
        member!("p.context", verification_report schema_version) " AS schema_version, "
        member!("p.context", verification_report summary overall) " AS overall, "
        member!("p.context", verification_report fingerprint) " AS fingerprint, "
        member!("p.context", verification_report summary counts fail) " AS failed, "
        member!("p.context", verification_report summary counts warn) " AS warned,
         (SELECT substr(CAST(k.value ->> 'reason_code' AS TEXT), 1, 300)
          FROM json_each(p.context, '$.verification_report.checks') k
          WHERE k.type = 'object' AND json_type(p.context, '$.verification_report.checks') = 'array'
            AND json_array_length(p.context, '$.verification_report.checks') <= 200
            AND k.value ->> 'status' IN ('fail', 'warn')
            AND json_type(k.value, '$.reason_code') = 'text'
          ORDER BY k.value ->> 'status' <> 'fail',
                   k.value ->> 'status' = 'fail' AND json_type(k.value, '$.blocking') = 'true' DESC,
                   CASE k.value ->> 'severity' WHEN 'critical' THEN 1 WHEN 'high' THEN 2
                       WHEN 'medium' THEN 3 WHEN 'low' THEN 4 WHEN 'info' THEN 5 ELSE 6 END,
                   k.key LIMIT 1) AS main_reason
         FROM (SELECT *, CASE WHEN listed THEN stored END AS context FROM ("
    ),
};

/// ...and after it.
const OF_PAGE: Sql = Sql {
    postgres: ") p OFFSET 0) p ORDER BY p.id DESC",
    sqlite: ")) p ORDER BY p.id DESC",
};

/// Leaves out the rows that `invalid_runs` lists: one of them must not prevent the list.
macro_rules! listed {
    ($db:ident) => {
        sql_for!(
            $db " FROM operation_runs r WHERE r.type = " run_type!() " AND " is_shown!() " AND "
            is_newest_of_id!("r")
        )
    };
}

const RUNS: Sql = Sql {
    postgres: sql_for!(
        postgres "SELECT r.id, r.workspace_id, r.tenant_id, r.status, r.outcome, r.context, "
        at!("r.created_at") " AS created_at, " at!("r.started_at") " AS started_at, "
        at!("r.completed_at") " AS completed_at, " shares_active_id!("r") " AS shares_id" listed!()
    ),
    sqlite: sql_for!(
        sqlite "SELECT id, workspace_id, tenant_id, status, outcome, " is_listed!("context")
        " AS listed, CASE WHEN " is_listed!("context")
        " THEN context END AS stored, created_at, started_at, completed_at, "
        shares_active_id!("r") " AS shares_id" listed!()
    ),
};

const STATES: Sql = both!("SELECT r.id, r.workspace_id, r.tenant_id, r.status" listed!());

/// Whatever time it takes: a run that is left out would be missed. In SQLite as the index has it, which reads
/// contexts of every size.
const OF_CONNECTION: Sql = both!(" AND " connection_of_context!("r.context") " = ");

#[async_trait]
impl<S: SqlStore> SummaryStore for S {
    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, StoreError> {
        let mut query = Statement::from(SUMMARIES);
        query.push(RUNS);
        push_run_filter(&mut query, filter, OF_CONNECTION);
        query.push(OF_PAGE);
        rows::all(fetch_all::<SummaryRow>(self, query).await?)
    }

    async fn run_summary(&self, id: RunId) -> Result<Option<RunSummary>, StoreError> {
        let mut query = Statement::from(SUMMARIES);
        query.push(RUNS).push_text(" AND r.id = ").push_bind(id.0);
        query.push(OF_PAGE);
        let found: Option<SummaryRow> = fetch_optional(self, query).await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn run_state(&self, id: RunId) -> Result<Option<RunState>, StoreError> {
        let mut query = Statement::from(STATES);
        query.push_text(" AND r.id = ").push_bind(id.0);
        let found: Option<StateRow> = fetch_optional(self, query).await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn run_states(&self, binding: &Binding, limit: u32) -> Result<Vec<RunState>, StoreError> {
        let mut query = Statement::from(STATES);
        push_binding(&mut query, "r", binding);
        query
            .push_text(" ORDER BY r.id DESC LIMIT ")
            .push_bind(limit);
        rows::all(fetch_all::<StateRow>(self, query).await?)
    }
}

from_row! {
    /// A run without its context; `listed` is false where the list did not look into that. `report_type` is
    /// as JSON calls it, or `repeated`; it and what follows are NULL where there is no report.
    #[derive(Debug)]
    struct SummaryRow {
        id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        status: Text,
        outcome: Option<Text>,
        created_at: Option<Time>,
        started_at: Option<Time>,
        completed_at: Option<Time>,
        next_attempt_at: Option<DateTime<Utc>>,
        shares_id: bool,
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
            outcome: optional_name(TABLE, "outcome", id, &row.outcome)?,
            provider_connection_id: row.connection.and_then(|id| id.0.parse().ok()),
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
            next_attempt_at: row.next_attempt_at,
            shares_id: row.shares_id,
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
    struct StateRow {
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
