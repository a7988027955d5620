//! PostgreSQL: what is sent with others is one statement. Somebody commits after it has taken its snapshot
//! and before it has locked the run, or another replica sends its own.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, claim, succeeded, with_inventory, worker};
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use test_support::waiting::until;
use verifyd::domain::{ConnectionId, RunId, RunStatus};
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

/// Holds each DELETE of a report while the gate is closed, with the lock on its row, and counts them: a sequence counts
/// what is rolled back, too.
const HELD_REPORTS: &str = "
    INSERT INTO verifyd.latest_reports (connection_id, operation_run_id, fingerprint, overall, outcome, completed_at)
    VALUES (12, 1000, 'earlier', 'ready', 'succeeded', '2020-01-01 00:00:00+00'),
        (11, 1000, 'earlier', 'ready', 'succeeded', '2020-01-01 00:00:00+00');
    CREATE SEQUENCE deletions;
    CREATE TABLE gate (closed boolean NOT NULL);
    INSERT INTO gate VALUES (true);
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM nextval('public.deletions');
        WHILE (SELECT closed FROM public.gate) LOOP PERFORM pg_sleep(0.002); END LOOP;
        RETURN old; END $$;
    CREATE TRIGGER hold BEFORE DELETE ON verifyd.latest_reports FOR EACH ROW EXECUTE FUNCTION hold()";

const HELD_UP: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND (wait_event = 'PgSleep' OR wait_event_type = 'Lock')";

/// Two batches find the reports that earlier runs have left of the same connections: one as they lie in the table, the
/// other by their index, which is the opposite order. Each would hold a row that the other one wants. On one thread, so
/// that both calls of a replica are in the same batch.
#[tokio::test]
async fn batches_delete_reports_of_earlier_runs_in_the_same_order() {
    let bed = Bed::postgres().await;
    bed.exec(HELD_REPORTS).await;
    let mut batches = Vec::new();
    for (planner, connections) in [
        (
            "-c enable_mergejoin=off -c enable_indexscan=off -c enable_indexonlyscan=off",
            [12, 11],
        ),
        (
            "-c enable_mergejoin=off -c enable_seqscan=off -c enable_bitmapscan=off",
            [11, 12],
        ),
    ] {
        let store = bed
            .connect_as(|url| {
                url.query_pairs_mut().append_pair("options", planner);
            })
            .await;
        let mut calls = Vec::new();
        for connection in connections {
            let run = bed.queued().await;
            let mut completion = succeeded();
            completion.connection = Some(ConnectionId(connection));
            calls.push((bed.claim(run, "w1").await, completion));
        }
        batches.push((store, calls));
    }
    let mut completing = Vec::new();
    for (store, calls) in batches {
        let batch = async move {
            let calls = calls
                .iter()
                .map(|(held, completion)| store.complete(held, completion));
            join_all(calls).await
        };
        completing.push(tokio::spawn(batch));
        let wanted = i64::try_from(completing.len()).unwrap();
        until("the batch is held up", async || {
            bed.number(HELD_UP).await >= wanted
        })
        .await;
    }
    bed.exec("UPDATE gate SET closed = false").await;
    for batch in completing {
        for completed in batch.await.unwrap() {
            assert!(completed.unwrap());
        }
    }
    let deletions = "SELECT last_value FROM deletions";
    assert_eq!(bed.number(deletions).await, 2);
}
