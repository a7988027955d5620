//! The listener: bounded connections, bounded time for a request's head, an orderly end.

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

/// Header fields of one request, at most.
const HEADERS: usize = 64;
/// Bytes of a request's head, at most.
const HEAD: usize = 16 * 1024;
/// Pause after a failed accept: too many open files does not get better by asking at once.
const PAUSE: Duration = Duration::from_millis(100);
/// How long answers under way may take once the process ends.
const GRACE: Duration = Duration::from_secs(5);

/// Who is at the other end of the connection; a proxy, where there is one in front.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What bounds the listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Open connections. Further ones wait to be accepted.
    pub connections: usize,
    /// How long a connection may take for the head of a request, the wait for it included.
    pub head: Duration,
}

/// Serves until `stop`, then until the answers under way are out.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_headers(HEADERS)
        .max_buf_size(HEAD);
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place.map_err(std::io::Error::other)?,
        };
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let router = router.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            // A router is always ready.
            router.clone().call(request)
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    // Who reads its answer too slowly is cut off.
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    Ok(())
}
