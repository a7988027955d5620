//! Records runs.

use super::bounds::is_claimable;
use super::onboarding::point_session;
use super::runs::connection_of_context;
use super::{SqliteStore, now, run_type};
use crate::domain::RunId;
use crate::ports::recording::{NewRun, Recorded, RecordingStore};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use async_trait::async_trait;
/// An invalid run, which is never completed, is not regarded as active.
const ACTIVE_RUN: &str = sql!(
    "SELECT id FROM operation_runs AS r WHERE type = " run_type!()
    " AND status IN ('queued', 'running') AND " is_claimable!() " AND " connection_of_context!()
    " = $1 AND workspace_id = $2 AND tenant_id IS $3 ORDER BY id DESC LIMIT 1"
);

const INSERT_RUN: &str = sql!(
    "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context) VALUES ($1, $2, "
    run_type!() ", 'queued', $3) RETURNING id"
);

/// An earlier run of the same id may have left a row.
const DELIVERED: &str = sql!(
    "INSERT INTO verifyd_run_deliveries (run_id, delivered_at) VALUES ($1, " now!()
    ") ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL"
);

#[async_trait]
impl RecordingStore for SqliteStore {
    async fn record(&self, new: &NewRun) -> Result<Recorded, StoreError> {
        self.transaction(async |tx| {
            if let Some(connection) = new.unless_active {
                let active: Option<i64> = sqlx::query_scalar(ACTIVE_RUN)
                    .bind(connection.to_string())
                    .bind(new.workspace_id.0)
                    .bind(new.tenant_id.map(|t| t.0))
                    .fetch_optional(&mut *tx)
                    .await?;
                if let Some(id) = active {
                    if let Some(session) = new.onboarding_session {
                        point_session(tx, session, new, RunId(id), false).await?;
                    }
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
                point_session(tx, session, new, RunId(id), true).await?;
            }
            Ok(Recorded {
                run_id: RunId(id),
                created: true,
            })
        })
        .await
    }

    async fn record_many(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
        NewRun::plain(new)?;
        self.transaction(async |tx| {
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
            Ok(ids)
        })
        .await
    }
}
