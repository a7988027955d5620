//! Records what the database refuses of runs, on their attempts.

use super::dialect::{among, before, each, has_active_status, now, own, postgres_only, run_type};
use super::refused_requeues::RefusedRequeues;
use super::repeated_ids::{is_of_type, of_only_run};
use super::sql::{both, sql_for};
use super::sql_store::{SqlStore, execute, fetch_all, read};
use super::statement::{Sql, earlier};
use super::sweep::{is_running, lease_is_dead};
use crate::domain::{RunId, TenantId};
use crate::ports::claims::Claim;
use crate::ports::log_throttle::log_limited;
use crate::ports::refusals::{RefusalStore, RefusedRun, RefusedRuns, RefusedWrite};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::time::Duration;

const NOTE_RESULT: Sql = both!(
    "UPDATE " own!(run_attempts) " SET result_refusal = $4
     WHERE run_id = $1 AND attempt = $2 AND CAST(token AS text) = $3"
);

/// Comes after the sweep, which may have rolled back: not of a run that was queued or claimed again since. `$1`:
/// `worker_dead_after`. Waits for no transition, whose locks are in another order.
const NOTE_REQUEUES: Sql = both!(
    "UPDATE " own!(run_attempts) " SET requeue_refusal = $3 WHERE (run_id, attempt) IN (
         SELECT a.run_id, a.attempt FROM " own!(run_attempts) " a WHERE a.run_id " among!("$2")
    " AND NOT a.earlier AND a.attempt = (
             SELECT max(l.attempt) FROM " own!(run_attempts) " l WHERE l.run_id = a.run_id)
           AND (a.ended_at IS NOT NULL OR " lease_is_dead!() ") AND " is_running!()
    postgres_only!(" FOR UPDATE SKIP LOCKED") ")"
);

const STILL_RUNNING: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.id " among!("$1") " AND r.type = " run_type!()
    " AND r.status = 'running'"
);

/// The oldest runs in this state, up to `$1`. With a limit that it knows when it plans, PostgreSQL may sort all of them.
macro_rules! oldest {
    ($db:ident $status:literal) => {
        sql_for!(
            $db "(SELECT id, started_at FROM operation_runs r WHERE type = " run_type!() " AND "
            has_active_status!(range $status) " ORDER BY status, id LIMIT "
            each!("(SELECT $1::bigint)", "$1") ")"
        )
    };
}

/// Looks at the runs of `$1` attempts of which something was refused, those with the largest ids, and at the oldest runs
/// that are not completed, up to `$1` queued and as many running: such a run may be older than many that are completed.
/// Where one of the two has no more, all are found. Everything is looked up by the id of a run, so that no plan reads the
/// history. A refusal counts as long as no later attempt has ended, or had one; that a requeue was refused is over once
/// there is a later one. Without a refused run, the id is NULL.
pub(super) const REFUSED: Sql = both!(
    "WITH refused AS MATERIALIZED (
        SELECT f.run_id FROM " own!(run_attempts) " f
        WHERE (f.result_refusal IS NOT NULL OR f.requeue_refusal IS NOT NULL) AND NOT f.earlier
        ORDER BY f.run_id DESC LIMIT $1
     ), queued AS MATERIALIZED " oldest!("queued") ", running AS MATERIALIZED " oldest!("running")
    ", looked_at AS (
        SELECT run_id AS id FROM refused UNION SELECT id FROM queued WHERE started_at IS NOT NULL
        UNION SELECT id FROM running
     ), latest AS (
        SELECT s.id, (
            SELECT max(l.attempt) FROM " own!(run_attempts) " l WHERE l.run_id = s.id AND NOT l.earlier
            AND (l.ended_at IS NOT NULL OR l.result_refusal IS NOT NULL OR l.requeue_refusal IS NOT NULL)) AS attempt
        FROM looked_at s
        WHERE " of_only_run!("s.id", "r.status IN ('queued', 'running') AND r.started_at IS NOT NULL")
    "), found AS MATERIALIZED (
        SELECT a.run_id, (SELECT max(r.tenant_id) FROM operation_runs r WHERE r.id = a.run_id AND "
    is_of_type!("r") ") AS tenant_id, CASE WHEN " is_running!() " AND a.attempt = (
                SELECT max(n.attempt) FROM " own!(run_attempts) " n WHERE n.run_id = a.run_id)
            THEN a.requeue_refusal END AS requeue_refusal, a.result_refusal
        FROM (SELECT s.id AS run_id, s.attempt, (
                SELECT q.requeue_refusal FROM " own!(run_attempts) " q
                WHERE q.run_id = s.id AND q.attempt = s.attempt) AS requeue_refusal, (
                SELECT q.result_refusal FROM " own!(run_attempts) " q
                WHERE q.run_id = s.id AND q.attempt = s.attempt) AS result_refusal FROM latest s) a
     )
     SELECT c.are_all, f.run_id, f.tenant_id, f.requeue_refusal, f.result_refusal
     FROM (SELECT (SELECT count(*) FROM refused) < $1 OR (SELECT count(*) FROM queued) < $1
                  AND (SELECT count(*) FROM running) < $1 AS are_all) c
          LEFT JOIN found f ON f.requeue_refusal IS NOT NULL OR f.result_refusal IS NOT NULL
     ORDER BY f.run_id"
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

    async fn refused_runs(&self, most: u32) -> Result<RefusedRuns, StoreError> {
        let rows: Vec<RefusedRow> = fetch_all(self, REFUSED.bind(most)).await?;
        Ok(RefusedRuns {
            are_all: rows.iter().all(|(are_all, ..)| *are_all),
            runs: rows.into_iter().filter_map(of_row).collect(),
        })
    }
}

/// A row of [`REFUSED`].
type RefusedRow = (
    bool,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
);

fn of_row((_, id, tenant, requeue, result): RefusedRow) -> Option<RefusedRun> {
    let requeue = requeue.map(|refusal| (RefusedWrite::Requeue, refusal));
    let result = result.map(|refusal| (RefusedWrite::Result, refusal));
    let (write, refusal) = requeue.or(result)?;
    Some(RefusedRun {
        operation_run_id: RunId(id?),
        tenant_id: tenant.map(TenantId),
        write,
        refusal,
    })
}

/// Records the requeues that were refused since the last call, and publishes how many runs still are.
pub(super) async fn publish(store: &impl SqlStore, dead_after: Duration) {
    let refused = &store.in_process().refused_requeues;
    let recorded = record(store, refused, dead_after).await;
    let forgotten = forget_others(store, refused).await;
    if let Err(error) = recorded.and(forgotten) {
        log_limited!(warn, %error, "cannot record which runs the database refuses to queue again; trying again at the next sweep");
    }
    refused.measure();
}

async fn record(
    store: &impl SqlStore,
    refused: &RefusedRequeues,
    dead_after: Duration,
) -> Result<(), StoreError> {
    while let Some((refusal, runs)) = refused.take_unrecorded() {
        let note = NOTE_REQUEUES.bind(earlier(dead_after));
        let recorded = execute(store, note.bind(&runs[..]).bind(&refusal)).await;
        if let Err(error) = recorded {
            refused.put_back(refusal, runs);
            return Err(error);
        }
    }
    Ok(())
}

/// Forgets refused runs that are not running any more.
async fn forget_others(store: &impl SqlStore, refused: &RefusedRequeues) -> Result<(), StoreError> {
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
