//! Releases attempts that their worker does not process.

use super::sweep::{LOCK_RUNS, split_counted};
use super::{PostgresStore, run_type};
use crate::domain::{RunId, WorkerId};
use crate::ports::orphans::{OpenAttempt, OrphanStore};
use crate::ports::store_error::StoreError;
use crate::store::sql::sql;
use async_trait::async_trait;
use uuid::Uuid;

const OPEN_ATTEMPTS: &str = "
    SELECT run_id, token FROM verifyd.run_attempts WHERE ended_at IS NULL AND worker_id = $1
    ORDER BY run_id";

/// `$1` and `$2`: runs and tokens, `$3`: the worker, `$4`: the locked runs. Begins after the locks, so it
/// sees the current attempts. Returns with each run whether the attempt counts.
const RELEASE_ORPHANED: &str = sql!(
    "WITH released AS (
        UPDATE verifyd.run_attempts a
        SET ended_at = clock_timestamp(), end_reason = 'worker_lost'
        FROM unnest($1::bigint[], $2::uuid[]) AS o(run_id, token), operation_runs r
        WHERE a.run_id = o.run_id AND a.token = o.token AND a.worker_id = $3
          AND a.ended_at IS NULL AND a.run_id = ANY($4) AND r.id = a.run_id AND r.type = " run_type!()
    " AND r.status = 'running' RETURNING a.run_id, a.counted
    )
    UPDATE operation_runs r SET status = 'queued' FROM released d
    WHERE r.id = d.run_id AND r.type = " run_type!()
    " AND r.status = 'running' RETURNING r.id, d.counted"
);

#[async_trait]
impl OrphanStore for PostgresStore {
    async fn open_attempts(&self, worker: &WorkerId) -> Result<Vec<OpenAttempt>, StoreError> {
        let open: Vec<(i64, Uuid)> = self
            .fetch_all(self.rows(OPEN_ATTEMPTS).bind(&worker.0))
            .await?;
        let attempts = open.into_iter().map(|(run, token)| OpenAttempt {
            run: RunId(run),
            token,
        });
        Ok(attempts.collect())
    }

    async fn release_orphaned(
        &self,
        worker: &WorkerId,
        attempts: &[OpenAttempt],
    ) -> Result<Vec<RunId>, StoreError> {
        let runs: Vec<i64> = attempts.iter().map(|attempt| attempt.run.0).collect();
        let tokens: Vec<Uuid> = attempts.iter().map(|attempt| attempt.token).collect();
        self.transaction(async |tx| {
            let locked: Vec<i64> = self
                .scalar(LOCK_RUNS)
                .bind(&runs)
                .fetch_all(&mut *tx)
                .await?;
            if locked.is_empty() {
                return Ok(Vec::new());
            }
            let released: Vec<(i64, bool)> = self
                .rows(RELEASE_ORPHANED)
                .bind(runs)
                .bind(tokens)
                .bind(&worker.0)
                .bind(locked)
                .fetch_all(&mut *tx)
                .await?;
            let (mut queued, postponed) = split_counted(released);
            queued.extend(&postponed);
            queued.sort_unstable();
            self.mark_deliveries(tx, &queued, &[], &postponed).await?;
            Ok(queued.into_iter().map(RunId).collect())
        })
        .await
    }
}
