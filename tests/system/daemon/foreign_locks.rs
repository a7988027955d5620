//! Other sessions keep locks that verifyd asks for.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::time::Duration;
use test_support::bench::Bench;
use test_support::waiting::until;

/// Another session, in whose transaction this statement has locked something until it is closed.
async fn locking(bench: &Bench, statement: &str) -> PgConnection {
    let mut other = bench.sql().await;
    let statements = AssertSqlSafe(format!("BEGIN; {statement}"));
    sqlx::raw_sql(statements).execute(&mut other).await.unwrap();
    other
}

/// The connection of a tenant, and a session that locks all runs of another one, of which there are more than a worker
/// has slots.
async fn runs_of_another_tenant_are_locked(bench: &Bench) -> (i64, Vec<i64>, PgConnection) {
    let [healthy, locked] = [1, 2].map(|tenant| bench.healthy(tenant));
    let runs = bench.record(&[locked], 12).await;
    let lock = "SELECT FROM operation_runs WHERE tenant_id = 2 FOR UPDATE";
    (healthy, runs, locking(bench, lock).await)
}

/// For longer than the test takes.
#[tokio::test(flavor = "multi_thread")]
async fn locked_runs_keep_no_slot_and_no_connection_from_the_others() {
    let bench = Bench::new().await;
    let (healthy, runs, other) = runs_of_another_tenant_are_locked(&bench).await;
    bench.hint(&runs).await;
    let runs = bench.record(&[healthy], 4).await;
    bench.hint(&runs).await;
    let daemon = bench.serve(&[
        ("VERIFYD__WORKER__CONCURRENCY", "4"),
        ("VERIFYD__RECONCILER__REDELIVER_AFTER", "1h"),
    ]);
    bench.count_is("completed", 4).await;
    bench.until_taken().await;
    daemon.ready().await;
    other.close().await.unwrap();
}

/// The rows of one tenant are locked for longer than two replicas may meet locks or get no answers.
#[tokio::test(flavor = "multi_thread")]
async fn locked_runs_of_a_tenant_make_no_replica_unready() {
    let bench = Bench::new().await;
    let (healthy, _, other) = runs_of_another_tenant_are_locked(&bench).await;
    let replicas = [(); 2].map(|()| {
        bench.serve(&[
            ("VERIFYD__WORKER__CONCURRENCY", "4"),
            ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "500ms"),
            ("VERIFYD__WORKER__DEAD_AFTER", "8s"),
            ("VERIFYD__RECONCILER__REDELIVER_AFTER", "2s"),
        ])
    });
    bench.record(&[healthy], 40).await;
    bench.count_is("completed", 40).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    for replica in &replicas {
        replica.ready().await;
    }
    other.close().await.unwrap();
    bench.all_completed().await;
}

/// Whatever asks for the table gets an answer: a lock is in the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stays_locked_makes_a_worker_not_ready() {
    let bench = Bench::new().await;
    let daemon = bench.serve(&[
        ("VERIFYD__WORKER__HEARTBEAT_INTERVAL", "500ms"),
        ("VERIFYD__WORKER__DEAD_AFTER", "8s"),
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "6s"),
    ]);
    daemon.ready().await;
    let other = locking(&bench, "LOCK TABLE operation_runs").await;
    until("it is not ready", async || {
        let (status, body) = daemon.get("/readyz").await;
        status == 503 && body.contains("sweeps have met locks or conflicts")
    })
    .await;
    assert_eq!(daemon.get("/healthz").await.0, 200);
    other.close().await.unwrap();
    daemon.ready().await;
}
