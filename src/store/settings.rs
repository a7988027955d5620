//! The sections `[database]` and `[limits]`.

use crate::domain::host_list::HostList;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Shortest `batch_timeout`, where `statement_timeout` is no shorter.
const MIN_BATCH_TIMEOUT: Duration = Duration::from_secs(1);

/// `database.listen_url` where no connection listens.
pub const LISTEN_OFF: &str = "off";

/// The address of the database, and its timeouts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://…`, `postgresql://…` or `sqlite:FILE`.
    pub url: SecretString,
    /// The file whose content is the password of `url`, `listen_url` and `read_url`, followed while the process runs; empty: none.
    /// Not used with SQLite.
    pub password_file: PathBuf,
    /// Largest number of connections of this process. SQLite: readers; there is one writer besides.
    pub max_connections: u32,
    /// Timeout for a free connection, including the time to open one, and of the first connection when the process
    /// starts.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// Timeout of one statement on the server. With SQLite only the wait for a lock follows it.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// A direct connection that listens for bare INSERTs, where `url` leads to a pooler; empty: `url`; [`LISTEN_OFF`]:
    /// none. Not used with SQLite.
    pub listen_url: SecretString,
    /// A replica, for what API and pages read; empty: `url`.
    pub read_url: SecretString,
}

impl DatabaseSettings {
    /// Returns how long a statement waits for another transaction's lock: a sixth of `statement_timeout`, so that it
    /// gives up on the lock long before the server ends it.
    pub fn lock_timeout(&self) -> Duration {
        self.statement_timeout / 6
    }

    /// Returns how long a statement of a batch may take, a thirtieth: a rule of the application may have one run wait,
    /// and all others of its batch with it. At least a second, if any may take that long: a batch that is given up though
    /// nothing waits costs more than it would have.
    pub fn batch_timeout(&self) -> Duration {
        let least = self.statement_timeout.min(MIN_BATCH_TIMEOUT);
        (self.statement_timeout / 30).max(least)
    }

    /// Whether a connection listens for bare INSERTs. None does with SQLite.
    pub fn listens(&self) -> bool {
        self.listen_url.expose_secret() != LISTEN_OFF
    }

    /// Whether `url` names several hosts, of which one is chosen: that takes a connection of its own now and then.
    pub fn has_several_hosts(&self) -> bool {
        HostList::of(self.url.expose_secret()).is_several()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &str = r#"
        url = "postgres://verifyd:p4ss@localhost/verifyd"
        password_file = ""
        max_connections = 16
        acquire_timeout = "5s"
        statement_timeout = "30s"
        listen_url = "postgres://verifyd:p4ss@direct/verifyd"
        read_url = ""
    "#;

    #[test]
    fn the_section_is_read_and_its_url_never_shown() {
        let settings: DatabaseSettings = toml::from_str(COMPLETE).unwrap();
        assert_eq!(settings.lock_timeout(), Duration::from_secs(5));
        assert!(!format!("{settings:?}").contains("p4ss"));
    }

    #[test]
    fn a_batch_has_a_thirtieth_of_the_time_but_a_second() {
        let mut settings: DatabaseSettings = toml::from_str(COMPLETE).unwrap();
        for (statement, batch) in [(60_000, 2_000), (30_000, 1_000), (300, 300)] {
            settings.statement_timeout = Duration::from_millis(statement);
            assert_eq!(settings.batch_timeout(), Duration::from_millis(batch));
        }
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
