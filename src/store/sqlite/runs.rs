//! Recording and reading runs.

use super::bounds::{is_claimable, is_shown, member, short};
use super::earlier::{OWN_ATTEMPTS, is_of_its_run};
use super::onboarding::point_session;
use super::{SqliteStore, commit, now, run_type};
use crate::domain::{ConnectionId, OperationRun, RunId};
use crate::ports::store::{AttemptRecord, LatestReport, NewRun, Recorded, RunCounts, StoreError};
use crate::store::lenient::Lenient;
use crate::store::rows::{self, AttemptRow, CountsRow, LatestReportRow, RunRow};

/// As it stands in the index: a number and the same number as a text are equal.
macro_rules! connection_of_context {
    () => {
        "CAST(context ->> 'provider_connection_id' AS TEXT)"
    };
}
pub(super) use connection_of_context;

/// An invalid run, which nobody will complete, is not waited for.
const ACTIVE_RUN: &str = concat!(
    "SELECT id FROM operation_runs AS r WHERE type = ",
    run_type!(),
    " AND status IN ('queued', 'running') AND ",
    is_claimable!(),
    " AND ",
    connection_of_context!(),
    " = $1 AND workspace_id = $2 AND tenant_id IS $3 ORDER BY id DESC LIMIT 1"
);

const INSERT_RUN: &str = concat!(
    "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) VALUES ($1, $2, ",
    run_type!(),
    ", 'queued', $3) RETURNING id"
);

/// An earlier run of the same id may have left a row.
const DELIVERED: &str = concat!(
    "INSERT INTO verifyd_run_deliveries (run_id, delivered_at) VALUES ($1, ",
    now!(),
    ") ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL"
);

/// `$2`: most bytes of the context. A context that is too large is NULL.
const RUN: &str = concat!(
    "SELECT id, workspace_id, tenant_id, type, ",
    short!("status"),
    " AS status, ",
    short!("outcome"),
    " AS outcome, CASE WHEN octet_length(context) <= $2 THEN context END AS context, \
      CASE WHEN octet_length(failure_summary) <= 262144 THEN failure_summary END \
          AS failure_summary, created_at, started_at, completed_at \
     FROM operation_runs WHERE id = $1 AND type = ",
    run_type!(),
    " AND ",
    is_shown!()
);

/// Of a context that is too large as a whole: the report (`$3`: its bytes), and what the producer wrote
/// beside it, or of that what tells what the run was about.
const PARTS: &str = concat!(
    "WITH parts AS MATERIALIZED (SELECT json_remove(context, '$.verification_report') AS rest, \
         context -> '$.verification_report' AS report FROM operation_runs \
         WHERE id = $1 AND json_type(context) = 'object') \
     SELECT CASE WHEN octet_length(report) <= $3 THEN report END AS report, \
         CASE WHEN octet_length(rest) <= $2 THEN rest ELSE json_object('provider', ",
    member!("rest", "$.provider"),
    ", 'module', ",
    member!("rest", "$.module"),
    ", 'provider_connection_id', ",
    member!("rest", "$.provider_connection_id"),
    ", 'target_scope', json_object('entra_tenant_id', ",
    member!("rest", "$.target_scope.entra_tenant_id"),
    ", 'entra_tenant_name', ",
    member!("rest", "$.target_scope.entra_tenant_name"),
    "), 'reason_code', ",
    member!("rest", "$.reason_code"),
    ", 'next_steps', CASE WHEN octet_length(rest -> '$.next_steps') <= 65536 \
                          THEN rest -> '$.next_steps' END) END AS rest FROM parts"
);

const COUNTS: &str = concat!(
    "SELECT count(*) FILTER (WHERE status = 'queued') AS queued, \
            count(*) FILTER (WHERE status = 'running') AS running, \
            (julianday('now') - min(julianday(r.created_at)) FILTER (WHERE status = 'queued')) \
                * 86400.0 AS oldest_queued_seconds \
     FROM operation_runs r WHERE r.type = ",
    run_type!(),
    " AND r.status IN ('queued', 'running') AND (r.status = 'running' OR ",
    is_claimable!(),
    ")"
);

const READ_LATEST_REPORT: &str = concat!(
    "SELECT l.connection_id, l.operation_run_id, l.fingerprint, l.overall, l.outcome, l.completed_at \
     FROM verifyd_latest_reports l LEFT JOIN provider_connections c ON c.id = l.connection_id \
     WHERE l.connection_id = $1 AND ",
    is_of_its_run!(
        "coalesce(c.workspace_id, p.workspace_id)",
        "coalesce(c.tenant_id, p.tenant_id)",
        ""
    )
);

impl SqliteStore {
    pub(super) async fn record_run(&self, new: &NewRun) -> Result<Recorded, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(connection) = new.unless_active {
            let active: Option<i64> = sqlx::query_scalar(ACTIVE_RUN)
                .bind(connection.to_string())
                .bind(new.workspace_id.0)
                .bind(new.tenant_id.map(|t| t.0))
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(id) = active {
                if let Some(session) = new.onboarding_session {
                    point_session(&mut tx, session, new, RunId(id), false).await?;
                }
                commit(tx).await?;
                return Ok(Recorded {
                    run_id: RunId(id),
                    created: false,
                });
            }
        }
        let id: i64 = sqlx::query_scalar(INSERT_RUN)
            .bind(new.workspace_id.0)
            .bind(new.tenant_id.map(|t| t.0))
            .bind(&new.context)
            .fetch_one(&mut *tx)
            .await?;
        sqlx::query(DELIVERED).bind(id).execute(&mut *tx).await?;
        if let Some(session) = new.onboarding_session {
            point_session(&mut tx, session, new, RunId(id), true).await?;
        }
        commit(tx).await?;
        Ok(Recorded {
            run_id: RunId(id),
            created: true,
        })
    }

    pub(super) async fn record_runs(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
        NewRun::plain(new)?;
        let mut tx = self.begin().await?;
        let mut ids = Vec::with_capacity(new.len());
        for new in new {
            let id: i64 = sqlx::query_scalar(INSERT_RUN)
                .bind(new.workspace_id.0)
                .bind(new.tenant_id.map(|t| t.0))
                .bind(&new.context)
                .fetch_one(&mut *tx)
                .await?;
            sqlx::query(DELIVERED).bind(id).execute(&mut *tx).await?;
            ids.push(RunId(id));
        }
        commit(tx).await?;
        Ok(ids)
    }

    pub(super) async fn read_run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError> {
        let mut reader = self.reader().await?;
        let found: Option<RunRow> = sqlx::query_as(RUN)
            .bind(id.0)
            .bind(self.context_bytes)
            .fetch_optional(&mut *reader)
            .await?;
        let run: Option<OperationRun> = found.map(TryInto::try_into).transpose()?;
        let Some(mut run) = run else { return Ok(None) };
        if run.context.is_null() {
            let parts: Option<(Option<Lenient>, Option<Lenient>)> = sqlx::query_as(PARTS)
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

    pub(super) async fn list_attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError> {
        let found: Vec<AttemptRow> = sqlx::query_as(OWN_ATTEMPTS)
            .bind(run.0)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    pub(super) async fn count_runs(&self) -> Result<RunCounts, StoreError> {
        let counts: CountsRow = sqlx::query_as(COUNTS)
            .fetch_one(&mut *self.reader().await?)
            .await?;
        Ok(counts.into())
    }

    pub(super) async fn read_latest_report(
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
