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
    /// Of all sessions of one token, and of one address without a login; as many at once.
    pub requests_per_minute: u32,
    /// Of one address.
    pub logins_per_minute: u32,
    /// Largest number of live pages of this process at a time.
    pub max_streams: usize,
    /// No key sets them.
    #[serde(skip)]
    pub live: LiveIntervals,
}

impl PagesSettings {
    /// Returns the number of live pages that one session may have: an eighth of all, as many as a person follows.
    pub fn max_streams_per_session(&self) -> usize {
        self.max_streams.div_ceil(8)
    }

    /// Returns the number of live pages that all sessions of one token may have: half of all, so that no token takes
    /// them from the others.
    pub fn max_streams_per_token(&self) -> usize {
        self.max_streams.div_ceil(2)
    }
}

/// What a live page does by the clock.
#[derive(Clone, Copy, Debug)]
pub struct LiveIntervals {
    /// How often it looks for something new.
    pub look: Duration,
    /// How often it sends a comment, so that no proxy closes the connection: most wait for a minute.
    pub keep_alive: Duration,
}

impl Default for LiveIntervals {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(1),
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
