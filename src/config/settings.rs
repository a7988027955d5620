//! The sections of the configuration. Meaning, unit and range of every key stand in
//! `config/default.toml`, and only there.

use crate::credentials::CredentialsSettings;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The store when no address is configured.
const EMBEDDED_DATABASE: &str = "sqlite://verifyd.db";

/// All settings, loaded and checked. `Debug` shows no secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub database: DatabaseSettings,
    pub redis: RedisSettings,
    pub in_process_queue: InProcessQueueSettings,
    pub worker: WorkerSettings,
    pub reconciler: ReconcilerSettings,
    pub http: HttpSettings,
    pub log: LogSettings,
    pub credentials: CredentialsSettings,
    pub links: LinksSettings,
    pub microsoft: MicrosoftSettings,
    /// What [`Settings::print`] shows, already masked.
    #[serde(skip)]
    pub(super) shown: Vec<super::print::Shown>,
}

/// `[database]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// May hold a password. Empty: see [`DatabaseSettings::effective_url`].
    pub url: SecretString,
    pub max_connections: u32,
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub lock_timeout: Duration,
}

impl DatabaseSettings {
    /// The configured address, or the embedded default's.
    pub fn effective_url(&self) -> SecretString {
        if self.url.expose_secret().is_empty() {
            EMBEDDED_DATABASE.into()
        } else {
            self.url.clone()
        }
    }

    /// Whether the store is SQLite, by the scheme of the address.
    pub fn is_sqlite(&self) -> bool {
        self.effective_url().expose_secret().starts_with("sqlite:")
    }

    /// Where the embedded default keeps its key: beside the SQLite database, with the extension
    /// `key`. Null with PostgreSQL, and for a database that lives in memory only.
    pub fn embedded_key_file(&self) -> Option<PathBuf> {
        let url = self.effective_url();
        let rest = url.expose_secret().strip_prefix("sqlite:")?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.is_empty() || path == ":memory:" || query.split('&').any(|q| q == "mode=memory") {
            return None;
        }
        let path = percent_encoding::percent_decode_str(path)
            .decode_utf8()
            .ok()?;
        let database = PathBuf::from(path.into_owned());
        let key = database.with_extension("key");
        Some(if key == database {
            database.with_extension("key.key")
        } else {
            key
        })
    }
}

/// `[redis]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// May hold a password. Empty: the in-process queue is used.
    pub url: SecretString,
    pub queue: String,
    pub fetchers: usize,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub response_timeout: Duration,
    pub retries: usize,
    #[serde(with = "humantime_serde")]
    pub retry_max_delay: Duration,
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    pub missed_heartbeats: u32,
    #[serde(with = "humantime_serde")]
    pub restart_backoff_min: Duration,
    #[serde(with = "humantime_serde")]
    pub restart_backoff_max: Duration,
    #[serde(with = "humantime_serde")]
    pub clean_interval: Duration,
    pub clean_chunk: usize,
}

impl RedisSettings {
    /// Whether there is an address.
    pub fn is_configured(&self) -> bool {
        !self.url.expose_secret().is_empty()
    }
}

/// `[in_process_queue]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InProcessQueueSettings {
    pub capacity: usize,
}

/// `[worker]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSettings {
    pub concurrency: usize,
    pub max_attempts: u32,
    #[serde(with = "humantime_serde")]
    pub run_deadline: Duration,
    #[serde(with = "humantime_serde")]
    pub total_deadline: Duration,
    #[serde(with = "humantime_serde")]
    pub beat_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
    #[serde(with = "humantime_serde")]
    pub grace_period: Duration,
}

/// `[reconciler]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcilerSettings {
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    #[serde(with = "humantime_serde")]
    pub redeliver_after: Duration,
    pub batch: u32,
    pub redeliver_below: u64,
}

/// `[http]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    pub listen: SocketAddr,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    pub format: LogFormat,
    /// A filter that `tracing_subscriber::EnvFilter` understands.
    pub filter: String,
}

/// Form of the log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    Pretty,
    Json,
}

/// `[links]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinksSettings {
    pub connections: String,
    /// `{id}` stands for the connection's id.
    pub connection: String,
    /// `{id}` stands for the run's id.
    pub run: String,
}

/// `[microsoft]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MicrosoftSettings {
    pub default_cloud: String,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Bytes.
    pub max_response_bytes: usize,
    pub max_pages: u32,
    pub max_attempts_per_request: u32,
    #[serde(with = "humantime_serde")]
    pub retry_base_delay: Duration,
    #[serde(with = "humantime_serde")]
    pub retry_max_delay: Duration,
    #[serde(with = "humantime_serde")]
    pub defer_after: Duration,
    #[serde(with = "humantime_serde")]
    pub token_refresh_margin: Duration,
    pub token_cache_entries: u64,
    pub role_cache_entries: u64,
    #[serde(with = "humantime_serde")]
    pub role_cache_ttl: Duration,
    /// By the name that `provider_connections.cloud` holds.
    pub clouds: BTreeMap<String, CloudSettings>,
}

/// `[microsoft.clouds.<name>]`: base addresses without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudSettings {
    pub login: String,
    pub graph: String,
    pub portal: String,
}
