//! PostgreSQL fails in every way. What was recorded is completed, once.

use crate::scene::{CLAIMING, COMPLETED, COMPLETING, RUNNING, Scene, TERMINATE, TIME_FOR_A_CHECK};
use sqlx::{Connection as _, Executor as _};
use std::time::{Duration, Instant};
use test_support::bench::{Bench, Daemon, PATIENCE};
use test_support::postgres::TestDatabase;
use test_support::private_postgres::PrivatePostgres;
use test_support::proxy::{Act, Proxy, Rule};

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_crashes_and_comes_back() {
    let mut server = PrivatePostgres::start();
    let scene = Scene::on(TestDatabase::create_on(&server.url()).await).await;
    let (first, _second) = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    for _ in 0..2 {
        server.crash();
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.resume();
        let before = scene.number(COMPLETED).await;
        scene.completed_at_least(before + 10).await;
    }
    producer.stop().await;
    scene.ends_soundly().await;
    first.ready().await;
    drop(scene);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_terminated_in_a_loop() {
    let scene = Scene::new().await;
    let (first, second) = scene.two();
    let producer = scene.producer();
    let mut ended = 0;
    for _ in 0..25 {
        ended += scene.number(TERMINATE).await;
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    assert!(ended > 25);
    producer.stop().await;
    scene.ends_soundly().await;
    first.ready().await;
    second.ready().await;
}

/// As on a former primary after a failover.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_read_only_for_a_while() {
    let scene = Scene::new().await;
    let (first, _second) = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    read_only(&scene.bench, true).await;
    scene.number(TERMINATE).await;
    let before = scene.number(COMPLETED).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Whoever was in the middle of a commit may have got through.
    assert!(scene.number(COMPLETED).await <= before + 8);
    // The sessions that were opened meanwhile cannot write even now.
    read_only(&scene.bench, false).await;
    scene.completed_at_least(before + 20).await;
    producer.stop().await;
    scene.ends_soundly().await;
    first.ready().await;
}

async fn read_only(bench: &Bench, on: bool) {
    let name = bench.database.url();
    let name = name.rsplit('/').next().unwrap();
    // What changes the default is not bound by it.
    let change = format!(
        "BEGIN READ WRITE; ALTER DATABASE {name} SET default_transaction_read_only = {on}; COMMIT"
    );
    bench.execute(&change).await;
}

/// The server has committed, and nobody tells the worker.
#[tokio::test(flavor = "multi_thread")]
async fn the_reply_to_a_commit_is_lost() {
    let scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let lost = 12;
    for after in [CLAIMING, COMPLETING] {
        let rule = Rule::once(Act::LoseReply, "COMMIT").after(after);
        way.at(rule.times(lost / 2));
    }
    let _by_proxy = scene.serve_by("DATABASE_URL", &url);
    let _other = scene.bench.serve(&[]);
    let producer = scene.producer();
    way.has_acted(lost).await;
    producer.stop().await;
    let ended = scene.ends_as_meant().await;
    // A lost reply to a claim costs the attempt; one to a completion costs nothing.
    assert!(ended.iter().any(|run| run.attempts.len() > 1));
}

/// The connection breaks between claim and provider, again and again. What the run needs is read
/// once more; no attempt is spent.
#[tokio::test(flavor = "multi_thread")]
async fn preparing_a_run_survives_lost_replies() {
    let scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let lost = 12;
    way.at(Rule::once(Act::LoseReply, "AS credential_payload").times(lost));
    let _worker = scene.serve_by("DATABASE_URL", &url);
    scene.record(4).await;
    way.has_acted(lost).await;
    for run in scene.ends_as_meant().await {
        assert!(!run.attempts.contains(&"error".to_owned()), "{run:?}");
    }
}

/// And a statement holds that connection for longer than the others' timeout with a worker that
/// sends no heartbeat.
#[tokio::test(flavor = "multi_thread")]
async fn the_pool_is_exhausted() {
    let mut scene = Scene::new().await;
    for (key, value) in [("MAX_CONNECTIONS", "1"), ("ACQUIRE_TIMEOUT", "20s")] {
        scene.bench.set(&format!("VERIFYD__DATABASE__{key}"), value);
    }
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    way.at(Rule::once(Act::HoldRequest, COMPLETING));
    let first = scene.serve_by("DATABASE_URL", &url);
    scene.record(5).await;
    way.has_acted(1).await;
    let _second = scene.bench.serve(&[]);
    tokio::time::sleep(Duration::from_secs(12)).await;
    way.release();
    for run in scene.ends_as_meant().await {
        assert!(!run.attempts.contains(&"worker_lost".to_owned()), "{run:?}");
    }
    first.ready().await;
}

/// As a careless migration of the other application takes it.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_locks_the_table_for_long() {
    let scene = Scene::new().await;
    let (first, _second) = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    let mut sql = scene.bench.sql().await;
    let mut tx = sql.begin().await.unwrap();
    tx.execute("LOCK TABLE operation_runs IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    tx.rollback().await.unwrap();
    producer.stop().await;
    scene.ends_as_meant().await;
    first.ready().await;
}

/// Finished checks wait for it, past their deadline and for more tries than a refusal has: they are not made again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_ends_before_the_deadline_costs_no_finished_check() {
    let mut scene = Scene::slow(3.0).await;
    for (key, value) in TIME_FOR_A_CHECK {
        scene.bench.set(key, value);
    }
    let worker = scene.bench.serve(&[]);
    scene.record(2).await;
    scene.until(RUNNING, |n| n == 2).await;
    let mut sql = scene.bench.sql().await;
    let mut tx = sql.begin().await.unwrap();
    tx.execute("LOCK TABLE operation_runs IN SHARE MODE")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(40)).await;
    tx.rollback().await.unwrap();
    scene.each_run_is_checked_once().await;
    worker.ready().await;
}

/// One of two workers is cut off while it works; what it sent meanwhile arrives later.
#[tokio::test(flavor = "multi_thread")]
async fn one_worker_is_partitioned_from_the_database() {
    let scene = Scene::slow(3.0).await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let cut_off = scene.serve_by("DATABASE_URL", &url);
    scene.record(8).await;
    scene.until(RUNNING, |n| n == 8).await;
    way.silence();
    let other = scene.bench.serve(&[]);
    for run in scene.ends_as_meant().await {
        assert_eq!(run.attempts, ["worker_lost", "completed"]);
    }
    way.open();
    cut_off.ready().await;
    // It works again, and what came late has changed nothing.
    other.signal("STOP");
    scene.record(4).await;
    scene.completed_at_least(12).await;
    other.signal("CONT");
    scene.ends_as_meant().await;
}

/// As after a firewall has forgotten them: no side notices it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_passes_on_open_connections_any_more() {
    let scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let worker = scene.bench.serve(&[
        ("DATABASE_URL", &url),
        // Time enough to find out and to open another one, on a busy machine too.
        ("VERIFYD__DATABASE__ACQUIRE_TIMEOUT", "10s"),
        // Ten seconds later than this, the server ends what was left in the middle.
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "5s"),
    ]);
    scene.completes(10).await;
    // Without work: nobody loses anything.
    way.freeze();
    for run in scene.completes(10).await {
        assert!(run.at_once(), "{run:?}");
    }
    worker.ready().await;
    let producer = scene.producer();
    for _ in 0..2 {
        let before = scene.number(COMPLETED).await;
        scene.completed_at_least(before + 20).await;
        way.freeze();
    }
    producer.stop().await;
    scene.ends_soundly().await;
    worker.ready().await;
}

/// Waits until this path answers 503 with these words. `/healthz` does so later than `/readyz`.
async fn says(worker: &Daemon, path: &str, wanted: &str) {
    let limit = match path {
        "/readyz" => Duration::from_secs(120),
        _ => 2 * PATIENCE,
    };
    let until = Instant::now() + limit;
    loop {
        let (status, body) = worker.get(path).await;
        if status == 503 && body.contains(wanted) {
            return;
        }
        assert!(Instant::now() < until, "{path}: {body}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The heartbeat gets through and the loops turn, but whatever the sweep asks is never answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_moves_nothing_says_so() {
    let scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let worker = scene.bench.serve(&[
        ("DATABASE_URL", &url),
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "5s"),
    ]);
    scene.completes(5).await;
    assert_eq!(worker.get("/healthz").await.0, 200);
    way.at(Rule::once(Act::HoldRequest, "FROM verifyd.sweep_lock").times(u32::MAX));
    let runs = scene.record(1).await.len();
    says(&worker, "/healthz", "no sweep has been answered").await;
    let queued = "SELECT count(*) FROM operation_runs
        WHERE type = 'provider.connection.check' AND status = 'queued'";
    assert_eq!(scene.number(queued).await, i64::try_from(runs).unwrap());
    // What started it would now end it: another one does the work.
    drop(worker);
    let other = scene.bench.serve(&[]);
    scene.ends_as_meant().await;
    assert_eq!(other.get("/healthz").await.0, 200);
}

/// Heartbeat and sweep get through, but no claim is ever answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_claims_all_hang_says_so() {
    let scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.database.url()).await;
    let worker = scene.bench.serve(&[
        ("DATABASE_URL", &url),
        ("VERIFYD__DATABASE__STATEMENT_TIMEOUT", "5s"),
        ("VERIFYD__DATABASE__ACQUIRE_TIMEOUT", "1s"),
    ]);
    scene.completes(1).await;
    assert_eq!(worker.get("/readyz").await.0, 200);
    way.at(Rule::once(Act::HoldRequest, CLAIMING).times(u32::MAX));
    scene.record(1).await;
    says(&worker, "/readyz", "none was answered").await;
    assert_eq!(worker.get("/healthz").await.0, 200);
    says(&worker, "/healthz", "no claim has been answered").await;
    drop(worker);
    let other = scene.bench.serve(&[]);
    scene.ends_as_meant().await;
    assert_eq!(other.get("/healthz").await.0, 200);
}

/// Many hints for the same few runs, at the same moment, in a database where every conflict is an
/// error.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_race_for_each_run() {
    let scene = Scene::new().await;
    let name = scene.bench.database.url();
    let name = name.rsplit('/').next().unwrap();
    let serializable =
        format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
    scene.bench.execute(&serializable).await;
    let (first, _second) = scene.two();
    let runs = scene.record(3).await;
    let copies: Vec<i64> = std::iter::repeat_n(&runs, 50).flatten().copied().collect();
    scene.bench.hint(&copies).await;
    scene.ends_soundly().await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(scene.number(deadlocks).await, 0);
    first.ready().await;
}
