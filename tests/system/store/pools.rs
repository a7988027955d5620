//! What a store says of its connections.

use crate::store::bed::{Bed, settings};
use crate::store::fixtures::{ISOLATED, POLICY, context, succeeded, worker};
use futures::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use test_support::waiting::{until, within};
use tokio::task::JoinSet;
use verifyd::domain::run::RUN_TYPE;
use verifyd::ports::store::{AttemptEnd, Claim, StoreError};

pub async fn a_connection_counts_as_used_until_its_call_ends(bed: &Bed) {
    let run = bed.queued().await;
    let held = bed.claim(run, "w1").await;
    let used = || -> u32 { bed.store.pools().iter().map(|pool| pool.used).sum() };
    until("none is used", async || used() == 0).await;
    let lock = bed.lock_run(run).await;
    let store = Arc::clone(&bed.store);
    let completing = tokio::spawn(async move { store.complete(&held, &succeeded()).await });
    until("one is used", async || used() == 1).await;
    lock.release().await;
    assert!(completing.await.unwrap().unwrap());
    until("none is used again", async || used() == 0).await;
    let pools = bed.store.pools();
    assert!(pools.iter().any(|pool| pool.idle > 0), "{pools:?}");
    assert!(pools.iter().all(|pool| pool.idle <= pool.max), "{pools:?}");
    // See `bed::settings`.
    assert!(pools.iter().any(|pool| pool.max == 8), "{pools:?}");
}

/// New runs that a worker has claimed.
async fn claimed(bed: &Bed, count: usize) -> Vec<Claim> {
    let mut held = Vec::new();
    for run in bed.many_queued(count).await {
        held.push(bed.claim(run, "w1").await);
    }
    held
}

/// A session keeps the settings of its database with which it was opened, also when they are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_was_opened_with_does_not_outlast_its_change() {
    let bed = Bed::postgres().await;
    let runs = [bed.queued().await, bed.queued().await];
    let url = bed.url();
    let name = url.rsplit('/').next().unwrap();
    // What changes the default is not bound by it.
    let set = async |setting: &str| {
        let change = format!("BEGIN READ WRITE; ALTER DATABASE {name} SET {setting}; COMMIT");
        bed.exec(&change).await;
    };
    for (run, setting) in runs.into_iter().zip([
        "default_transaction_read_only = on",
        "search_path = elsewhere",
    ]) {
        set(setting).await;
        let store = bed.replica().await;
        store.schema_mark().await.unwrap();
        let me = worker("w1");
        assert!(store.claim(run, &me, &POLICY).await.is_err(), "{setting}");
        let may_write = store.check_writable().await.is_ok();
        assert_eq!(may_write, setting.starts_with("search_path"), "{setting}");
        let is_unused = async || store.pools().iter().all(|pool| pool.used == 0);
        until("all connections are returned", is_unused).await;
        let (setting, _) = setting.split_once(" = ").unwrap();
        set(&format!("{setting} TO DEFAULT")).await;
        if setting == "search_path" {
            // As the sweep does. What cannot write is replaced without it.
            store.schema_mark().await.unwrap();
        }
        let claimed = store.claim(run, &me, &POLICY).await.unwrap();
        assert!(claimed.claimed().is_some(), "{setting}");
    }
}

/// Calls that wait in a trigger.
const WAITING: &str = "pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'PgSleep'";

/// Those of them that are no short try, which has ended by then.
pub const WAITING_LONG: &str = "pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'PgSleep'
        AND query_start < now() - interval '2 seconds'";

/// A trigger of the application has each of these updates wait, for longer than a test takes.
async fn hold(bed: &Bed, updates: &str) {
    bed.exec(&format!(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(3600); RETURN new; END';
         CREATE TRIGGER hold BEFORE UPDATE ON operation_runs FOR EACH ROW
             WHEN ({updates}) EXECUTE FUNCTION hold()"
    ))
    .await;
}

const CLAIMS: &str = "new.status = 'running'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_wait_leave_connections_to_other_calls() {
    let bed = Bed::postgres().await;
    let runs = bed.many_queued(16).await;
    hold(&bed, CLAIMS).await;
    let mut claims = JoinSet::new();
    for run in runs {
        let store = Arc::clone(&bed.store);
        claims.spawn(async move { store.claim(run, &worker("w1"), &ISOLATED).await });
    }
    // See `bed::settings`: half of the half for claims.
    until("a quarter of the pool waits", async || {
        bed.count(WAITING_LONG).await == 2
    })
    .await;
    let others = async {
        for _ in 0..100 {
            bed.store.check_writable().await.unwrap();
        }
    };
    within("other calls get a connection", others).await;
    assert!(bed.count(WAITING).await <= 4);
    assert_eq!(bed.count(WAITING_LONG).await, 2);
    claims.shutdown().await;
}

/// What waits behind a batch without an answer is sent in another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_claims_that_wait_leave_connections_to_other_calls() {
    let bed = Bed::postgres().await;
    let runs = bed.many_queued(3).await;
    hold(&bed, CLAIMS).await;
    let mut small = settings(&bed.url());
    small.max_connections = 4;
    small.acquire_timeout = Duration::from_secs(5);
    let store = verifyd::store::connect(&small).await.unwrap();
    let claim = |run| {
        let store = Arc::clone(&store);
        async move { store.claim(run, &worker("w1"), &POLICY).await }
    };
    let mut claims = JoinSet::new();
    for (run, waiting) in runs[..2].iter().zip(1_i64..) {
        claims.spawn(claim(*run));
        until("another claim waits", async || {
            bed.count(WAITING).await == waiting
        })
        .await;
    }
    let last = within("a claim too many is refused", claim(runs[2])).await;
    let refused = last.err().unwrap();
    assert!(matches!(refused, StoreError::TooManyCalls), "{refused}");
    store.check_writable().await.unwrap();
    claims.shutdown().await;
}

/// The same of completions, of which one at a time has a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_completions_that_wait_leave_connections_to_other_calls() {
    let bed = Bed::postgres().await;
    let held = claimed(&bed, 2).await;
    hold(&bed, "new.status = 'completed'").await;
    let mut small = settings(&bed.url());
    small.max_connections = 4;
    small.acquire_timeout = Duration::from_secs(5);
    let store = verifyd::store::connect(&small).await.unwrap();
    let mut completions = JoinSet::new();
    for (number, claim) in held.into_iter().enumerate() {
        let store = Arc::clone(&store);
        completions.spawn(async move { store.complete(&claim, &succeeded()).await });
        if number == 0 {
            let waits = async || bed.count(WAITING).await == 1;
            until("the first one waits", waits).await;
        }
    }
    let refused = within("the second one is refused", completions.join_next()).await;
    let refused = refused.unwrap().unwrap().err().unwrap();
    assert!(matches!(refused, StoreError::TooManyCalls), "{refused}");
    assert_eq!(bed.count(WAITING).await, 1);
    completions.shutdown().await;
}

/// Completions and releases have a share of their own, whatever claims do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_and_releases_that_wait_leave_connections_to_other_calls() {
    let bed = Bed::postgres().await;
    let held = claimed(&bed, 12).await;
    let others = bed.many_queued(5).await;
    hold(&bed, "old.status = 'running'").await;
    let mut calls = JoinSet::new();
    for (number, claim) in held.into_iter().enumerate() {
        let store = Arc::clone(&bed.store);
        calls.spawn(async move {
            match number % 2 {
                0 => store.complete(&claim, &succeeded()).await,
                // Also of a run that the schema keeps from being completed.
                _ => {
                    store
                        .release(&claim, AttemptEnd::Shutdown, None, None, false)
                        .await
                }
            }
        });
    }
    // See `bed::settings`.
    until("a third of the pool waits", async || {
        bed.count(WAITING).await >= 2
    })
    .await;
    let mut claims = Vec::new();
    for run in others {
        bed.store.check_writable().await.unwrap();
        bed.store.counts().await.unwrap();
        claims.push(bed.claim(run, "w1").await);
    }
    assert!(bed.count(WAITING).await <= 2);
    let (store, claim) = (Arc::clone(&bed.store), claims.remove(0));
    calls.spawn(async move {
        store
            .release(&claim, AttemptEnd::Shutdown, None, None, true)
            .await
    });
    until("a release at the stop has a connection", async || {
        bed.count(WAITING).await == 3
    })
    .await;
    calls.shutdown().await;
}

/// One of two waits until the other has had the time of a statement, longer than for a connection, and is not refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_that_wait_are_served_in_order() {
    let bed = Bed::postgres().await;
    let held = claimed(&bed, 2).await;
    hold(&bed, "new.status = 'completed'").await;
    let mut small = settings(&bed.url());
    // Two for completions, one of them for what waits.
    small.max_connections = 6;
    small.acquire_timeout = Duration::from_secs(5);
    small.statement_timeout = Duration::from_secs(12);
    let store = verifyd::store::connect(&small).await.unwrap();
    let completion = succeeded();
    let calls = held.iter().map(|claim| store.complete(claim, &completion));
    for answer in within("both are cancelled", join_all(calls)).await {
        let error = answer.err().unwrap();
        assert!(error.sqlstate() == Some("57014"), "{error}");
    }
}

/// Only one claim of a large context waits in the trigger, and takes a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_claims_that_wait_keep_nothing_from_other_calls() {
    let bed = Bed::postgres().await;
    let connection = bed.connection(7).await;
    let mut large = Vec::new();
    for _ in 0..9 {
        let mut context = context(connection.0);
        context["padding"] = "7".repeat(60 * 1024).into();
        large.push(bed.insert(RUN_TYPE, "queued", &context).await);
    }
    let held = bed.claim(large[0], "w1").await;
    let small = bed.many_queued(5).await;
    let is_large = "new.status = 'running' AND octet_length(new.context::text) > 32768";
    hold(&bed, is_large).await;
    let mut claims = JoinSet::new();
    for run in large.into_iter().skip(1) {
        let store = Arc::clone(&bed.store);
        claims.spawn(async move { store.claim(run, &worker("w1"), &POLICY).await });
    }
    until("a large claim waits", async || {
        bed.count(WAITING).await == 1
    })
    .await;
    for run in small {
        bed.claim(run, "w1").await;
    }
    assert!(bed.store.complete(&held, &succeeded()).await.unwrap());
    assert_eq!(bed.count(WAITING).await, 1);
    claims.shutdown().await;
}
