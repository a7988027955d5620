//! Tests whether hints can be sent, with one that is removed in the same step of the server, and consumed. A user who may
//! not remove what this writes writes nothing.

use super::connections::Connections;
use super::enqueue::ENQUEUE;
use super::keys::Keys;
use crate::domain::RunId;
use crate::domain::hint::Hint;
use crate::domain::report::redact::clean;
use crate::ports::queue::QueueError;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};
use std::sync::LazyLock;
use uuid::Uuid;

/// The one list of the commands of [`super::fetcher`], apalis-redis and [`super::cleaner`].
const CONSUME: &str = include_str!("lua/try_consuming.lua");
static TRY_CONSUMING: LazyLock<Script> = LazyLock::new(|| Script::new(CONSUME));

/// Characters of an error of the server.
const LENGTH: usize = 500;

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

/// Tries each command that a consumer needs, on keys of a worker that does not exist, and listening for new hints.
pub(super) async fn try_consuming(
    connections: &Connections,
    keys: &Keys,
) -> Result<(), QueueError> {
    let worker = Uuid::now_v7().to_string();
    let failed: Vec<String> = connections
        .once(async |mut connection| {
            TRY_CONSUMING
                .key(keys.inflight(&worker))
                .key(keys.worker_metadata(&worker))
                .invoke_async(&mut connection)
                .await
        })
        .await?;
    if let [error, commands @ ..] = &failed[..] {
        let error = clean(error, LENGTH);
        let commands = commands.join(", ");
        let error = format!("the server answers {error} ({commands})");
        return Err(QueueError::Unavailable(error));
    }
    let mut pubsub = connections.pubsub().await?;
    match pubsub.subscribe(&keys.available).await {
        Ok(()) => Ok(()),
        Err(error) => Err(connections.unavailable(&error).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What is missing in the file no consumer could use, and what is missing in the script `doctor` would not miss.
    #[test]
    fn every_command_of_the_users_file_is_tried() {
        let users = include_str!("../../../deploy/redis.acl");
        let serve = users.lines().find(|line| line.contains(" verifyd_serve "));
        let granted = serve
            .unwrap()
            .split(' ')
            .filter_map(|word| word.strip_prefix('+'));
        let granted: BTreeSet<String> = granted.map(str::to_uppercase).collect();
        let tried = CONSUME
            .lines()
            .filter_map(|line| line.trim().strip_prefix("{ '"));
        let tried = tried.filter_map(|line| line.split('\'').next());
        // Whoever runs the scripts and sends hints; the rest serves people and those who enqueue.
        let others = [
            "@CONNECTION",
            "EVAL",
            "EVALSHA",
            "PUBLISH",
            "SCRIPT|LOAD",
            "SUBSCRIBE",
            "UNSUBSCRIBE",
        ];
        let tried: BTreeSet<String> = tried.chain(others).map(str::to_owned).collect();
        assert_eq!(granted, tried);
    }
}
