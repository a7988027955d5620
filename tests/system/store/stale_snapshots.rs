//! PostgreSQL: a statement that waited for a row tests that row anew, but its subqueries keep the
//! snapshot from before the wait.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, claim, heartbeat, refresh, succeeded, worker};
use sqlx::PgPool;
use std::time::Duration;
use verifyd::domain::{ConnectionId, Outcome, RunStatus, TenantId};
use verifyd::ports::store::{AttemptEnd, Claim};

/// What a first draft would do: one statement, and the token tested in a subquery.
const NAIVE: &str = "\
    UPDATE operation_runs r SET status = 'completed', outcome = 'failed', completed_at = now() \
    WHERE r.id = $1 AND r.status = 'running' AND EXISTS ( \
        SELECT FROM verifyd.run_attempts a \
        WHERE a.run_id = r.id AND a.token = $2 AND a.ended_at IS NULL)";

/// A takeover as one transaction: the old attempt ends, another worker holds the run. It stays
/// open while `stale` begins, so that `stale` meets the lock, and commits once it waits.
async fn during_a_takeover<T: Send + 'static>(
    bed: &Bed,
    old: &Claim,
    stale: impl Future<Output = T> + Send + 'static,
) -> T {
    let run = old.run.id.0;
    let mut takeover = bed.pg().begin().await.unwrap();
    let holder: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *takeover)
        .await
        .unwrap();
    for statement in [
        "UPDATE operation_runs SET status = 'queued' WHERE id = $1",
        "UPDATE verifyd.run_attempts SET ended_at = now(), end_reason = 'worker_lost' \
         WHERE run_id = $1 AND ended_at IS NULL",
        "UPDATE operation_runs SET status = 'running' WHERE id = $1",
        "INSERT INTO verifyd.run_attempts \
             (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at) \
         VALUES ($1, 2, gen_random_uuid(), 'w2', true, now(), now() + interval '1 hour')",
    ] {
        sqlx::query(statement)
            .bind(run)
            .execute(&mut *takeover)
            .await
            .unwrap();
    }
    let stale = tokio::spawn(stale);
    wait_until_blocked_by(bed.pg(), holder).await;
    takeover.commit().await.unwrap();
    stale.await.unwrap()
}

pub async fn wait_until_blocked_by(pool: &PgPool, holder: i32) {
    let blocked = async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))",
            )
            .bind(holder)
            .fetch_one(pool)
            .await
            .unwrap();
            if waiting > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), blocked)
        .await
        .expect("the stale worker waits for the lock");
}

async fn held_run(bed: &Bed) -> Claim {
    bed.store.heartbeat(&heartbeat("w1")).await.unwrap();
    let run = bed.queued().await;
    claim(&bed.store, run, "w1").await
}

/// This is the trap: the stale worker completes a run that another worker holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_a_subquery_lets_a_stale_worker_complete() {
    let bed = Bed::postgres().await;
    let old = held_run(&bed).await;
    let (pool, run, token) = (bed.pg().clone(), old.run.id.0, old.token);
    let written = during_a_takeover(&bed, &old, async move {
        sqlx::query(NAIVE)
            .bind(run)
            .bind(token)
            .execute(&pool)
            .await
            .unwrap()
            .rows_affected()
    })
    .await;
    assert_eq!(written, 1, "PostgreSQL keeps the snapshot of the subquery");
    // Without a wait the same statement is right, which is why tests rarely find it.
    let late = sqlx::query(NAIVE)
        .bind(run)
        .bind(token)
        .execute(bed.pg())
        .await;
    assert_eq!(late.unwrap().rows_affected(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guarded_completion_refuses_in_the_same_interleaving() {
    let bed = Bed::postgres().await;
    let old = held_run(&bed).await;
    let (store, stale) = (bed.store.clone(), old.clone());
    let mut completion = succeeded();
    completion.inventory = Some(refresh(7, &[("A.Read", true)]));
    completion.connection = Some(ConnectionId(1));
    let completed = during_a_takeover(&bed, &old, async move {
        store.complete(&stale, &completion).await.unwrap()
    })
    .await;
    assert!(!completed);
    let run = bed.store.run(old.run.id).await.unwrap().unwrap();
    assert_eq!((run.status, run.outcome), (RunStatus::Running, None));
    assert_eq!(run.report(), None);
    assert!(bed.store.permissions(TenantId(7)).await.unwrap().is_empty());
    assert_eq!(
        bed.store.latest_report(ConnectionId(1)).await.unwrap(),
        None
    );
    let attempts = bed.store.attempts(old.run.id).await.unwrap();
    assert_eq!(attempts[0].end_reason, Some(AttemptEnd::WorkerLost));
    assert_eq!(attempts[1].end_reason, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guarded_release_refuses_in_the_same_interleaving() {
    let bed = Bed::postgres().await;
    let old = held_run(&bed).await;
    let (store, stale) = (bed.store.clone(), old.clone());
    let released = during_a_takeover(&bed, &old, async move {
        store
            .release(&stale, AttemptEnd::Throttled, None)
            .await
            .unwrap()
    })
    .await;
    assert!(!released);
    let run = bed.store.run(old.run.id).await.unwrap().unwrap();
    assert_eq!(run.status, RunStatus::Running);
}

/// An attempt of another worker that is over.
const THROTTLED: &str = "\
    INSERT INTO verifyd.run_attempts (run_id, attempt, token, worker_id, counted, claimed_at, \
        deadline_at, ended_at, end_reason) \
    VALUES ($1, 1, gen_random_uuid(), 'w2', false, now(), now(), now(), 'throttled')";

/// A claim that waited sees the `not_before` that was committed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waited_honours_the_new_not_before() {
    let bed = Bed::postgres().await;
    let run = bed.queued().await;
    let mut other = bed.pg().begin().await.unwrap();
    let holder: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *other)
        .await
        .unwrap();
    // Claimed and released by another worker, seen from here as one change.
    for statement in [
        "UPDATE operation_runs SET started_at = now() WHERE id = $1",
        THROTTLED,
        "INSERT INTO verifyd.run_deliveries (run_id, not_before) \
         VALUES ($1, now() + interval '1 hour')",
    ] {
        sqlx::query(statement)
            .bind(run.0)
            .execute(&mut *other)
            .await
            .unwrap();
    }
    let store = bed.store.clone();
    let waiting = tokio::spawn(async move { store.claim(run, &worker("w1"), &POLICY).await });
    wait_until_blocked_by(bed.pg(), holder).await;
    other.commit().await.unwrap();
    assert!(waiting.await.unwrap().unwrap().claimed().is_none());
    let stored = bed.store.run(run).await.unwrap().unwrap();
    assert_eq!(
        (stored.status, stored.outcome),
        (RunStatus::Queued, None::<Outcome>)
    );
    assert_eq!(bed.store.attempts(run).await.unwrap().len(), 1);
}

/// A run that was due when the sweep looked, and was throttled before the sweep marked it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_that_waited_keeps_the_new_not_before() {
    let bed = Bed::postgres().await;
    let run = bed.queued().await;
    let mut other = bed.pg().begin().await.unwrap();
    let holder: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *other)
        .await
        .unwrap();
    for statement in [
        "UPDATE operation_runs SET started_at = now() WHERE id = $1",
        THROTTLED,
        "INSERT INTO verifyd.run_deliveries (run_id, not_before) \
         VALUES ($1, now() + interval '1 hour')",
    ] {
        sqlx::query(statement)
            .bind(run.0)
            .execute(&mut *other)
            .await
            .unwrap();
    }
    let store = bed.store.clone();
    let waiting = tokio::spawn(async move { store.sweep(&crate::store::fixtures::SWEEP).await });
    wait_until_blocked_by(bed.pg(), holder).await;
    other.commit().await.unwrap();
    let swept = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(swept.due, [run]);
    let early = bed.store.claim(run, &worker("w1"), &POLICY).await.unwrap();
    assert!(early.claimed().is_none());
    // It is found again when the wait is over.
    bed.age("verifyd.run_deliveries", "not_before", "1 = 1", 3601)
        .await;
    let swept = bed
        .store
        .sweep(&crate::store::fixtures::SWEEP)
        .await
        .unwrap();
    assert_eq!(swept.unwrap().due, [run]);
}

/// The sweep does not wait for a run that is being completed, and does not take it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_passes_by_a_run_that_is_being_completed() {
    let bed = Bed::postgres().await;
    let run = bed.queued().await;
    let other = bed.queued().await;
    claim(&bed.store, run, "never beat").await;
    claim(&bed.store, other, "never beat").await;
    let mut completing = bed.pg().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM operation_runs WHERE id = $1 FOR NO KEY UPDATE")
        .bind(run.0)
        .execute(&mut *completing)
        .await
        .unwrap();
    let swept = bed
        .store
        .sweep(&crate::store::fixtures::SWEEP)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(swept.reclaimed, [other]);
    completing.rollback().await.unwrap();
    let swept = bed
        .store
        .sweep(&crate::store::fixtures::SWEEP)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(swept.reclaimed, [run]);
}
