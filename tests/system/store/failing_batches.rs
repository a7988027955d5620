//! A batch that loses what it runs on in the middle never keeps the calls behind it waiting.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, logged, succeeded, worker};
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use test_support::waiting::{until, within};
use verifyd::domain::{RunId, RunStatus};
use verifyd::ports::store::{Claim, StoreError};

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

/// Queued runs with a claim of each, or with the completion of each that is claimed. A call returns whether it has done
/// so.
async fn calls(
    bed: &Bed,
    completes: bool,
) -> (
    Vec<RunId>,
    Vec<BoxFuture<'static, Result<bool, StoreError>>>,
) {
    let runs = bed.many_queued(MANY).await;
    let calls = if completes {
        let claims = join_all(runs.iter().map(|run| bed.claim(*run, "w1"))).await;
        let complete = |claim: Claim| {
            let store = Arc::clone(&bed.store);
            async move { store.complete(&claim, &succeeded()).await }.boxed()
        };
        claims.into_iter().map(complete).collect()
    } else {
        let claim = |run: &RunId| {
            let (store, run) = (Arc::clone(&bed.store), *run);
            async move {
                let answer = store.claim(run, &worker("w1"), &POLICY).await;
                answer.map(|answer| answer.claimed().is_some())
            }
            .boxed()
        };
        runs.iter().map(claim).collect()
    };
    (runs, calls)
}

/// Panics where the first batch is counted. It has its calls and its connection then, in SQLite within a transaction.
#[derive(Default)]
struct PanicsOnce {
    has_panicked: AtomicBool,
}

impl Recorder for PanicsOnce {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        if key.name() == "verifyd_database_batch_calls" {
            let has_panicked = self.has_panicked.swap(true, Ordering::Relaxed);
            assert!(has_panicked, "a panic that a test asked for");
        }
        Histogram::noop()
    }
}

/// On one thread, where the metrics of every batch come from.
#[tokio::test]
async fn calls_of_a_batch_whose_task_panics_and_those_behind_it_are_answered() {
    for completes in [false, true] {
        for bed in [Bed::postgres().await, Bed::sqlite().await] {
            let (_, calls) = calls(&bed, completes).await;
            let recorder = PanicsOnce::default();
            let _guard = metrics::set_default_local_recorder(&recorder);
            let calls: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
            for answer in within("all are answered", join_all(calls)).await {
                assert!(answer.unwrap().unwrap());
            }
            assert!(recorder.has_panicked.load(Ordering::Relaxed));
        }
    }
}

/// The task of a batch is where its first call came from: here in a runtime that ends. In PostgreSQL the batch waits in
/// the middle of its transaction then, in SQLite for the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_behind_a_batch_that_is_cancelled_are_answered() {
    for completes in [false, true] {
        for bed in [Bed::postgres().await, Bed::sqlite().await] {
            let (runs, mut calls) = calls(&bed, completes).await;
            // What connects first must not be what ends.
            bed.store.counts().await.unwrap();
            let used = || -> u32 { bed.store.pools().iter().map(|pool| pool.used).sum() };
            until("no connection is used", async || used() == 0).await;
            let lock = if bed.is_postgres() {
                bed.exec(&format!(
                    "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
                         'BEGIN PERFORM pg_sleep(3600); RETURN new; END';
                     CREATE TRIGGER hold BEFORE UPDATE ON operation_runs FOR EACH ROW
                         WHEN (new.id = {}) EXECUTE FUNCTION hold()",
                    runs[0]
                ))
                .await;
                None
            } else {
                Some(bed.lock_run(runs[0]).await)
            };
            let elsewhere = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let first = elsewhere.spawn(calls.remove(0));
            until("the batch waits", async || {
                let sleeping = "pg_stat_activity
                    WHERE datname = current_database() AND wait_event = 'PgSleep'";
                match &lock {
                    None => bed.count(sleeping).await == 1,
                    Some(_) => used() == 1,
                }
            })
            .await;
            let mut behind = Box::pin(join_all(calls));
            assert!(futures::poll!(behind.as_mut()).is_pending());
            elsewhere.shutdown_background();
            assert!(first.await.unwrap_err().is_cancelled());
            if let Some(lock) = lock {
                lock.release().await;
            }
            for answer in within("those behind it are answered", behind).await {
                assert!(answer.unwrap());
            }
        }
    }
}
