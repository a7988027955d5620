//! Recording and reading runs.

use super::earlier::{OWN_ATTEMPTS, is_of_its_run};
use super::onboarding::point_session;
use super::{SqliteStore, commit, now, run_columns, run_type};
use crate::domain::{ConnectionId, OperationRun, RunId};
use crate::ports::store::{
    AttemptRecord, LatestReport, NewRun, Recorded, RunCounts, RunFilter, StoreError,
};
use crate::store::error::from_sqlx;
use crate::store::rows::{self, AttemptRow, CountsRow, LatestReportRow, RunRow};
use sqlx::{QueryBuilder, Sqlite};

/// As it stands in the index: a number and the same number as a text are equal.
macro_rules! connection_of_context {
    () => {
        "CAST(context ->> 'provider_connection_id' AS TEXT)"
    };
}

const ACTIVE_RUN: &str = concat!(
    "SELECT id FROM operation_runs WHERE type = ",
    run_type!(),
    " AND status IN ('queued', 'running') AND ",
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

const RUN: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM operation_runs WHERE id = $1 AND type = ",
    run_type!()
);

/// Without the rows that `odd_runs` tells of: one of them must not keep the others from being listed.
const RUNS: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM operation_runs WHERE type = ",
    run_type!(),
    " AND status IN ('queued', 'running', 'completed') \
      AND (outcome IS NULL OR outcome IN ('succeeded', 'failed', 'blocked'))"
);

const COUNTS: &str = concat!(
    "SELECT count(*) FILTER (WHERE status = 'queued') AS queued, \
            count(*) FILTER (WHERE status = 'running') AS running, \
            (julianday('now') - min(julianday(created_at)) FILTER (WHERE status = 'queued')) \
                * 86400.0 AS oldest_queued_seconds \
     FROM operation_runs WHERE type = ",
    run_type!(),
    " AND status IN ('queued', 'running')"
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
                .await
                .map_err(from_sqlx)?;
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
            .await
            .map_err(from_sqlx)?;
        sqlx::query(DELIVERED)
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
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
                .await
                .map_err(from_sqlx)?;
            sqlx::query(DELIVERED)
                .bind(id)
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            ids.push(RunId(id));
        }
        commit(tx).await?;
        Ok(ids)
    }

    pub(super) async fn read_run(&self, id: RunId) -> Result<Option<OperationRun>, StoreError> {
        let found: Option<RunRow> = sqlx::query_as(RUN)
            .bind(id.0)
            .fetch_optional(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        found.map(TryInto::try_into).transpose()
    }

    pub(super) async fn list_runs(
        &self,
        filter: &RunFilter,
    ) -> Result<Vec<OperationRun>, StoreError> {
        // Only what is asked for gets into the statement, so that the planner can use the index.
        let mut query = QueryBuilder::<Sqlite>::new(RUNS);
        if let Some(workspace) = filter.binding.workspace_id {
            query.push(" AND workspace_id = ").push_bind(workspace.0);
        }
        if let Some(tenant) = filter.binding.tenant_id {
            query.push(" AND tenant_id = ").push_bind(tenant.0);
        }
        if let Some(status) = filter.status {
            query.push(" AND status = ").push_bind(status.as_str());
        }
        if let Some(outcome) = filter.outcome {
            query.push(" AND outcome = ").push_bind(outcome.as_str());
        }
        if let Some(connection) = filter.connection {
            query
                .push(concat!(" AND ", connection_of_context!(), " = "))
                .push_bind(connection.to_string());
        }
        if let Some(tenant) = filter.tenant {
            query.push(" AND tenant_id = ").push_bind(tenant.0);
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before.0);
        }
        query
            .push(" ORDER BY id DESC LIMIT ")
            .push_bind(filter.limit);
        let found: Vec<RunRow> = query
            .build_query_as()
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        rows::all(found)
    }

    pub(super) async fn list_attempts(&self, run: RunId) -> Result<Vec<AttemptRecord>, StoreError> {
        let found: Vec<AttemptRow> = sqlx::query_as(OWN_ATTEMPTS)
            .bind(run.0)
            .fetch_all(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        rows::all(found)
    }

    pub(super) async fn count_runs(&self) -> Result<RunCounts, StoreError> {
        let counts: CountsRow = sqlx::query_as(COUNTS)
            .fetch_one(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        Ok(counts.into())
    }

    pub(super) async fn read_latest_report(
        &self,
        connection: ConnectionId,
    ) -> Result<Option<LatestReport>, StoreError> {
        let found: Option<LatestReportRow> = sqlx::query_as(READ_LATEST_REPORT)
            .bind(connection.0)
            .fetch_optional(&mut *self.reader().await?)
            .await
            .map_err(from_sqlx)?;
        found.map(TryInto::try_into).transpose()
    }
}
