//! What a Redis server does to its clients, on servers of one's own.

use crate::queue::probe::{Consumer, Probe, hints, until};
use crate::queue::redis::{open, settings};
use std::sync::Arc;
use std::time::{Duration, Instant};
use test_support::proxy::Proxy;
use test_support::redis_server::{PrivateRedis, command, connection, keys_of};
use test_support::waiting;
use verifyd::ports::queue::{Queue, QueueError};

/// Sends until the server takes it.
async fn send_at_last(queue: &Arc<dyn Queue>, run: i64) {
    waiting::until("the server takes a hint", async || {
        queue.send(&hints(run..=run)).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goes_on_after_a_flush() {
    let server = PrivateRedis::start();
    let queue = open(&settings(&server.url(), "q"));
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    queue.send(&hints(1..=20)).await.unwrap();
    until("the first arrived", || probe.runs().len() == 20).await;
    let mut plain = connection(&server.url()).await;
    for round in 1..=3 {
        // Everything goes, the fetchers' registration and the loaded scripts, too.
        for words in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"]] {
            command::<()>(&mut plain, words).await;
        }
        let runs = round * 100..=round * 100 + 19;
        queue.send(&hints(runs.clone())).await.unwrap();
        until("new hints arrive", || {
            runs.clone().all(|run| probe.times(run) > 0)
        })
        .await;
    }
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_while_handlers_run_loses_nothing_of_their_work() {
    let server = PrivateRedis::start();
    let queue = open(&settings(&server.url(), "q"));
    let probe = Probe::new();
    probe.close_gate();
    let consumer = Consumer::start(&queue, &probe, 3);
    queue.send(&hints(1..=3)).await.unwrap();
    until("three are in flight", || probe.in_flight() == 3).await;
    let mut plain = connection(&server.url()).await;
    redis::cmd("FLUSHALL")
        .query_async::<()>(&mut plain)
        .await
        .unwrap();
    // The fetchers fail at their next heartbeat; the handlers still hold all places.
    until("a fetcher was started again", || {
        queue.health().restarts > 0
    })
    .await;
    queue.send(&hints(4..=9)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(probe.in_flight(), 3, "the bound holds across restarts");
    assert_eq!(probe.max_in_flight(), 3);
    probe.open_gate();
    until("the new ones arrived", || {
        (4..=9).all(|run| probe.times(run) > 0)
    })
    .await;
    consumer.stop().await;
    assert_eq!(probe.max_in_flight(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_before_the_server_does() {
    let mut server = PrivateRedis::stopped();
    let mut settings = settings(&server.url(), "q");
    settings.consumer.retries = 2;
    let queue = open(&settings);
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    let refused = queue.send(&hints(1..=1)).await.unwrap_err();
    assert!(matches!(refused, QueueError::Unavailable(_)));
    assert!(queue.ping().await.is_err());
    until("it tries again", || queue.health().restarts >= 2).await;
    let health = queue.health();
    assert!(!health.connected);
    assert_eq!(health.last_activity, None, "it never moved");
    server.restart();
    send_at_last(&queue, 2).await;
    until("the hint arrived", || probe.times(2) > 0).await;
    until("it says so", || {
        let health = queue.health();
        health.connected && health.last_activity.is_some()
    })
    .await;
    consumer.stop().await;
}

/// All places are taken by hints that workers before it fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_waits_for_a_place_shows_that_it_lives() {
    let server = PrivateRedis::start();
    let queue = open(&settings(&server.url(), "q"));
    let probe = Probe::new();
    probe.close_gate();
    let consumer = Consumer::start(&queue, &probe, 1);
    send_at_last(&queue, 1).await;
    until("one is in flight", || probe.in_flight() == 1).await;
    let mut plain = connection(&server.url()).await;
    command::<u64>(&mut plain, &["DEL", "q:workers"]).await;
    until("it starts again", || queue.health().restarts > 0).await;
    for _ in 0..2 {
        let from = Instant::now();
        until("there is another sign", || {
            queue.health().last_activity.unwrap() < from.elapsed()
        })
        .await;
    }
    probe.open_gate();
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_a_restart_of_the_server() {
    let mut server = PrivateRedis::start();
    let mut settings = settings(&server.url(), "q");
    settings.consumer.retries = 2;
    let queue = open(&settings);
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    send_at_last(&queue, 1).await;
    until("the first arrived", || probe.times(1) > 0).await;
    server.stop();
    until("it notices", || !queue.health().connected).await;
    server.restart();
    send_at_last(&queue, 2).await;
    until("the next arrived", || probe.times(2) > 0).await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goes_on_when_its_connections_are_killed() {
    let server = PrivateRedis::start();
    let queue = open(&settings(&server.url(), "q"));
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    send_at_last(&queue, 1).await;
    until("the first arrived", || probe.times(1) > 0).await;
    let mut plain = connection(&server.url()).await;
    for run in 2..=6 {
        for kind in ["normal", "pubsub"] {
            command::<u64>(
                &mut plain,
                &["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"],
            )
            .await;
        }
        // At once: sending, too, lost its connection.
        send_at_last(&queue, run).await;
        until("the next arrived", || probe.times(run) > 0).await;
    }
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_of_a_killed_consumer_are_delivered_to_others() {
    let server = PrivateRedis::start();
    let settings = settings(&server.url(), "q");
    // As kill -9 leaves it: the runtime and all its tasks are gone, nothing was handed back.
    let url_settings = settings.clone();
    let held = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let probe = Probe::new();
        probe.close_gate();
        runtime.block_on(async {
            let queue = open(&url_settings);
            let consumer = Consumer::start(&queue, &probe, 3);
            queue.send(&hints(1..=5)).await.unwrap();
            until("three are in flight", || probe.in_flight() == 3).await;
            std::mem::forget(consumer);
        });
        runtime.shutdown_background();
        probe.runs()
    })
    .join()
    .unwrap();
    assert_eq!(held.len(), 3);

    let queue = open(&settings);
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 3);
    until("all five arrived", || probe.runs().len() == 5).await;
    // Its registration is removed in the end, too.
    waiting::until("its registration is removed", async || {
        let keys = keys_of(&server.url(), "q").await;
        let registrations = keys.iter().filter(|key| key.contains(":workers:metadata:"));
        registrations.count() <= 2
    })
    .await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_written_piecemeal_stop_nothing() {
    let server = PrivateRedis::start();
    let mut settings = settings(&server.url(), "q");
    settings.consumer.fetchers = 1;
    let queue = open(&settings);
    let mut plain = connection(&server.url()).await;
    let mut pipe = redis::pipe();
    for n in 0..30 {
        // Neither data nor meta.
        pipe.cmd("RPUSH").arg("q:active").arg(format!("ghost-{n}"));
        // Meta without data.
        let empty = format!("empty-{n}");
        pipe.cmd("HSET")
            .arg(format!("q:meta:{empty}"))
            .arg(&["status", "Pending"]);
        pipe.cmd("RPUSH").arg("q:active").arg(&empty);
        // Data without meta.
        let bare = format!("bare-{n}");
        let payload = format!(r#"{{"v":1,"operation_run_id":{}}}"#, 100 + n);
        pipe.cmd("HSET").arg("q:data").arg(&bare).arg(payload);
        pipe.cmd("RPUSH").arg("q:active").arg(&bare);
    }
    // Meta that is none, and ids that are acknowledged under another name.
    for (run, id) in [
        (201, "odd"),
        (202, "007"),
        (203, "01arz3ndektsv4rrffq69g5fav"),
    ] {
        let payload = format!(r#"{{"v":1,"operation_run_id":{run}}}"#);
        pipe.cmd("HSET").arg("q:data").arg(id).arg(payload);
        let meta = format!("q:meta:{id}");
        if id == "odd" {
            pipe.cmd("SET").arg(meta).arg("?");
        } else {
            pipe.cmd("HSET").arg(meta).arg(&[
                "attempts",
                "0",
                "max_attempts",
                "1",
                "status",
                "Pending",
            ]);
        }
        pipe.cmd("RPUSH").arg("q:active").arg(id);
    }
    pipe.query_async::<()>(&mut plain).await.unwrap();
    queue.send(&hints(1..=3)).await.unwrap();

    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    until("the proper hints arrive", || {
        (1..=3).all(|run| probe.times(run) > 0)
    })
    .await;
    until("those with a payload arrive, too", || {
        (100..130).chain(201..=203).all(|run| probe.times(run) > 0)
    })
    .await;
    let restarts = queue.health().restarts;
    assert!(
        restarts <= 5,
        "not one restart for each of them: {restarts}"
    );
    consumer.stop().await;
    assert_eq!(queue.depth().await.unwrap(), 0);
    let left = keys_of(&server.url(), "q").await;
    let is_theirs = |key: &String| key.contains("ghost") || key.contains("empty");
    assert!(!left.iter().any(is_theirs), "{left:?}");
}

/// A server that says nothing any more, its connections still open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goes_on_after_a_server_that_hung() {
    let server = PrivateRedis::start();
    let mut settings = settings(&server.url(), "q");
    settings.response_timeout = Duration::from_millis(2500);
    let queue = open(&settings);
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    send_at_last(&queue, 1).await;
    until("the first arrived", || probe.times(1) > 0).await;
    let mut plain = connection(&server.url()).await;
    redis::cmd("CLIENT")
        .arg(&["PAUSE", "8000", "ALL"])
        .query_async::<()>(&mut plain)
        .await
        .unwrap();
    until("the fetchers give up", || queue.health().restarts > 0).await;
    send_at_last(&queue, 2).await;
    until("the next arrived", || probe.times(2) > 0).await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_while_the_server_is_unavailable() {
    let mut server = PrivateRedis::start();
    let queue = open(&settings(&server.url(), "q"));
    let probe = Probe::new();
    probe.close_gate();
    let consumer = Consumer::start(&queue, &probe, 4);
    send_at_last(&queue, 1).await;
    until("it is in flight", || probe.in_flight() == 1).await;
    server.stop();
    until("it notices", || !queue.health().connected).await;
    consumer.ask_to_stop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!consumer.has_ended(), "it must wait for what is in flight");
    probe.open_gate();
    let asked = Instant::now();
    consumer.stop().await;
    println!("stopped without a server in {:?}", asked.elapsed());
    assert_eq!(probe.finished(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_never_show_the_password() {
    let server = PrivateRedis::start();
    let url = server
        .url()
        .replace("redis://", "redis://someone:canary-secret@");
    let mut refused = settings(&url, "q");
    refused.consumer.retries = 0;
    let mut away = refused.clone();
    away.url = "redis://someone:canary-secret@127.0.0.1:1".into();
    for settings in [refused, away] {
        assert!(!format!("{settings:?}").contains("canary"));
        let queue = open(&settings);
        let errors = [
            queue.ping().await.unwrap_err(),
            queue.send(&hints(1..=1)).await.unwrap_err(),
            queue.depth().await.unwrap_err(),
        ];
        for error in errors {
            let text = format!("{error} {error:?}");
            assert!(!text.contains("canary"), "{text}");
        }
    }
}

/// Not a panic about crypto providers, either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_url_to_a_plain_server_is_an_error() {
    let server = PrivateRedis::start();
    let mut settings = settings(&server.url().replace("redis://", "rediss://"), "q");
    settings.consumer.retries = 0;
    let queue = open(&settings);
    let error = queue.ping().await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_connections_on_which_nothing_passes_any_more() {
    let server = PrivateRedis::start();
    let (way, url) = Proxy::before(&server.url()).await;
    let mut settings = settings(&url, "q");
    settings.response_timeout = Duration::from_millis(1250);
    let queue = open(&settings);
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    send_at_last(&queue, 1).await;
    until("the first arrived", || probe.times(1) > 0).await;
    for run in 2..=3 {
        way.freeze();
        send_at_last(&queue, run).await;
        until("the next arrived", || probe.times(run) > 0).await;
    }
    consumer.stop().await;
}

/// A worker that is stopping sends no heartbeats by itself, and others would take what it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_consumer_keeps_what_it_works_on() {
    let server = PrivateRedis::start();
    let settings = settings(&server.url(), "q");
    let (queue, other) = (open(&settings), open(&settings));
    let (probe, bystander) = (Probe::new(), Probe::new());
    probe.close_gate();
    let consumer = Consumer::start(&queue, &probe, 2);
    queue.send(&hints(1..=2)).await.unwrap();
    until("both are in flight", || probe.in_flight() == 2).await;
    let second = Consumer::start(&other, &bystander, 2);
    consumer.ask_to_stop();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(bystander.started(), 0, "nobody took them");
    probe.open_gate();
    consumer.stop().await;
    queue.send(&hints(3..=3)).await.unwrap();
    until("the other goes on", || bystander.times(3) > 0).await;
    second.stop().await;
    assert_eq!(bystander.started(), 1, "both had been acknowledged");
}
