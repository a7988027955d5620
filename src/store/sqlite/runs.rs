//! Reads runs.

use super::bounds::{is_claimable, is_shown, member, short};
use super::reused_ids::{OWN_ATTEMPTS, is_of_its_run};
use super::{SqliteStore, run_type};
use crate::domain::attempt::AttemptRecord;
use crate::domain::overview::LatestReport;
use crate::domain::{ConnectionId, OperationRun, RunId};
use crate::ports::runs::{RunCounts, RunStore};
use crate::ports::store_error::StoreError;
use crate::store::rows::{self, AttemptRow, CountsRow, LatestReportRow, RunRow};
use crate::store::sql::sql;
use crate::store::tolerant_decoding::Tolerant;
use async_trait::async_trait;

/// The connection as the index has it: a number and the same number as a text are equal.
macro_rules! connection_of_context {
    () => {
        "CAST(context ->> 'provider_connection_id' AS TEXT)"
    };
}
pub(super) use connection_of_context;

/// `$2`: largest context in bytes. A larger one is NULL.
const RUN: &str = sql!(
    "SELECT id, workspace_id, tenant_id, type, " short!("status") " AS status, " short!("outcome")
    " AS outcome, CASE WHEN octet_length(context) <= $2 THEN context END AS context,
      CASE WHEN octet_length(failure_summary) <= 262144 THEN failure_summary END
          AS failure_summary, created_at, started_at, completed_at
     FROM operation_runs WHERE id = $1 AND type = " run_type!() " AND " is_shown!()
);

/// For a context that is too large as a whole: the report (`$3`: its largest size), and the producer's
/// members, or at least those that identify the target.
const PARTS: &str = sql!(
    "WITH parts AS MATERIALIZED (SELECT json_remove(context, '$.verification_report') AS rest,
         context -> '$.verification_report' AS report FROM operation_runs
         WHERE id = $1 AND json_type(context) = 'object')
     SELECT CASE WHEN octet_length(report) <= $3 THEN report END AS report,
         CASE WHEN octet_length(rest) <= $2 THEN rest ELSE json_object('provider', "
    member!("rest", "$.provider") ", 'module', " member!("rest", "$.module")
    ", 'provider_connection_id', " member!("rest", "$.provider_connection_id")
    ", 'target_scope', json_object('entra_tenant_id', "
    member!("rest", "$.target_scope.entra_tenant_id") ", 'entra_tenant_name', "
    member!("rest", "$.target_scope.entra_tenant_name") "), 'reason_code', "
    member!("rest", "$.reason_code")
    ", 'next_steps', CASE WHEN octet_length(rest -> '$.next_steps') <= 65536
                          THEN rest -> '$.next_steps' END) END AS rest FROM parts"
);

const COUNTS: &str = sql!(
    "SELECT count(*) FILTER (WHERE status = 'queued') AS queued,
            count(*) FILTER (WHERE status = 'running') AS running,
            (julianday('now') - min(julianday(r.created_at)) FILTER (WHERE status = 'queued'))
                * 86400.0 AS oldest_queued_seconds
     FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status IN ('queued', 'running') AND (r.status = 'running' OR " is_claimable!() ")"
);

const READ_LATEST_REPORT: &str = sql!(
    "SELECT l.connection_id, l.operation_run_id, l.fingerprint, l.overall, l.outcome, l.completed_at
     FROM verifyd_latest_reports l LEFT JOIN provider_connections c ON c.id = l.connection_id
     WHERE l.connection_id = $1 AND "
    is_of_its_run!("coalesce(c.workspace_id, p.workspace_id)", "coalesce(c.tenant_id, p.tenant_id)", "")
);

#[async_trait]
impl RunStore for SqliteStore {
    async fn run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError> {
        let mut reader = self.reader().await?;
        let found: Option<RunRow> = sqlx::query_as(RUN)
            .bind(id.0)
            .bind(self.context_bytes)
            .fetch_optional(&mut *reader)
            .await?;
        let run: Option<OperationRun> = found.map(TryInto::try_into).transpose()?;
        let Some(mut run) = run else { return Ok(None) };
        if run.context.is_null() {
            let parts: Option<(Option<Tolerant>, Option<Tolerant>)> = sqlx::query_as(PARTS)
                .bind(id.0)
                .bind(self.context_bytes)
                .bind(rows::REPORT_BYTES)
                .fetch_optional(&mut *reader)
                .await?;
            let (report, rest) = parts.unwrap_or_default();
            run.context = rows::context_of(report, rest);
        }
        Ok(Some(run))
    }

    async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError> {
        let found: Vec<AttemptRow> = sqlx::query_as(OWN_ATTEMPTS)
            .bind(run.0)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    async fn counts(&self) -> Result<RunCounts, StoreError> {
        let counts: CountsRow = sqlx::query_as(COUNTS)
            .fetch_one(&mut *self.reader().await?)
            .await?;
        Ok(counts.into())
    }

    async fn latest_report(
        &self,
        connection: ConnectionId,
    ) -> Result<Option<LatestReport>, StoreError> {
        let found: Option<LatestReportRow> = sqlx::query_as(READ_LATEST_REPORT)
            .bind(connection.0)
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        found.map(TryInto::try_into).transpose()
    }
}
