//! How long recovery takes with the default settings. Long, so they run by a flag only:
//! `scripts/test --test faults -- --ignored --nocapture --test-threads 1`
#![expect(clippy::print_stdout, reason = "what they are there for")]

use crate::redis_support::{self, PrivateRedis};
use crate::scene::{COMPLETED, RUNNING, Scene};
use std::time::{Duration, Instant};

/// Recorded before Redis loses everything.
const RUNS: i64 = 300;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute"]
async fn kill_9_of_one_of_two_under_load_is_over_within_20_seconds() {
    let scene = Scene::slow(2.0).await.with_default_times();
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
    println!(
        "kill -9 of one of two replicas: {} runs completed by the other after {:.1} s",
        lost.len(),
        took.as_secs_f64()
    );
    producer.stop().await;
    scene.ends_as_meant().await;
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute"]
async fn loss_of_all_of_redis_is_over_within_40_seconds() {
    let redis = PrivateRedis::start();
    let mut scene = Scene::slow(1.5).await.with_default_times();
    scene.bench.redis_url = redis.url();
    let key = "REDIS_URL".to_owned();
    scene.bench.environment.insert(key, redis.url());
    let (_first, _second) = scene.two();
    // More than both have slots for, so that most wait in Redis when it loses them.
    scene.record(RUNS).await;
    let undelivered = "SELECT count(*) FROM operation_runs r WHERE r.status = 'queued'
         AND type = 'provider.connection.check' AND NOT EXISTS (
             SELECT FROM verifyd.run_deliveries d
             WHERE d.run_id = r.id AND d.delivered_at IS NOT NULL)";
    scene.until(undelivered, |n| n == 0).await;
    scene.until(RUNNING, |n| n >= 50).await;
    let mut plain = redis_support::connection(&redis.url()).await;
    let (waiting,): (i64,) = redis::pipe()
        .cmd("LLEN")
        .arg(format!("{}:active", scene.bench.queue))
        .cmd("FLUSHALL")
        .ignore()
        .query_async(&mut plain)
        .await
        .unwrap();
    assert!(waiting > 50, "only {waiting} hints were lost");
    let flushed = Instant::now();
    let left = RUNS - scene.number(COMPLETED).await;
    scene.completed_at_least(RUNS).await;
    let took = flushed.elapsed();
    println!(
        "loss of all of Redis with {waiting} hints: the {left} runs that were open are completed \
         after {:.1} s",
        took.as_secs_f64()
    );
    scene.ends_as_meant().await;
    assert!(took < Duration::from_secs(40), "{took:?}");
}
