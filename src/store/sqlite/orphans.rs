//! Releases attempts that their worker does not process.

use super::sweep::{mark_deliveries, requeue};
use super::{SqliteStore, now, run_type};
use crate::domain::{RunId, WorkerId};
use crate::ports::orphans::{OpenAttempt, OrphanStore};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use async_trait::async_trait;
use uuid::Uuid;

const OPEN_ATTEMPTS: &str = "
    SELECT run_id, token FROM verifyd_run_attempts WHERE ended_at IS NULL AND worker_id = $1
    ORDER BY run_id";

const RELEASE_ORPHANED: &str = sql!(
    "UPDATE verifyd_run_attempts SET ended_at = " now!() ", end_reason = 'worker_lost'
     WHERE run_id = $1 AND token = $2 AND worker_id = $3 AND ended_at IS NULL
       AND EXISTS (SELECT 1 FROM operation_runs r WHERE r.id = $1 AND r.type = " run_type!()
    " AND r.status = 'running') RETURNING counted"
);

#[async_trait]
impl OrphanStore for SqliteStore {
    async fn open_attempts(&self, worker: &WorkerId) -> Result<Vec<OpenAttempt>, StoreError> {
        let open: Vec<(i64, String)> = sqlx::query_as(OPEN_ATTEMPTS)
            .bind(&worker.0)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        open.into_iter()
            .map(|(run, token)| {
                let token = Uuid::parse_str(&token).map_err(|error| StoreError::Corrupt {
                    table: "verifyd_run_attempts",
                    column: "token",
                    row: run.to_string(),
                    why: error.to_string(),
                })?;
                Ok(OpenAttempt {
                    run: RunId(run),
                    token,
                })
            })
            .collect()
    }

    async fn release_orphaned(
        &self,
        worker: &WorkerId,
        attempts: &[OpenAttempt],
    ) -> Result<Vec<RunId>, StoreError> {
        self.transaction(async |tx| {
            let (mut ended, mut postponed) = (Vec::new(), Vec::new());
            for attempt in attempts {
                let counted: Option<bool> = sqlx::query_scalar(RELEASE_ORPHANED)
                    .bind(attempt.run.0)
                    .bind(attempt.token.to_string())
                    .bind(&worker.0)
                    .fetch_optional(&mut *tx)
                    .await?;
                ended.extend(counted.map(|_| attempt.run.0));
                postponed.extend(counted.filter(|counted| !counted).map(|_| attempt.run.0));
            }
            let queued = requeue(tx, &ended).await?;
            mark_deliveries(tx, &queued, &[], &postponed).await?;
            Ok(queued.into_iter().map(RunId).collect())
        })
        .await
    }
}
