//! Orphan recovery: returns the deliveries that an ended worker held to the queue.
//!
//! Workers that ended without being able to do so (a killed process) are found by apalis-redis, which
//! returns their deliveries after six missed heartbeats.

use super::keys::Keys;
use crate::domain::hint::MAX_PAYLOAD_BYTES;
use crate::ports::log_throttle::LogThrottle;
use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};
use std::sync::LazyLock;

static TOO_LARGE: LogThrottle = LogThrottle::new();
static MALFORMED: LogThrottle = LogThrottle::new();

static RETURN_HELD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/repair.lua"),
        include_str!("lua/return_held.lua")
    ))
});
/// Uses the server's clock, as those of the processes may differ.
static SEND_HEARTBEAT: LazyLock<Script> = LazyLock::new(|| {
    Script::new("return redis.call('ZADD', KEYS[1], 'XX', redis.call('TIME')[1], ARGV[1])")
});

/// Entries per script call, as Redis serves no other client meanwhile.
const CHUNK: usize = 500;

/// Entries that were not written by the enqueue script, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Entries that were given the meta or the id that they lacked.
    pub repaired: u64,
    /// Entries that were removed because they had no payload.
    pub dropped: u64,
    /// Entries that were removed unread because the payload was longer than any hint.
    pub too_large: u64,
    /// Keys that were removed because they had another type.
    pub keys: u64,
}

impl Malformed {
    /// Counts and logs them; never what they held.
    pub fn report(&self) {
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
            metrics::counter!("verifyd_queue_malformed_entries_total")
                .increment(repaired + dropped + keys);
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

/// Returns the messages of an ended worker to the queue without waiting for its heartbeats to expire, and
/// removes the worker from the list.
pub(super) async fn return_held(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
    worker: &str,
) -> RedisResult<()> {
    let mut malformed = Malformed::default();
    let mut all_returned = 0;
    loop {
        let (returned, dropped, too_large, left): (u64, u64, u64, u64) = RETURN_HELD
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
        all_returned += returned;
        malformed.dropped += dropped;
        malformed.too_large += too_large;
        if left == 0 {
            break;
        }
    }
    malformed.report();
    if all_returned > 0 {
        tracing::info!(
            worker,
            returned = all_returned,
            "returned the deliveries of an ended worker to the queue"
        );
    }
    Ok(())
}

/// Sends a heartbeat for a worker that is stopping: it sends none itself any more.
pub(super) async fn send_heartbeat(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
    worker: &str,
) -> RedisResult<()> {
    SEND_HEARTBEAT
        .key(&keys.workers)
        .arg(worker)
        .invoke_async::<u64>(connection)
        .await
        .map(|_| ())
}
