//! All sections of the configuration. Each part of the program defines its own. The meaning of every key stands in
//! `config/default.toml`, its range in `keys`.

use crate::credentials::CredentialsSettings;
use crate::debug::DebugSettings;
use crate::engine::settings::{LinkSettings, ReconcilerSettings, WorkerSettings};
use crate::http::HttpSettings;
use crate::http::pages::PagesSettings;
use crate::notify::WebhookSettings;
use crate::outbound::OutboundSettings;
use crate::provider::microsoft::MicrosoftSettings;
use crate::queue::redis::RedisSettings;
use crate::store::{DatabaseSettings, LimitSettings};
use crate::telemetry::logs::LogSettings;
use crate::telemetry::traces::TraceSettings;
use secrecy::ExposeSecret;
use serde::Deserialize;
use std::path::PathBuf;

/// The store when no address is configured.
pub(super) const EMBEDDED_DATABASE: &str = "sqlite://verifyd.db";

/// All settings, loaded and checked. `Debug` shows no secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Loading fills in the embedded default's address when none is configured.
    pub database: DatabaseSettings,
    /// The address is empty when there is no Redis: see [`Settings::has_redis`].
    pub redis: RedisSettings,
    pub limits: LimitSettings,
    pub worker: WorkerSettings,
    pub reconciler: ReconcilerSettings,
    pub http: HttpSettings,
    pub pages: PagesSettings,
    pub log: LogSettings,
    pub traces: TraceSettings,
    pub debug: DebugSettings,
    pub credentials: CredentialsSettings,
    pub links: LinkSettings,
    pub webhooks: WebhookSettings,
    pub outbound: OutboundSettings,
    pub microsoft: MicrosoftSettings,
    /// What [`Settings::print`] shows, already masked.
    #[serde(skip)]
    pub(super) shown: Vec<super::print::Shown>,
}

impl Settings {
    /// Whether the store is SQLite, by the scheme of its address.
    pub fn is_embedded(&self) -> bool {
        self.database.url.expose_secret().starts_with("sqlite:")
    }

    /// Where the value of this key comes from.
    pub fn origin(&self, key: &str) -> &str {
        let shown = self.shown.iter().find(|shown| shown.key == key);
        shown.map_or("default", |shown| &shown.origin)
    }

    /// Whether hints go through Redis.
    pub fn has_redis(&self) -> bool {
        !self.redis.url.expose_secret().is_empty()
    }

    /// Where the embedded default keeps its key: beside the SQLite database, with the extension
    /// `key`. `None` with PostgreSQL.
    pub fn embedded_key_file(&self) -> Option<PathBuf> {
        let rest = self.database.url.expose_secret().strip_prefix("sqlite:")?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let path = rest.split('?').next().filter(|path| !path.is_empty())?;
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
