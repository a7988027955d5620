//! Bodies with a timeout, which also report when a request is complete and when its answer is sent.

use super::connection_slots::ConnectionSlot;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::Method;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes beyond the limit that are read and discarded: a peer that is still sending when the connection
/// closes never sees the answer.
const DISCARDED: usize = 1024 * 1024;

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

/// The body of a request, within a time.
#[derive(Debug)]
pub struct TimedBody {
    inner: Incoming,
    late: Pin<Box<Sleep>>,
    /// Until it is whole.
    slot: Option<Arc<ConnectionSlot>>,
}

impl TimedBody {
    /// The body as axum takes it. Its connection works from its end on.
    pub fn of(inner: Incoming, limit: Duration, slot: &Arc<ConnectionSlot>) -> Body {
        if inner.is_end_stream() {
            slot.works();
            return Body::empty();
        }
        Body::new(Self {
            inner,
            late: Box::pin(tokio::time::sleep(limit)),
            slot: Some(Arc::clone(slot)),
        })
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
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            if frame.is_none() || self.inner.is_end_stream() {
                self.end();
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if self.late.as_mut().poll(cx).is_ready() {
            metrics::counter!("verifyd_http_body_timeouts_total").increment(1);
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer. Its connection waits for the next request from its end on.
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

/// The request with its whole body in memory, so that nothing is held for it while it arrives. A
/// request that has none by its method is left as it is.
pub async fn whole(request: Request, most: usize) -> Result<Request, Unread> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(request);
    }
    let (parts, mut body) = request.into_parts();
    // Copied: each piece, however short, would keep the buffer that its connection read it into.
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| why(&error))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        length += piece.len();
        if length <= most {
            bytes.extend_from_slice(&piece);
        } else if length > most.saturating_add(DISCARDED) {
            break;
        }
    }
    if length > most {
        return Err(Unread::TooLarge);
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
    use futures::{StreamExt as _, stream};

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

    #[tokio::test]
    async fn a_body_is_joined_and_bounded() {
        let pieces = [Bytes::from_static(b"ab"), Bytes::from_static(b"cd")];
        let request = whole(post(&pieces, true), 4).await.expect("it fits");
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
