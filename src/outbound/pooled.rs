//! A connection as a request uses it, and the body of its answer.

use super::bounded::{Allowance, Bounded, HEAD_BYTES};
use super::connect::Connected;
use super::failure::FailureKind;
use super::pool::{Origin, Pool};
use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{HOST, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(super) type Message = Request<Full<Bytes>>;

/// Largest number of concurrent requests on one HTTP/2 connection, whatever the peer allows.
pub(super) const MAX_STREAMS: usize = 100;

/// Concurrent requests until the peer's limit is known: streams above that would be refused. A number that no
/// server chooses.
const FIRST_STREAMS: usize = 17;

/// Pause before the peer's limit is read again; twice as long each time.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(2);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Bytes of bodies that wait for their reader, for a connection and for one of its streams.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes that HTTP/2 may take until an answer begins or a piece of a body is read.
const PROGRESS_BYTES: usize = CONNECTION_WINDOW as usize + 256 * 1024;

/// A connection that carries one request at a time.
pub(super) struct Single {
    sender: http1::SendRequest<Full<Bytes>>,
    allowance: Allowance,
    /// Cancelled once nothing takes or answers requests any more.
    ended: CancellationToken,
}

/// A connection that carries several requests at a time (HTTP/2).
pub(super) struct Multiplexed {
    sender: http2::SendRequest<Full<Bytes>>,
    load: Arc<Load>,
}

/// The load of a [`Multiplexed`] connection.
struct Load {
    in_flight: AtomicUsize,
    /// Streams that the peer allows; 0 until it is known.
    allowed: AtomicUsize,
    /// A request was given up without an answer: the connection may be dead.
    is_doubtful: AtomicBool,
    allowance: Allowance,
}

/// A connection that is open.
pub(super) enum Opened {
    Single(Single),
    Multiplexed(Multiplexed),
}

impl Opened {
    /// Opens the connection. `changed` is called when the peer's limit is known, and when a connection of HTTP/2 has
    /// ended.
    pub(super) async fn new(
        connected: Connected,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, FailureKind> {
        let allowance = Allowance::unbounded();
        let stream = TokioIo::new(Bounded::new(connected.stream, allowance.clone()));
        let lost = |error: hyper::Error| FailureKind::of_exchange(&error, false);
        if !connected.is_h2 {
            let (sender, connection) = http1::handshake(stream).await.map_err(lost)?;
            let ended = CancellationToken::new();
            let end = ended.clone().drop_guard();
            tokio::spawn(async move {
                let _end = end;
                if let Err(error) = connection.await {
                    tracing::trace!(%error, "a connection is lost");
                }
            });
            return Ok(Self::Single(Single {
                sender,
                allowance,
                ended,
            }));
        }
        allowance.set(PROGRESS_BYTES);
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_max_send_streams(FIRST_STREAMS)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .handshake(stream)
            .await
            .map_err(lost)?;
        let load = Arc::new(Load {
            in_flight: AtomicUsize::new(0),
            allowed: AtomicUsize::new(0),
            is_doubtful: AtomicBool::new(false),
            allowance,
        });
        let shared = Arc::clone(&load);
        tokio::spawn(async move {
            let mut pause = MIN_POLL_INTERVAL;
            let mut timer = Box::pin(tokio::time::sleep(pause));
            let mut is_settled = false;
            let ended = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                if polled.is_ready() {
                    return polled;
                }
                let allowed = connection.current_max_send_streams();
                if allowed != FIRST_STREAMS {
                    shared.allowed.store(allowed.clamp(1, MAX_STREAMS), Relaxed);
                    if !std::mem::replace(&mut is_settled, true) {
                        changed();
                    }
                }
                // Nothing else wakes this task when the peer's settings arrive.
                while !is_settled && timer.as_mut().poll(cx).is_ready() {
                    pause = (2 * pause).min(MAX_POLL_INTERVAL);
                    timer.as_mut().reset(tokio::time::Instant::now() + pause);
                }
                polled
            });
            if let Err(error) = ended.await {
                tracing::trace!(%error, "a connection is lost");
            }
            drop(connection);
            changed();
        });
        Ok(Self::Multiplexed(Multiplexed { sender, load }))
    }
}

impl Single {
    pub(super) fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl Multiplexed {
    pub(super) fn is_usable(&self) -> bool {
        self.sender.is_ready() && !self.load.is_doubtful.load(Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.load.in_flight.load(Relaxed) == 0
    }

    /// Requests that it is expected to carry at a time.
    pub(super) fn expected(&self) -> usize {
        match self.load.allowed.load(Relaxed) {
            0 => MAX_STREAMS,
            allowed => allowed,
        }
    }

    /// Requests that it is expected to carry besides.
    pub(super) fn spare(&self) -> usize {
        let in_flight = self.load.in_flight.load(Relaxed);
        self.expected().saturating_sub(in_flight)
    }

    /// Takes a stream slot for one request, if there is one.
    pub(super) fn slot(&self, pool: &Arc<Pool>, origin: &Origin) -> Option<Lease> {
        let room = match self.load.allowed.load(Relaxed) {
            0 => FIRST_STREAMS,
            allowed => allowed,
        };
        if self.load.in_flight.load(Relaxed) >= room {
            return None;
        }
        // Only ever raised under the lock of the pool.
        self.load.in_flight.fetch_add(1, Relaxed);
        Some(Lease::Shared {
            sender: self.sender.clone(),
            is_exclusive: false,
            slot: StreamSlot {
                load: Arc::clone(&self.load),
                pool: Arc::clone(pool),
                origin: origin.clone(),
                is_unanswered: false,
            },
        })
    }
}

/// A stream slot on a shared connection.
pub(super) struct StreamSlot {
    load: Arc<Load>,
    pool: Arc<Pool>,
    origin: Origin,
    /// Sent, and nothing came back.
    is_unanswered: bool,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        if self.is_unanswered {
            self.load.is_doubtful.store(true, Relaxed);
        }
        self.load.in_flight.fetch_sub(1, Relaxed);
        self.pool.released(&self.origin);
    }
}

/// A connection, or a stream slot on one, for one request.
pub(super) enum Lease {
    Own {
        connection: Single,
        /// No request was sent on it before.
        is_new: bool,
        /// Where it goes afterwards; `None` closes it.
        home: Option<(Arc<Pool>, Origin)>,
    },
    Shared {
        sender: http2::SendRequest<Full<Bytes>>,
        slot: StreamSlot,
        /// No other request is on it.
        is_exclusive: bool,
    },
}

impl Lease {
    /// Whether no other request can be to blame when the connection is lost.
    pub(super) fn is_untouched(&self) -> bool {
        match self {
            Self::Own { is_new, .. } => *is_new,
            Self::Shared { is_exclusive, .. } => *is_exclusive,
        }
    }

    /// On a connection that was opened for this request.
    pub(super) fn exclusive(mut self) -> Self {
        if let Self::Shared { is_exclusive, .. } = &mut self {
            *is_exclusive = true;
        }
        self
    }

    pub(super) async fn send(
        self,
        mut request: Message,
    ) -> Result<Response<AnswerBody>, FailureKind> {
        match self {
            Self::Own {
                mut connection,
                home,
                ..
            } => {
                origin_form(&mut request);
                connection.allowance.set(HEAD_BYTES);
                let mut sending = pin!(connection.sender.try_send_request(request));
                let sent = tokio::select! {
                    biased;
                    sent = &mut sending => Some(sent),
                    () = connection.ended.cancelled() => sending.now_or_never(),
                };
                // It was put into the queue of the connection while that ended.
                let unsent = || refused(&connection.allowance).unwrap_or(FailureKind::NotProcessed);
                let sent = sent.ok_or_else(unsent)?;
                let response = sent.map_err(|error| failed(&error, &connection.allowance))?;
                connection.allowance.lift();
                Ok(response.map(|body| AnswerBody::new(body, Held::Own { connection, home })))
            }
            Self::Shared {
                mut sender,
                mut slot,
                ..
            } => {
                let sending = sender.try_send_request(request);
                // Keeps the queue of the connection, and what was put into it while the connection ended.
                drop(sender);
                slot.is_unanswered = true;
                let sent = sending.await;
                slot.is_unanswered = false;
                let response = sent.map_err(|error| failed(&error, &slot.load.allowance))?;
                slot.load.allowance.set(PROGRESS_BYTES);
                Ok(response.map(|body| AnswerBody::new(body, Held::StreamSlot(slot))))
            }
        }
    }
}

fn failed(error: &TrySendError<Message>, allowance: &Allowance) -> FailureKind {
    // The library does not always keep the cause of a stream's error.
    match allowance.is_used_up() {
        true => FailureKind::EndlessHead,
        false => refused(allowance)
            .unwrap_or_else(|| FailureKind::of_exchange(error.error(), error.message().is_some())),
    }
}

fn refused(allowance: &Allowance) -> Option<FailureKind> {
    allowance.refusal().map(FailureKind::Tls)
}

/// Rewrites a request for HTTP/1: the path, and the host as a header.
fn origin_form(request: &mut Message) {
    if let Some(authority) = request.uri().authority() {
        let host = match (request.uri().scheme_str(), authority.port_u16()) {
            (Some("https"), Some(443)) | (Some("http"), Some(80)) => authority.host(),
            _ => authority.as_str(),
        };
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(HOST, host);
        }
    }
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
}

/// What an answer keeps until its body has been read.
enum Held {
    Own {
        connection: Single,
        home: Option<(Arc<Pool>, Origin)>,
    },
    StreamSlot(StreamSlot),
}

/// The body of an answer. The connection is used again once all of it was read.
pub struct AnswerBody {
    incoming: Incoming,
    held: Option<Held>,
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}

impl AnswerBody {
    fn new(incoming: Incoming, held: Held) -> Self {
        let mut body = Self {
            incoming,
            held: Some(held),
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// The next piece; `None` at the end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, FailureKind> {
        loop {
            let Some(frame) = self.incoming.frame().await else {
                self.finish();
                return Ok(None);
            };
            let frame = frame.map_err(|error| FailureKind::of_exchange(&error, false))?;
            if let Some(Held::StreamSlot(slot)) = &self.held {
                slot.load.allowance.set(PROGRESS_BYTES);
            }
            // Anything else is trailers.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    fn finish(&mut self) {
        let Some(Held::Own {
            mut connection,
            home: Some((pool, origin)),
        }) = self.held.take()
        else {
            return;
        };
        if connection.sender.is_ready() {
            pool.give_back(&origin, connection);
            return;
        }
        // It is ready once its task has seen the end of the body.
        tokio::spawn(async move {
            let ready = std::future::poll_fn(|cx| connection.sender.poll_ready(cx));
            if ready.await.is_ok() {
                pool.give_back(&origin, connection);
            }
        });
    }
}
