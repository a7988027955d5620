//! The listener: bounded connections, timeouts for everything that a peer has to do, and an orderly shutdown.

use super::HttpTimeouts;
use super::body::{AnswerBody, TimedBody};
use super::connection_slots::{ConnectionSlot, ConnectionSlots};
use super::lingering_close::LingeringClose;
use super::panics;
use super::request_metrics;
use super::write_timeout::WriteTimeout;
use crate::domain::trace_parent::TraceParent;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use axum::middleware;
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

/// Largest number of header fields of a request.
const HEADERS: usize = 64;
/// Largest head of a request, in bytes.
const HEAD: usize = 16 * 1024;
/// Pause after a failed accept: too many open files does not get better by asking at once.
const PAUSE: Duration = Duration::from_millis(100);
/// Time for answers under way to end when the process stops.
const GRACE: Duration = Duration::from_secs(5);
/// The path whose answer needs nothing.
const ALIVE: &str = "/healthz";
/// The paths that are answered on reserved connections, and not counted: whoever asks for them is no client.
const HEALTH: [&str; 3] = [ALIVE, "/readyz", "/metrics"];

/// The address at the other end of the connection; a proxy, where there is one in front. Never taken from a
/// header, which any client can set.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The limits of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Open connections, and those of one peer among them. See [`ConnectionSlots`].
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
    let router = router.layer(middleware::from_fn(request_metrics::attach_route));
    let slots = ConnectionSlots::new(bounds.connections, bounds.connections_per_peer);
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
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let Some(slot) = slots.take(peer.ip()) else {
            continue;
        };
        prepare(&stream, &bounds);
        let slot = Arc::new(slot);
        let is_unread = Arc::new(AtomicBool::new(false));
        let service = {
            let (router, slot) = (router.clone(), Arc::clone(&slot));
            let is_unread = Arc::clone(&is_unread);
            service_fn(move |request: hyper::Request<Incoming>| {
                answer(
                    router.clone(),
                    request,
                    peer,
                    Arc::clone(&slot),
                    bounds.timeouts.body,
                    Arc::clone(&is_unread),
                )
            })
        };
        let stream = WriteTimeout::new(stream, bounds.timeouts.write);
        let io = TokioIo::new(LingeringClose::new(stream, is_unread));
        let connection = graceful.watch(http.serve_connection(io, service));
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                },
                () = slot.evicted() => {
                    tracing::debug!(%peer, "closed a waiting connection for a new one");
                }
            }
        });
    }
    drop(listener);
    // Who reads its answer too slowly is cut off.
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    Ok(())
}

/// Sets the options of the socket.
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
    slot: Arc<ConnectionSlot>,
    limit: Duration,
    is_unread: Arc<AtomicBool>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (parts, body) = request.into_parts();
    slot.begins(is_immediate(parts.uri.path()));
    let expects_continue = parts.headers.contains_key(header::EXPECT);
    let (body, leftover) = TimedBody::of(body, limit, &slot);
    let mut request = hyper::Request::from_parts(parts, body);
    request.extensions_mut().insert(Peer(peer));
    let is_health = HEALTH.contains(&request.uri().path());
    let method = request.method().clone();
    let parent = traced_parent(request.headers());
    let flaw = flaw_of_head(request.version(), request.headers());
    // hyper removes a Content-Length beside it and reads on: what follows may be another request to a proxy than it is
    // here. RFC 9112, 6.1: such a connection ends.
    let is_last = flaw.is_some() || request.headers().contains_key(header::TRANSFER_ENCODING);
    let answered = async {
        if let Some(flaw) = flaw {
            return flaw.refused(request.uri().path());
        }
        if slot.is_reserved() && !is_health {
            return all_in_use(request.uri().path());
        }
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
    let mut response = if is_health {
        answered.await
    } else {
        request_metrics::measured(&method, parent, answered).await
    };
    let is_read = match leftover {
        Some(leftover) => leftover.discard(expects_continue, &slot).await,
        None => true,
    };
    if is_last || !is_read {
        is_unread.store(true, Ordering::Relaxed);
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response.map(|body| AnswerBody::of(body, &slot)))
}

/// Whether the request names its host once: RFC 9112, 3.2. One of HTTP/1.0 need not.
fn has_host(version: Version, headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(header::HOST).iter();
    let is_of_host = |byte: &u8| byte.is_ascii_graphic() && !b"@/?#\\,".contains(byte);
    match (named.next(), named.next()) {
        (Some(host), None) => host.as_bytes().iter().all(is_of_host),
        (None, _) => version != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}

/// Whether the body is sent as it is. hyper undoes no other coding: RFC 9112, 7.
fn has_only_chunks(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (None, _) => true,
        (Some(_), Some(_)) => false,
    }
}

/// A header for which a request is refused before it is routed.
struct HeadFlaw {
    header: &'static str,
    problem: &'static str,
    allowed: &'static str,
}

fn flaw_of_head(version: Version, headers: &HeaderMap) -> Option<HeadFlaw> {
    if !has_host(version, headers) {
        return Some(HeadFlaw {
            header: "Host",
            problem: "is missing, repeated or no host",
            allowed: "one host, with or without a port",
        });
    }
    (!has_only_chunks(headers)).then_some(HeadFlaw {
        header: "Transfer-Encoding",
        problem: "is repeated or names another coding",
        allowed: "chunked",
    })
}

impl HeadFlaw {
    fn refused(&self, path: &str) -> Response<Body> {
        let Self {
            header,
            problem,
            allowed,
        } = *self;
        if path.starts_with(super::api::PREFIX) {
            return super::api::invalid_header(path, header, problem, allowed);
        }
        let text = format!("The header {header} {problem}. Allowed: {allowed}.\n");
        (StatusCode::BAD_REQUEST, text).into_response()
    }
}

/// The span of the client, if it names one in one header.
fn traced_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut named = headers.get_all("traceparent").iter();
    match (named.next(), named.next()) {
        (Some(parent), None) => TraceParent::parse(parent.to_str().ok()?),
        _ => None,
    }
}

/// Whether the answer on a reserved connection needs no database. All but the health endpoints get 503 there.
fn is_immediate(path: &str) -> bool {
    path == ALIVE || !HEALTH.contains(&path)
}

/// The answer on a reserved connection, except for the health endpoints.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_host_once() {
        for (version, hosts, has_one) in [
            (Version::HTTP_11, &["verifyd.example:443"][..], true),
            (Version::HTTP_11, &["[::1]:9464"], true),
            (Version::HTTP_11, &["a_b"], true),
            // For a target without an authority.
            (Version::HTTP_11, &[""], true),
            (Version::HTTP_11, &[], false),
            (Version::HTTP_11, &["a", "a"], false),
            (Version::HTTP_11, &["a, b"], false),
            (Version::HTTP_11, &["a b"], false),
            (Version::HTTP_11, &["u@a"], false),
            (Version::HTTP_11, &["a/b"], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_10, &["a", "b"], false),
        ] {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_static(host));
            }
            assert_eq!(
                has_host(version, &headers),
                has_one,
                "{version:?} {hosts:?}"
            );
        }
    }

    #[test]
    fn only_answers_that_need_the_database_yield_in_the_reserve() {
        let paths = ["/healthz", "/readyz", "/metrics", "/login", "/v1/runs"];
        let immediate = paths.map(is_immediate);
        assert_eq!(immediate, [true, false, false, true, true]);
    }
}
