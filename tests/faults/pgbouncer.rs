//! PgBouncer in transaction mode between the workers and the database: any statement may come to
//! any connection of the server, and a connection serves both workers in turn.

use crate::scene::{COMPLETED, Scene};
use test_support::pgbouncer::PgBouncer;

/// The two workers open more connections to the pooler than it has to the server.
const CONNECTIONS: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn through_pgbouncer_in_transaction_mode() {
    let mut scene = Scene::new().await;
    let mut pooler = PgBouncer::before(&scene.bench.database.url(), CONNECTIONS);
    let url = pooler.url_of(&scene.bench.database.url());
    scene.bench.set("DATABASE_URL", url);
    let (mut first, second) = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(100).await;
    let connected = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'verifyd'";
    assert!(scene.number(connected).await <= i64::from(CONNECTIONS));
    // What the dead one holds in the middle of a transaction is the pooler's to give back.
    first.kill();
    let third = scene.bench.serve(&[]);
    // A worker that finds no database at its start ends.
    third.ready().await;
    pooler.restart();
    let before = scene.number(COMPLETED).await;
    scene.completed_at_least(before + 100).await;
    producer.stop().await;
    scene.ends_soundly().await;
    for worker in [second, third] {
        worker.ready().await;
    }
    scene.bench.success(&["doctor"]);
}
