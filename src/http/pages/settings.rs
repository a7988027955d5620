//! The section `[pages]`.

use serde::Deserialize;
use std::time::Duration;

/// The pages for people.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagesSettings {
    /// Lifetime of a login.
    #[serde(with = "humantime_serde")]
    pub session_lifetime: Duration,
    pub secure_cookie: SecureCookie,
    /// No key sets them.
    #[serde(skip)]
    pub live: LiveIntervals,
}

/// What a live page does by the clock.
#[derive(Clone, Copy, Debug)]
pub struct LiveIntervals {
    /// Pause between two reads of the state.
    pub poll_interval: Duration,
    /// How often it sends a comment, so that no proxy closes the connection: most wait for a minute.
    pub keep_alive: Duration,
}

impl Default for LiveIntervals {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// When the cookie is marked as `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecureCookie {
    /// When a proxy states in `X-Forwarded-Proto` that the browser used https.
    Auto,
    Always,
}
