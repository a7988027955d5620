//! A batch that loses what it runs on in the middle never keeps the calls behind it waiting.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, logged, succeeded, worker};
use futures::future::join_all;
use std::time::Duration;
use verifyd::domain::{RunId, RunStatus};

/// More than two batches.
const MANY: usize = 300;

/// Guards against hanging only; less than the limits of the store together.
const GUARD: Duration = Duration::from_secs(100);

/// The transaction that touches this run loses its connection (PostgreSQL) or is rolled back under
/// it (SQLite), whoever sends it. Each trigger has its own name: a connection to SQLite that has not noticed that
/// another one dropped a trigger would refuse to make it again.
async fn break_on(bed: &Bed, run: RunId) {
    let trigger = if bed.is_postgres() {
        "CREATE OR REPLACE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); \
          PERFORM pg_sleep(60); RETURN new; END'; \
         CREATE TRIGGER a_break_RUN BEFORE UPDATE ON operation_runs FOR EACH ROW \
         WHEN (new.id = RUN) EXECUTE FUNCTION break_it()"
    } else {
        "CREATE TRIGGER a_break_RUN BEFORE UPDATE ON operation_runs WHEN new.id = RUN \
         BEGIN SELECT RAISE(ROLLBACK, 'gone'); END"
    };
    bed.exec(&trigger.replace("RUN", &run.to_string())).await;
}

async fn mend(bed: &Bed, run: RunId) {
    let on = if bed.is_postgres() {
        " ON operation_runs"
    } else {
        ""
    };
    bed.exec(&format!("DROP TRIGGER a_break_{run}{on}")).await;
}

/// Claims, then completions: the first call of the first batch ends its connection.
pub async fn behind_a_batch_that_loses_its_connection_the_next_one_starts(bed: &Bed) {
    let runs = bed.many_queued(MANY).await;
    let me = worker("w1");
    // At the same time, so that most wait while the first batch is under way.
    let claim_all = || async {
        tokio::time::timeout(
            GUARD,
            join_all(runs.iter().map(|run| bed.store.claim(*run, &me, &POLICY))),
        )
        .await
        .expect("nobody is left without an answer")
    };
    break_on(bed, runs[0]).await;
    let mut claims = Vec::new();
    for (run, answer) in runs.iter().zip(claim_all().await) {
        match answer {
            Ok(answer) => claims.push(answer.claimed().expect("it can be claimed")),
            Err(error) => assert_eq!(*run, runs[0], "{error}"),
        }
    }
    assert_eq!(claims.len(), MANY - 1);
    mend(bed, runs[0]).await;

    let broken = claims[0].run.id;
    break_on(bed, broken).await;
    let completion = succeeded();
    let completed = tokio::time::timeout(
        GUARD,
        join_all(
            claims
                .iter()
                .map(|claim| bed.store.complete(claim, &completion)),
        ),
    )
    .await
    .expect("nobody is left without an answer");
    for (claim, answer) in claims.iter().zip(completed) {
        match answer {
            Ok(completed) => assert!(completed),
            Err(error) => assert_eq!(claim.run.id, broken, "{error}"),
        }
    }
}

/// PostgreSQL: the driver panics at a time that it cannot represent. An earlier attempt of the first run has
/// one, so the batch that claims this run panics, and so does the run's own call, which is sent separately.
/// Everything is on one thread, which begins the calls in their order.
///
/// A completion reads no stored time, and nothing else in it can panic. Its batches are sent by the same task:
/// see `src/store/batching/tests.rs`.
#[tokio::test]
async fn behind_a_batch_of_claims_that_panics_the_next_one_starts() {
    let bed = Bed::postgres().await;
    let runs = bed.many_queued(MANY).await;
    let first = runs[0];
    bed.exec(&format!(
        "UPDATE operation_runs SET started_at = now() WHERE id = {first}; \
         INSERT INTO verifyd.run_attempts (run_id, attempt, token, worker_id, counted, claimed_at, \
             deadline_at, ended_at, end_reason) \
         VALUES ({first}, 1, gen_random_uuid(), 'gone', false, 'infinity', now(), now(), 'throttled')"
    ))
    .await;
    let (log, _logged) = logged();
    let calls = runs.iter().map(|run| {
        let (store, run) = (bed.store.clone(), *run);
        tokio::spawn(async move { store.claim(run, &worker("w1"), &POLICY).await })
    });
    let calls: Vec<_> = calls.collect();
    let answers = tokio::time::timeout(GUARD, join_all(calls))
        .await
        .expect("nobody is left without an answer");
    for (run, answer) in runs.iter().zip(answers) {
        match answer {
            Ok(answer) => assert!(answer.unwrap().claimed().is_some(), "{run}"),
            Err(ended) => assert!(*run == first && ended.is_panic(), "{run}: {ended}"),
        }
    }
    assert_eq!(bed.run(first).await.status, RunStatus::Queued);
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(log.contains("a batch panicked"), "{log}");
}
