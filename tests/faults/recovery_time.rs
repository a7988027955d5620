//! How long recovery takes: within what is promised, measured and told on standard error. The long
//! forms have the default settings, the short ones the other scenarios' times.

use crate::scene::{COMPLETED, RUNNING, Scene, long, tell};
use std::time::{Duration, Instant};
use test_support::redis_server::{self, PrivateRedis};

/// `kill -9` of one of two: all that it worked on is completed by the other.
const AFTER_A_KILL: Duration = Duration::from_secs(20);

/// Everything in Redis is gone: all that was recorded is completed.
const AFTER_A_LOSS: Duration = Duration::from_secs(40);

/// The promise is about the default settings.
fn keeps(promised: Duration, took: Duration) {
    assert!(took < promised || !long(), "{took:?}");
}

/// Nothing else runs beside it, and its checks take so many seconds.
async fn alone(seconds: f64) -> Scene {
    let scene = Scene::slow(seconds).await.alone().await;
    if long() {
        scene.with_default_times()
    } else {
        scene
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_one_of_two_under_load_is_over_within_20_seconds() {
    let scene = alone(2.0).await;
    let (first, _second) = scene.two();
    let producer = scene.producer();
    scene.completed_at_least(50).await;
    let of_first = format!(
        "SELECT count(*) FROM verifyd.run_attempts WHERE worker_id = '{}' AND ended_at IS NULL",
        first.worker
    );
    scene.until(&of_first, |n| n >= 5).await;
    first.signal("KILL");
    let killed = Instant::now();
    let lost: Vec<i64> = scene
        .bench
        .numbers(&format!(
            "SELECT run_id FROM verifyd.run_attempts WHERE worker_id = '{}' AND ended_at IS NULL",
            first.worker
        ))
        .await;
    assert!(!lost.is_empty());
    let ids: Vec<String> = lost.iter().map(i64::to_string).collect();
    let open = format!(
        "SELECT count(*) FROM operation_runs WHERE status <> 'completed' AND id IN ({})",
        ids.join(",")
    );
    scene.until(&open, |n| n == 0).await;
    let took = killed.elapsed();
    tell(&format!(
        "kill -9 of one of two replicas: {} runs completed by the other after {:.1} s",
        lost.len(),
        took.as_secs_f64()
    ));
    producer.stop().await;
    scene.ends_as_meant().await;
    keeps(AFTER_A_KILL, took);
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_of_all_of_redis_is_over_within_40_seconds() {
    let redis = PrivateRedis::start();
    let mut scene = alone(1.0).await;
    scene.bench.use_redis(redis.url());
    let (_first, _second) = scene.two();
    // More than both have slots for, so that most wait in Redis when it loses them.
    let runs = 250;
    scene.record(runs).await;
    let undelivered = "SELECT count(*) FROM operation_runs r WHERE r.status = 'queued'
         AND type = 'provider.connection.check' AND NOT EXISTS (
             SELECT FROM verifyd.run_deliveries d
             WHERE d.run_id = r.id AND d.delivered_at IS NOT NULL)";
    scene.until(undelivered, |n| n == 0).await;
    scene.until(RUNNING, |n| n >= 50).await;
    let mut plain = redis_server::connection(&redis.url()).await;
    let (waiting,): (i64,) = redis::pipe()
        .cmd("LLEN")
        .arg(format!("{}:active", scene.bench.queue))
        .cmd("FLUSHALL")
        .ignore()
        .query_async(&mut plain)
        .await
        .unwrap();
    assert!(waiting > 0, "no hint was lost");
    let flushed = Instant::now();
    let left = runs - scene.number(COMPLETED).await;
    scene.completed_at_least(runs).await;
    let took = flushed.elapsed();
    tell(&format!(
        "loss of all of Redis with {waiting} hints: the {left} runs that were open are completed \
         after {:.1} s",
        took.as_secs_f64()
    ));
    scene.ends_as_meant().await;
    keeps(AFTER_A_LOSS, took);
}
