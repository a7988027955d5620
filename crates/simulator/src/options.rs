//! What can be chosen when a simulator is started, and why starting can fail.

use secrecy::SecretString;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The client secret of every simulated app. It opens nothing outside a simulator.
pub const SIMULATED_SECRET: &str = "simulated~client.secret_opens-nothing-real";

/// How a simulator behaves where no scenario says otherwise.
#[derive(Clone, Debug)]
pub struct SimulatorOptions {
    /// Where to listen. Anything but a loopback address is refused.
    pub address: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// Added to every answer of the imitated services.
    pub latency: Duration,
    /// Added to every answer in the scenario `slow`, on top of `latency`.
    pub slow_answer: Duration,
    /// How long the `provider_timeout` scenarios keep a caller waiting. Longer than any caller's
    /// own limit, or the scenario does not hold.
    pub stall: Duration,
    /// `Retry-After` of the `throttled` scenarios; whole seconds.
    pub long_retry_after: Duration,
    /// How long an access token lives; whole seconds.
    pub token_lifetime: Duration,
    /// The secret that every app has.
    pub client_secret: SecretString,
    /// Certificates (PEM) that every app has registered, besides those that are added later.
    pub certificates_pem: Vec<String>,
    /// Above how many calls Graph answers 429.
    pub throttle: ThrottleLimits,
}

impl Default for SimulatorOptions {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            latency: Duration::ZERO,
            slow_answer: Duration::from_millis(300),
            stall: Duration::from_secs(120),
            long_retry_after: Duration::from_secs(300),
            token_lifetime: Duration::from_secs(3_599),
            client_secret: SIMULATED_SECRET.into(),
            certificates_pem: Vec::new(),
            throttle: ThrottleLimits::default(),
        }
    }
}

/// Graph's limits. Every call counts as one unit here, while the real service weighs some of them
/// more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleLimits {
    /// Directory calls (organization, service principals), per app and tenant.
    pub identity: RateLimit,
    /// Calls below `/deviceManagement`, per app and tenant.
    pub intune: RateLimit,
    /// All calls of one app in all its tenants.
    pub application: RateLimit,
}

impl ThrottleLimits {
    /// The published limit of all calls of one app in all its tenants within ten seconds.
    pub const APPLICATION_CALLS: u32 = 130_000;

    /// The published limits, with another one for all calls of one app in all its tenants.
    pub fn of_application(calls: u32) -> Self {
        let mut limits = Self::default();
        limits.application.calls = calls;
        limits
    }
}

impl Default for ThrottleLimits {
    /// The published limits.
    fn default() -> Self {
        Self {
            identity: RateLimit {
                calls: 3_500,
                window: Duration::from_secs(10),
            },
            intune: RateLimit {
                calls: 1_000,
                window: Duration::from_secs(20),
            },
            application: RateLimit {
                calls: Self::APPLICATION_CALLS,
                window: Duration::from_secs(10),
            },
        }
    }
}

/// So many calls within such a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls that are answered within one window.
    pub calls: u32,
    /// How long a window lasts.
    pub window: Duration,
}

/// Why a simulator could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// Everyone on the network could use it, and it accepts a published secret.
    #[error("the simulator listens on loopback only, {0} is not a loopback address")]
    NotLoopback(IpAddr),
    /// The port is taken, usually.
    #[error("the simulator cannot listen on {address}:{port}")]
    Listen {
        /// Where it should have listened.
        address: IpAddr,
        /// The port that was asked for.
        port: u16,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Not a PEM certificate with an RSA key.
    #[error("the certificate cannot be registered: {0}")]
    Certificate(String),
    /// No key could be made, or a token could not be signed.
    #[error("the simulator's own signing key failed: {0}")]
    Signing(String),
}
