//! Another application's transaction stands in the way of a completion.

use crate::scene::{COMPLETED, Scene};
use sqlx::{Connection as _, Executor as _};

/// It locks in the opposite order: PostgreSQL ends one of the two, here verifyd's.
#[tokio::test(flavor = "multi_thread")]
async fn another_application_deadlocks_with_a_completion() {
    let mut scene = Scene::healthy().await;
    // The server looks for a deadlock before a sixth of this has passed, when a lock is given up.
    scene
        .bench
        .set("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "2m");
    let mut sql = scene.bench.sql().await;
    // verifyd's sessions look once: late enough that both wait by then.
    sql.execute(
        "DO $$ BEGIN
             EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 8000', current_database());
         END $$",
    )
    .await
    .unwrap();
    let _two = scene.two();
    scene.record(1).await;
    scene.completed_at_least(1).await;
    // So that the next completion has something to compare, and to write.
    for statement in [
        "UPDATE tenant_permissions SET status = 'missing'",
        "UPDATE verifyd.tenant_inventory SET digest = NULL",
    ] {
        sql.execute(statement).await.unwrap();
    }
    // The one that waits longer before it looks is not the victim.
    sql.execute("SET deadlock_timeout = '60s'").await.unwrap();
    let mut tx = sql.begin().await.unwrap();
    tx.execute("SELECT FROM tenant_permissions FOR UPDATE")
        .await
        .unwrap();
    let run = scene.record(1).await[0];
    // Neither as part of a batch nor as a short try, which give up sooner than the server looks for a deadlock.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND application_name = 'verifyd' AND wait_event_type = 'Lock'
                 AND query_start < clock_timestamp() - interval '1 s'";
    scene.until(waits, |n| n > 0).await;
    sqlx::query("UPDATE operation_runs SET context = context WHERE id = $1")
        .bind(run)
        .execute(&mut *tx)
        .await
        .unwrap();
    assert_eq!(scene.number(COMPLETED).await, 1);
    tx.commit().await.unwrap();
    for ended in scene.ends_as_meant().await {
        assert_eq!(ended.attempts, ["completed"]);
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    scene.until(deadlocks, |n| n > 0).await;
}
