//! Tests whether hints can be sent: adds one and removes it in one step of the server. A user who may not remove it adds
//! none.

use super::connections::Connections;
use super::enqueue::ENQUEUE;
use super::keys::Keys;
use crate::domain::RunId;
use crate::domain::hint::Hint;
use crate::ports::queue::QueueError;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};
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
    let id = Uuid::now_v7().to_string();
    // No run has this id.
    let payload = Hint::new(RunId(0)).encode();
    connections
        .once(async |mut connection| {
            try_taking_back(&mut connection, keys, &id).await?;
            script
                .key(&keys.data)
                .key(&keys.active)
                .key(&keys.signal)
                .key(&keys.meta)
                .arg(&id)
                .arg(payload)
                .arg(1)
                .invoke_async::<i64>(&mut connection)
                .await
        })
        .await?;
    Ok(())
}

/// Runs the commands of [`TAKE_BACK`] while there is nothing to take back. A producer's user may put a hint and not
/// remove it. Not within the script: behind a write, Redis no longer refuses for want of memory.
async fn try_taking_back(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    id: &str,
) -> RedisResult<()> {
    let mut remove = redis::cmd("LREM");
    remove.arg(&keys.active).arg(-1).arg(id);
    remove.query_async::<u64>(connection).await?;
    let mut remove = redis::cmd("HDEL");
    remove.arg(&keys.data).arg(id);
    remove.query_async::<u64>(connection).await?;
    let mut remove = redis::cmd("UNLINK");
    remove.arg(format!("{}:{id}", keys.meta));
    remove.query_async::<u64>(connection).await?;
    Ok(())
}
