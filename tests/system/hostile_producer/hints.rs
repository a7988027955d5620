//! What a producer's user of Redis can write besides hints.

use crate::hostile_producer::Draw;
use crate::hostile_producer::scene::{QUEUE, admin};
use proptest::prelude::*;
use proptest::sample::select;
use test_support::redis_server::{self, PrivateRedis, command};
use test_support::waiting::until;

/// A payload larger than any worker may take up.
const HUGE: usize = 100 * 1024 * 1024;

/// The channel of new hints.
const AVAILABLE: &str = "tasks:verifyd:active:available";

/// Copies of one hint.
const COPIES: usize = 2_000;

/// What may be left in the queue: payloads that are kept to be looked at are small, and not many.
const LEFT_BYTES: u64 = 8 * 1024 * 1024;

/// An entry of the queue as its parts lie in Redis.
#[derive(Clone, Debug)]
struct Entry {
    id: Vec<u8>,
    payload: Option<Vec<u8>>,
    meta: Option<Vec<(String, String)>>,
    listed: usize,
}

fn id() -> impl Strategy<Value = Vec<u8>> {
    let fixed: &[&[u8]] = &[
        b"",
        b"007",
        b"+7",
        b"-1",
        b"99999999999999999999999999",
        b"01arz3ndektsv4rrffq69g5fav",
        b"91ARZ3NDEKTSV4RRFFQ69G5FAV",
        b"../../x",
        b"a b\r\nc",
        b"\xff\xfe\x00",
        "ä".as_bytes(),
    ];
    let fixed: Vec<Vec<u8>> = fixed.iter().map(|id| id.to_vec()).collect();
    prop_oneof![
        2 => select(fixed),
        2 => "[a-z0-9-]{1,40}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (1_usize..50_000).prop_map(|length| vec![b'x'; length]),
    ]
}

fn payload(runs: Vec<i64>) -> impl Strategy<Value = Vec<u8>> {
    let hint = |run: &str| format!(r#"{{"v":1,"operation_run_id":{run}}}"#);
    let mut numbers: Vec<String> = runs.iter().map(i64::to_string).collect();
    numbers.extend(
        [
            "0",
            "-5",
            "9223372036854775807",
            "9223372036854775808",
            "1e400",
            "1.5",
            "\"1\"",
            "null",
            "[]",
        ]
        .map(str::to_owned),
    );
    let fixed = [
        String::new(),
        "{}".into(),
        "null".into(),
        "[1,2,3]".into(),
        "{\"v\":1,".into(),
        r#"{"v":9,"operation_run_id":1}"#.into(),
        r#"{"v":1,"operation_run_id":1,"status":"completed"}"#.into(),
        r#"{"v":1,"operation_run_id":1,"traceparent":"00-x","tracestate":5}"#.into(),
        r#"{"v":1,"v":2,"operation_run_id":1,"operation_run_id":2}"#.into(),
        "[".repeat(4_000),
        hint(&"9".repeat(3_000)),
        "\u{0}\u{1}".into(),
        "canary-secret".into(),
    ];
    prop_oneof![
        4 => select(numbers).prop_map(move |run| hint(&run).into_bytes()),
        2 => select(fixed.to_vec()).prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..5_000),
        1 => (4_096_usize..400_000).prop_map(|length| vec![b' '; length]),
    ]
}

fn meta() -> impl Strategy<Value = Vec<(String, String)>> {
    let fields = select(vec![
        "attempts",
        "max_attempts",
        "status",
        "run_at",
        "result",
        "done_at",
        "priority",
        "",
    ]);
    let values = select(vec![
        "",
        "0",
        "1",
        "-1",
        "abc",
        "Pending",
        "Done",
        "Killed",
        "no such status",
        "18446744073709551616",
        "1e400",
        "{\"a\":",
    ]);
    let pair = (fields, values).prop_map(|(f, v)| (f.to_owned(), v.to_owned()));
    prop::collection::vec(pair, 1..5)
}

fn entry(runs: Vec<i64>) -> impl Strategy<Value = Entry> {
    let parts = (
        id(),
        prop::option::weighted(0.9, payload(runs)),
        prop::option::weighted(0.8, meta()),
        select(vec![0, 1, 1, 1, 2, 50]),
    );
    parts.prop_map(|(id, payload, meta, listed)| Entry {
        id,
        payload,
        meta,
        listed,
    })
}

fn key(part: &str) -> String {
    format!("{QUEUE}:{part}")
}

/// The producer writes so many entries, in its own way, and copies of hints in the published one.
pub async fn hostile(redis: &PrivateRedis, draw: &mut Draw, number: usize, runs: &[i64]) {
    let url = redis.url_of("verifyd_producer");
    let mut producer = redis_server::connection(&url).await;
    let mut named = runs.to_vec();
    named.extend([1_000_000_007, i64::MAX]);
    for entry in draw.some(number, &entry(named)) {
        let mut pipe = redis::pipe();
        if let Some(payload) = &entry.payload {
            pipe.cmd("HSET")
                .arg(key("data"))
                .arg(&entry.id)
                .arg(payload);
        }
        if let Some(fields) = &entry.meta {
            let of = [key("meta:").into_bytes(), entry.id.clone()].concat();
            pipe.cmd("HSET").arg(of);
            for (field, value) in fields {
                pipe.arg(field).arg(value);
            }
        }
        for _ in 0..entry.listed {
            pipe.cmd("RPUSH").arg(key("active")).arg(&entry.id);
        }
        // One that writes nothing at all is no command.
        if pipe.cmd_iter().next().is_some() {
            pipe.exec_async(&mut producer).await.unwrap();
        }
    }
    let mut pipe = redis::pipe();
    pipe.cmd("RPUSH")
        .arg(key("signal"))
        .arg("x".repeat(100_000));
    pipe.cmd("HSET").arg(key("meta")).arg("a").arg("b");
    for channel in [AVAILABLE, "verifyd:completed"] {
        for message in ["", "no such task", "{\"operation_run_id\":", "\u{0}"] {
            pipe.cmd("PUBLISH").arg(channel).arg(message);
        }
    }
    pipe.exec_async(&mut producer).await.unwrap();
    let copies: Vec<i64> = runs.iter().copied().cycle().take(COPIES).collect();
    redis_server::hint(&url, QUEUE, &copies).await;
}

/// A message on the queue's channel that the server's default lets a worker hold, and then a payload of 100 MiB, in the
/// list and with all that belongs to it, and as a message. Each ends the worker's subscription.
pub async fn huge(redis: &PrivateRedis) {
    let url = redis.url_of("verifyd_producer");
    let mut producer = redis_server::connection(&url).await;
    let payload = vec![b'1'; HUGE];
    let before = the_subscriber(redis, None).await;
    let message = &payload[..24 * 1024 * 1024];
    redis::cmd("PUBLISH")
        .arg(AVAILABLE)
        .arg(message)
        .exec_async(&mut producer)
        .await
        .unwrap();
    the_subscriber(redis, Some(&before)).await;
    let meta = key("meta:huge");
    redis::pipe()
        .cmd("HSET")
        .arg(key("data"))
        .arg("huge")
        .arg(payload.as_slice())
        .cmd("HSET")
        .arg(meta)
        .arg(&["attempts", "0", "max_attempts", "1", "status", "Pending"])
        .cmd("RPUSH")
        .arg(key("active"))
        .arg("huge")
        .cmd("PUBLISH")
        .arg(AVAILABLE)
        .arg(payload.as_slice())
        .exec_async(&mut producer)
        .await
        .unwrap();
}

/// Waits until one connection, another one than before, listens for hints. Returns its id.
async fn the_subscriber(redis: &PrivateRedis, before: Option<&str>) -> String {
    let mut admin = admin(redis).await;
    let mut id = String::new();
    until("a worker listens over another connection", async || {
        let ((_, subscribers), clients): ((String, u64), String) = redis::pipe()
            .cmd("PUBSUB")
            .arg(&["NUMSUB", AVAILABLE])
            .cmd("CLIENT")
            .arg(&["LIST", "TYPE", "pubsub"])
            .query_async(&mut admin)
            .await
            .unwrap();
        let mut ids = clients.lines().filter_map(|line| line.split(' ').next());
        id = ids.next().unwrap_or_default().to_owned();
        subscribers == 1 && ids.next().is_none() && before != Some(id.as_str())
    })
    .await;
    id
}

/// Waits until the queue is empty and what is left of it is small.
pub async fn all_is_taken(redis: &PrivateRedis) {
    let mut admin = admin(redis).await;
    until(
        "the queue is empty and what is left of it is small",
        async || {
            let (waiting, bytes): (u64, Option<u64>) = redis::pipe()
                .cmd("LLEN")
                .arg(key("active"))
                .cmd("MEMORY")
                .arg(&["USAGE", &key("data"), "SAMPLES", "0"])
                .query_async(&mut admin)
                .await
                .unwrap();
            waiting == 0 && bytes.unwrap_or(0) < LEFT_BYTES
        },
    )
    .await;
}

/// The keys of the queue become what no queue is. From now on only the database is left.
pub async fn spoil(redis: &PrivateRedis) {
    let mut admin = admin(redis).await;
    command::<()>(&mut admin, &["FLUSHALL"]).await;
    let url = redis.url_of("verifyd_producer");
    let mut producer = redis_server::connection(&url).await;
    redis::pipe()
        .cmd("HSET")
        .arg(key("active"))
        .arg(&["not", "a list"])
        .cmd("RPUSH")
        .arg(key("data"))
        .arg("not a hash")
        .exec_async(&mut producer)
        .await
        .unwrap();
}
