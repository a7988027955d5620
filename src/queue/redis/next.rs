//! Fetches deliveries, by a script of verifyd's own: what a producer wrote is looked at in Redis, and
//! nothing that is longer than a hint gets here.

use super::custody::Malformed;
use super::keys::Keys;
use crate::domain::job::MAX_PAYLOAD_BYTES;
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

/// What one fetch has brought.
pub(super) struct Next {
    pub deliveries: Vec<RedisTask>,
    /// Entries of the queue, those included that were removed.
    pub looked_at: usize,
}

/// Takes up to so many deliveries for a worker that is registered.
pub(super) async fn fetch(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
    worker: &str,
    most: usize,
) -> RedisResult<Next> {
    let (looked_at, repaired, dropped, too_large, taken): Answer = FETCH
        .key(&keys.workers)
        .key(&keys.active)
        .key(keys.inflight(worker))
        .key(&keys.data)
        .key(&keys.meta)
        .key(&keys.scheduled)
        .arg(most)
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
    .note();
    let mut taken = taken.into_iter();
    let mut deliveries = Vec::with_capacity(taken.len() / 2);
    while let (Some(id), Some(payload)) = (taken.next(), taken.next()) {
        deliveries.push(delivery(id, payload)?);
    }
    Ok(Next {
        deliveries,
        looked_at,
    })
}

type Answer = (usize, u64, u64, u64, Vec<Vec<u8>>);

/// The id is acknowledged as it was read, whatever it looks like. Attempts are counted in the
/// database.
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
