//! Reads dead letters: payloads that are no hints.

use super::connections::Connections;
use super::keys::Keys;
use crate::domain::hint::{Hint, HintError, MAX_PAYLOAD_BYTES};
use crate::domain::report::redact;
use crate::ports::queue::{DeadLetter, QueueError};
use redis::{Script, Value};
use std::sync::LazyLock;

static READ: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/read_dead_letters.lua")));

/// Characters of a task id that are shown: a producer may have chosen it.
const SHOWN: usize = 128;

/// Returns the number of dead letters, and up to `max` of them with what is wrong.
pub(super) async fn read(
    connections: &Connections,
    keys: &Keys,
    max: u32,
) -> Result<(u64, Vec<DeadLetter>), QueueError> {
    let mut script = READ.prepare_invoke();
    script
        .key(&keys.dead)
        .key(&keys.data)
        .arg(max)
        .arg(MAX_PAYLOAD_BYTES);
    let (total, found): (u64, Vec<Value>) = connections
        .call(async |connection| script.invoke_async(connection).await)
        .await?;
    let dead_letters = found.chunks_exact(3).filter_map(|entry| {
        let (id, length, payload): (Vec<u8>, i64, Vec<u8>) =
            redis::from_redis_value(Value::Array(entry.to_vec())).ok()?;
        let reason = match usize::try_from(length) {
            Err(_) => "its payload is gone".to_owned(),
            Ok(length) if length > MAX_PAYLOAD_BYTES => HintError::TooLarge(length).to_string(),
            Ok(_) => match Hint::decode(&payload) {
                Err(error) => error.to_string(),
                // A worker of another version refused it, or its handler panicked.
                Ok(hint) => format!("refused for run {}", hint.operation_run_id),
            },
        };
        Some(DeadLetter {
            task_id: redact::clean(&String::from_utf8_lossy(&id), SHOWN),
            reason,
        })
    });
    Ok((total, dead_letters.collect()))
}
