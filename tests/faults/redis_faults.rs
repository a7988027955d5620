//! Redis fails in every way. No run is lost, and nobody has to act.

use crate::proxy::Proxy;
use crate::redis_support::{self, PrivateRedis};
use crate::scene::{COMPLETED, Scene, hint};
use std::time::Duration;

/// How long a server is away, where it is away for a while.
const AWAY: Duration = Duration::from_secs(4);

/// A scene on a Redis of its own.
async fn scene_with(redis: &PrivateRedis) -> Scene {
    let mut scene = Scene::new().await;
    scene.bench.redis_url = redis.url();
    scene
        .bench
        .environment
        .insert("REDIS_URL".into(), redis.url());
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_restarted_and_has_lost_everything() {
    let mut redis = PrivateRedis::start();
    let scene = scene_with(&redis).await;
    let _two = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    for _ in 0..3 {
        redis.restart();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert!(producer.stop().await > 20);
    scene.ends_as_meant().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_flushed_in_the_middle() {
    let redis = PrivateRedis::start();
    let scene = scene_with(&redis).await;
    let _two = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    let mut plain = redis_support::connection(&redis.url()).await;
    for _ in 0..10 {
        redis::cmd("FLUSHALL").exec_async(&mut plain).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(producer.stop().await > 20);
    scene.ends_as_meant().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_down_at_the_start_and_comes_later() {
    let mut redis = PrivateRedis::stopped();
    let scene = scene_with(&redis).await;
    let runs = scene.record(10).await;
    let (first, _second) = scene.two();
    scene.ends_as_meant().await;
    redis.restart();
    // From now on hints start runs: a hint for a run that was completed is looked at, too.
    hint(&redis.url(), &scene.bench.queue, &runs).await;
    until_taken(&redis.url(), &scene.bench.queue).await;
    assert_eq!(first.get("/readyz").await.0, 200);
    scene.record(5).await;
    scene.ends_as_meant().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_down_for_a_while_and_back() {
    let mut redis = PrivateRedis::start();
    let scene = scene_with(&redis).await;
    let (first, second) = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(20).await;
    redis.stop();
    let before = scene.number(COMPLETED).await;
    tokio::time::sleep(AWAY).await;
    // It went on without.
    scene.completed_at_least(before + 20).await;
    redis.restart();
    producer.stop().await;
    scene.ends_as_meant().await;
    // The consumers are not deaf.
    hint(&redis.url(), &scene.bench.queue, &[1; 50]).await;
    until_taken(&redis.url(), &scene.bench.queue).await;
    for daemon in [first, second] {
        assert_eq!(daemon.get("/readyz").await.0, 200);
    }
}

/// Waits until nothing waits in the queue.
pub async fn until_taken(url: &str, queue: &str) {
    let mut plain = redis_support::connection(url).await;
    tokio::time::timeout(crate::bench::PATIENCE, async {
        loop {
            let depth: u64 = redis::cmd("LLEN")
                .arg(format!("{queue}:active"))
                .query_async(&mut plain)
                .await
                .unwrap();
            if depth == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the hints are taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_slow() {
    let mut scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.redis_url).await;
    scene.bench.environment.insert("REDIS_URL".into(), url);
    let _two = scene.two();
    way.slow(Duration::from_millis(300));
    scene.record(20).await;
    scene.ends_as_meant().await;
    // Slower than anyone waits for.
    way.slow(Duration::from_secs(2));
    scene.record(20).await;
    scene.ends_as_meant().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_redis_are_reset() {
    let mut scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.redis_url).await;
    scene.bench.environment.insert("REDIS_URL".into(), url);
    let _two = scene.two();
    let producer = scene.producer();
    for _ in 0..20 {
        way.cut();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(producer.stop().await > 20);
    scene.ends_as_meant().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_says_nothing_any_more() {
    let mut scene = Scene::new().await;
    let (way, url) = Proxy::before(&scene.bench.redis_url).await;
    scene.bench.environment.insert("REDIS_URL".into(), url);
    let _two = scene.two();
    scene.record(5).await;
    scene.ends_as_meant().await;
    way.silence();
    scene.record(20).await;
    scene.ends_as_meant().await;
    way.open();
    scene.record(20).await;
    scene.ends_as_meant().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_has_no_memory_left() {
    let redis = PrivateRedis::start();
    let scene = scene_with(&redis).await;
    let (first, _second) = scene.two();
    scene.record(5).await;
    scene.ends_as_meant().await;
    let mut plain = redis_support::connection(&redis.url()).await;
    set_max_memory(&mut plain, "1").await;
    scene.record(20).await;
    scene.ends_as_meant().await;
    set_max_memory(&mut plain, "0").await;
    hint(&redis.url(), &scene.bench.queue, &[1; 50]).await;
    until_taken(&redis.url(), &scene.bench.queue).await;
    scene.record(20).await;
    scene.ends_as_meant().await;
    assert_eq!(first.get("/readyz").await.0, 200);
}

async fn set_max_memory(plain: &mut redis::aio::MultiplexedConnection, bytes: &str) {
    redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory", bytes])
        .exec_async(plain)
        .await
        .unwrap();
}

/// Hints that wait before the workers start. More by hand: see docs/testing.md.
fn many() -> usize {
    std::env::var("VERIFYD_TEST_HINTS").map_or(3_000, |n| n.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_hints_wait() {
    let redis = PrivateRedis::start();
    let scene = scene_with(&redis).await;
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
    hint(&redis.url(), &scene.bench.queue, &hints).await;
    let _two = scene.two();
    scene.ends_as_meant().await;
    until_taken(&redis.url(), &scene.bench.queue).await;
    let ended = scene.ends_as_meant().await;
    for run in &ended {
        assert!(run.at_once(), "{run:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_forged_and_malformed() {
    let redis = PrivateRedis::start();
    let scene = scene_with(&redis).await;
    let queue = scene.bench.queue.clone();
    let mut plain = redis_support::connection(&redis.url()).await;
    let runs = scene.record(5).await;
    let mut entries = redis::pipe();
    let mut entry = |id: &str, payload: Option<&str>, meta: bool| {
        if let Some(payload) = payload {
            entries
                .cmd("HSET")
                .arg(format!("{queue}:data"))
                .arg(id)
                .arg(payload);
        }
        if meta {
            entries.cmd("HSET").arg(format!("{queue}:meta:{id}")).arg(&[
                "attempts",
                "0",
                "max_attempts",
                "1",
                "status",
                "Pending",
            ]);
        }
        entries.cmd("RPUSH").arg(format!("{queue}:active")).arg(id);
    };
    let proper = format!(r#"{{"v":1,"operation_run_id":{}}}"#, runs[0]);
    let huge = "x".repeat(4 * 1024 * 1024);
    for n in 0..20 {
        entry(&format!("ghost-{n}"), None, false);
        entry(&format!("without-data-{n}"), None, true);
        entry(&format!("without-meta-{n}"), Some(&proper), false);
    }
    entry("007", Some(&proper), true);
    entry("wrong-json", Some("{\"v\":1,"), true);
    entry("wrong-type", Some("[1,2,3]"), true);
    entry(
        "wrong-version",
        Some(r#"{"v":9,"operation_run_id":1}"#),
        true,
    );
    entry("negative", Some(r#"{"v":1,"operation_run_id":-5}"#), true);
    entry(
        "more",
        Some(r#"{"v":1,"operation_run_id":1,"status":"completed"}"#),
        true,
    );
    entry("not-text", Some("\u{0}\u{1}"), true);
    entry("huge", Some(&huge), true);
    entry("", Some(&proper), true);
    entries.exec_async(&mut plain).await.unwrap();

    let (first, _second) = scene.two();
    scene.ends_as_meant().await;
    until_taken(&redis.url(), &queue).await;
    // Proper hints still get through.
    hint(&redis.url(), &queue, &scene.record(5).await).await;
    until_taken(&redis.url(), &queue).await;
    let ended = scene.ends_as_meant().await;
    for run in &ended {
        assert!(run.at_once(), "{run:?}");
    }
    assert_eq!(first.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_queue_is_something_else() {
    let redis = PrivateRedis::start();
    let scene = scene_with(&redis).await;
    let mut plain = redis_support::connection(&redis.url()).await;
    redis::cmd("SET")
        .arg(format!("{}:active", scene.bench.queue))
        .arg("not a list")
        .exec_async(&mut plain)
        .await
        .unwrap();
    let _two = scene.two();
    scene.record(10).await;
    scene.ends_as_meant().await;
}
