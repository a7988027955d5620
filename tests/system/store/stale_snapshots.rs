//! PostgreSQL: a statement that waited for a row tests that row anew, but its subqueries keep the
//! snapshot from before the wait.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, SWEEP, heartbeat, with_inventory, worker};
use std::time::Duration;
use verifyd::domain::{RunId, RunStatus};
use verifyd::ports::store::{AttemptEnd, Claim};

/// Another transaction makes these changes and stays open while `call` begins, so that `call` meets
/// its locks. It then goes on with `last` and commits.
pub async fn while_it_waits<T: Send + 'static>(
    bed: &Bed,
    changes: &str,
    call: impl Future<Output = T> + Send + 'static,
    last: &str,
) -> T {
    let mut other = bed.pg().begin().await.unwrap();
    let holder: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *other)
        .await
        .unwrap();
    let changes = sqlx::AssertSqlSafe(changes.to_owned());
    sqlx::raw_sql(changes).execute(&mut *other).await.unwrap();
    let call = tokio::spawn(call);
    let waiting = format!("pg_stat_activity WHERE {holder} = ANY(pg_blocking_pids(pid))");
    let blocked = async {
        while bed.count(&waiting).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), blocked)
        .await
        .expect("the call waits for the lock");
    let last = sqlx::AssertSqlSafe(last.to_owned());
    sqlx::raw_sql(last).execute(&mut *other).await.unwrap();
    other.commit().await.unwrap();
    call.await.unwrap()
}

/// A takeover as one transaction: the old attempt ends, another worker holds the run.
async fn during_a_takeover<T: Send + 'static>(
    bed: &Bed,
    old: &Claim,
    stale: impl Future<Output = T> + Send + 'static,
) -> T {
    let run = old.run.id;
    let takeover = format!(
        "UPDATE operation_runs SET status = 'queued' WHERE id = {run}; \
         UPDATE verifyd.run_attempts SET ended_at = now(), end_reason = 'worker_lost' \
         WHERE run_id = {run} AND ended_at IS NULL; \
         UPDATE operation_runs SET status = 'running' WHERE id = {run}; \
         INSERT INTO verifyd.run_attempts \
             (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at) \
         VALUES ({run}, 2, gen_random_uuid(), 'w2', true, now(), now() + interval '1 hour')"
    );
    while_it_waits(bed, &takeover, stale, "").await
}

async fn held_run(bed: &Bed) -> Claim {
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    let run = bed.queued().await;
    bed.claim(run, "w1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guarded_completion_refuses_in_the_same_interleaving() {
    let bed = Bed::postgres().await;
    let old = held_run(&bed).await;
    let (store, stale) = (bed.store.clone(), old.clone());
    let completion = async move { store.complete(&stale, &with_inventory()).await };
    let completed = during_a_takeover(&bed, &old, completion).await;
    assert!(!completed.unwrap());
    let run = bed.run(old.run.id).await;
    assert_eq!((run.status, run.outcome), (RunStatus::Running, None));
    assert_eq!(run.report(), None);
    bed.has_learnt_nothing().await;
    let attempts = bed.attempts(old.run.id).await;
    assert_eq!(attempts[0].end_reason, Some(AttemptEnd::WorkerLost));
    assert_eq!(attempts[1].end_reason, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guarded_release_refuses_in_the_same_interleaving() {
    let bed = Bed::postgres().await;
    let old = held_run(&bed).await;
    let (store, stale) = (bed.store.clone(), old.clone());
    let release = async move {
        store
            .release(&stale, AttemptEnd::Throttled, None, None, false)
            .await
    };
    let released = during_a_takeover(&bed, &old, release).await;
    assert!(!released.unwrap());
    let run = bed.run(old.run.id).await;
    assert_eq!(run.status, RunStatus::Running);
}

/// Claimed and released by another worker, seen from here as one change.
fn throttled(run: RunId) -> String {
    format!(
        "UPDATE operation_runs SET started_at = now() WHERE id = {run}; \
         INSERT INTO verifyd.run_attempts (run_id, attempt, token, worker_id, counted, claimed_at, \
             deadline_at, ended_at, end_reason) \
         VALUES ({run}, 1, gen_random_uuid(), 'w2', false, now(), now(), now(), 'throttled'); \
         INSERT INTO verifyd.run_deliveries (run_id, not_before) \
         VALUES ({run}, now() + interval '1 hour')"
    )
}

/// A run that was due when the sweep looked, and was throttled before the sweep marked it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_that_waited_keeps_the_new_not_before() {
    let bed = Bed::postgres().await;
    let run = bed.queued().await;
    let store = bed.store.clone();
    let sweep = async move { store.sweep(&SWEEP).await.unwrap().unwrap() };
    let swept = while_it_waits(&bed, &throttled(run), sweep, "").await;
    assert_eq!(swept.due, [run]);
    let early = bed.store.claim(run, &worker("w1"), &POLICY).await.unwrap();
    assert!(early.claimed().is_none());
    // It is found again when the wait is over.
    bed.age("verifyd.run_deliveries", "not_before", "1 = 1", 3601)
        .await;
    assert_eq!(bed.sweep().await.due, [run]);
}

/// The sweep does not wait for a run that is being completed, and does not take it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_passes_by_a_run_that_is_being_completed() {
    let bed = Bed::postgres().await;
    let (run, other) = (bed.queued().await, bed.queued().await);
    bed.claim(run, "never beat").await;
    bed.claim(other, "never beat").await;
    let mut completing = bed.pg().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM operation_runs WHERE id = $1 FOR NO KEY UPDATE")
        .bind(run.0)
        .execute(&mut *completing)
        .await
        .unwrap();
    assert_eq!(bed.sweep().await.reclaimed, [other]);
    completing.rollback().await.unwrap();
    assert_eq!(bed.sweep().await.reclaimed, [run]);
}
