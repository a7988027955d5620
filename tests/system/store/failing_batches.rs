//! A batch that loses what it runs on in the middle never keeps the calls behind it waiting.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, succeeded, worker};
use futures::future::join_all;
use std::time::Duration;
use verifyd::domain::RunId;

/// More than two batches.
const MANY: usize = 300;

/// Guards against hanging only; less than the limits of the store together.
const GUARD: Duration = Duration::from_secs(100);

/// The transaction that touches this run loses its connection (PostgreSQL) or is rolled back under
/// it (SQLite), whoever sends it.
async fn break_on(bed: &Bed, run: RunId) {
    if bed.own("x") == "verifyd.x" {
        bed.exec(&format!(
            "CREATE OR REPLACE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); \
              PERFORM pg_sleep(60); RETURN new; END'; \
             CREATE TRIGGER a_break_it_{run} BEFORE UPDATE ON operation_runs FOR EACH ROW \
             WHEN (new.id = {run}) EXECUTE FUNCTION break_it()"
        ))
        .await;
    } else {
        bed.exec(&format!(
            "CREATE TRIGGER break_it_{run} BEFORE UPDATE ON operation_runs WHEN new.id = {run} \
             BEGIN SELECT RAISE(ROLLBACK, 'gone'); END"
        ))
        .await;
    }
}

async fn mend(bed: &Bed, run: RunId) {
    if bed.own("x") == "verifyd.x" {
        bed.exec(&format!("DROP TRIGGER a_break_it_{run} ON operation_runs"))
            .await;
    } else {
        bed.exec(&format!("DROP TRIGGER break_it_{run}")).await;
    }
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
