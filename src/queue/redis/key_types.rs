//! Finds and removes keys of the queue that hold something of another type than theirs.
//!
//! Whoever fetches, sends or acknowledges meets the server's `WRONGTYPE`, and so does every try after it. Removing such
//! a key loses hints at most, which the sweep sends again.

use super::keys::Keys;
use super::orphan_recovery::Malformed;
use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};
use std::sync::LazyLock;

static REMOVE_MISFITS: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("lua/remove_misfits.lua")));

/// Workers whose sets one call checks, as Redis serves no other client meanwhile.
const MAX_CHECKED: usize = 500;

/// Returns what is wrong with the first key that has another type than its own.
pub(super) async fn misfit(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
) -> RedisResult<Option<String>> {
    let types = keys.types();
    let mut look = redis::pipe();
    for (key, _) in types {
        look.cmd("TYPE").arg(key);
    }
    let found: Vec<String> = look.query_async(connection).await?;
    let mut all = types.into_iter().zip(found);
    let misfit = all.find(|((_, own), found)| found != "none" && found != own);
    Ok(misfit.map(|((key, own), found)| {
        format!("the key {key} is of the type {found}, not {own} (WRONGTYPE)")
    }))
}

/// Removes keys of another type, also those of what the workers on the list and these ended ones hold.
pub(super) async fn remove_misfits(
    connection: &mut impl ConnectionLike,
    keys: &Keys,
    ended: &[String],
) -> RedisResult<()> {
    let mut script = REMOVE_MISFITS.prepare_invoke();
    script.arg(keys.inflight("")).arg(MAX_CHECKED);
    for (key, own) in keys.types() {
        script.key(key).arg(own);
    }
    for worker in ended {
        script.key(keys.inflight(worker)).arg("set");
    }
    let keys = script.invoke_async(connection).await?;
    Malformed {
        keys,
        ..Malformed::default()
    }
    .report();
    Ok(())
}
