//! Records many runs with one statement.

use super::{PostgresStore, run_type};
use crate::domain::RunId;
use crate::ports::recording::NewRun;
use crate::ports::store_error::StoreError;
use crate::store::recording::{RecordMany, Unrecorded, is_unfilled};
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::types::Json;

/// See `insert_run!` of `store::recording`.
macro_rules! insert_runs {
    ($columns:literal, $values:literal) => {
        sql!(
            "WITH recorded AS (INSERT INTO operation_runs
                 (workspace_id, tenant_id, type, status, context, created_at" $columns
            ") SELECT n.workspace_id, n.tenant_id, " run_type!() ", 'queued', n.context, now()" $values
            " FROM set_config('verifyd.told', 'on', true),
                 unnest($1::bigint[], $2::bigint[], $3::jsonb[]) WITH ORDINALITY
                     AS n(workspace_id, tenant_id, context, place)
             ORDER BY n.place RETURNING id, " is_unfilled!() " AS is_unfilled),
             delivered AS (INSERT INTO verifyd.run_deliveries (run_id, delivered_at)
             SELECT id, now() FROM recorded
             ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL)
             SELECT id, is_unfilled FROM recorded ORDER BY id"
        )
    };
}

const INSERT_RUNS: &str = insert_runs!("", "");

const INSERT_EMPTY_RUNS: &str =
    insert_runs!(", outcome, started_at, completed_at", ", NULL, NULL, NULL");

#[async_trait]
impl RecordMany for PostgresStore {
    async fn record_plain(&self, new: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
        let mut recorded = self.insert_runs(INSERT_RUNS, new).await;
        if let Err(Unrecorded::Filled) = recorded {
            recorded = self.insert_runs(INSERT_EMPTY_RUNS, new).await;
        }
        Ok(recorded?)
    }
}

impl PostgresStore {
    async fn insert_runs(
        &self,
        statement: &'static str,
        new: &[NewRun],
    ) -> Result<Vec<RunId>, Unrecorded> {
        let workspaces: Vec<i64> = new.iter().map(|n| n.workspace_id.0).collect();
        let tenants: Vec<Option<i64>> = new.iter().map(|n| n.tenant_id.map(|t| t.0)).collect();
        let contexts: Vec<Json<&serde_json::Value>> =
            new.iter().map(|n| Json(&n.context)).collect();
        self.transaction(async |tx| {
            let runs: Vec<(i64, bool)> = self
                .rows(statement)
                .bind(workspaces)
                .bind(tenants)
                .bind(contexts)
                .fetch_all(&mut *tx)
                .await
                .map_err(StoreError::from)?;
            if runs.iter().any(|(_, is_unfilled)| !is_unfilled) {
                return Err(Unrecorded::Filled);
            }
            Ok(runs.into_iter().map(|(id, _)| RunId(id)).collect())
        })
        .await
    }
}
