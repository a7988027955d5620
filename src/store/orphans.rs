//! Releases attempts that their worker does not process.

use super::dialect::{among, clock, each, own};
use super::refused_requeues::{RefusedRequeues, RequeueError, RequeueTries, Spent};
use super::sql::both;
use super::sql_store::{SqlConnection, SqlStore, fetch_all, transaction};
use super::statement::Sql;
use super::sweep::{LOCK_RUNS, is_running, mark_deliveries, requeue_ended};
use crate::domain::{RunId, WorkerId};
use crate::ports::orphans::{OpenAttempt, OrphanStore};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use uuid::Uuid;

const OPEN_ATTEMPTS: Sql = both!(
    "SELECT run_id, " each!("token::text", "token") " FROM " own!(run_attempts)
    " WHERE ended_at IS NULL AND worker_id = $1 ORDER BY run_id"
);

/// `$1`: the locked runs, `$2`: tokens, `$3`: the worker. Begins after the locks, so it sees the current
/// attempts. Returns with each run whether the attempt counts.
const RELEASE_ORPHANED: Sql = both!(
    "UPDATE " own!(run_attempts) " AS a SET ended_at = " clock!() ", end_reason = 'worker_lost'
     WHERE a.run_id " among!("$1") " AND CAST(a.token AS text) " among!("$2")
    " AND a.worker_id = $3 AND a.ended_at IS NULL AND " is_running!() " RETURNING run_id, counted"
);

#[async_trait]
impl<S: SqlStore> OrphanStore for S {
    async fn open_attempts(&self, worker: &WorkerId) -> Result<Vec<OpenAttempt>, StoreError> {
        let open: Vec<(i64, String)> = fetch_all(self, OPEN_ATTEMPTS.bind(&worker.0)).await?;
        let attempts = open.into_iter().map(|(run, token)| {
            let token = Uuid::parse_str(&token)
                .map_err(|error| StoreError::corrupt("run_attempts", "token", run, error))?;
            let run = RunId(run);
            Ok(OpenAttempt { run, token })
        });
        attempts.collect()
    }

    async fn release_orphaned(
        &self,
        worker: &WorkerId,
        attempts: &[OpenAttempt],
    ) -> Result<Vec<RunId>, StoreError> {
        let refused = &self.in_process().refused_requeues;
        let mut tries = RequeueTries::begin();
        loop {
            let left_out = match tries.requeues() {
                true => refused.left_out(),
                false => return Ok(Vec::new()),
            };
            let orphans = attempts
                .iter()
                .filter(|attempt| !left_out.contains(&attempt.run.0));
            let orphans: Vec<&OpenAttempt> = orphans.collect();
            let tried: Result<Vec<RunId>, RequeueError> = transaction(self, async |tx| {
                release(tx, refused, worker, &orphans).await
            })
            .await;
            if let Some(released) = tries.result_of(tried, refused) {
                return released;
            }
        }
    }
}

/// One try to release orphans.
async fn release(
    tx: &mut dyn SqlConnection,
    refused: &RefusedRequeues,
    worker: &WorkerId,
    orphans: &[&OpenAttempt],
) -> Result<Vec<RunId>, RequeueError> {
    let runs: Vec<i64> = orphans.iter().map(|orphan| orphan.run.0).collect();
    let tokens = orphans.iter().map(|orphan| orphan.token.to_string());
    let tokens: Vec<String> = tokens.collect();
    let locked = LOCK_RUNS.bind(runs).fetch_ids(tx).await?;
    let release = RELEASE_ORPHANED.bind(locked).bind(&tokens).bind(&worker.0);
    let ended = release.fetch_all(tx).await?;
    let (mut queued, postponed) = requeue_ended(tx, refused, &mut Spent::default(), ended).await?;
    queued.extend(&postponed);
    queued.sort_unstable();
    mark_deliveries(tx, &queued, &[], &postponed).await?;
    Ok(queued.into_iter().map(RunId).collect())
}
