//! Records many runs with one statement.

use super::{PostgresStore, run_type};
use crate::domain::RunId;
use crate::ports::recording::NewRun;
use crate::ports::store_error::StoreError;
use crate::store::recording::RecordMany;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::types::Json;

const INSERT_RUNS: &str = sql!(
    "WITH recorded AS (INSERT INTO operation_runs
         (workspace_id, tenant_id, type, status, context, created_at)
     SELECT n.workspace_id, n.tenant_id, " run_type!()
    ", 'queued', n.context, now() FROM set_config('verifyd.told', 'on', true),
         unnest($1::bigint[], $2::bigint[], $3::jsonb[]) WITH ORDINALITY
             AS n(workspace_id, tenant_id, context, place)
     ORDER BY n.place RETURNING id),
     delivered AS (INSERT INTO verifyd.run_deliveries (run_id, delivered_at)
     SELECT id, now() FROM recorded
     ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL)
     SELECT id FROM recorded ORDER BY id"
);

#[async_trait]
impl RecordMany for PostgresStore {
    async fn record_plain(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
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
