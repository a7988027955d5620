//! A real standby takes over from a primary that is gone.

use crate::scene::{COMPLETED, Scene};
use sqlx::Executor as _;
use test_support::postgres::TestDatabase;
use test_support::private_postgres::PrivatePostgres;
use test_support::proxy::Proxy;
use test_support::waiting::until;

/// For a while the workers see a standby, which only reads. Then it is promoted. What a client was
/// told to be committed is there, as commits wait for the standby.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_the_primary() {
    let mut primary = PrivatePostgres::start();
    let mut scene = Scene::on(TestDatabase::create_on(&primary.url()).await).await;
    let standby = primary.standby();
    let mut sql = scene.bench.sql().await;
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "SELECT pg_reload_conf()",
    ] {
        sql.execute(statement).await.unwrap();
    }
    let synchronous =
        "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')";
    scene.until(synchronous, |n| n == 1).await;

    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let first = scene.serve_by("DATABASE_URL", &url);
    let second = scene.serve_by("DATABASE_URL", &url);
    let producer = scene.producer();
    scene.completed_at_least(40).await;

    primary.crash();
    let mut recorded = producer.stop().await.len();
    way.lead_to(standby.port());
    scene.bench.database.has_moved_to(&standby.url());
    let reads_only = "SELECT pg_is_in_recovery()::int::bigint";
    assert_eq!(scene.number(reads_only).await, 1);
    let before = scene.number(COMPLETED).await;
    until("a worker that cannot claim says so", async || {
        first.get("/readyz").await.0 != 200
    })
    .await;
    assert_eq!(scene.number(COMPLETED).await, before);

    scene.number("SELECT pg_promote()::int::bigint").await;
    let producer = scene.producer();
    scene.completed_at_least(before + 40).await;
    recorded += producer.stop().await.len();
    for run in scene.ends_soundly().await {
        let meant = scene.members[&run.connection].outcome;
        // On a busy machine all of its attempts may have met with the failover.
        let spent = run.failures.iter().any(|reason| reason == "worker_lost");
        assert!(run.outcome == meant || spent, "{run:?}");
    }
    assert!(scene.number(COMPLETED).await >= i64::try_from(recorded).unwrap());
    for worker in [&first, &second] {
        worker.ready().await;
    }
    drop(scene);
}
