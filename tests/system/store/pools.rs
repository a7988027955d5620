//! What a store says of its connections.

use crate::store::bed::{Bed, settings};
use crate::store::fixtures::{ISOLATED, POLICY, succeeded, worker};
use std::sync::Arc;
use std::time::Duration;
use test_support::waiting::{until, within};
use tokio::task::JoinSet;

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

/// A trigger of the application has each claim wait, for longer than a test takes.
const HOLD_CLAIMS: &str = "
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(3600); RETURN new; END';
    CREATE TRIGGER hold BEFORE UPDATE ON operation_runs FOR EACH ROW
        WHEN (new.status = 'running') EXECUTE FUNCTION hold()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_wait_leave_connections_to_other_calls() {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let bed = Bed::postgres().await;
    let runs = bed.many_queued(16).await;
    bed.exec(HOLD_CLAIMS).await;
    let mut claims = JoinSet::new();
    for run in runs {
        let store = Arc::clone(&bed.store);
        claims.spawn(async move { store.claim(run, &worker("w1"), &ISOLATED).await });
    }
    // See `bed::settings`.
    until("half of the pool waits", async || {
        bed.number(WAITING).await >= 4
    })
    .await;
    let others = async {
        for _ in 0..100 {
            bed.store.check_writable().await.unwrap();
        }
    };
    within("other calls get a connection", others).await;
    assert_eq!(bed.number(WAITING).await, 4);
    claims.shutdown().await;
}

/// What waits behind a batch without an answer is sent in another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_claims_that_wait_leave_connections_to_other_calls() {
    const WAITING: &str = "pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let bed = Bed::postgres().await;
    let runs = bed.many_queued(3).await;
    bed.exec(HOLD_CLAIMS).await;
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
    assert!(refused.is_of_too_many_claims(), "{refused}");
    store.check_writable().await.unwrap();
    claims.shutdown().await;
}
