//! Another application's transaction or trigger stands in the way of completions.

use crate::scene::{COMPLETED, Scene, TIME_FOR_A_CHECK};
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

/// A scene in which a trigger has each completion wait.
async fn with_waiting_completions(how: &str) -> Scene {
    let mut scene = Scene::healthy().await;
    for (key, value) in TIME_FOR_A_CHECK {
        scene.bench.set(key, value);
    }
    let trigger = format!(
        "CREATE TABLE gate (closed boolean NOT NULL);
         INSERT INTO gate VALUES (true);
         CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN {how}; RETURN new; END $$;
         CREATE TRIGGER hold BEFORE UPDATE ON operation_runs FOR EACH ROW
             WHEN (new.status = 'completed') EXECUTE FUNCTION hold()"
    );
    scene.bench.execute(&trigger).await;
    scene
}

/// Waits until somebody opens the gate.
const AT_GATE: &str =
    "WHILE (SELECT closed FROM public.gate) LOOP PERFORM pg_sleep(0.05); END LOOP";

/// Every try is cancelled, until long after the deadline of the checks.
#[tokio::test(flavor = "multi_thread")]
async fn finished_checks_outlast_a_trigger_that_waits() {
    const RUNS: i64 = 12;
    let scene = with_waiting_completions(AT_GATE).await;
    let (first, second) = scene.two();
    scene.record(RUNS).await;
    // A worker that gave them up then would have released them.
    let late =
        "SELECT count(*) FROM verifyd.run_attempts WHERE claimed_at < now() - interval '40 s'";
    scene.until(late, |n| n >= RUNS).await;
    assert_eq!(scene.number(COMPLETED).await, 0);
    scene.bench.execute("UPDATE gate SET closed = false").await;
    scene.each_run_is_checked_once().await;
    first.ready().await;
    second.ready().await;
}

/// Two at a time: the last is written long after the deadline of its check.
#[tokio::test(flavor = "multi_thread")]
async fn finished_checks_are_written_in_turn_where_each_waits() {
    let scene = with_waiting_completions("PERFORM pg_sleep(5)").await;
    let worker = scene.bench.serve(&[]);
    scene.record(16).await;
    scene.each_run_is_checked_once().await;
    worker.ready().await;
}

/// It releases the runs that it cannot complete within the grace period, but those that the trigger keeps locked.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_completions() {
    let scene = with_waiting_completions(AT_GATE).await;
    let grace = ("VERIFYD__WORKER__GRACE_PERIOD", "1s");
    let mut first = scene.bench.serve(&[grace]);
    scene.record(12).await;
    // Longer than a batch may take: two wait by themselves, and others wait for their turns.
    let long = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event = 'PgSleep' AND query_start < now() - interval '3 s'";
    scene.until(long, |n| n >= 2).await;
    first.terminate();
    scene.bench.execute("UPDATE gate SET closed = false").await;
    let _second = scene.bench.serve(&[]);
    let ended = scene.ends_as_meant().await;
    let released = ended
        .iter()
        .filter(|run| run.attempts == ["shutdown", "completed"]);
    assert!(released.count() > 0, "{ended:?}");
}
