//! The section `[redis]`.

use super::address;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::time::Duration;

/// Where the queue is, and the timeouts of its consumer. The defaults are in `config/default.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// `redis://` or `rediss://` (TLS): one primary, not a Redis Cluster.
    pub url: SecretString,
    /// Name of the queue and prefix of all its keys: letters, digits, `_`, `-` and `.`.
    pub queue: String,
    /// Workers of the queue in this process: they fetch, and handlers run in other tasks.
    pub fetchers: usize,
    /// Time to establish a connection.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Time to wait for one answer.
    #[serde(with = "humantime_serde")]
    pub response_timeout: Duration,
    /// Attempts to connect again before a command fails.
    pub retries: usize,
    /// Longest pause between two such attempts.
    #[serde(with = "humantime_serde")]
    pub retry_max_delay: Duration,
    /// How often a fetcher looks even when nothing woke it.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// Interval between two heartbeats of a fetcher in Redis. Whole seconds.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// Missed heartbeats after which others return the messages of a fetcher to the queue: 2 or more, as the
    /// queue counts in whole seconds and one late heartbeat is not a missed one.
    pub missed_heartbeats: usize,
    /// Pause before a fetcher that ended is started again; doubles from here…
    #[serde(with = "humantime_serde")]
    pub restart_backoff_min: Duration,
    /// …to here.
    #[serde(with = "humantime_serde")]
    pub restart_backoff_max: Duration,
    /// How often acknowledged deliveries are removed.
    #[serde(with = "humantime_serde")]
    pub clean_interval: Duration,
    /// Deliveries removed by one script call: 1 to 1000, as Redis does nothing else meanwhile.
    pub clean_chunk: usize,
    /// Dead letters that are kept to be looked at.
    pub dead_keep: usize,
}

/// Why the section `[redis]` is invalid. Never quotes the URL, which contains the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisSettingsError {
    #[error("redis.url cannot be used: {0}; allowed is redis://… or rediss://…")]
    Url(String),
    #[error(
        "redis.queue is {0:?}, allowed: 1 to 64 letters, digits, `_`, `-` and `.` (Redis keys and channels are made from it)"
    )]
    Queue(String),
}

impl RedisSettings {
    /// Refuses an address that cannot be used and a queue's name that would break keys. The ranges of all
    /// values are in `config`.
    pub fn validate(&self) -> Result<(), RedisSettingsError> {
        let url = self.url.expose_secret();
        if !matches!(url.split_once(':'), Some(("redis" | "rediss", _))) {
            return Err(RedisSettingsError::Url(
                "its scheme is not known".to_owned(),
            ));
        }
        if let Some(problem) = address::problem(url) {
            return Err(RedisSettingsError::Url(problem));
        }
        let name = &self.queue;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(RedisSettingsError::Queue(name.clone()));
        }
        Ok(())
    }

    /// Returns the time without activity after which a fetcher is stalled and restarted: longer than others
    /// wait before they return what it holds, and than any one command may take.
    pub(super) fn stalled_after(&self) -> Duration {
        let beats = u32::try_from(self.missed_heartbeats).unwrap_or(u32::MAX);
        self.heartbeat_interval
            .saturating_mul(beats)
            .saturating_add(self.response_timeout.saturating_mul(2))
            .saturating_add(self.poll_interval)
    }

    /// Returns the timeout of one call from outside (send, depth, ping).
    pub(super) fn call_timeout(&self) -> Duration {
        self.connect_timeout.saturating_add(self.response_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> RedisSettings {
        toml::from_str(&format!(
            r#"
            url = "{url}"
            queue = "verifyd"
            fetchers = 2
            connect_timeout = "2s"
            response_timeout = "5s"
            retries = 6
            retry_max_delay = "2s"
            poll_interval = "1s"
            heartbeat_interval = "5s"
            missed_heartbeats = 3
            restart_backoff_min = "200ms"
            restart_backoff_max = "10s"
            clean_interval = "2s"
            clean_chunk = 500
            dead_keep = 1000
            "#
        ))
        .unwrap()
    }

    #[test]
    fn a_usable_section_passes() {
        assert_eq!(settings("redis://h:1/2").validate(), Ok(()));
        assert_eq!(settings("rediss://u:p@h").validate(), Ok(()));
    }

    #[test]
    fn an_unusable_url_is_refused_without_being_quoted() {
        for url in [
            "http://u:canary@h",
            "redis://",
            "canary",
            "redis://:can/canary@h",
        ] {
            let error = settings(url).validate().unwrap_err();
            assert!(matches!(error, RedisSettingsError::Url(_)));
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn the_password_is_not_in_the_debug_output() {
        let text = format!("{:?}", settings("redis://u:canary@h"));
        assert!(!text.contains("canary"), "{text}");
    }

    #[test]
    fn a_queue_name_that_breaks_keys_is_refused() {
        for name in ["", "a:b", "a b", "a*", "ä"] {
            let mut bad = settings("redis://h");
            bad.queue = name.to_owned();
            assert!(matches!(bad.validate(), Err(RedisSettingsError::Queue(_))));
        }
    }
}
