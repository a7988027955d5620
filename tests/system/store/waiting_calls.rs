//! Rules of the application that have claims, completions or releases of some runs wait, beside those of healthy runs.

use crate::store::bed::{Bed, settings};
use crate::store::fixtures::{ISOLATED, POLICY, refresh, succeeded, worker};
use crate::store::pools::WAITING_LONG;
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use test_support::proxy::Proxy;
use test_support::waiting::{until, within};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use verifyd::domain::completion::Completion;
use verifyd::domain::{ConnectionId, RunId};
use verifyd::ports::store::{AttemptEnd, Claim, ClaimAnswer, ContextSize, Store};

/// Runs that wait, of the tenant 8, and healthy ones, of others.
const WAITING: usize = 12;
const HEALTHY: usize = 60;

/// Has each of these updates of the tenant 8 wait, until the server cancels it or its session ends.
async fn hold(bed: &Bed, updates: &str) {
    let trigger = "TRIGGER hold BEFORE UPDATE ON operation_runs";
    hold_by(bed, trigger, updates, 3600).await;
}

/// The same, but deferred to the commit, whose time has no limit.
async fn hold_at_end(bed: &Bed, updates: &str) {
    let trigger = "CONSTRAINT TRIGGER hold AFTER UPDATE ON operation_runs INITIALLY DEFERRED";
    hold_by(bed, trigger, updates, 3600).await;
}

async fn hold_by(bed: &Bed, trigger: &str, updates: &str, seconds: u32) {
    bed.exec(&format!(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep({seconds}); RETURN new; END';
         CREATE {trigger} FOR EACH ROW
             WHEN (new.tenant_id = 8 AND {updates}) EXECUTE FUNCTION hold()"
    ))
    .await;
}

/// A store whose statements may take longer than `within` waits: what waits for one that is held fails the test. A batch
/// may take five seconds.
async fn store(bed: &Bed) -> Arc<dyn Store> {
    let mut settings = settings(&bed.url());
    settings.statement_timeout = Duration::from_secs(150);
    verifyd::store::connect(&settings).await.unwrap()
}

async fn runs(bed: &Bed) -> (Vec<RunId>, Vec<RunId>) {
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(bed.queued_for(8, 1).await);
    }
    (waiting, bed.many_queued(HEALTHY).await)
}

/// Makes all calls at once, each that waits before some of the others, and returns the answers of the others. They come
/// before those of the calls that wait.
async fn answers_of_healthy<F>(waiting: Vec<F>, healthy: Vec<F>) -> Vec<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let (mut waits, mut passes) = (JoinSet::new(), JoinSet::new());
    let mut waiting = waiting.into_iter();
    for (number, call) in healthy.into_iter().enumerate() {
        if number % (HEALTHY / WAITING) == 0 {
            waits.spawn(waiting.next().unwrap());
        }
        passes.spawn(call);
    }
    let answers = within("healthy runs have an answer", passes.join_all()).await;
    assert_eq!(answers.len(), HEALTHY);
    assert!(
        waits.try_join_next().is_none(),
        "a call that waits has an answer"
    );
    waits.shutdown().await;
    answers
}

/// On one thread, so that most calls are in the same batch.
#[tokio::test]
async fn healthy_runs_are_claimed_before_those_whose_claims_wait() {
    let bed = Bed::postgres().await;
    let (waiting, healthy) = runs(&bed).await;
    hold(&bed, "new.status = 'running'").await;
    let store = store(&bed).await;
    let claim = |run: RunId| {
        let store = Arc::clone(&store);
        async move { store.claim(run, &worker("w1"), &POLICY).await }
    };
    let waiting: Vec<_> = waiting.into_iter().map(claim).collect();
    let healthy: Vec<_> = healthy.into_iter().map(claim).collect();
    for answer in answers_of_healthy(waiting, healthy).await {
        assert!(answer.unwrap().claimed().is_some());
    }
    let claimed = "operation_runs WHERE status = 'running' AND tenant_id = 8";
    assert_eq!(bed.count(claimed).await, 0);
}

/// A trigger waits for longer than two batches may. As many calls are made at the same time as a worker has slots.
#[tokio::test]
async fn healthy_claims_of_one_moment_end_while_the_first_ones_wait() {
    const SLOTS: usize = 64;
    let bed = Bed::postgres().await;
    let (mut waiting, mut healthy) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        waiting.push(bed.queued_for(8, 1).await);
        for tenant in 11..=20 {
            healthy.push(bed.queued_for(tenant, 1).await);
        }
    }
    let rule = "TRIGGER hold BEFORE UPDATE ON operation_runs";
    hold_by(&bed, rule, "new.status = 'running'", 20).await;
    let store = store(&bed).await;
    let slots = Arc::new(Semaphore::new(SLOTS));
    let (mut waits, mut passes) = (JoinSet::new(), JoinSet::new());
    while let Some(run) = healthy.pop() {
        let next = match healthy.len() % 10 {
            0 => waiting.pop(),
            _ => None,
        };
        for (run, calls) in [(Some(run), &mut passes), (next, &mut waits)] {
            let Some(run) = run else { continue };
            let (store, slots) = (Arc::clone(&store), Arc::clone(&slots));
            calls.spawn(async move {
                let _slot = slots.acquire_owned().await.unwrap();
                store.claim(run, &worker("w1"), &POLICY).await
            });
        }
    }
    let answers = within("healthy runs have an answer", passes.join_all()).await;
    for answer in answers {
        assert!(answer.unwrap().claimed().is_some());
    }
    // Neither granted, which takes as long as the trigger does, nor refused.
    assert!(
        waits.try_join_next().is_none(),
        "a claim has waited to its end"
    );
    waits.shutdown().await;
}

/// Of a connection and a tenant that all share.
fn of_one_connection() -> Completion {
    Completion {
        connection: Some(ConnectionId(1)),
        inventory: Some(refresh(7, &[("A.Read", true)])),
        ..succeeded()
    }
}

/// The same of completions, then of releases.
#[tokio::test]
async fn healthy_runs_are_completed_and_released_before_those_that_wait() {
    for is_completed in [true, false] {
        let bed = Bed::postgres().await;
        let (waiting, healthy) = runs(&bed).await;
        let store = store(&bed).await;
        let mut calls = [Vec::new(), Vec::new()];
        for (calls, runs) in calls.iter_mut().zip([waiting, healthy]) {
            for run in runs {
                let (store, claim) = (Arc::clone(&store), bed.claim(run, "w1").await);
                calls.push(async move {
                    match is_completed {
                        true => store.complete(&claim, &of_one_connection()).await,
                        false => {
                            store
                                .release(&claim, AttemptEnd::Error, None, None, false)
                                .await
                        }
                    }
                });
            }
        }
        match is_completed {
            true => hold_at_end(&bed, "old.status = 'running'").await,
            false => hold(&bed, "old.status = 'running'").await,
        }
        let [waiting, healthy] = calls;
        for answer in answers_of_healthy(waiting, healthy).await {
            assert!(answer.unwrap(), "{is_completed}");
        }
        let left = "operation_runs WHERE status = 'running'";
        assert_eq!(bed.count(left).await, WAITING as i64, "{is_completed}");
    }
}

/// Ends the session of the only call that waits, once that is no short try, and waits until it has left its run.
async fn end_waiting(bed: &Bed, run: RunId) {
    until("a call waits, after its short try", async || {
        bed.count(WAITING_LONG).await == 1
    })
    .await;
    bed.exec(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event = 'PgSleep'",
    )
    .await;
    until("nobody locks the run", async || {
        let free = format!(
            "SELECT count(*) FROM (SELECT FROM operation_runs WHERE id = {run}
                 FOR UPDATE SKIP LOCKED) r"
        );
        bed.number(&free).await == 1
    })
    .await;
}

/// Claims healthy runs together with this one. A batch may take two minutes here: one that waits would fail the test.
async fn healthy_runs_are_claimed_beside(bed: &Bed, waiting: RunId) {
    let healthy = bed.many_queued(9).await;
    let claim = |run: RunId| {
        let store = Arc::clone(&bed.store);
        async move { store.claim(run, &worker("w1"), &POLICY).await }
    };
    let mut again = JoinSet::new();
    again.spawn(claim(waiting));
    let claims = join_all(healthy.into_iter().map(claim));
    for answer in within("healthy runs are claimed", claims).await {
        assert!(answer.unwrap().claimed().is_some());
    }
    assert!(again.try_join_next().is_none());
    again.shutdown().await;
}

#[tokio::test]
async fn a_run_whose_claim_waited_is_in_no_batch_of_claims() {
    let bed = Bed::postgres().await;
    let waiting = bed.queued_for(8, 1).await;
    hold(&bed, "new.status = 'running'").await;
    let store = Arc::clone(&bed.store);
    // In no batch from the beginning.
    let claim = async move { store.claim(waiting, &worker("w1"), &ISOLATED).await };
    let first = tokio::spawn(claim);
    end_waiting(&bed, waiting).await;
    assert!(first.await.unwrap().is_err());
    healthy_runs_are_claimed_beside(&bed, waiting).await;
}

/// In another run, too, though none of the tenant has been in a batch that waited.
#[tokio::test]
async fn a_tenant_whose_claim_waited_is_in_no_batch_of_claims() {
    let bed = Bed::postgres().await;
    let [first, second, third] = [
        bed.queued_for(8, 1).await,
        bed.queued_for(8, 1).await,
        bed.queued_for(8, 1).await,
    ];
    hold(&bed, "new.status = 'running'").await;
    let store = Arc::clone(&bed.store);
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { store.claim(first, &worker("w1"), &ISOLATED).await });
    until("a call waits, after its short try", async || {
        bed.count(WAITING_LONG).await == 1
    })
    .await;
    // An answer that comes at once tells nothing where nothing was written.
    let lock = bed.lock_run(third).await;
    let answer = bed.store.claim(third, &worker("w1"), &ISOLATED).await;
    assert!(matches!(answer, Ok(ClaimAnswer::Locked)), "{answer:?}");
    lock.release().await;
    healthy_runs_are_claimed_beside(&bed, second).await;
    waiting.shutdown().await;
}

/// The same of completions. One that keeps nothing of the context is in no batch from the beginning.
#[tokio::test]
async fn a_tenant_whose_completion_waited_is_in_no_batch_of_completions() {
    let bed = Bed::postgres().await;
    let mut of_tenant = Vec::new();
    for _ in 0..2 {
        let run = bed.queued_for(8, 1).await;
        of_tenant.push(bed.claim(run, "w1").await);
    }
    of_tenant[0].context = ContextSize::Huge;
    let mut healthy = Vec::new();
    for run in bed.many_queued(9).await {
        healthy.push(bed.claim(run, "w1").await);
    }
    hold(&bed, "new.status = 'completed'").await;
    let complete = |claim: Claim| {
        let store = Arc::clone(&bed.store);
        async move { store.complete(&claim, &succeeded()).await }
    };
    let mut waiting = JoinSet::new();
    let mut of_tenant = of_tenant.into_iter().map(complete);
    waiting.spawn(of_tenant.next().unwrap());
    until("a call waits, after its short try", async || {
        bed.count(WAITING_LONG).await == 1
    })
    .await;
    waiting.spawn(of_tenant.next().unwrap());
    let completions = join_all(healthy.into_iter().map(complete));
    for answer in within("healthy runs are completed", completions).await {
        assert!(answer.unwrap());
    }
    assert!(waiting.try_join_next().is_none());
    waiting.shutdown().await;
}

/// For longer than a claim waits for a lock.
#[tokio::test]
async fn a_tenant_whose_claim_waited_for_a_lock_is_in_no_batch_of_claims() {
    let bed = Bed::postgres().await;
    let connection = bed.connection(8).await;
    bed.exec(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock(8); RETURN new; END';
         CREATE TRIGGER hold BEFORE UPDATE ON operation_runs FOR EACH ROW
             WHEN (new.tenant_id = 8 AND new.status = 'running') EXECUTE FUNCTION hold()",
    )
    .await;
    let mut other = bed.pg().begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(8)")
        .execute(&mut *other)
        .await
        .unwrap();
    let claim = async |policy| {
        let run = bed.queued_for(8, connection.0).await;
        bed.store.claim(run, &worker("w1"), policy).await
    };
    // The machine may be too busy for a short try before it has locked its run.
    for _ in 0..3 {
        let error = claim(&ISOLATED).await.err().unwrap();
        assert_eq!(error.sqlstate(), Some("55P03"), "{error}");
    }
    other.rollback().await.unwrap();
    let claimed = claim(&POLICY).await.unwrap().claimed().unwrap();
    assert!(claimed.start.is_none(), "it comes with a claim of a batch");
}

/// A client that is far from its server measures as much for each call as a rule takes that marks a tenant.
#[tokio::test]
async fn a_tenant_whose_statements_travel_far_is_in_batches() {
    let bed = Bed::postgres().await;
    let connection = bed.connection(8).await;
    let (way, url) = Proxy::before(&bed.url()).await;
    let store = verifyd::store::connect(&settings(&url)).await.unwrap();
    way.slow(Duration::from_millis(20));
    let claim = async |policy| {
        let run = bed.queued_for(8, connection.0).await;
        let answer = store.claim(run, &worker("w1"), policy).await;
        answer.unwrap().claimed().unwrap()
    };
    claim(&ISOLATED).await;
    // The first one is, unless the machine was too busy for a short try before.
    until("its claims are in batches", async || {
        claim(&POLICY).await.start.is_some()
    })
    .await;
}

/// As by a claim of another process that waits.
#[tokio::test]
async fn a_run_that_is_locked_is_in_no_batch_of_claims() {
    let bed = Bed::postgres().await;
    let waiting = bed.queued_for(8, 1).await;
    hold(&bed, "new.status = 'running'").await;
    let lock = bed.lock_run(waiting).await;
    let answer = bed.store.claim(waiting, &worker("w1"), &POLICY).await;
    assert!(matches!(answer, Ok(ClaimAnswer::Locked)), "{answer:?}");
    lock.release().await;
    healthy_runs_are_claimed_beside(&bed, waiting).await;
}

/// The same of completions. What locks the run has the first batch leave it undecided.
#[tokio::test]
async fn a_run_whose_completion_waited_is_in_no_batch_of_completions() {
    let bed = Bed::postgres().await;
    let run = bed.queued_for(8, 1).await;
    let waiting = bed.claim(run, "w1").await;
    let mut healthy = Vec::new();
    for run in bed.many_queued(9).await {
        healthy.push(bed.claim(run, "w1").await);
    }
    hold(&bed, "new.status = 'completed'").await;
    let complete = |claim: Claim| {
        let store = Arc::clone(&bed.store);
        async move { store.complete(&claim, &succeeded()).await }
    };
    let lock = bed.lock_run(run).await;
    let first = tokio::spawn(complete(waiting.clone()));
    until("it waits for the lock, by itself", async || {
        let waits = "pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        bed.count(waits).await == 1
    })
    .await;
    lock.release().await;
    end_waiting(&bed, run).await;
    assert!(first.await.unwrap().is_err());
    let mut again = JoinSet::new();
    again.spawn(complete(waiting));
    let completions = join_all(healthy.into_iter().map(complete));
    for answer in within("healthy runs are completed", completions).await {
        assert!(answer.unwrap());
    }
    assert!(again.try_join_next().is_none());
    again.shutdown().await;
}

/// Its completion waited, and another one has the connection for calls that wait.
#[tokio::test]
async fn a_release_does_not_wait_behind_completions_that_wait() {
    let bed = Bed::postgres().await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let run = bed.queued_for(8, 1).await;
        held.push((run, bed.claim(run, "w1").await));
    }
    let (other_run, other) = held.remove(1);
    let (run, claim) = held.remove(0);
    hold(&bed, "new.status = 'completed'").await;
    let complete = |claim: Claim| {
        let store = Arc::clone(&bed.store);
        async move { store.complete(&claim, &succeeded()).await }
    };
    // What locks a run has the batch leave it undecided.
    let until_it_waits_long = async || {
        until("it waits for the lock, after its short try", async || {
            let waits = "pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'
                    AND query_start < now() - interval '2 seconds'";
            bed.count(waits).await == 1
        })
        .await;
    };
    let lock = bed.lock_run(run).await;
    let first = tokio::spawn(complete(claim.clone()));
    until_it_waits_long().await;
    lock.release().await;
    end_waiting(&bed, run).await;
    assert!(first.await.unwrap().is_err());
    let lock = bed.lock_run(other_run).await;
    let mut waiting = JoinSet::new();
    waiting.spawn(complete(other));
    until_it_waits_long().await;
    until("it is released", async || {
        // A short try may take too long on a busy machine.
        let release = bed
            .store
            .release(&claim, AttemptEnd::Error, None, None, false);
        let released = timeout(Duration::from_secs(5), release).await;
        released.is_ok_and(|answer| answer.is_ok())
    })
    .await;
    assert!(waiting.try_join_next().is_none());
    waiting.shutdown().await;
    lock.release().await;
}
