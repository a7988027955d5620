//! Fetches deliveries with `lua/fetch.lua`, which inspects what a producer wrote before it leaves Redis.

use super::keys::Keys;
use super::orphan_recovery::Malformed;
use crate::domain::hint::MAX_PAYLOAD_BYTES;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::status::Status;
use apalis_core::task::task_id::TaskId;
use apalis_redis::RedisTask;
use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisError, RedisResult, Script};
use std::sync::LazyLock;

static FETCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("lua/repair.lua"),
        include_str!("lua/fetch.lua")
    ))
});

/// The result of one fetch.
pub(super) struct Fetched {
    pub deliveries: Vec<RedisTask>,
    /// Whether the queue held as many entries as were requested, including removed ones.
    pub is_full: bool,
}

/// Fetches up to `max` deliveries for a registered worker.
pub(super) async fn fetch(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
    worker: &str,
    max: usize,
) -> RedisResult<Fetched> {
    let (looked_at, repaired, dropped, too_large, taken): Answer = FETCH
        .key(&keys.workers)
        .key(&keys.active)
        .key(keys.inflight(worker))
        .key(&keys.data)
        .key(&keys.meta)
        .key(&keys.scheduled)
        .arg(max)
        .arg(worker)
        .arg(MAX_PAYLOAD_BYTES)
        .invoke_async(connection)
        .await?;
    Malformed {
        repaired,
        dropped,
        too_large,
        keys: 0,
    }
    .report();
    let mut taken = taken.into_iter();
    let mut deliveries = Vec::with_capacity(taken.len() / 2);
    while let (Some(id), Some(payload)) = (taken.next(), taken.next()) {
        deliveries.push(delivery(id, payload)?);
    }
    Ok(Fetched {
        deliveries,
        is_full: looked_at == max,
    })
}

type Answer = (usize, u64, u64, u64, Vec<Vec<u8>>);

/// Builds the task for apalis. The id is acknowledged as it was read, whatever it looks like. Attempts
/// are counted in the database.
fn delivery(id: Vec<u8>, payload: Vec<u8>) -> RedisResult<RedisTask> {
    let id = String::from_utf8(id)
        .map_err(|_| RedisError::from((ErrorKind::Parse, "a task id is no text")))?;
    Ok(TaskBuilder::new(payload)
        .task_id(TaskId::String(id))
        .status(Status::Pending)
        .attempt(0)
        .max_attempts(1)
        .build())
}
