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
    /// Of all sessions of one token, and as many at once.
    pub requests_per_minute: u32,
    /// Without a login, of one address.
    pub anonymous_requests_per_minute: u32,
    /// Of one address.
    pub logins_per_minute: u32,
    /// Largest number of live pages of this process at a time.
    pub max_streams: usize,
    /// Of one session, and of all sessions of one token.
    pub max_streams_per_session: usize,
    pub max_streams_per_token: usize,
    /// How often a live page looks for something new.
    #[serde(with = "humantime_serde")]
    pub live_interval: Duration,
    /// Time between two keep-alive events of a live page.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
}

/// When the cookie is marked as `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecureCookie {
    /// When a proxy states in `X-Forwarded-Proto` that the browser used https.
    Auto,
    Always,
}
