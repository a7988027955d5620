//! Tests whether hints can be sent: adds one and removes it in one step of the server.

use super::connections::Connections;
use super::enqueue::ENQUEUE;
use super::keys::Keys;
use crate::domain::RunId;
use crate::domain::hint::Hint;
use crate::ports::queue::QueueError;
use redis::Script;
use uuid::Uuid;

/// Runs the script of the wire format and its removal as one script, so that no consumer sees the hint.
const TAKE_BACK: &str = "
local done, answer = pcall(put)
redis.pcall('LREM', KEYS[2], -1, ARGV[1])
redis.pcall('HDEL', KEYS[1], ARGV[1])
redis.pcall('UNLINK', KEYS[4] .. ':' .. ARGV[1])
if done then return answer end
if type(answer) == 'table' then return answer end
return redis.error_reply(answer)
";

/// Puts a hint and takes it back over a connection of its own, which fails with the server's answer where
/// the shared one would try again.
pub(super) async fn put_and_take_back(
    connections: &Connections,
    keys: &Keys,
) -> Result<(), QueueError> {
    let script = Script::new(&format!(
        "local function put()\n{ENQUEUE}\nend\n{TAKE_BACK}"
    ));
    // No run has this id.
    let payload = Hint::new(RunId(0)).encode();
    connections
        .once(async |mut connection| {
            script
                .key(&keys.data)
                .key(&keys.active)
                .key(&keys.signal)
                .key(&keys.meta)
                .arg(Uuid::now_v7().to_string())
                .arg(payload)
                .arg(1)
                .invoke_async::<i64>(&mut connection)
                .await
        })
        .await?;
    Ok(())
}
