//! The HTTP surface: liveness, readiness, metrics, the API, and pages for people.

pub mod api;
pub(crate) mod body;
mod connection_slots;
pub mod health;
mod lingering_close;
mod list;
pub mod oidc;
pub mod pages;
mod panics;
mod query;
mod rate_limit;
pub mod reads;
mod request_id;
pub(crate) mod request_limits;
mod request_metrics;
mod server;
mod write_timeout;

use api::{Api, ApiSettings};
use axum::Router;
use axum::routing::get;
use health::Health;
use oidc::OidcSettings;
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Largest number of live pages of a process: each reads the database once a second.
const MAX_STREAMS: usize = 64;

/// Section `[http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    pub max_connections: usize,
    /// Of one address. Behind a proxy, all connections have the proxy's.
    pub max_connections_per_peer: usize,
    pub api: ApiSettings,
    pub oidc: OidcSettings,
    /// No key sets them.
    #[serde(skip)]
    pub timeouts: HttpTimeouts,
    /// Most bytes of answers that are not written yet; see `request_limits`. No key sets it: some pages of the largest
    /// report, and a quarter of what a worker may take.
    #[serde(skip, default = "unsent_bytes")]
    pub unsent_bytes: u32,
}

impl HttpSettings {
    /// Returns how many attempts to log in one address has in a minute: half of what it may ask without a token, since
    /// a person needs few.
    pub fn logins_per_minute(&self) -> u32 {
        self.api.anonymous_requests_per_minute.div_ceil(2)
    }

    /// Returns the number of live pages of this process: an eighth of the connections, as each holds one, and at most
    /// `MAX_STREAMS`.
    pub fn max_streams(&self) -> usize {
        self.max_connections.div_ceil(8).min(MAX_STREAMS)
    }

    /// Returns the number of live pages that one session may have: an eighth of all, as many as a person follows.
    pub fn max_streams_per_session(&self) -> usize {
        self.max_streams().div_ceil(8)
    }

    /// Returns the number of live pages that all sessions of one token may have: half of all, so that no token takes
    /// them from the others.
    pub fn max_streams_per_token(&self) -> usize {
        self.max_streams().div_ceil(2)
    }
}

const fn unsent_bytes() -> u32 {
    32 * 1024 * 1024
}

/// How long parts of a request and its response may take. Clients rely on none of them: each only keeps a slow or
/// hostile peer from holding a connection for ever.
#[derive(Clone, Copy, Debug)]
pub struct HttpTimeouts {
    /// Of the head of the next request, the wait for it included.
    pub head: Duration,
    /// Of the arrival of a request's body. Shorter than `request`, so that a client learns which it was.
    pub body: Duration,
    /// Of a peer that does not read: within this time it takes 64 KiB of the response, or the rest. A live page
    /// that has nothing to say is not measured. See `write_timeout`, also for the whole of a response.
    pub write: Duration,
    /// Of a whole request to the API or the pages, the wait for its turn included.
    pub request: Duration,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            body: Duration::from_secs(20),
            write: Duration::from_secs(30),
            request: Duration::from_secs(30),
        }
    }
}

/// Binds the address. Separate from `serve`, so that a port that is taken ends the start.
pub async fn bind(settings: &HttpSettings) -> std::io::Result<TcpListener> {
    TcpListener::bind(settings.listen).await
}

/// Returns the routes for machines; [`pages::router`] has those for people. Without an API its paths do not
/// exist.
pub fn router(health: Arc<Health>, api: Option<Arc<Api>>) -> Router {
    let router = Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .with_state(health);
    match api {
        Some(api) => router.merge(api::router(api)),
        None => router,
    }
}

/// Serves until `stop`.
pub fn serve(
    listener: TcpListener,
    router: Router,
    settings: &HttpSettings,
    stop: CancellationToken,
) -> impl Future<Output = std::io::Result<()>> + Send + use<> {
    let bounds = server::Bounds {
        connections: settings.max_connections,
        connections_per_peer: settings.max_connections_per_peer,
        timeouts: settings.timeouts,
    };
    server::serve(listener, router, bounds, stop)
}
