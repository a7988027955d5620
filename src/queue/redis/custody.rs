//! What becomes of the deliveries that a worker held, and of entries that would end any worker.

use super::keys::Keys;
use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};
use std::sync::LazyLock;

static HAND_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/repair.lua"),
        include_str!("lua/hand_back.lua")
    ))
});
static SIFT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/repair.lua"),
        include_str!("lua/sift.lua")
    ))
});
/// By the server's clock, as nobody knows whose would be right.
static KEEP_ALIVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new("return redis.call('ZADD', KEYS[1], 'XX', redis.call('TIME')[1], ARGV[1])")
});

/// Entries per script call: Redis does nothing else meanwhile.
const CHUNK: usize = 500;
/// Calls of `sift` in a row: looks through the next 10,000 entries.
const SIFTED_CHUNKS: usize = 20;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Custody {
    /// Put back to be delivered again.
    pub returned: u64,
    /// Given the meta or the id that they lacked.
    pub repaired: u64,
    /// Removed: there was no payload.
    pub dropped: u64,
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
        let (returned, dropped, left): (u64, u64, u64) = HAND_BACK
            .key(keys.inflight(worker))
            .key(&keys.active)
            .key(&keys.data)
            .key(&keys.meta)
            .key(&keys.workers)
            .key(keys.worker_metadata(worker))
            .arg(worker)
            .arg(CHUNK)
            .invoke_async(connection)
            .await?;
        all.returned += returned;
        all.dropped += dropped;
        if left == 0 {
            return Ok(all);
        }
    }
}

/// Repairs or removes what would end the next worker, at the head of the queue.
pub(super) async fn sift(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
) -> RedisResult<Custody> {
    let mut all = Custody::default();
    for _ in 0..SIFTED_CHUNKS {
        let (_, repaired, dropped): (u64, u64, u64) = SIFT
            .key(&keys.active)
            .key(&keys.data)
            .key(&keys.meta)
            .arg(CHUNK)
            .invoke_async(connection)
            .await?;
        all.repaired += repaired;
        all.dropped += dropped;
        if dropped == 0 {
            // The same head again.
            break;
        }
    }
    Ok(all)
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
