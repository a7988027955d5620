//! What was put aside because it is no hint.

use super::keys::Keys;
use super::link::Link;
use crate::domain::job::Hint;
use crate::domain::report::redact;
use crate::ports::queue::{QueueError, RejectedHint};

/// Most characters of a task id that are shown: others may have made it.
const SHOWN: usize = 128;

/// How many there are, and some of them with what is wrong.
pub(super) async fn look(
    link: &Link,
    keys: &Keys,
    most: u32,
) -> Result<(u64, Vec<RejectedHint>), QueueError> {
    let (total, ids): (u64, Vec<Vec<u8>>) = link
        .call(async |connection| {
            redis::pipe()
                .cmd("SCARD")
                .arg(&keys.dead)
                .cmd("SRANDMEMBER")
                .arg(&keys.dead)
                .arg(most)
                .query_async(connection)
                .await
        })
        .await?;
    if ids.is_empty() {
        return Ok((total, Vec::new()));
    }
    let payloads: Vec<Option<Vec<u8>>> = link
        .call(async |connection| {
            redis::cmd("HMGET")
                .arg(&keys.data)
                .arg(&ids)
                .query_async(connection)
                .await
        })
        .await?;
    let rejected = ids.iter().zip(payloads).map(|(id, payload)| RejectedHint {
        task_id: redact::clean(&String::from_utf8_lossy(id), SHOWN),
        reason: match payload.as_deref().map(Hint::decode) {
            None => "its payload is gone".to_owned(),
            Some(Err(error)) => error.to_string(),
            // Put aside by a worker of another version, or by a handler that refused it.
            Some(Ok(hint)) => format!("refused for run {}", hint.operation_run_id),
        },
    });
    Ok((total, rejected.collect()))
}
