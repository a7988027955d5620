//! The section `[database]`.

use secrecy::SecretString;
use serde::Deserialize;
use std::time::Duration;

/// The address of the database, and its timeouts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://…`, `postgresql://…` or `sqlite:FILE`.
    pub url: SecretString,
    /// Largest number of connections of this process. SQLite: readers; there is one writer besides.
    pub max_connections: u32,
    /// Timeout for a free connection, including the time to open one.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// Timeout of the first connection, when the process starts.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Timeout of one statement on the server. Not used with SQLite.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Timeout for another transaction's lock.
    #[serde(with = "humantime_serde")]
    pub lock_timeout: Duration,
    /// Idle time after which a connection is closed. Not used with SQLite.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Age at which a connection is replaced. Not used with SQLite.
    #[serde(with = "humantime_serde")]
    pub max_lifetime: Duration,
    /// Whether a connection listens for bare INSERTs. Not used with SQLite.
    pub listen: ListenMode,
    /// A direct connection for listening, where `url` leads to a pooler; empty: `url`.
    pub listen_url: SecretString,
}

/// The section `[limits]`: how much of what another application wrote is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Largest `operation_runs.context`, without verifyd's report, in bytes of JSON text.
    pub context_bytes: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            context_bytes: 262_144,
        }
    }
}

/// `database.listen`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenMode {
    Auto,
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &str = r#"
        url = "postgres://verifyd:p4ss@localhost/verifyd"
        max_connections = 16
        acquire_timeout = "5s"
        connect_timeout = "10s"
        statement_timeout = "10s"
        lock_timeout = "5s"
        idle_timeout = "10m"
        max_lifetime = "30m"
        listen = "auto"
        listen_url = "postgres://verifyd:p4ss@direct/verifyd"
    "#;

    #[test]
    fn the_section_is_read_and_its_url_never_shown() {
        let settings: DatabaseSettings = toml::from_str(COMPLETE).unwrap();
        assert_eq!(settings.lock_timeout, Duration::from_secs(5));
        assert!(!format!("{settings:?}").contains("p4ss"));
    }

    #[test]
    fn every_field_is_required_and_no_other_allowed() {
        for line in COMPLETE.lines().filter(|line| line.contains('=')) {
            let without = COMPLETE.replace(line, "");
            assert!(
                toml::from_str::<DatabaseSettings>(&without).is_err(),
                "{line}"
            );
        }
        let more = format!("{COMPLETE}\npool = 3");
        assert!(toml::from_str::<DatabaseSettings>(&more).is_err());
    }
}
