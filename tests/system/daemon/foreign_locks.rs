//! Other sessions keep locks that verifyd asks for.

use sqlx::Connection as _;
use std::time::Duration;
use test_support::bench::Bench;
use test_support::waiting::until;

/// More queued runs than the worker has slots are locked for longer than the test takes.
#[tokio::test(flavor = "multi_thread")]
async fn locked_runs_keep_no_slot_and_no_connection_from_the_others() {
    let bench = Bench::new().await;
    let [healthy, locked] = [1, 2].map(|tenant| bench.healthy(tenant));
    let runs = bench.record(&[locked], 12).await;
    let mut other = bench.sql().await;
    let mut tx = other.begin().await.unwrap();
    sqlx::query("SELECT FROM operation_runs WHERE id = ANY($1) FOR UPDATE")
        .bind(&runs)
        .execute(&mut *tx)
        .await
        .unwrap();
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
    tx.rollback().await.unwrap();
}

/// The rows of one tenant are locked for longer than two replicas may meet locks or get no answers.
#[tokio::test(flavor = "multi_thread")]
async fn locked_runs_of_a_tenant_make_no_replica_unready() {
    let bench = Bench::new().await;
    let [healthy, locked] = [1, 2].map(|tenant| bench.healthy(tenant));
    let runs = bench.record(&[locked], 12).await;
    let mut other = bench.sql().await;
    let mut tx = other.begin().await.unwrap();
    sqlx::query("SELECT FROM operation_runs WHERE id = ANY($1) FOR UPDATE")
        .bind(&runs)
        .execute(&mut *tx)
        .await
        .unwrap();
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
    tx.rollback().await.unwrap();
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
    let mut other = bench.sql().await;
    let mut tx = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE operation_runs")
        .execute(&mut *tx)
        .await
        .unwrap();
    until("it is not ready", async || {
        let (status, body) = daemon.get("/readyz").await;
        status == 503 && body.contains("sweeps have met locks or conflicts")
    })
    .await;
    assert_eq!(daemon.get("/healthz").await.0, 200);
    tx.rollback().await.unwrap();
    daemon.ready().await;
}
