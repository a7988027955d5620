//! What becomes of the deliveries that a worker held, and of keys that would end any worker.

use super::keys::Keys;
use super::quiet::Quiet;
use crate::domain::job::MAX_PAYLOAD_BYTES;
use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};
use std::sync::LazyLock;

static TOO_LARGE: Quiet = Quiet::new();
static MALFORMED: Quiet = Quiet::new();

static HAND_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/repair.lua"),
        include_str!("lua/hand_back.lua")
    ))
});
static HEAL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/heal.lua")));
/// By the server's clock, as nobody knows whose would be right.
static KEEP_ALIVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new("return redis.call('ZADD', KEYS[1], 'XX', redis.call('TIME')[1], ARGV[1])")
});

/// Entries per script call: Redis does nothing else meanwhile.
const CHUNK: usize = 500;

/// Entries that were not written by the enqueue script, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Given the meta or the id that they lacked.
    pub repaired: u64,
    /// Removed: there was no payload.
    pub dropped: u64,
    /// Removed unread: the payload was longer than any hint.
    pub too_large: u64,
    /// Keys removed that held something of another type.
    pub keys: u64,
}

impl Malformed {
    /// Counts them, and says what became of them; never what they held.
    pub fn note(&self) {
        let Self {
            repaired,
            dropped,
            too_large,
            keys,
        } = *self;
        if too_large > 0 {
            metrics::counter!("verifyd_hints_too_large_total").increment(too_large);
            if let Some(left_out) = TOO_LARGE.line() {
                tracing::warn!(
                    removed = too_large,
                    limit = MAX_PAYLOAD_BYTES,
                    left_out,
                    "removed payloads that are longer than the limit, unread"
                );
            }
        }
        if repaired + dropped + keys > 0 {
            metrics::counter!("verifyd_queue_malformed_total").increment(repaired + dropped + keys);
            let Some(left_out) = MALFORMED.line() else {
                return;
            };
            tracing::warn!(
                repaired,
                dropped,
                keys,
                left_out,
                "the queue held entries that were not written by the enqueue script"
            );
        }
    }
}

/// What was found in the hands of a worker that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Custody {
    /// Put back to be delivered again.
    pub returned: u64,
    pub malformed: Malformed,
}

/// Puts back what a worker that has ended still holds, without waiting until others notice that
/// its heartbeats stopped, and removes every trace of it.
pub(super) async fn hand_back(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
    worker: &str,
) -> RedisResult<Custody> {
    let mut all = Custody::default();
    loop {
        let (returned, dropped, too_large, left): (u64, u64, u64, u64) = HAND_BACK
            .key(keys.inflight(worker))
            .key(&keys.active)
            .key(&keys.data)
            .key(&keys.meta)
            .key(&keys.workers)
            .key(keys.worker_metadata(worker))
            .arg(worker)
            .arg(CHUNK)
            .arg(MAX_PAYLOAD_BYTES)
            .invoke_async(connection)
            .await?;
        all.returned += returned;
        all.malformed.dropped += dropped;
        all.malformed.too_large += too_large;
        if left == 0 {
            return Ok(all);
        }
    }
}

/// Removes keys that hold something of another type, so that the next worker can fetch. Returns how
/// many.
pub(super) async fn heal(connection: &mut impl ConnectionLike, keys: &Keys) -> RedisResult<u64> {
    HEAL.key(&keys.active)
        .key(&keys.data)
        .key(&keys.signal)
        .invoke_async(connection)
        .await
}

/// A heartbeat for a worker that finishes its work: it sends none itself once it is stopping.
pub(super) async fn keep_alive(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
    worker: &str,
) -> RedisResult<()> {
    KEEP_ALIVE
        .key(&keys.workers)
        .arg(worker)
        .invoke_async::<u64>(connection)
        .await
        .map(|_| ())
}
