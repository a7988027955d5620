//! Closes connections whose peer does not read its answer.
//!
//! hyper limits the time for the head of a request, and nothing else. Crates that limit writing
//! (`tokio-io-timeout`) limit the pause between two writes, so a peer that takes a byte now and then stays
//! for ever. Here a peer whose answer has been blocked once has to take [`MIN_PROGRESS_BYTES`] of it, or all of it,
//! within the timeout, and all of it within [`MAX_BEHIND`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes that a slow peer has to take within the limit.
const MIN_PROGRESS_BYTES: usize = 64 * 1024;

/// Longest time for a slow peer to take all that there is for it. At the least progress an answer as long as a token's
/// share of the unsent bytes would keep that share for two hours. The longest page, some 5 MB, needs 16 KB a second.
const MAX_BEHIND: Duration = Duration::from_secs(300);

/// A connection with a limit on how slowly its peer may read. Nothing is measured while there is nothing to
/// read, so a live page may be silent, and be read, for any time.
#[derive(Debug)]
pub struct WriteTimeout<S> {
    inner: S,
    limit: Duration,
    /// Since the peer last took nothing: ends when it has to have taken enough.
    blocked: Option<Pin<Box<Sleep>>>,
    /// Bytes taken since.
    taken: usize,
    /// Since when there has always been something that the peer has not taken.
    behind: Option<Instant>,
}

impl<S> WriteTimeout<S> {
    pub fn new(inner: S, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            blocked: None,
            taken: 0,
            behind: None,
        }
    }

    fn measured(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.taken = self.taken.saturating_add(bytes);
                if self.taken >= MIN_PROGRESS_BYTES {
                    self.blocked = None;
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if self.blocked.is_none() {
                    self.taken = 0;
                }
                let now = Instant::now();
                let whole = *self.behind.get_or_insert(now) + MAX_BEHIND;
                let until = whole.min(now + self.limit);
                let late = self
                    .blocked
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                if late.as_mut().poll(cx).is_ready() {
                    metrics::counter!("verifyd_http_write_timeouts_total").increment(1);
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the peer does not read its answer",
                    )));
                }
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.measured(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.measured(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes once nothing is left to be written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.blocked = None;
            self.behind = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_too_little_is_given_up() {
        // Nothing at all, and a byte every second.
        for drip in [false, true] {
            let (mut peer, server) = tokio::io::duplex(1024);
            let mut server = WriteTimeout::new(server, LIMIT);
            let reading = tokio::spawn(async move {
                while drip && peer.read_u8().await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                // Nothing more is read, and the connection stays open.
                tokio::time::sleep(100 * LIMIT).await;
                drop(peer);
            });
            let error = server
                .write_all(&vec![0; 2 * MIN_PROGRESS_BYTES])
                .await
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "drip: {drip}");
            reading.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_just_enough_is_given_up_later() {
        let (mut peer, server) = tokio::io::duplex(MIN_PROGRESS_BYTES);
        let mut server = WriteTimeout::new(server, LIMIT);
        let reading = tokio::spawn(async move {
            let mut some = vec![0; MIN_PROGRESS_BYTES];
            while peer.read_exact(&mut some).await.is_ok() {
                tokio::time::sleep(2 * LIMIT / 3).await;
            }
        });
        let begun = Instant::now();
        let written = server.write_all(&vec![0; 256 * MIN_PROGRESS_BYTES]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let took = begun.elapsed();
        assert!(took >= MAX_BEHIND && took < MAX_BEHIND + LIMIT, "{took:?}");
        reading.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_and_one_that_has_nothing_to_read_stay() {
        let (mut peer, server) = tokio::io::duplex(1024);
        let mut server = WriteTimeout::new(server, LIMIT);
        let reading = tokio::spawn(async move {
            let mut all = 0;
            let mut some = vec![0; 8 * 1024];
            // Slowly, but enough of it.
            while let Ok(n @ 1..) = peer.read(&mut some).await {
                all += n;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            all
        });
        for _ in 0..3 {
            server
                .write_all(&vec![0; 2 * MIN_PROGRESS_BYTES])
                .await
                .unwrap();
            server.flush().await.unwrap();
            // Idle for much longer than the limit.
            tokio::time::sleep(10 * LIMIT).await;
        }
        drop(server);
        assert_eq!(reading.await.unwrap(), 6 * MIN_PROGRESS_BYTES);
    }
}
