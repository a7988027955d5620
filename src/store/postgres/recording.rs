//! Records runs.

use super::bounds::is_claimable;
use super::{PostgresStore, run_type};
use crate::domain::RunId;
use crate::ports::recording::{NewRun, Recorded, RecordingStore};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::types::Json;
/// Held until the transaction ends, to serialise callers for one connection.
const LOCK_CONNECTION: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('verifyd.record.' || $1::text, 0))";

/// An invalid run, which is never completed, is not regarded as active.
const ACTIVE_RUN: &str = sql!(
    "SELECT r.id FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status IN ('queued', 'running') AND " is_claimable!()
    " AND r.context ->> 'provider_connection_id' = $1
      AND r.workspace_id = $2 AND r.tenant_id IS NOT DISTINCT FROM $3 ORDER BY r.id DESC LIMIT 1"
);

/// The caller sends the hint, so no notification is needed (migration 6): transactions that notify commit one
/// at a time.
const INSERT_RUN: &str = sql!(
    "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at)
     SELECT $1, $2, " run_type!()
    ", 'queued', $3, now() FROM set_config('verifyd.told', 'on', true) RETURNING id"
);

const INSERT_RUNS: &str = sql!(
    "WITH recorded AS (INSERT INTO operation_runs
         (workspace_id, tenant_id, type, status, context, created_at)
     SELECT n.workspace_id, n.tenant_id, " run_type!()
    ", 'queued', n.context, now() FROM set_config('verifyd.report_part', 'on', true),
         unnest($1::bigint[], $2::bigint[], $3::jsonb[]) WITH ORDINALITY
             AS n(workspace_id, tenant_id, context, place)
     ORDER BY n.place RETURNING id),
     delivered AS (INSERT INTO verifyd.run_deliveries (run_id, delivered_at)
     SELECT id, now() FROM recorded
     ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL)
     SELECT id FROM recorded ORDER BY id"
);

/// An earlier run of the same id may have left a row.
const DELIVERED: &str = "
    INSERT INTO verifyd.run_deliveries (run_id, delivered_at) VALUES ($1, now())
    ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL";

#[async_trait]
impl RecordingStore for PostgresStore {
    async fn record(&self, new: &NewRun) -> Result<Recorded, StoreError> {
        self.transaction(async |tx| {
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
                        self.point_session(tx, session, new, RunId(id), false)
                            .await?;
                    }
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
                self.point_session(tx, session, new, RunId(id), true)
                    .await?;
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
        let workspaces: Vec<i64> = new.iter().map(|n| n.workspace_id.0).collect();
        let tenants: Vec<Option<i64>> = new.iter().map(|n| n.tenant_id.map(|t| t.0)).collect();
        let contexts: Vec<Json<&serde_json::Value>> =
            new.iter().map(|n| Json(&n.context)).collect();
        self.transaction(async |tx| {
            let ids: Vec<i64> = self
                .scalar(INSERT_RUNS)
                .bind(workspaces)
                .bind(tenants)
                .bind(contexts)
                .fetch_all(&mut *tx)
                .await?;
            Ok(ids.into_iter().map(RunId).collect())
        })
        .await
    }
}
