//! The HTTP surface: liveness, readiness, metrics, the API, and pages for people.

pub mod api;
pub(crate) mod body;
mod connection_slots;
pub mod health;
pub mod pages;
mod panics;
mod rate_limit;
pub(crate) mod request_limits;
mod server;
mod write_timeout;

use api::{Api, ApiSettings};
use axum::Router;
use axum::routing::get;
use health::Health;
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Section `[http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Time without progress of the process's loops after which it is not alive.
    #[serde(with = "humantime_serde")]
    pub stuck_after: Duration,
    /// Timeout of the database for readiness and metrics.
    #[serde(with = "humantime_serde")]
    pub check_timeout: Duration,
    pub max_connections: usize,
    /// Of one address. Behind a proxy, all connections have the proxy's.
    pub max_connections_per_peer: usize,
    /// Timeout for the head of a connection's next request.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Timeout for the body of a request.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// Timeout for a peer that does not read its answer.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    pub api: ApiSettings,
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
        head: settings.header_timeout,
        body: settings.body_timeout,
        write: settings.write_timeout,
    };
    server::serve(listener, router, bounds, stop)
}
