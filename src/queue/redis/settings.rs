//! The section `[redis]`.

use super::address;
use crate::domain::groups::DEFAULT_GROUP;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::time::Duration;

/// Longest name of a queue, in characters.
pub const MAX_QUEUE_NAME: usize = 64;

/// Where the queue is, and the timeouts of its consumer. The defaults are in `config/default.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// `redis://` or `rediss://` (TLS): one primary, not a Redis Cluster. `redis+sentinel://` or
    /// `rediss+sentinel://`: Sentinels that name the primary.
    pub url: SecretString,
    /// Name of the queue and prefix of all its keys: letters, digits, `_`, `-` and `.`.
    pub queue: String,
    /// Time to wait for one answer.
    #[serde(with = "humantime_serde")]
    pub response_timeout: Duration,
    /// No key of this section sets it.
    #[serde(skip)]
    pub consumer: ConsumerSettings,
}

/// How hints are consumed. Only tests choose other values than [`ConsumerSettings::following`].
#[derive(Clone, Copy, Debug)]
pub struct ConsumerSettings {
    /// Workers of the queue in this process: they fetch, the handlers run beside them. Two, so that one
    /// fetches during the round trip of the other.
    pub fetchers: usize,
    /// Attempts to connect again before a command fails, and its fetcher is started again.
    pub retries: usize,
    /// How often a fetcher looks even when nothing woke it.
    pub poll_interval: Duration,
    /// Interval between two heartbeats of a fetcher in Redis. Whole seconds.
    pub heartbeat_interval: Duration,
    /// How often acknowledged deliveries are removed: seldom enough that a script removes many.
    pub clean_interval: Duration,
    /// Dead letters that are kept for people to look at.
    pub dead_keep: usize,
}

/// Missed heartbeats after which others return the messages of a fetcher to the queue. The queue counts in whole
/// seconds, and one late heartbeat is not a missing one.
pub(super) const MISSED_HEARTBEATS: u32 = 6;

/// Shortest time to establish a connection: it takes several round trips, with TLS more, where an answer takes one.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

impl ConsumerSettings {
    /// Returns the settings of a consumer that sends its heartbeats as often as the worker, in whole seconds.
    pub fn following(worker_heartbeat: Duration) -> Self {
        Self {
            fetchers: 2,
            retries: 6,
            poll_interval: worker_heartbeat / 5,
            heartbeat_interval: whole_seconds(worker_heartbeat),
            clean_interval: Duration::from_secs(2),
            dead_keep: 1000,
        }
    }

    /// Returns the longest pause before a fetcher that ended is started again: well before others return its hints.
    pub(super) fn max_restart_delay(&self) -> Duration {
        2 * self.heartbeat_interval
    }
}

/// Rounds up.
fn whole_seconds(interval: Duration) -> Duration {
    Duration::from_secs(interval.as_secs() + u64::from(interval.subsec_nanos() > 0))
}

/// For a worker with default settings.
impl Default for ConsumerSettings {
    fn default() -> Self {
        Self::following(Duration::from_secs(5))
    }
}

/// Why the section `[redis]` is invalid. Never quotes the URL, which contains the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisSettingsError {
    #[error(
        "redis.url cannot be used: {0}; allowed is redis://…, rediss://…, redis+sentinel://… or rediss+sentinel://…"
    )]
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
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        if !address::SCHEMES.contains(&scheme) {
            return Err(RedisSettingsError::Url(
                "its scheme is not known".to_owned(),
            ));
        }
        if let Some(problem) = address::problem(url) {
            return Err(RedisSettingsError::Url(problem));
        }
        let name = &self.queue;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > MAX_QUEUE_NAME || !name.chars().all(plain) {
            return Err(RedisSettingsError::Queue(name.clone()));
        }
        Ok(())
    }

    /// Returns the name of the queue of a group of workspaces.
    pub fn queue_of(&self, group: &str) -> String {
        match group {
            DEFAULT_GROUP => self.queue.clone(),
            _ => format!("{}.{group}", self.queue),
        }
    }

    /// Returns the time without activity after which a fetcher is stalled and restarted: longer than others
    /// wait before they return what it holds, and than any one command may take.
    pub(super) fn stalled_after(&self) -> Duration {
        (MISSED_HEARTBEATS * self.consumer.heartbeat_interval)
            .saturating_add(self.response_timeout.saturating_mul(2))
            .saturating_add(self.consumer.poll_interval)
    }

    /// Returns the time to establish a connection: two fifths of that for an answer, since a server that is near
    /// accepts at once, and an answer may wait behind a slow script; at least `MIN_CONNECT_TIMEOUT`.
    pub fn connect_timeout(&self) -> Duration {
        (self.response_timeout * 2 / 5).max(MIN_CONNECT_TIMEOUT)
    }

    /// Returns the timeout of one call from outside (send, depth, ping).
    pub(super) fn call_timeout(&self) -> Duration {
        self.connect_timeout().saturating_add(self.response_timeout)
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
            response_timeout = "5s"
            "#
        ))
        .unwrap()
    }

    #[test]
    fn a_consumer_follows_the_worker_in_whole_seconds() {
        for (worker, heartbeat, poll) in [(5_000, 5, 1_000), (500, 1, 100), (1_200, 2, 240)] {
            let consumer = ConsumerSettings::following(Duration::from_millis(worker));
            assert_eq!(consumer.heartbeat_interval.as_secs(), heartbeat, "{worker}");
            assert_eq!(consumer.heartbeat_interval.subsec_nanos(), 0, "{worker}");
            assert_eq!(consumer.poll_interval.as_millis(), poll, "{worker}");
        }
    }

    #[test]
    fn connecting_follows_the_answer_down_to_a_floor() {
        for (response, connect) in [(5_000, 2_000), (100, 500)] {
            let mut settings = settings("redis://h");
            settings.response_timeout = Duration::from_millis(response);
            assert_eq!(settings.connect_timeout(), Duration::from_millis(connect));
        }
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
