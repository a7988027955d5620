//! Recording and reading runs.

use super::bounds::{fits, is_claimable, is_shown, member, short, time};
use super::earlier::{OWN_ATTEMPTS, is_of_its_run};
use super::{PostgresStore, commit, rollback, run_type};
use crate::domain::{ConnectionId, OperationRun, RunId};
use crate::ports::store::{AttemptRecord, LatestReport, NewRun, Recorded, RunCounts, StoreError};
use crate::store::lenient::Lenient;
use crate::store::rows::{self, AttemptRow, CountsRow, LatestReportRow, RunRow};
use sqlx::types::Json;

/// Held until the transaction ends, so that callers for one connection take turns.
const LOCK_CONNECTION: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('verifyd.record.' || $1::text, 0))";

/// An invalid run, which nobody will complete, is not waited for.
const ACTIVE_RUN: &str = concat!(
    "SELECT r.id FROM operation_runs r WHERE r.type = ",
    run_type!(),
    " AND r.status IN ('queued', 'running') AND ",
    is_claimable!(),
    " AND r.context ->> 'provider_connection_id' = $1 \
      AND r.workspace_id = $2 AND r.tenant_id IS NOT DISTINCT FROM $3 ORDER BY r.id DESC LIMIT 1"
);

/// Its hint is sent by whoever records it, so nobody needs to be notified (migration 6): transactions
/// that notify commit one at a time.
const INSERT_RUN: &str = concat!(
    "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at) \
     SELECT $1, $2, ",
    run_type!(),
    ", 'queued', $3, now() FROM set_config('verifyd.told', 'on', true) RETURNING id"
);

const INSERT_RUNS: &str = concat!(
    "WITH recorded AS (INSERT INTO operation_runs \
         (workspace_id, tenant_id, type, status, context, created_at) \
     SELECT n.workspace_id, n.tenant_id, ",
    run_type!(),
    ", 'queued', n.context, now() FROM set_config('verifyd.told', 'on', true), \
         unnest($1::bigint[], $2::bigint[], $3::jsonb[]) WITH ORDINALITY \
             AS n(workspace_id, tenant_id, context, place) \
     ORDER BY n.place RETURNING id), \
     delivered AS (INSERT INTO verifyd.run_deliveries (run_id, delivered_at) \
     SELECT id, now() FROM recorded \
     ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL) \
     SELECT id FROM recorded ORDER BY id"
);

/// An earlier run of the same id may have left a row.
const DELIVERED: &str = "\
    INSERT INTO verifyd.run_deliveries (run_id, delivered_at) VALUES ($1, now()) \
    ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL";

/// `$2`: most bytes of the context. A context that is too large, or NULL, is NULL.
const RUN: &str = concat!(
    "SELECT r.id, r.workspace_id, r.tenant_id, r.type, ",
    short!("r.status"),
    " AS status, ",
    short!("r.outcome"),
    " AS outcome, CASE WHEN ",
    fits!("r.context", "$2"),
    " THEN r.context END AS context, CASE WHEN ",
    fits!("r.failure_summary", "262144"),
    " THEN r.failure_summary END AS failure_summary, r.created_at::timestamptz AS created_at, \
      r.started_at::timestamptz AS started_at, r.completed_at::timestamptz AS completed_at \
     FROM operation_runs r WHERE r.id = $1 AND r.type = ",
    run_type!(),
    " AND ",
    is_shown!()
);

/// Of a context that is too large as a whole: the report (`$3`: its bytes), and what the producer wrote
/// beside it, or of that what tells what the run was about.
const PARTS: &str = concat!(
    "WITH whole AS MATERIALIZED (SELECT r.context #> '{}' AS j FROM operation_runs r \
         WHERE r.id = $1 AND jsonb_typeof(r.context) = 'object'), \
     parts AS MATERIALIZED (SELECT j, j - 'verification_report' AS rest, \
         j -> 'verification_report' AS report FROM whole) \
     SELECT CASE WHEN ",
    fits!("p.report", "$3"),
    " THEN p.report END AS report, CASE WHEN ",
    fits!("p.rest", "$2"),
    " THEN p.rest ELSE jsonb_strip_nulls(jsonb_build_object('provider', ",
    member!("p.rest", "{provider}"),
    ", 'module', ",
    member!("p.rest", "{module}"),
    ", 'provider_connection_id', ",
    member!("p.rest", "{provider_connection_id}"),
    ", 'target_scope', jsonb_build_object('entra_tenant_id', ",
    member!("p.rest", "{target_scope,entra_tenant_id}"),
    ", 'entra_tenant_name', ",
    member!("p.rest", "{target_scope,entra_tenant_name}"),
    "), 'reason_code', ",
    member!("p.rest", "{reason_code}"),
    ", 'next_steps', CASE WHEN ",
    fits!("(p.rest -> 'next_steps')", "65536"),
    " THEN p.rest -> 'next_steps' END)) END AS rest FROM parts p"
);

const COUNTS: &str = concat!(
    "SELECT count(*) FILTER (WHERE status = 'queued') AS queued, \
            count(*) FILTER (WHERE status = 'running') AS running, \
            extract(epoch FROM now() - min(",
    time!("r.created_at"),
    ") FILTER (WHERE status = 'queued'))::float8 AS oldest_queued_seconds \
     FROM operation_runs r WHERE r.type = ",
    run_type!(),
    " AND r.status IN ('queued', 'running') AND (r.status = 'running' OR ",
    is_claimable!(),
    ")"
);

const READ_LATEST_REPORT: &str = concat!(
    "SELECT l.connection_id, l.operation_run_id, l.fingerprint, l.overall, l.outcome, l.completed_at \
     FROM verifyd.latest_reports l LEFT JOIN provider_connections c ON c.id = l.connection_id \
     WHERE l.connection_id = $1 AND ",
    is_of_its_run!(
        "coalesce(c.workspace_id, p.workspace_id)",
        "coalesce(c.tenant_id, p.tenant_id)",
        ""
    )
);

impl PostgresStore {
    pub(super) async fn record_run(&self, new: &NewRun) -> Result<Recorded, StoreError> {
        let mut tx = self.begin().await?;
        if let Some(connection) = new.unless_active {
            self.sql(LOCK_CONNECTION)
                .bind(connection.0)
                .execute(&mut *tx)
                .await?;
            let active: Option<i64> = self
                .scalar(ACTIVE_RUN)
                .bind(connection.to_string())
                .bind(new.workspace_id.0)
                .bind(new.tenant_id.map(|t| t.0))
                .fetch_optional(&mut *tx)
                .await?;
            if let Some(id) = active {
                if let Some(session) = new.onboarding_session {
                    self.point_session(&mut tx, session, new, RunId(id), false)
                        .await?;
                }
                commit(tx).await?;
                return Ok(Recorded {
                    run_id: RunId(id),
                    created: false,
                });
            }
        }
        let id: i64 = self
            .scalar(INSERT_RUN)
            .bind(new.workspace_id.0)
            .bind(new.tenant_id.map(|t| t.0))
            .bind(&new.context)
            .fetch_one(&mut *tx)
            .await?;
        self.sql(DELIVERED).bind(id).execute(&mut *tx).await?;
        if let Some(session) = new.onboarding_session {
            self.point_session(&mut tx, session, new, RunId(id), true)
                .await?;
        }
        commit(tx).await?;
        Ok(Recorded {
            run_id: RunId(id),
            created: true,
        })
    }

    pub(super) async fn record_runs(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
        NewRun::plain(new)?;
        let workspaces: Vec<i64> = new.iter().map(|n| n.workspace_id.0).collect();
        let tenants: Vec<Option<i64>> = new.iter().map(|n| n.tenant_id.map(|t| t.0)).collect();
        let contexts: Vec<Json<&serde_json::Value>> =
            new.iter().map(|n| Json(&n.context)).collect();
        let mut tx = self.begin().await?;
        let ids: Vec<i64> = self
            .scalar(INSERT_RUNS)
            .bind(workspaces)
            .bind(tenants)
            .bind(contexts)
            .fetch_all(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(ids.into_iter().map(RunId).collect())
    }

    pub(super) async fn read_run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Option<RunRow> = self
            .rows(RUN)
            .bind(id.0)
            .bind(self.context_bytes)
            .fetch_optional(&mut *tx)
            .await?;
        commit(tx).await?;
        let run: Option<OperationRun> = found.map(TryInto::try_into).transpose()?;
        match run {
            Some(run) if run.context.is_null() => self.read_parts(run).await.map(Some),
            run => Ok(run),
        }
    }

    /// The context of a run that is too large as a whole, in parts. Where the server cannot take it
    /// apart the run is read without.
    async fn read_parts(&self, mut run: OperationRun) -> Result<OperationRun, StoreError> {
        let _alone = self.large_contexts.lock().await;
        let mut tx = self.begin().await?;
        let parts: Result<Option<(Option<Lenient>, Option<Lenient>)>, _> = self
            .rows(PARTS)
            .bind(run.id.0)
            .bind(self.context_bytes)
            .bind(rows::REPORT_BYTES)
            .fetch_optional(&mut *tx)
            .await
            .map_err(StoreError::from);
        match parts {
            Ok(parts) => {
                commit(tx).await?;
                let (report, rest) = parts.unwrap_or_default();
                run.context = rows::context_of(report, rest);
            }
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                tracing::warn!(run = run.id.0, %error, "the context of a run cannot be read");
                rollback(tx).await?;
            }
        }
        Ok(run)
    }

    pub(super) async fn list_attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Vec<AttemptRow> = self
            .rows(OWN_ATTEMPTS)
            .bind(run.0)
            .fetch_all(&mut *tx)
            .await?;
        commit(tx).await?;
        rows::all(found)
    }

    pub(super) async fn count_runs(&self) -> Result<RunCounts, StoreError> {
        let mut tx = self.begin().await?;
        let counts: CountsRow = self.rows(COUNTS).fetch_one(&mut *tx).await?;
        commit(tx).await?;
        Ok(counts.into())
    }

    pub(super) async fn read_latest_report(
        &self,
        connection: ConnectionId,
    ) -> Result<Option<LatestReport>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Option<LatestReportRow> = self
            .rows(READ_LATEST_REPORT)
            .bind(connection.0)
            .fetch_optional(&mut *tx)
            .await?;
        commit(tx).await?;
        found.map(TryInto::try_into).transpose()
    }
}
