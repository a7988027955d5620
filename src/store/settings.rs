//! The section `[database]`.

use secrecy::SecretString;
use serde::Deserialize;
use std::time::Duration;

/// How to reach the database, and how long to wait for it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://…`, `postgresql://…` or `sqlite:FILE`.
    pub url: SecretString,
    /// Connections that this process opens at most. SQLite: readers; there is one writer besides.
    pub max_connections: u32,
    /// How long a statement waits for a free connection, the time to open one included.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// How long the first connection may take, when the process starts.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the server may work on one statement. Not used with SQLite.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// How long a statement waits for another transaction's lock.
    #[serde(with = "humantime_serde")]
    pub lock_timeout: Duration,
}
