//! Limits the bytes that a peer may send before it answers.

use crate::domain::tls_cause::TlsCause;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that HTTP/1 may take for the head of an answer, informational answers (1xx) included.
pub(super) const HEAD_BYTES: usize = 64 * 1024;

/// Bytes that a connection reads before it yields to other tasks.
const YIELD_BYTES: usize = 64 * 1024;

const UNBOUNDED: usize = usize::MAX;

/// A peer that sends without end and does not answer, for example 1xx again and again.
#[derive(Debug, thiserror::Error)]
#[error("the peer sends without end and does not answer")]
pub(super) struct EndlessHead;

/// The bytes that may still arrive on one connection, and the alert that came in place of the first one.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes: AtomicUsize,
    refusal: OnceLock<TlsCause>,
}

impl Allowance {
    pub(super) fn unbounded() -> Self {
        Self(Arc::new(Shared {
            bytes: AtomicUsize::new(UNBOUNDED),
            refusal: OnceLock::new(),
        }))
    }

    /// No more than this from now on.
    pub(super) fn set(&self, bytes: usize) {
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Removes the limit: an answer has begun, and the reader of its body counts the bytes.
    pub(super) fn lift(&self) {
        self.set(UNBOUNDED);
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.0.bytes.load(Ordering::Relaxed) == 0
    }

    /// Returns why the peer has refused the handshake after it was complete here: with TLS 1.3 it judges the client's
    /// part, such as a certificate that is missing, later.
    pub(super) fn refusal(&self) -> Option<TlsCause> {
        self.0.refusal.get().copied()
    }

    fn refuse(&self, error: &io::Error) {
        if let Some(cause @ TlsCause::Refused(_)) = TlsCause::of(error) {
            let _ = self.0.refusal.set(cause);
        }
    }

    fn take(&self, bytes: usize) {
        let left = self.0.bytes.load(Ordering::Relaxed);
        if left != UNBOUNDED {
            // A `set` in between wins.
            let _ = self.0.bytes.compare_exchange(
                left,
                left.saturating_sub(bytes),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}

/// A stream that fails with [`EndlessHead`] once its allowance is used up. It yields to other tasks, however
/// much there is to read.
#[derive(Debug)]
pub(super) struct Bounded<T> {
    inner: T,
    allowance: Allowance,
    in_a_row: usize,
    has_read: bool,
}

impl<T> Bounded<T> {
    pub(super) fn new(inner: T, allowance: Allowance) -> Self {
        Self {
            inner,
            allowance,
            in_a_row: 0,
            has_read: false,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Bounded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.allowance.is_used_up() {
            return Poll::Ready(Err(io::Error::other(EndlessHead)));
        }
        if self.in_a_row >= YIELD_BYTES {
            self.in_a_row = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_pending() {
            self.in_a_row = 0;
        }
        let arrived = buf.filled().len() - before;
        self.in_a_row += arrived;
        self.has_read |= arrived > 0;
        if let Poll::Ready(Err(error)) = &polled
            && !self.has_read
        {
            self.allowance.refuse(error);
        }
        self.allowance.take(arrived);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Bounded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn an_allowance_ends_the_stream_and_is_lifted_by_an_answer() {
        let allowance = Allowance::unbounded();
        let endless = tokio::io::repeat(b'x');
        let mut stream = Bounded::new(endless, allowance.clone());
        allowance.set(HEAD_BYTES);
        let mut piece = [0; 1024];
        let mut read = 0;
        let error = loop {
            match stream.read(&mut piece).await {
                Ok(bytes) => read += bytes,
                Err(error) => break error,
            }
        };
        assert_eq!(read, HEAD_BYTES);
        assert!(error.get_ref().unwrap().is::<EndlessHead>());
        allowance.lift();
        for _ in 0..1000 {
            stream.read_exact(&mut piece).await.unwrap();
        }
    }

    /// On one thread: a reader that never waits would block the other task for ever.
    #[tokio::test(flavor = "current_thread")]
    async fn other_tasks_have_their_turn() {
        struct Endless;
        impl AsyncRead for Endless {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                buf.put_slice(&vec![0; buf.remaining()]);
                Poll::Ready(Ok(()))
            }
        }
        let mut stream = Bounded::new(Endless, Allowance::unbounded());
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        tokio::spawn(async move { stop.send(()) });
        let mut piece = [0; 1024];
        let mut read = 0;
        while stopped.try_recv().is_err() {
            read += stream.read(&mut piece).await.unwrap();
            assert!(read < 1 << 30, "the other task never had its turn");
        }
    }
}
