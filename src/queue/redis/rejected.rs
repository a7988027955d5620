//! What was put aside because it is no hint.

use super::keys::Keys;
use super::link::Link;
use crate::domain::job::{Hint, HintError, MAX_PAYLOAD_BYTES};
use crate::domain::report::redact;
use crate::ports::queue::{QueueError, RejectedHint};
use redis::{Script, Value};
use std::sync::LazyLock;

static LOOK: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/look_rejected.lua")));

/// Most characters of a task id that are shown: others may have made it.
const SHOWN: usize = 128;

/// How many there are, and some of them with what is wrong.
pub(super) async fn look(
    link: &Link,
    keys: &Keys,
    most: u32,
) -> Result<(u64, Vec<RejectedHint>), QueueError> {
    let mut script = LOOK.prepare_invoke();
    script
        .key(&keys.dead)
        .key(&keys.data)
        .arg(most)
        .arg(MAX_PAYLOAD_BYTES);
    let (total, found): (u64, Vec<Value>) = link
        .call(async |connection| script.invoke_async(connection).await)
        .await?;
    let rejected = found.chunks_exact(3).filter_map(|entry| {
        let (id, length, payload): (Vec<u8>, i64, Vec<u8>) =
            redis::from_redis_value(Value::Array(entry.to_vec())).ok()?;
        let reason = match usize::try_from(length) {
            Err(_) => "its payload is gone".to_owned(),
            Ok(length) if length > MAX_PAYLOAD_BYTES => HintError::TooLarge(length).to_string(),
            Ok(_) => match Hint::decode(&payload) {
                Err(error) => error.to_string(),
                // Put aside by a worker of another version, or by a handler that refused it.
                Ok(hint) => format!("refused for run {}", hint.operation_run_id),
            },
        };
        Some(RejectedHint {
            task_id: redact::clean(&String::from_utf8_lossy(&id), SHOWN),
            reason,
        })
    });
    Ok((total, rejected.collect()))
}
