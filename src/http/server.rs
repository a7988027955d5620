//! The listener: bounded connections, bounded time for whatever a peer has to do, an orderly end.

use super::HttpTimeouts;
use super::body::{AnswerBody, TimedBody};
use super::panics;
use super::places::{Place, Places};
use super::stall::Guarded;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
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
/// What is answered on the reserved connections.
const HEALTH: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Who is at the other end of the connection; a proxy, where there is one in front. Never what a
/// header says: everybody can write one.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What bounds the listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Open connections, and those of one peer among them. See [`Places`].
    pub connections: usize,
    pub connections_per_peer: usize,
    pub timeouts: HttpTimeouts,
}

/// Serves until `stop`, then until the answers under way are out.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let places = Places::new(bounds.connections, bounds.connections_per_peer);
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(bounds.timeouts.head)
        .max_headers(HEADERS)
        .max_buf_size(HEAD);
    loop {
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
        let Some(place) = places.take(peer.ip()) else {
            metrics::counter!("verifyd_http_connections_refused_total").increment(1);
            continue;
        };
        prepare(&stream, &bounds);
        let place = Arc::new(place);
        let service = {
            let (router, place) = (router.clone(), Arc::clone(&place));
            service_fn(move |request: hyper::Request<Incoming>| {
                answer(
                    router.clone(),
                    request,
                    peer,
                    Arc::clone(&place),
                    bounds.timeouts.body,
                )
            })
        };
        let io = TokioIo::new(Guarded::new(stream, bounds.timeouts.write));
        let connection = graceful.watch(http.serve_connection(io, service));
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                },
                () = place.evicted() => {
                    metrics::counter!("verifyd_http_connections_evicted_total").increment(1);
                    tracing::debug!(%peer, "a connection without a whole request made room for another");
                }
            }
        });
    }
    drop(listener);
    // Who reads its answer too slowly is cut off.
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    Ok(())
}

/// Sets what the kernel is to do for the connection.
fn prepare(stream: &TcpStream, bounds: &Bounds) {
    let _ = stream.set_nodelay(true);
    // A peer that is gone, or that takes nothing, is noticed although an idle stream of events
    // writes too little to fill a buffer.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(2 * bounds.timeouts.write));
}

async fn answer(
    mut router: Router,
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    place: Arc<Place>,
    limit: Duration,
) -> Result<Response<AnswerBody>, Infallible> {
    let mut request = request.map(|body| TimedBody::of(body, limit, &place));
    request.extensions_mut().insert(Peer(peer));
    let response = if place.is_reserved() && !HEALTH.contains(&request.uri().path()) {
        all_in_use(request.uri().path())
    } else {
        // A router is always ready.
        let answered = async {
            router
                .call(request)
                .await
                .unwrap_or_else(|never| match never {})
        };
        panics::caught(answered, || {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        })
        .await
    };
    Ok(response.map(|body| AnswerBody::of(body, &place)))
}

/// What all but the health endpoints answer on a reserved connection.
fn all_in_use(path: &str) -> Response<Body> {
    let mut response = if path.starts_with(super::api::PREFIX) {
        super::api::all_in_use(path)
    } else {
        let text = "All connections are in use. Try again in a moment.\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
