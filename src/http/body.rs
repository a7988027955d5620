//! Bodies with a timeout, which also report when a request is complete and when its answer is sent. The bytes of large
//! answers count until they are written.

use super::connection_slots::ConnectionSlot;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::Method;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Largest body of a request, in bytes: what API and pages take is a few members, or a form.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Largest part of a body that is read and discarded so that its connection stays open.
const MAX_DISCARDED: usize = 1024 * 1024;

/// The body did not arrive in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body did not arrive within the timeout")]
struct TooSlow;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    TooSlow,
    TooLarge,
    /// The connection ended, or what it sent is no HTTP.
    Broken,
}

/// A body while it arrives. Its handler reads it, and the listener discards what the handler leaves.
#[derive(Debug)]
struct Arriving {
    inner: Incoming,
    late: Pin<Box<Sleep>>,
    /// Whether any of it was asked for: a peer that expects `100 Continue` gets it then.
    is_asked_for: bool,
    is_whole: bool,
}

impl Arriving {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.is_asked_for = true;
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.is_whole = frame.is_none() || self.inner.is_end_stream();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if self.late.as_mut().poll(cx).is_ready() {
            metrics::counter!("verifyd_http_body_timeouts_total").increment(1);
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        Poll::Pending
    }
}

/// The body of a request, within a time.
#[derive(Debug)]
pub struct TimedBody {
    arriving: Arc<Mutex<Arriving>>,
    /// Until it is whole.
    slot: Option<Arc<ConnectionSlot>>,
}

impl TimedBody {
    /// The body as axum takes it, and what its handler leaves of it. Its connection works from its end on.
    pub fn of(
        inner: Incoming,
        limit: Duration,
        slot: &Arc<ConnectionSlot>,
    ) -> (Body, Option<Leftover>) {
        if inner.is_end_stream() {
            slot.works();
            return (Body::empty(), None);
        }
        let arriving = Arc::new(Mutex::new(Arriving {
            inner,
            late: Box::pin(tokio::time::sleep(limit)),
            is_asked_for: false,
            is_whole: false,
        }));
        let body = Self {
            arriving: Arc::clone(&arriving),
            slot: Some(Arc::clone(slot)),
        };
        (Body::new(body), Some(Leftover(arriving)))
    }

    fn end(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.works();
        }
    }
}

impl Drop for TimedBody {
    /// Nobody reads more of it: the request is as whole as it needs to be.
    fn drop(&mut self) {
        self.end();
    }
}

impl hyper::body::Body for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut arriving = self.arriving.lock();
        let frame = arriving.poll_frame(cx);
        let is_whole = arriving.is_whole;
        drop(arriving);
        if is_whole {
            self.end();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.arriving.lock().inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.arriving.lock().inner.size_hint()
    }
}

/// What a handler has left of a request's body when its answer is made.
#[derive(Debug)]
pub struct Leftover(Arc<Mutex<Arriving>>);

impl Leftover {
    /// Reads and discards it, within the body's timeout and [`MAX_DISCARDED`]. False: the connection has to end, as it
    /// holds more. A peer that expects `100 Continue` is not asked for a body that nobody wants. Meanwhile the
    /// connection waits; closing it for another one drops the answer, too.
    pub async fn discard(self, expects_continue: bool, slot: &ConnectionSlot) -> bool {
        let arriving = self.0;
        {
            let arriving = arriving.lock();
            if arriving.is_whole {
                return true;
            }
            let is_refused = expects_continue && !arriving.is_asked_for;
            let is_large = arriving.inner.size_hint().lower() > MAX_DISCARDED as u64;
            if is_refused || is_large || arriving.late.is_elapsed() {
                return false;
            }
        }
        slot.waits();
        let mut length = 0;
        let is_whole = loop {
            match poll_fn(|cx| arriving.lock().poll_frame(cx)).await {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => length += frame.data_ref().map_or(0, Bytes::len),
            }
            if length > MAX_DISCARDED {
                break false;
            }
        };
        // The answer is written next.
        slot.works();
        is_whole
    }
}

/// The body of an answer. Its connection waits for the next request from when hyper has taken the last bytes, also where
/// the peer has not read them yet. One that reads is done in a moment, and until then its connection is the last to be
/// closed. One that does not would otherwise keep its slot for the whole of its timeouts, and peers without a token could
/// take all of them in this way.
#[derive(Debug)]
pub struct AnswerBody {
    inner: Body,
    slot: Arc<ConnectionSlot>,
}

impl AnswerBody {
    pub fn of(inner: Body, slot: &Arc<ConnectionSlot>) -> Self {
        Self {
            inner,
            slot: Arc::clone(slot),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.slot.waits();
    }
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer whose bytes hold something, such as permits, until they are written or their connection is
/// closed. hyper drops a body when it has taken the last bytes, and keeps these until the peer has.
#[derive(Debug)]
pub struct HoldingBody<H> {
    inner: Body,
    held: Arc<H>,
}

/// Bytes that hold something.
struct Holding<H> {
    bytes: Vec<u8>,
    _held: Arc<H>,
}

impl<H> AsRef<[u8]> for Holding<H> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<H: Send + Sync + 'static> HoldingBody<H> {
    pub fn of(inner: Body, held: H) -> Body {
        let held = Arc::new(held);
        Body::new(Self { inner, held })
    }
}

impl<H: Send + Sync + 'static> hyper::body::Body for HoldingBody<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        frame.map_ok(|frame| {
            // Copied: a buffer that grew while the answer was made may be twice as long.
            frame.map_data(|bytes| {
                Bytes::from_owner(Holding {
                    bytes: bytes.to_vec(),
                    _held: Arc::clone(&self.held),
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Whether all of a request was here when its body was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    AtOnce,
    /// The peer decided when it went on. What allowed the request before may have ended meanwhile.
    Later,
}

/// The request with its whole body in memory, so that nothing is held for it while it arrives. A
/// request that has none by its method is left as it is.
pub async fn whole(request: Request, most: usize) -> Result<(Request, Arrival), Unread> {
    let mut read = pin!(read(request, most));
    match futures::poll!(read.as_mut()) {
        Poll::Ready(request) => Ok((request?, Arrival::AtOnce)),
        Poll::Pending => Ok((read.await?, Arrival::Later)),
    }
}

async fn read(request: Request, most: usize) -> Result<Request, Unread> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(request);
    }
    let (parts, mut body) = request.into_parts();
    // Not asked for where its length is announced.
    if body.size_hint().lower() > most as u64 {
        return Err(Unread::TooLarge);
    }
    // Copied: each piece, however short, would keep the buffer that its connection read it into.
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| why(&error))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        if bytes.len() + piece.len() > most {
            return Err(Unread::TooLarge);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

fn why(error: &(dyn std::error::Error + 'static)) -> Unread {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<TooSlow>() {
            return Unread::TooSlow;
        }
        next = error.source();
    }
    Unread::Broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::connection_slots::ConnectionSlots;
    use futures::{FutureExt as _, StreamExt as _, stream};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use std::convert::Infallible;
    use std::net::IpAddr;
    use tokio::io::AsyncWriteExt as _;
    use tokio::sync::mpsc;

    fn post(pieces: &[Bytes], ends: bool) -> Request {
        let pieces: Vec<Result<Bytes, BoxError>> = pieces.iter().cloned().map(Ok).collect();
        let pieces = stream::iter(pieces);
        let body = match ends {
            true => Body::from_stream(pieces),
            false => Body::from_stream(pieces.chain(stream::pending())),
        };
        let request = Request::builder().method(Method::POST);
        request.body(body).expect("a request")
    }

    #[tokio::test]
    async fn a_body_that_is_not_whole_holds_no_buffer_of_its_connection() {
        let read: Vec<Bytes> = (0..100).map(|_| Bytes::from(vec![b'a'; 8_192])).collect();
        let pieces: Vec<Bytes> = read.iter().map(|buffer| buffer.slice(..1)).collect();
        let mut waiting = Box::pin(whole(post(&pieces, false), 1_000));
        drop(pieces);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert!(read.iter().all(Bytes::is_unique));
    }

    /// Discards a body that arrives in these chunks. Returns whether it was whole, and whether its connection can be
    /// closed for another one before the answer is written.
    async fn discarded(chunks: &str) -> (bool, bool) {
        let address = IpAddr::from([192, 0, 2, 1]);
        let slots = ConnectionSlots::new(1, 1);
        let slot = Arc::new(slots.take(address).expect("a slot"));
        let (mut peer, stream) = tokio::io::duplex(4 * MAX_DISCARDED);
        let request =
            format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let sent = peer.write_all(request.as_bytes()).await;
        sent.expect("it fits");
        let (found, mut results) = mpsc::unbounded_channel();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (slots, slot, found) = (Arc::clone(&slots), Arc::clone(&slot), found.clone());
            async move {
                let limit = Duration::from_secs(600);
                let (body, leftover) = TimedBody::of(request.into_body(), limit, &slot);
                drop(body);
                let leftover = leftover.expect("a body");
                let is_whole = leftover.discard(false, &slot).await;
                let other = slots.take(address).expect("one of the reserve");
                let _ = found.send((is_whole, !other.is_reserved()));
                Ok::<_, Infallible>(hyper::Response::new(Body::empty()))
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        results.recv().await.expect("the request is served")
    }

    #[tokio::test]
    async fn an_answer_after_a_discarded_body_is_written_however_that_ended() {
        let large = format!("200000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x20_0000));
        for (chunks, is_whole) in [
            ("1\r\nx\r\n0\r\n\r\n", true),
            (&*large, false),
            ("no chunk\r\n", false),
        ] {
            assert_eq!(discarded(chunks).await, (is_whole, false));
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_yields_its_slot() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let slots = ConnectionSlots::new(1, 1);
        let slot = Arc::new(slots.take(address).expect("a slot"));
        let (mut peer, stream) = tokio::io::duplex(1024);
        let sent = peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        sent.await.expect("it fits");
        let service = {
            let slot = Arc::clone(&slot);
            service_fn(move |request: hyper::Request<Incoming>| {
                let (_, leftover) =
                    TimedBody::of(request.into_body(), Duration::from_secs(600), &slot);
                assert!(leftover.is_none(), "it has no body");
                let answer = AnswerBody::of(Body::from(vec![b'a'; 100_000]), &slot);
                std::future::ready(Ok::<_, Infallible>(hyper::Response::new(answer)))
            })
        };
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let mut served = Box::pin(served);
        assert!(futures::poll!(served.as_mut()).is_pending());
        let other = slots.take(address).expect("a slot");
        assert!(!other.is_reserved());
        assert!(slot.evicted().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_body_is_joined_and_bounded() {
        let pieces = [Bytes::from_static(b"ab"), Bytes::from_static(b"cd")];
        let (request, arrival) = whole(post(&pieces, true), 4).await.expect("it fits");
        assert_eq!(arrival, Arrival::AtOnce);
        let bytes = axum::body::to_bytes(request.into_body(), 4).await;
        assert_eq!(bytes.expect("in memory"), "abcd");
        let refused = whole(post(&pieces, true), 3).await.expect_err("too large");
        assert_eq!(refused, Unread::TooLarge);
        let announced = Request::builder().method(Method::POST);
        let announced = announced.body(Body::from("abcd")).expect("a request");
        let refused = whole(announced, 3).await.expect_err("too large");
        assert_eq!(refused, Unread::TooLarge);
    }
}
