//! A server over TLS that speaks HTTP/2 as Microsoft's do, and ends streams and connections as servers
//! may.

use crate::microsoft::directory::Directory;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http_body_util::BodyExt as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use test_support::tls_identity::Identity;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower_service::Service as _;
use verifyd::outbound::Outbound;

/// Requests that a connection takes before it is ended.
pub const REQUESTS: u32 = 50;

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Never.
    Open,
    /// GOAWAY; what has been received is answered.
    Graceful,
    /// GOAWAY with the last id that was answered; all other streams are dropped.
    Harsh,
    /// Closed without a word.
    Cut,
    /// Every third stream of a connection is refused, the connection lives.
    RefusesSome,
    /// Every stream is refused.
    RefusesAll,
}

struct Shared {
    router: Router,
    ending: Ending,
    streams: u32,
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// Requests that have arrived and wait for the others.
    gathered: watch::Sender<usize>,
    together: usize,
}

/// A running server. It ends with the test's runtime.
pub struct Server {
    shared: Arc<Shared>,
    pub directory: Directory,
    pub identity: Identity,
    pub address: SocketAddr,
}

impl Server {
    pub async fn start(granted: &[&'static str], ending: Ending, streams: u32) -> Self {
        Self::gathering(granted, ending, streams, 0).await
    }

    /// At a name that only a proxy leads to.
    pub async fn behind_proxy(granted: &[&'static str], name: &str) -> Self {
        Self::at(Some(name), granted, Ending::Open, 100, 0).await
    }

    /// Answers nothing until so many requests are there at the same time.
    pub async fn gathering(
        granted: &[&'static str],
        ending: Ending,
        streams: u32,
        together: usize,
    ) -> Self {
        Self::at(None, granted, ending, streams, together).await
    }

    async fn at(
        name: Option<&str>,
        granted: &[&'static str],
        ending: Ending,
        streams: u32,
        together: usize,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let base = match name {
            Some(name) => format!("https://{name}"),
            None => format!("https://localhost:{}", address.port()),
        };
        let (directory, router) = Directory::behind(base, granted);
        let identity = Identity::of(&["localhost", name.unwrap_or("localhost")]);
        let mut config = identity.server();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let shared = Arc::new(Shared {
            router,
            ending,
            streams,
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            gathered: watch::Sender::new(0),
            together,
        });
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                        shared.connections.fetch_add(1, SeqCst);
                        serve(stream, shared).await;
                    }
                });
            }
        });
        Self {
            shared,
            directory,
            identity,
            address,
        }
    }

    /// Calls that trust this server.
    pub fn outbound(&self) -> Outbound {
        let outbound = Outbound::direct().unwrap();
        outbound.trusting(self.identity.roots()).unwrap()
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.shared.requests.load(SeqCst)
    }
}

/// The stream, to be written to when HTTP/2 has been given up on it.
#[derive(Clone)]
struct Kept(Arc<Mutex<TlsStream<TcpStream>>>);

impl AsyncRead for Kept {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Kept {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_shutdown(cx)
    }
}

async fn serve(stream: TlsStream<TcpStream>, shared: Arc<Shared>) {
    let mut kept = Kept(Arc::new(Mutex::new(stream)));
    let connection = h2::server::Builder::new()
        .max_concurrent_streams(shared.streams)
        .handshake::<_, Bytes>(kept.clone());
    let Ok(mut connection) = connection.await else {
        return;
    };
    let answered = Arc::new(AtomicU32::new(0));
    let (mut arrived, mut taken) = (0, 0);
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        shared.requests.fetch_add(1, SeqCst);
        arrived += 1;
        let is_refused = match shared.ending {
            Ending::RefusesAll => true,
            Ending::RefusesSome => arrived % 3 == 0,
            _ => false,
        };
        if is_refused {
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        let (shared_too, answered_too) = (Arc::clone(&shared), Arc::clone(&answered));
        let id = respond.stream_id().as_u32();
        tokio::spawn(async move {
            if answer(request, respond, &shared_too).await.is_some() {
                answered_too.fetch_max(id, SeqCst);
            }
        });
        taken += 1;
        if taken < REQUESTS {
            continue;
        }
        match shared.ending {
            Ending::Graceful if taken == REQUESTS => connection.graceful_shutdown(),
            Ending::Cut => return,
            Ending::Harsh => {
                // What was answered is on its way.
                let _ = tokio::time::timeout(std::time::Duration::ZERO, connection.accept()).await;
                drop(connection);
                let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
                frame.extend(answered.load(SeqCst).to_be_bytes());
                frame.extend(0_u32.to_be_bytes());
                let _ = kept.write_all(&frame).await;
                let _ = kept.shutdown().await;
                return;
            }
            _ => {}
        }
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Shared,
) -> Option<()> {
    let (parts, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = incoming.data().await {
        let piece = piece.ok()?;
        let _ = incoming.flow_control().release_capacity(piece.len());
        body.extend_from_slice(&piece);
    }
    shared.gathered.send_modify(|gathered| *gathered += 1);
    let mut gathered = shared.gathered.subscribe();
    let _ = gathered
        .wait_for(|gathered| *gathered >= shared.together)
        .await;
    let request = http::Request::from_parts(parts, Body::from(body));
    let response = shared.router.clone().call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let response = http::Response::from_parts(parts, ());
    let mut stream = respond.send_response(response, false).ok()?;
    stream.send_data(body, true).ok()
}
