//! What a producer may write into Redis, of any size and type: it stays there, and is removed.

use crate::queue::probe::{Consumer, Probe, hints, until};
use crate::queue::redis::{open, settings};
use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::time::{Duration, Instant};
use test_support::proxy::Proxy;
use test_support::redis_server::{PrivateRedis, command, connection};
use test_support::waiting::{self, PATIENCE};
use verifyd::ports::queue::Queue;

const HUGE: usize = 100 * 1024 * 1024;
const LARGE: usize = 4 * 1024 * 1024;

/// What all that a consumer is told of small things stays far below.
const LITTLE: u64 = 2 * 1024 * 1024;

async fn number(plain: &mut MultiplexedConnection, words: &[&str]) -> u64 {
    command(plain, words).await
}

/// How often the server has run this command, by itself or in a script.
async fn calls(plain: &mut MultiplexedConnection, name: &str) -> u64 {
    let info: String = command(plain, &["INFO", "commandstats"]).await;
    let of = format!("cmdstat_{name}:calls=");
    let found = info.lines().find_map(|line| line.strip_prefix(&of));
    let (calls, _) = found.unwrap().split_once(',').unwrap();
    calls.parse().unwrap()
}

/// Waits until no payload is left in Redis, nor anything that belongs to one.
async fn until_nothing_is_left(plain: &mut MultiplexedConnection) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut left = Vec::new();
        for (counting, key) in [
            ("HLEN", "q:data"),
            ("LLEN", "q:active"),
            ("SCARD", "q:done"),
            ("SCARD", "q:dead"),
            ("ZCARD", "q:scheduled"),
            ("EXISTS", "q:meta"),
            ("EXISTS", "q:signal"),
        ] {
            left.push((key, number(plain, &[counting, key]).await));
        }
        // Their ids may hold any bytes.
        let counting = ["EVAL", "return #redis.call('KEYS', 'q:meta:*')", "0"];
        left.push(("q:meta:*", number(plain, &counting).await));
        if left.iter().all(|(_, number)| *number == 0) {
            return;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// An entry as the script writes it, with a payload of any size.
async fn entry(plain: &mut MultiplexedConnection, id: &str, payload: &[u8]) {
    let meta = ["attempts", "0", "max_attempts", "1", "status", "Pending"];
    redis::pipe()
        .cmd("HSET")
        .arg("q:data")
        .arg(id)
        .arg(payload)
        .cmd("HSET")
        .arg(format!("q:meta:{id}"))
        .arg(&meta)
        .query_async::<()>(plain)
        .await
        .unwrap();
}

async fn waits(plain: &mut MultiplexedConnection, id: &str) {
    number(plain, &["RPUSH", "q:active", id]).await;
}

/// Over every way by which a payload gets to a worker: fetched at first, scheduled, in the hands of
/// a consumer that has died, and without any entry at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_is_too_long_never_leaves_redis() {
    let server = PrivateRedis::start();
    let (proxy, url) = Proxy::before(&server.url()).await;
    let queue = open(&settings(&url, "q"));
    let mut plain = connection(&server.url()).await;
    let large = vec![b'x'; LARGE];

    entry(&mut plain, "huge", &vec![b'x'; HUGE]).await;
    waits(&mut plain, "huge").await;
    // A byte more than is allowed.
    entry(&mut plain, "over", &vec![b' '; 4097]).await;
    waits(&mut plain, "over").await;
    entry(&mut plain, "scheduled", &large).await;
    number(&mut plain, &["ZADD", "q:scheduled", "1", "scheduled"]).await;
    entry(&mut plain, "orphan", &large).await;
    number(&mut plain, &["SADD", "q:inflight:dead-worker", "orphan"]).await;
    number(&mut plain, &["ZADD", "q:workers", "1", "dead-worker"]).await;
    entry(&mut plain, "without-entry", &large).await;
    queue.send(&hints(1..=50)).await.unwrap();

    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    until("the neighbours arrive", || probe.runs().len() == 50).await;
    until_nothing_is_left(&mut plain).await;
    assert_eq!(probe.runs(), (1..=50).collect());
    let health = queue.health();
    assert_eq!((health.restarts, health.dead_letters), (0, 0));
    assert_eq!(queue.dead_letters(10).await.unwrap().0, 0);
    consumer.stop().await;
    let returned = proxy.returned_bytes();
    assert!(returned < LITTLE, "{returned} bytes have left Redis");
}

/// Ids and metas of any size and bytes. Where the payload is a hint it is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_and_metas_of_any_size_stay_in_redis() {
    let server = PrivateRedis::start();
    let (proxy, url) = Proxy::before(&server.url()).await;
    let queue = open(&settings(&url, "q"));
    let mut plain = connection(&server.url()).await;
    let hint = |run: i64| format!(r#"{{"v":1,"operation_run_id":{run}}}"#).into_bytes();

    entry(&mut plain, "large-meta", &hint(1)).await;
    let large = "x".repeat(LARGE);
    for field in ["more", "status", "attempts"] {
        number(&mut plain, &["HSET", "q:meta:large-meta", field, &large]).await;
    }
    waits(&mut plain, "large-meta").await;
    entry(&mut plain, "many-fields", &hint(2)).await;
    for n in 0..2_000 {
        let field = format!("f{n}");
        number(&mut plain, &["HSET", "q:meta:many-fields", &field, "x"]).await;
    }
    waits(&mut plain, "many-fields").await;
    let long = "i".repeat(LARGE);
    entry(&mut plain, &long, &hint(99)).await;
    waits(&mut plain, &long).await;
    for (run, id) in [
        (3, &b"\xff\xfe\x00\r\n"[..]),
        (4, "ä b".as_bytes()),
        (5, b""),
    ] {
        redis::pipe()
            .cmd("HSET")
            .arg("q:data")
            .arg(id)
            .arg(hint(run))
            .cmd("RPUSH")
            .arg("q:active")
            .arg(id)
            .query_async::<()>(&mut plain)
            .await
            .unwrap();
    }
    // Metas without a payload, one of them no meta, and keys that nobody reads.
    for id in [&b"no-payload"[..], b"\xff\x00", long.as_bytes()] {
        let meta = [&b"q:meta:alone-"[..], id].concat();
        let mut pipe = redis::pipe();
        pipe.cmd("HSET").arg(meta).arg(&["status", "Pending"]);
        pipe.query_async::<()>(&mut plain).await.unwrap();
    }
    number(&mut plain, &["RPUSH", "q:meta:a-list", &large]).await;
    number(&mut plain, &["HSET", "q:meta", "a", &large]).await;
    number(&mut plain, &["RPUSH", "q:signal", &large]).await;
    // The same one several times.
    entry(&mut plain, "copied", &hint(6)).await;
    for _ in 0..5 {
        waits(&mut plain, "copied").await;
    }
    queue.send(&hints(10..=20)).await.unwrap();

    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    until("all that are hints arrive", || probe.runs().len() == 17).await;
    until_nothing_is_left(&mut plain).await;
    assert_eq!(probe.runs(), (1..=6).chain(10..=20).collect());
    assert_eq!(queue.health().restarts, 0);
    consumer.stop().await;
    let returned = proxy.returned_bytes();
    assert!(returned < LITTLE, "{returned} bytes have left Redis");
}

/// It is written when the worker has fetched the hint already, or when the hint became a dead letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_grows_later_never_leaves_redis() {
    let server = PrivateRedis::start();
    let (proxy, url) = Proxy::before(&server.url()).await;
    // Nothing is cleaned meanwhile.
    let mut slow = settings(&url, "q");
    slow.consumer.clean_interval = Duration::from_secs(600);
    let queue = open(&slow);
    let mut plain = connection(&server.url()).await;
    let large = vec![b'x'; LARGE];

    let probe = Probe::new();
    probe.panic_on(7);
    let consumer = Consumer::start(&queue, &probe, 4);
    queue.send(&hints(7..=7)).await.unwrap();
    waiting::until("it is acknowledged", async || {
        number(&mut plain, &["SCARD", "q:dead"]).await > 0
    })
    .await;
    let id: Vec<String> = command(&mut plain, &["SMEMBERS", "q:dead"]).await;
    entry(&mut plain, &id[0], &large).await;
    let (total, shown) = queue.dead_letters(10).await.unwrap();
    assert_eq!((total, shown.len()), (1, 1));
    assert!(
        shown[0].reason.contains("4194304 bytes"),
        "{}",
        shown[0].reason
    );

    probe.close_gate();
    queue.send(&hints(8..=8)).await.unwrap();
    until("it is in flight", || probe.in_flight() == 1).await;
    let ids: Vec<String> = command(&mut plain, &["HKEYS", "q:data"]).await;
    let held = ids.iter().find(|other| **other != id[0]).unwrap();
    entry(&mut plain, held, &large).await;
    let put_in = calls(&mut plain, "rpush").await;
    command::<u64>(
        &mut plain,
        &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
    )
    .await;
    // What the ended worker held is not put back, not even for the next fetch to remove it.
    waiting::until("it is removed", async || {
        number(&mut plain, &["HEXISTS", "q:data", held]).await == 0
    })
    .await;
    assert_eq!(number(&mut plain, &["LLEN", "q:active"]).await, 0);
    assert_eq!(calls(&mut plain, "rpush").await, put_in);
    probe.open_gate();
    consumer.stop().await;

    // And a cleaner finds the one that is kept as a dead letter.
    let quick = open(&settings(&url, "q"));
    let consumer = Consumer::start(&quick, &probe, 4);
    until_nothing_is_left(&mut plain).await;
    consumer.stop().await;
    let returned = proxy.returned_bytes();
    assert!(returned < LITTLE, "{returned} bytes have left Redis");
}

/// Every key of the queue that exists once.
const KEYS: [&str; 8] = [
    "q:workers",
    "q:data",
    "q:active",
    "q:signal",
    "q:scheduled",
    "q:done",
    "q:dead",
    "core:apalis:queues:list",
];

/// Makes a key a string, whatever it is, in one step.
async fn replace(plain: &mut MultiplexedConnection, key: &str) {
    let mut pipe = redis::pipe();
    pipe.atomic().del(key).set(key, "x");
    pipe.exec_async(plain).await.unwrap();
}

/// Sends hints for this run until one arrives: they may be lost with a key.
async fn until_one_arrives(queue: &Arc<dyn Queue>, probe: &Probe, run: i64) {
    waiting::until("a hint arrives", async || {
        let sent = queue.send(&hints(run..=run)).await;
        sent.is_ok() && probe.times(run) > 0
    })
    .await;
}

/// Whoever may write a key of the queue can make it anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_type_are_removed() {
    let server = PrivateRedis::start();
    let queue = open(&settings(&server.url(), "q"));
    let mut plain = connection(&server.url()).await;
    let probe = Probe::new();
    for key in KEYS {
        replace(&mut plain, key).await;
        let error = queue.depth().await.unwrap_err().to_string();
        for word in [key, "string", "WRONGTYPE"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        number(&mut plain, &["DEL", key]).await;
    }
    for key in KEYS {
        replace(&mut plain, key).await;
    }
    let consumer = Consumer::start(&queue, &probe, 4);
    until_one_arrives(&queue, &probe, 1).await;
    // While it works, and one by one.
    for (run, key) in (2..).zip(KEYS) {
        replace(&mut plain, key).await;
        waiting::until(key, async || queue.depth().await.is_ok()).await;
        until_one_arrives(&queue, &probe, run).await;
    }
    // What a silent worker held, which each of the others looks for.
    replace(&mut plain, "q:inflight:silent").await;
    number(&mut plain, &["ZADD", "q:workers", "0", "silent"]).await;
    waiting::until("both are removed", async || {
        let listed: Option<f64> = command(&mut plain, &["ZSCORE", "q:workers", "silent"]).await;
        listed.is_none() && number(&mut plain, &["EXISTS", "q:inflight:silent"]).await == 0
    })
    .await;
    // What the workers themselves hold, and none of them is on the list.
    let held: Vec<String> = command(
        &mut plain,
        &[
            "EVAL",
            "local held = {}
            for i, worker in ipairs(redis.call('ZRANGE', 'q:workers', 0, -1)) do
                held[i] = 'q:inflight:' .. worker
                redis.call('SET', held[i], 'x')
            end
            redis.call('DEL', 'q:workers')
            return held",
            "0",
        ],
    )
    .await;
    assert!(!held.is_empty());
    until_one_arrives(&queue, &probe, 100).await;
    for key in held {
        waiting::until("it is removed", async || {
            number(&mut plain, &["EXISTS", &key]).await == 0
        })
        .await;
    }
    consumer.stop().await;
}
