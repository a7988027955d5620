//! Closes a connection so that a peer that is still sending gets its answer.
//!
//! The kernel resets a connection that is closed with unread bytes, and a reset may overtake the answer. So after the
//! last answer, the end of the own direction is sent, and what arrives is discarded until the peer ends its own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Longest time for the peer to end its direction.
const LINGER: Duration = Duration::from_secs(2);

/// A connection that lingers when it ends with a body that was not read.
#[derive(Debug)]
pub struct LingeringClose<S> {
    inner: S,
    /// Set by the listener when it answers without the whole body.
    is_unread: Arc<AtomicBool>,
    /// Since the end was sent.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> LingeringClose<S> {
    pub fn new(inner: S, is_unread: Arc<AtomicBool>) -> Self {
        Self {
            inner,
            is_unread,
            lingering: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LingeringClose<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringClose<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// hyper calls it once the last answer is flushed, until it is ready.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            if !this.is_unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = || Box::pin(tokio::time::sleep(LINGER));
        let lingering = this.lingering.get_or_insert_with(linger);
        let mut space = [0; 4096];
        while lingering.as_mut().poll(cx).is_pending() {
            let mut read = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::Instant;

    /// How long the end takes for a peer that has sent something, and ends its direction or does not.
    async fn time_of_end(is_unread: bool, peer_ends: bool) -> Duration {
        let (mut peer, server) = tokio::io::duplex(1024);
        peer.write_all(&[0; 100]).await.unwrap();
        if peer_ends {
            peer.shutdown().await.unwrap();
        }
        let mut server = LingeringClose::new(server, Arc::new(AtomicBool::new(is_unread)));
        let begun = Instant::now();
        server.shutdown().await.unwrap();
        drop(peer);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_peer_whose_body_is_unread_is_waited_for_and_not_for_ever() {
        assert_eq!(time_of_end(false, false).await, Duration::ZERO);
        assert_eq!(time_of_end(true, true).await, Duration::ZERO);
        let waited = time_of_end(true, false).await;
        assert!((LINGER..2 * LINGER).contains(&waited), "{waited:?}");
    }
}
