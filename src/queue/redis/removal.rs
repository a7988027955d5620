//! Tests a temporary queue, and removes it with everything that it left in Redis.

use super::connections::Connections;
use super::keys::{Keys, QUEUES};
use super::settings::{RedisSettings, RedisSettingsError};
use crate::ports::queue::QueueError;
use crate::queue::consumer_health::ConsumerHealth;
use redis::Script;
use std::sync::{Arc, LazyLock};

static REMOVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/remove.lua")));

/// Keys that one step of the scan reads, as Redis serves no other client meanwhile.
const STEP: usize = 1000;

/// Fails unless the settings' user may write the queue's keys and publish on its channels. Leaves nothing
/// behind. For queues that are not in use yet.
pub async fn try_queue(settings: &RedisSettings) -> Result<(), RemovalError> {
    settings.validate()?;
    let connections = Connections::new(settings, Arc::new(ConsumerHealth::new(false)))?;
    let keys = Keys::new(&settings.queue);
    let mut trial = redis::pipe();
    trial.cmd("RPUSH").arg(&keys.active).arg("").ignore();
    trial.cmd("UNLINK").arg(&keys.active).ignore();
    for channel in [&keys.available, &keys.completed] {
        trial.cmd("PUBLISH").arg(channel).arg("").ignore();
    }
    connections
        .call(async |connection| trial.query_async::<()>(connection).await)
        .await?;
    Ok(())
}

/// Why a queue was not tried or removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    #[error(transparent)]
    Settings(#[from] RedisSettingsError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Removes every key of the queue that the settings name, whoever wrote it. For queues that are no longer in
/// use. Returns the number of keys.
pub async fn remove_queue(settings: &RedisSettings) -> Result<u64, RemovalError> {
    settings.validate()?;
    let connections = Connections::new(settings, Arc::new(ConsumerHealth::new(false)))?;
    let keys = Keys::new(&settings.queue);
    let mut removed = 0;
    let mut cursor = 0_u64;
    loop {
        let mut script = REMOVE.prepare_invoke();
        script.arg(cursor).arg(keys.pattern()).arg(STEP);
        let (next, step): (u64, u64) = connections
            .call(async |connection| script.invoke_async(connection).await)
            .await?;
        removed += step;
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    // The list of queues that apalis-redis keeps: by the key of their workers.
    connections
        .call(async |connection| {
            redis::cmd("ZREM")
                .arg(QUEUES)
                .arg(&keys.workers)
                .query_async::<u64>(connection)
                .await
        })
        .await?;
    Ok(removed)
}
