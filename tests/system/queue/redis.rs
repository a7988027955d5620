//! The queue in Redis, on the server that all tests share.

use crate::queue::conformance::Subject;
use crate::queue::probe::{Consumer, Probe, hints, until};
use std::sync::Arc;
use std::time::{Duration, Instant};
use test_support::redis_server::{
    command, connection, enqueue, keys_of, random_queue, redis_url, remove_queue,
};
use test_support::waiting;
use verifyd::domain::WorkspaceId;
use verifyd::domain::groups::{DEFAULT_GROUP, WorkspaceGroup, WorkspaceGroups};
use verifyd::ports::queue::Queue;
use verifyd::queue::redis::{ConsumerSettings, RedisQueue, RedisSettings};

/// Settings as in production, with a queue of one's own.
pub fn settings(url: &str, queue: &str) -> RedisSettings {
    RedisSettings {
        url: url.into(),
        queue: queue.into(),
        response_timeout: Duration::from_secs(20),
        consumer: ConsumerSettings {
            clean_interval: Duration::from_millis(500),
            ..ConsumerSettings::following(Duration::from_secs(1))
        },
    }
}

pub fn open(settings: &RedisSettings) -> Arc<dyn Queue> {
    RedisQueue::connect(settings, "test-host").expect("usable settings")
}

async fn subject() -> (Subject, impl Future<Output = ()>) {
    let (url, name) = (redis_url(), random_queue());
    let settings = settings(&url, &name);
    let subject = Subject {
        queue: open(&settings),
        other: open(&settings),
    };
    (subject, async move { remove_queue(&url, &name).await })
}

every_conformance_test!(subject());

/// Nothing but a wake-up is quick.
async fn rarely_looked_at() -> (Subject, impl Future<Output = ()>) {
    let (url, name) = (redis_url(), random_queue());
    let mut settings = settings(&url, &name);
    settings.consumer.poll_interval = Duration::from_secs(3600);
    let subject = Subject {
        queue: open(&settings),
        other: open(&settings),
    };
    (subject, async move { remove_queue(&url, &name).await })
}

conformance!(rarely_looked_at(); an_idle_consumer_is_woken);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_of_a_group_go_to_its_queue() {
    let (url, name) = (redis_url(), random_queue());
    let settings = settings(&url, &name);
    let groups = WorkspaceGroups::new(vec![WorkspaceGroup {
        name: "eu".to_owned(),
        workspaces: vec![WorkspaceId(2)],
    }]);
    let open = |group| RedisQueue::connect_in_group(&settings, "test-host", &groups, group);
    let (rest, eu) = (open(DEFAULT_GROUP).unwrap(), open("eu").unwrap());
    rest.send_for(WorkspaceId(2), &hints(1..=2)).await.unwrap();
    eu.send_for(WorkspaceId(1), &hints(3..=3)).await.unwrap();
    assert_eq!(eu.depth().await.unwrap(), 2);
    assert_eq!(rest.depth().await.unwrap(), 1);
    for queue in [name.clone(), format!("{name}.eu")] {
        remove_queue(&url, &queue).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nine_thousand_hints_at_once_all_arrive() {
    let (url, name) = (redis_url(), random_queue());
    let queue = open(&settings(&url, &name));
    queue.send(&hints(1..=9000)).await.unwrap();
    assert_eq!(queue.depth().await.unwrap(), 9000);
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 32);
    until("all 9000 were started", || probe.runs().len() == 9000).await;
    consumer.stop().await;
    assert_eq!(probe.started(), 9000);
    assert_eq!(queue.health().restarts, 0);
    remove_queue(&url, &name).await;
}

/// A fetcher that has nothing to do keeps no slot, and one that has fetched waits for none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_hints_as_slots_are_all_in_flight_whoever_fetches_them() {
    let url = redis_url();
    // Who fetches how many differs from time to time.
    for _ in 0..25 {
        let name = random_queue();
        let queue = open(&settings(&url, &name));
        let probe = Probe::new();
        probe.close_gate();
        let consumer = Consumer::start(&queue, &probe, 3);
        queue.send(&hints(1..=3)).await.unwrap();
        until("three are in flight", || probe.in_flight() == 3).await;
        probe.open_gate();
        consumer.stop().await;
        remove_queue(&url, &name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_keys_stays_flat() {
    let (url, name) = (redis_url(), random_queue());
    let mut settings = settings(&url, &name);
    settings.consumer.dead_keep = 10;
    let queue = open(&settings);
    let probe = Probe::new();
    // A good part of them become dead letters.
    for run in 1..=100 {
        probe.panic_on(run * 20);
    }
    let consumer = Consumer::start(&queue, &probe, 16);
    queue.send(&hints(1..=2000)).await.unwrap();
    until("all others were finished", || probe.finished() == 1900).await;
    let mut plain = connection(&url).await;
    waiting::until("only the dead letters that are kept are left", async || {
        let keys = keys_of(&url, &name).await.len();
        let data: usize = command(&mut plain, &["HLEN", &format!("{name}:data")]).await;
        let dead: usize = command(&mut plain, &["SCARD", &format!("{name}:dead")]).await;
        // The ten dead letters that are kept, and a few keys of the queue and its fetchers.
        data == 10 && dead == 10 && keys <= 10 + 10
    })
    .await;
    consumer.stop().await;
    let left = keys_of(&url, &name).await;
    assert!(
        !left
            .iter()
            .any(|key| key.contains(":inflight:") || key.contains(":workers:metadata:")),
        "a clean stop leaves nothing of its fetchers: {left:?}"
    );
    remove_queue(&url, &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_of_another_producer_arrive() {
    let (url, name) = (redis_url(), random_queue());
    let queue = open(&settings(&url, &name));
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    let ids: [&[u8]; 5] = [
        b"app:job/42",
        b"7",
        b"01ARZ3NDEKTSV4RRFFQ69G5FAV",
        b"f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        b"0",
    ];
    for (run, id) in (1..).zip(ids) {
        let payload = format!(r#"{{"v":1,"operation_run_id":{run}}}"#);
        let sent = enqueue(&url, &name, id, payload.as_bytes()).await;
        assert_eq!(sent.unwrap(), 1);
    }
    until("all arrived", || probe.runs().len() == ids.len()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(queue.health().restarts, 0, "each could be acknowledged");
    consumer.stop().await;
    assert_eq!(probe.started(), ids.len());
    remove_queue(&url, &name).await;
}

#[tokio::test]
async fn the_script_refuses_what_could_not_be_acknowledged() {
    let (url, name) = (redis_url(), random_queue());
    let payload = br#"{"v":1,"operation_run_id":1}"#;
    let ids: [&[u8]; 7] = [
        b"",
        b"007",
        b"+7",
        b"01arz3ndektsv4rrffq69g5fav",
        b"91ARZ3NDEKTSV4RRFFQ69G5FAV",
        "ä".as_bytes(),
        b"a b",
    ];
    for id in ids {
        let refused = enqueue(&url, &name, id, payload).await;
        assert!(refused.is_err(), "{id:?}");
    }
    let large = enqueue(&url, &name, b"large", &[b' '; 4097]).await;
    assert!(large.is_err());
    for (keys, arguments) in [(3, 3), (4, 2), (4, 0)] {
        let mut call = redis::cmd("EVAL");
        call.arg(include_str!("../../../contracts/enqueue.lua"));
        call.arg(keys);
        for part in ["data", "active", "signal", "meta"].iter().take(keys) {
            call.arg(format!("{name}:{part}"));
        }
        call.arg(&["id", "{}", "1"][..arguments]);
        let refused = call.query_async::<i64>(&mut connection(&url).await).await;
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("the script takes 4 keys"), "{why}");
    }
    assert_eq!(keys_of(&url, &name).await, Vec::<String>::new());

    let first = enqueue(&url, &name, b"a", payload).await;
    let again = enqueue(&url, &name, b"a", payload).await;
    assert_eq!((first.unwrap(), again.unwrap()), (1, 0));
    remove_queue(&url, &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_that_are_no_hints_become_dead_letters() {
    let (url, name) = (redis_url(), random_queue());
    let queue = open(&settings(&url, &name));
    let probe = Probe::new();
    let consumer = Consumer::start(&queue, &probe, 4);
    let bad: [&[u8]; 6] = [
        b"",
        b"canary-secret",
        b"\xff\xfe\x00",
        b"{}",
        br#"{"v":9,"operation_run_id":1}"#,
        br#"{"v":1,"operation_run_id":-1}"#,
    ];
    for (n, payload) in bad.iter().enumerate() {
        let id = format!("bad-{n}");
        enqueue(&url, &name, id.as_bytes(), payload).await.unwrap();
    }
    until("all were counted", || {
        queue.health().dead_letters == bad.len() as u64
    })
    .await;
    queue.send(&hints(1..=3)).await.unwrap();
    until("hints arrive", || probe.runs().len() == 3).await;
    assert_eq!(queue.health().restarts, 0);
    consumer.stop().await;

    let mut plain = connection(&url).await;
    let dead: usize = command(&mut plain, &["SCARD", &format!("{name}:dead")]).await;
    assert_eq!(dead, bad.len());
    let result: String = command(
        &mut plain,
        &["HGET", &format!("{name}:meta:bad-1"), "result"],
    )
    .await;
    assert!(!result.contains("canary"), "{result}");
    assert_eq!(probe.started(), 3);
    remove_queue(&url, &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_of_a_panic_is_not_stored() {
    let (url, name) = (redis_url(), random_queue());
    let queue = open(&settings(&url, &name));
    let probe = Probe::new();
    probe.panic_on(1);
    let consumer = Consumer::start(&queue, &probe, 1);
    queue.send(&hints(1..=2)).await.unwrap();
    until("the next was finished", || probe.finished() == 1).await;
    consumer.stop().await;
    let mut plain = connection(&url).await;
    let ids: Vec<String> = command(&mut plain, &["SMEMBERS", &format!("{name}:dead")]).await;
    assert_eq!(ids.len(), 1);
    let result: String = command(
        &mut plain,
        &["HGET", &format!("{name}:meta:{}", ids[0]), "result"],
    )
    .await;
    assert!(result.contains("the handler panicked"), "{result}");
    assert!(!result.contains("a test asked for"), "{result}");
    remove_queue(&url, &name).await;
}

/// Throughput of hints whose handler does nothing. Prints, asserts nothing about speed:
/// `cargo test --test system -- --ignored --nocapture queue::redis::throughput`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    for fetchers in [1, 2, 4] {
        let (url, name) = (redis_url(), random_queue());
        let mut settings = settings(&url, &name);
        settings.consumer.fetchers = fetchers;
        let queue = open(&settings);
        let sending = Instant::now();
        queue.send(&hints(1..=10_000)).await.unwrap();
        let sent = sending.elapsed();
        let probe = Probe::new();
        let started = Instant::now();
        let consumer = Consumer::start(&queue, &probe, 64);
        until("all were finished", || probe.finished() >= 10_000).await;
        let took = started.elapsed();
        consumer.stop().await;
        println!(
            "{fetchers} fetchers: sent {:.0}/s, handled {:.0}/s",
            10_000.0 / sent.as_secs_f64(),
            10_000.0 / took.as_secs_f64()
        );
        remove_queue(&url, &name).await;
    }
}
