//! Records what the database refuses of runs, on their attempts.

use super::dialect::{among, each, own, postgres_only, run_type};
use super::refused_requeues::RefusedRequeues;
use super::sql::both;
use super::sql_store::{SqlStore, execute, fetch_all, read};
use super::statement::Sql;
use crate::domain::{RunId, TenantId};
use crate::ports::claims::Claim;
use crate::ports::log_throttle::log_limited;
use crate::ports::refusals::{RefusalStore, RefusedRun, RefusedWrite};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;

const NOTE_RESULT: Sql = both!(
    "UPDATE " own!(run_attempts) " SET result_refusal = $4
     WHERE run_id = $1 AND attempt = $2 AND CAST(token AS text) = $3"
);

/// Waits for no transition, whose locks are in another order.
const NOTE_REQUEUES: Sql = both!(
    "UPDATE " own!(run_attempts) " SET requeue_refusal = $2 WHERE (run_id, attempt) IN (
         SELECT a.run_id, a.attempt FROM " own!(run_attempts) " a WHERE a.run_id " among!("$1")
    " AND NOT a.earlier AND a.attempt = (
             SELECT max(l.attempt) FROM " own!(run_attempts) " l WHERE l.run_id = a.run_id)"
    postgres_only!(" FOR UPDATE SKIP LOCKED") ")"
);

const STILL_RUNNING: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.id " among!("$1") " AND r.type = " run_type!()
    " AND r.status = 'running'"
);

/// `$1`: how many runs that are not completed are looked at. Refused ones stay, and come to be the oldest. The attempt of
/// a run is the last that has ended or could not; that a requeue was refused is over once there is a later one.
const REFUSED: Sql = both!(
    "SELECT r.id, r.tenant_id, CASE WHEN r.status = 'running' AND NOT EXISTS (
                SELECT 1 FROM " own!(run_attempts) " n WHERE n.run_id = r.id AND n.attempt > a.attempt)
            THEN a.requeue_refusal END AS requeue_refusal, a.result_refusal
     FROM (SELECT q.id, q.tenant_id, q.status, q.started_at FROM operation_runs q WHERE q.type = " run_type!()
    " AND q.status IN ('queued', 'running') ORDER BY q.id LIMIT " each!("(SELECT $1::bigint)", "$1") ") r
     JOIN " own!(run_attempts) " a ON a.run_id = r.id AND a.attempt = (
         SELECT max(l.attempt) FROM " own!(run_attempts) " l WHERE l.run_id = r.id AND NOT l.earlier
            AND (l.ended_at IS NOT NULL OR l.result_refusal IS NOT NULL OR l.requeue_refusal IS NOT NULL))
     WHERE r.started_at IS NOT NULL AND (a.result_refusal IS NOT NULL OR a.requeue_refusal IS NOT NULL)
     ORDER BY r.id"
);

#[async_trait]
impl<S: SqlStore> RefusalStore for S {
    async fn note_refused_result(&self, claim: &Claim, refusal: &str) -> Result<(), StoreError> {
        let note = NOTE_RESULT
            .bind(claim.run.id.0)
            .bind(claim.attempt)
            .bind(claim.token.to_string())
            .bind(refusal);
        execute(self, note).await.map(|_| ())
    }

    async fn refused_runs(&self, oldest: u32) -> Result<Vec<RefusedRun>, StoreError> {
        let rows: Vec<RefusedRow> = fetch_all(self, REFUSED.bind(oldest)).await?;
        Ok(rows.into_iter().filter_map(of_row).collect())
    }
}

/// A row of [`REFUSED`].
type RefusedRow = (i64, Option<i64>, Option<String>, Option<String>);

fn of_row((id, tenant, requeue, result): RefusedRow) -> Option<RefusedRun> {
    let requeue = requeue.map(|refusal| (RefusedWrite::Requeue, refusal));
    let result = result.map(|refusal| (RefusedWrite::Result, refusal));
    let (write, refusal) = requeue.or(result)?;
    Some(RefusedRun {
        operation_run_id: RunId(id),
        tenant_id: tenant.map(TenantId),
        write,
        refusal,
    })
}

/// Records the requeues that were refused since the last call, and publishes how many runs still are.
pub(super) async fn publish(store: &impl SqlStore) {
    let refused = &store.in_process().refused_requeues;
    if let Err(error) = record(store, refused).await {
        log_limited!(warn, %error, "cannot record which runs the database refuses to queue again");
    }
    refused.measure();
}

async fn record(store: &impl SqlStore, refused: &RefusedRequeues) -> Result<(), StoreError> {
    for (refusal, runs) in refused.take_unrecorded() {
        execute(store, NOTE_REQUEUES.bind(runs).bind(refusal)).await?;
    }
    let left_out = refused.left_out();
    if left_out.is_empty() {
        return Ok(());
    }
    let running = STILL_RUNNING.bind(&left_out[..]);
    let running = read(store, async |tx| running.fetch_ids(tx).await).await?;
    for run in left_out.iter().filter(|run| !running.contains(run)) {
        refused.remove(*run);
    }
    Ok(())
}
