//! Section `[webhooks]`.

use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::Duration;

/// How webhooks are sent. Defaults stand in `config/default.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// Messages that this process sends at a time.
    pub concurrency: usize,
    /// Of these to one endpoint; to one whose last attempt failed only one.
    pub concurrency_per_endpoint: usize,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Limit of one attempt.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How often it is looked for what is due.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// After so many a message is given up.
    pub max_attempts: u32,
    /// Before the second attempt; four times as long before each further one...
    #[serde(with = "humantime_serde")]
    pub retry_base_delay: Duration,
    /// ...and never longer than this.
    #[serde(with = "humantime_serde")]
    pub retry_max_delay: Duration,
    /// How long messages are kept that were delivered...
    #[serde(with = "humantime_serde")]
    pub keep_delivered: Duration,
    /// ...and that were given up.
    #[serde(with = "humantime_serde")]
    pub keep_failed: Duration,
    /// Hosts on loopback that may be called, also without TLS; separated by commas.
    pub loopback_hosts: String,
}

impl WebhookSettings {
    /// After it a sender counts as lost, and what it was sending is due again.
    pub fn lease(&self) -> Duration {
        2 * self.request_timeout + Duration::from_secs(5)
    }

    /// `loopback_hosts`, one by one.
    pub fn loopback_hosts(&self) -> BTreeSet<String> {
        self.loopback_hosts
            .split(',')
            .map(|host| host.trim().to_ascii_lowercase())
            .filter(|host| !host.is_empty())
            // As it stands in a URL.
            .map(|host| match host.parse::<Ipv6Addr>() {
                Ok(address) => format!("[{address}]"),
                Err(_) => host,
            })
            .collect()
    }

    /// Before the attempt after this one (from 1), without the part that is left to chance.
    pub fn pause_after(&self, tries: u32) -> Duration {
        let factor = 4_u32.saturating_pow(tries.saturating_sub(1));
        self.retry_base_delay
            .saturating_mul(factor)
            .min(self.retry_max_delay)
    }
}
