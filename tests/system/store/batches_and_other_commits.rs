//! PostgreSQL: what is sent with others is one statement. Somebody commits after it has taken its snapshot
//! and before it has locked the run.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, claim, with_inventory, worker};
use std::sync::Arc;
use std::time::Duration;
use verifyd::domain::{RunId, RunStatus};
use verifyd::ports::store::{AttemptEnd, Store};

/// A policy that every read of a row of `operation_runs` has to pass: it waits while the gate is closed, and
/// the lock on the row comes after it. It takes no lock itself, so that no limit on a lock's wait ends it.
const GATE: &str = "\
    CREATE TABLE gate (closed boolean NOT NULL); \
    INSERT INTO gate VALUES (false); \
    CREATE FUNCTION passes() RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$ \
    BEGIN \
        WHILE (SELECT closed FROM public.gate) LOOP PERFORM pg_sleep(0.002); END LOOP; \
        RETURN true; \
    END $$; \
    ALTER TABLE operation_runs ENABLE ROW LEVEL SECURITY; \
    CREATE POLICY gated ON operation_runs USING (passes())";

const AT_THE_GATE: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND wait_event = 'PgSleep'";

/// Nobody passes by a policy but a superuser: so this store is of the role that `serve` would have.
async fn gated(bed: &Bed) -> Arc<dyn Store> {
    bed.exec(include_str!("../../../deploy/postgres-grants.sql"))
        .await;
    bed.exec(GATE).await;
    bed.connect_as(|url| url.set_username("verifyd_serve").unwrap())
        .await
}

/// Lets a call come as far as the gate, changes what is there behind its back, and lets it through.
async fn behind<T: Send + 'static>(
    bed: &Bed,
    call: impl Future<Output = T> + Send + 'static,
    change: &str,
) -> T {
    bed.exec("UPDATE gate SET closed = true").await;
    let call = tokio::spawn(call);
    let there = async {
        while bed.number(AT_THE_GATE).await == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), there)
        .await
        .expect("the call comes to the gate");
    bed.exec(&format!("BEGIN; {change}; COMMIT")).await;
    bed.exec("UPDATE gate SET closed = false").await;
    call.await.unwrap()
}

fn taken(run: RunId, attempt: u32) -> String {
    format!(
        "UPDATE operation_runs SET status = 'running', started_at = coalesce(started_at, now()) \
         WHERE id = {run}; \
         INSERT INTO verifyd.run_attempts \
             (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at) \
         VALUES ({run}, {attempt}, gen_random_uuid(), 'other', true, now(), now() + interval '1 hour')"
    )
}

fn given_back(run: RunId, why: &str) -> String {
    format!(
        "UPDATE operation_runs SET status = 'queued' WHERE id = {run}; \
         UPDATE verifyd.run_attempts SET ended_at = now(), end_reason = '{why}' \
         WHERE run_id = {run} AND ended_at IS NULL"
    )
}

/// Queued when the claim looked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_does_not_take_what_another_has_claimed_meanwhile() {
    let bed = Bed::postgres().await;
    let store = gated(&bed).await;
    let run = bed.queued().await;
    let call = async move { store.claim(run, &worker("w1"), &POLICY).await };
    let answer = behind(&bed, call, &taken(run, 1)).await;
    assert!(answer.unwrap().claimed().is_none());
    let attempts = bed.attempts(run).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].worker_id, "other");
    assert_eq!(attempts[0].end_reason, None);
}

/// Queued when the claim looked, and when it locked; what happened in between it cannot see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_honours_what_was_claimed_and_given_back_meanwhile() {
    let bed = Bed::postgres().await;
    let store = gated(&bed).await;
    let run = bed.queued().await;
    let call = async move { store.claim(run, &worker("w1"), &POLICY).await };
    let change = format!(
        "{}; {}; INSERT INTO verifyd.run_deliveries (run_id, not_before) \
                 VALUES ({run}, now() + interval '1 hour')",
        taken(run, 1),
        given_back(run, "throttled"),
    );
    let answer = behind(&bed, call, &change).await;
    assert!(answer.unwrap().claimed().is_none());
    let stored = bed.run(run).await;
    assert_eq!(stored.status, RunStatus::Queued);
    let attempts = bed.attempts(run).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].end_reason, Some(AttemptEnd::Throttled));
}

/// Running and held by this claim when the completion looked; running and held by another when it locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_does_not_complete_what_was_taken_over_meanwhile() {
    let bed = Bed::postgres().await;
    let store = gated(&bed).await;
    let run = bed.queued().await;
    let held = claim(&store, run, "w1").await;
    let call = async move { store.complete(&held, &with_inventory()).await };
    let change = format!("{}; {}", given_back(run, "worker_lost"), taken(run, 2));
    assert!(!behind(&bed, call, &change).await.unwrap());
    let stored = bed.run(run).await;
    assert_eq!((stored.status, stored.outcome), (RunStatus::Running, None));
    assert_eq!(stored.report(), None);
    bed.has_learnt_nothing().await;
    let attempts = bed.attempts(run).await;
    assert_eq!(attempts[0].end_reason, Some(AttemptEnd::WorkerLost));
    assert_eq!(attempts[1].end_reason, None);
}
