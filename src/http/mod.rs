//! The HTTP surface: liveness, readiness, metrics, the API, and pages for people.

pub mod api;
pub mod body;
pub mod gate;
pub mod health;
pub mod pages;
pub mod panics;
pub mod places;
mod query;
pub mod rate;
pub mod server;
pub mod stall;

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
    /// A process whose own loops have not turned for so long is not alive.
    #[serde(with = "humantime_serde")]
    pub stuck_after: Duration,
    /// How long readiness and metrics wait for an answer of the database.
    #[serde(with = "humantime_serde")]
    pub check_timeout: Duration,
    pub max_connections: usize,
    /// Of one address. Behind a proxy, all connections have the proxy's.
    pub max_connections_per_peer: usize,
    /// How long a connection may take for the head of its next request.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long the body of a request may take to arrive.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long an answer may wait for a peer that does not read it.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    pub api: ApiSettings,
}

/// Binds the address. Separate from `serve`, so that a port that is taken ends the start.
pub async fn bind(settings: &HttpSettings) -> std::io::Result<TcpListener> {
    TcpListener::bind(settings.listen).await
}

/// All that is served to machines; [`pages::router`] has what is for people. Without an API its paths
/// do not exist.
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
