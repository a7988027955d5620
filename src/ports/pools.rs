//! The pools of connections to the database.

use serde::{Deserialize, Serialize};

/// A pool of connections, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolState {
    /// `main`; with SQLite `writer` and `readers`.
    pub name: String,
    pub idle: u32,
    /// Those that are being opened or tested included.
    pub used: u32,
    /// Largest number of connections.
    pub max: u32,
}

/// Counts connections.
pub trait PoolStore: Send + Sync {
    /// Returns the state of each pool, without a call to the database.
    fn pools(&self) -> Vec<PoolState>;
}
