//! Reads the state of a pool.

use crate::ports::pools::PoolState;
use sqlx::{Database, Pool};

pub(super) fn state_of<D: Database>(name: &str, pool: &Pool<D>) -> PoolState {
    let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
    PoolState {
        name: name.to_owned(),
        idle,
        used: pool.size().saturating_sub(idle),
        max: pool.options().get_max_connections(),
    }
}
