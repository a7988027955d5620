//! Recording and reading runs.

use super::earlier::{OWN_ATTEMPTS, is_of_its_run};
use super::{PostgresStore, commit, run_columns, run_type};
use crate::domain::{ConnectionId, OperationRun, RunId};
use crate::ports::store::{
    AttemptRecord, LatestReport, NewRun, Recorded, RunCounts, RunFilter, StoreError,
};
use crate::store::error::from_sqlx;
use crate::store::rows::{self, AttemptRow, CountsRow, LatestReportRow, RunRow};
use sqlx::types::Json;
use sqlx::{Postgres, QueryBuilder};

/// Held until the transaction ends, so that callers for one connection take turns.
const LOCK_CONNECTION: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('verifyd.record.' || $1::text, 0))";

const ACTIVE_RUN: &str = concat!(
    "SELECT id FROM operation_runs WHERE type = ",
    run_type!(),
    " AND status IN ('queued', 'running') AND context ->> 'provider_connection_id' = $1 \
      AND workspace_id = $2 AND tenant_id IS NOT DISTINCT FROM $3 ORDER BY id DESC LIMIT 1"
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

const RUN: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM operation_runs r WHERE r.id = $1 AND r.type = ",
    run_type!()
);

/// Without the rows that `odd_runs` tells of: one of them must not keep the others from being listed.
const RUNS: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM operation_runs r WHERE r.type = ",
    run_type!(),
    " AND r.status IN ('queued', 'running', 'completed') \
      AND (r.outcome IS NULL OR r.outcome IN ('succeeded', 'failed', 'blocked'))"
);

const COUNTS: &str = concat!(
    "SELECT count(*) FILTER (WHERE status = 'queued') AS queued, \
            count(*) FILTER (WHERE status = 'running') AS running, \
            extract(epoch FROM now() - min(created_at::timestamptz) \
                FILTER (WHERE status = 'queued'))::float8 AS oldest_queued_seconds \
     FROM operation_runs WHERE type = ",
    run_type!(),
    " AND status IN ('queued', 'running')"
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
                .await
                .map_err(from_sqlx)?;
            let active: Option<i64> = self
                .scalar(ACTIVE_RUN)
                .bind(connection.to_string())
                .bind(new.workspace_id.0)
                .bind(new.tenant_id.map(|t| t.0))
                .fetch_optional(&mut *tx)
                .await
                .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?;
        self.sql(DELIVERED)
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        Ok(ids.into_iter().map(RunId).collect())
    }

    pub(super) async fn read_run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Option<RunRow> = self
            .rows(RUN)
            .bind(id.0)
            .fetch_optional(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        found.map(TryInto::try_into).transpose()
    }

    pub(super) async fn list_runs(
        &self,
        filter: &RunFilter,
    ) -> Result<Vec<OperationRun>, StoreError> {
        // Only what is asked for gets into the statement, so that the planner can use the index.
        let mut query = QueryBuilder::<Postgres>::new(RUNS);
        if let Some(workspace) = filter.binding.workspace_id {
            query.push(" AND r.workspace_id = ").push_bind(workspace.0);
        }
        if let Some(tenant) = filter.binding.tenant_id {
            query.push(" AND r.tenant_id = ").push_bind(tenant.0);
        }
        if let Some(status) = filter.status {
            query.push(" AND r.status = ").push_bind(status.as_str());
        }
        if let Some(outcome) = filter.outcome {
            query.push(" AND r.outcome = ").push_bind(outcome.as_str());
        }
        if let Some(connection) = filter.connection {
            query
                .push(" AND r.context ->> 'provider_connection_id' = ")
                .push_bind(connection.to_string());
        }
        if let Some(tenant) = filter.tenant {
            query.push(" AND r.tenant_id = ").push_bind(tenant.0);
        }
        if let Some(before) = filter.before {
            query.push(" AND r.id < ").push_bind(before.0);
        }
        query
            .push(" ORDER BY r.id DESC LIMIT ")
            .push_bind(i64::from(filter.limit));
        let mut tx = self.begin().await?;
        let found: Vec<RunRow> = query
            .build_query_as()
            .persistent(self.named)
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        rows::all(found)
    }

    pub(super) async fn list_attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError> {
        let mut tx = self.begin().await?;
        let found: Vec<AttemptRow> = self
            .rows(OWN_ATTEMPTS)
            .bind(run.0)
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        rows::all(found)
    }

    pub(super) async fn count_runs(&self) -> Result<RunCounts, StoreError> {
        let mut tx = self.begin().await?;
        let counts: CountsRow = self
            .rows(COUNTS)
            .fetch_one(&mut *tx)
            .await
            .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        found.map(TryInto::try_into).transpose()
    }
}
