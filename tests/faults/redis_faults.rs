//! Redis fails in every way. No run is lost, and nobody has to act.

use crate::scene::{COMPLETED, Scene, long};
use std::time::Duration;
use test_support::proxy::Proxy;
use test_support::redis_server::{self, PrivateRedis, command};
use test_support::waiting::until;

/// How long an outage of a server lasts.
fn away() -> Duration {
    Duration::from_secs(if long() { 30 } else { 4 })
}

/// A scene whose workers reach Redis through a proxy.
async fn with_redis_behind_a_proxy() -> (Scene, Proxy) {
    let mut scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.redis_url).await;
    scene.bench.set("REDIS_URL", url);
    (scene, way)
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_restarted_and_has_lost_everything() {
    let mut redis = PrivateRedis::start();
    let scene = Scene::with_redis(&redis).await;
    let _two = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    for _ in 0..3 {
        redis.restart();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert!(producer.stop().await.len() > 20);
    scene.ends_as_meant().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_flushed_in_the_middle() {
    let redis = PrivateRedis::start();
    let scene = Scene::with_redis(&redis).await;
    let _two = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    let mut plain = redis_server::connection(&redis.url()).await;
    for _ in 0..10 {
        command::<()>(&mut plain, &["FLUSHALL"]).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(producer.stop().await.len() > 20);
    scene.ends_as_meant().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_down_at_the_start_and_comes_later() {
    let mut redis = PrivateRedis::stopped();
    let scene = Scene::with_redis(&redis).await;
    let (first, _second) = scene.two();
    first.ready().await;
    let runs = scene.record(10).await;
    scene.ends_as_meant().await;
    redis.restart();
    // From now on hints start runs: a hint for a run that was completed is looked at, too.
    scene.bench.hint(&runs).await;
    scene.bench.until_taken().await;
    first.ready().await;
    scene.completes(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_down_for_a_while_and_back() {
    let mut redis = PrivateRedis::start();
    let scene = Scene::with_redis(&redis).await;
    let (first, second) = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    redis.stop();
    let before = scene.number(COMPLETED).await;
    tokio::time::sleep(away()).await;
    // It went on without.
    scene.completed_at_least(before + 20).await;
    redis.restart();
    producer.stop().await;
    scene.ends_as_meant().await;
    // The consumers are not frozen.
    scene.bench.hint(&[1; 50]).await;
    scene.bench.until_taken().await;
    for daemon in [first, second] {
        daemon.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_slow() {
    let (scene, way) = with_redis_behind_a_proxy().await;
    let _two = scene.two();
    way.slow(Duration::from_millis(300));
    scene.completes(20).await;
    // Slower than anyone waits for.
    way.slow(Duration::from_secs(2));
    scene.completes(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_redis_are_reset() {
    let (scene, way) = with_redis_behind_a_proxy().await;
    let _two = scene.two();
    let producer = scene.producer();
    for _ in 0..20 {
        way.cut();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(producer.stop().await.len() > 20);
    scene.ends_as_meant().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_says_nothing_any_more() {
    let (scene, way) = with_redis_behind_a_proxy().await;
    let _two = scene.two();
    scene.completes(5).await;
    way.silence();
    scene.completes(20).await;
    way.open();
    scene.completes(20).await;
}

/// As after a firewall has forgotten them: no side notices it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_passes_on_open_connections_to_redis_any_more() {
    let scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.redis_url).await;
    let worker = scene.serve_by("REDIS_URL", &url);
    scene.completes(5).await;
    for _ in 0..3 {
        way.freeze();
        // It fetches again,
        scene.bench.hint(&[1; 50]).await;
        scene.bench.until_taken().await;
        // and it sends again.
        let sent = worker.metric("verifyd_hints_sent_total").await;
        until("it sends", async || {
            scene.record(1).await;
            worker.metric("verifyd_hints_sent_total").await >= sent + 10.0
        })
        .await;
        scene.ends_as_meant().await;
    }
    worker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_has_no_memory_left() {
    let redis = PrivateRedis::start();
    let scene = Scene::with_redis(&redis).await;
    let (first, second) = scene.two();
    scene.completes(5).await;
    let mut plain = redis_server::connection(&redis.url()).await;
    set_max_memory(&mut plain, "1").await;
    // Over many sweeps. The server still tells how long the queue is.
    for _ in 0..10 {
        scene.completes(2).await;
    }
    assert!(first.metric("verifyd_polling").await + second.metric("verifyd_polling").await > 0.0);
    set_max_memory(&mut plain, "0").await;
    scene.bench.hint(&[1; 50]).await;
    scene.bench.until_taken().await;
    scene.completes(20).await;
    for daemon in [first, second] {
        until("it polls no more", async || {
            daemon.metric("verifyd_polling").await == 0.0
        })
        .await;
        daemon.ready().await;
        for said in [
            "the queue is unavailable; taking runs",
            "the queue is available again",
        ] {
            let lines = daemon.lines.lock().unwrap().clone();
            let times = lines.iter().filter(|line| line.contains(said)).count();
            assert!(times <= 1, "{}", lines.join("\n"));
        }
    }
}

/// No fetcher can register any more, though the server answers and takes hints.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_cannot_be_revived_ends_the_process() {
    let redis = PrivateRedis::start();
    let scene = Scene::with_redis(&redis).await;
    let mut worker = scene.bench.serve(&[]);
    scene.completes(5).await;
    let workers = format!("{}:workers", scene.bench.queue);
    let mut plain = redis_server::connection(&redis.url()).await;
    // Only registration uses this command.
    command::<()>(&mut plain, &["ACL", "SETUSER", "default", "-hmset"]).await;
    command::<()>(&mut plain, &["DEL", &workers]).await;
    // Until it ends, it takes them from the database.
    scene.completes(5).await;
    assert_eq!(worker.ended(), Some(1));
    let lines = worker.lines.lock().unwrap().clone();
    let last = lines.last().unwrap();
    assert!(
        last.contains("the consumer of hints has stalled: no activity for"),
        "{last}"
    );
    // Nothing is left behind.
    command::<()>(&mut plain, &["ACL", "SETUSER", "default", "+hmset"]).await;
    let again = scene.bench.serve(&[]);
    scene.completes(5).await;
    again.ready().await;
}

/// Also where nobody may remove them.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_another_type_stop_no_run() {
    let redis = PrivateRedis::start();
    let scene = Scene::with_redis(&redis).await;
    let mut plain = redis_server::connection(&redis.url()).await;
    let queue = &scene.bench.queue;
    let [scheduled, workers] = ["scheduled", "workers"].map(|key| format!("{queue}:{key}"));
    // A worker also starts with them.
    for key in [&scheduled, &workers] {
        command::<()>(&mut plain, &["SET", key, "x"]).await;
    }
    let worker = scene.bench.serve(&[]);
    scene.completes(5).await;
    worker.ready().await;
    scene.bench.hint(&[1; 50]).await;
    scene.bench.until_taken().await;

    for key in [&scheduled, &workers] {
        command::<()>(&mut plain, &["ACL", "SETUSER", "default", "-unlink"]).await;
        redis::pipe()
            .atomic()
            .del(key)
            .set(key, "x")
            .exec_async(&mut plain)
            .await
            .unwrap();
        until("it polls", async || {
            worker.metric("verifyd_polling").await > 0.0
        })
        .await;
        scene.completes(5).await;
        worker.ready().await;
        command::<()>(&mut plain, &["ACL", "SETUSER", "default", "+unlink"]).await;
        until("it polls no more", async || {
            worker.metric("verifyd_polling").await == 0.0
        })
        .await;
    }
    scene.bench.hint(&[1; 50]).await;
    scene.bench.until_taken().await;
    worker.ready().await;
}

async fn set_max_memory(plain: &mut redis::aio::MultiplexedConnection, bytes: &str) {
    command::<()>(plain, &["CONFIG", "SET", "maxmemory", bytes]).await;
}

/// Hints that wait before the workers start.
fn many() -> usize {
    if long() { 20_000 } else { 3_000 }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_hints_wait() {
    let redis = PrivateRedis::start();
    let scene = Scene::with_redis(&redis).await;
    let runs = scene.record(50).await;
    // Each run many times, and in between what nobody knows.
    let hints: Vec<i64> = (0..many())
        .map(|n| {
            let run = runs[n * 7919 % runs.len()];
            if n % 10 == 0 {
                1_000_000_000 + run
            } else {
                run
            }
        })
        .collect();
    scene.bench.hint(&hints).await;
    let _two = scene.two();
    scene.ends_as_meant().await;
    scene.bench.until_taken().await;
    let ended = scene.ends_as_meant().await;
    for run in &ended {
        assert!(run.at_once(), "{run:?}");
    }
}

/// Far more runs than places: what waits, waits in the database.
#[tokio::test(flavor = "multi_thread")]
async fn the_queue_grows_no_longer_than_it_may() {
    let scene = Scene::slow(0.4).await;
    let _worker = scene.bench.serve(&[("VERIFYD__WORKER__CONCURRENCY", "32")]);
    const RUNS: i64 = 1200;
    scene.record(RUNS).await;
    let mut plain = redis_server::connection(&scene.bench.redis_url).await;
    let mut longest = 0;
    while scene.number(COMPLETED).await < RUNS {
        let depth: u64 = command(
            &mut plain,
            &["LLEN", &format!("{}:active", scene.bench.queue)],
        )
        .await;
        longest = longest.max(depth);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A sweep that sees fewer than 250 hints sends up to 500.
    assert!((250..750).contains(&longest), "{longest}");
    scene.ends_as_meant().await;
}
