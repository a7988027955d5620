//! A proxy that answers CONNECT, and leads wherever the test says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// How it answers.
#[derive(Clone, Debug)]
pub enum Way {
    Open,
    /// Only to who sends `user:password`.
    OpenFor(String),
    /// With this status.
    Status(u16),
    /// Closes the first connections without an answer, and is open for those after them.
    ClosingFirst(usize),
    /// These bytes, again and again.
    Endless(&'static [u8]),
}

struct Inner {
    way: Mutex<Way>,
    /// Where a host leads to: `None` is everywhere else.
    routes: Mutex<HashMap<Option<String>, SocketAddr>>,
    asked: Mutex<Vec<String>>,
    taken: Mutex<u64>,
}

#[derive(Clone)]
pub struct ConnectProxy {
    inner: Arc<Inner>,
    pub port: u16,
}

impl ConnectProxy {
    pub async fn start(way: Way, leads_to: SocketAddr) -> Self {
        Self::with(way, leads_to, None).await
    }

    /// Over TLS where there is a configuration.
    pub async fn with(way: Way, leads_to: SocketAddr, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            inner: Arc::new(Inner {
                way: Mutex::new(way),
                routes: Mutex::new([(None, leads_to)].into()),
                asked: Mutex::default(),
                taken: Mutex::default(),
            }),
            port: listener.local_addr().unwrap().port(),
        };
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (proxy, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => proxy.serve(stream).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => proxy.serve(stream).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        proxy
    }

    pub fn leads(&self, host: &str, to: SocketAddr) {
        let mut routes = self.inner.routes.lock().unwrap();
        routes.insert(Some(host.to_owned()), to);
    }

    /// Targets of CONNECT so far.
    pub fn asked(&self) -> Vec<String> {
        self.inner.asked.lock().unwrap().clone()
    }

    /// Bytes of an endless answer that somebody took.
    pub fn taken(&self) -> u64 {
        *self.inner.taken.lock().unwrap()
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
        self.inner.asked.lock().unwrap().push(target.clone());
        let way = self.inner.way.lock().unwrap().clone();
        let status = match way {
            Way::Open => 200,
            Way::ClosingFirst(most) if self.asked().len() <= most => return None,
            Way::ClosingFirst(_) => 200,
            Way::OpenFor(pair) => {
                let wanted = format!("proxy-authorization: basic {}", STANDARD.encode(pair));
                let wanted = wanted.to_lowercase();
                let is_right = head.lines().any(|line| line.to_lowercase() == wanted);
                if is_right { 200 } else { 407 }
            }
            Way::Status(status) => status,
            Way::Endless(bytes) => loop {
                stream.write_all(bytes).await.ok()?;
                *self.inner.taken.lock().unwrap() += bytes.len() as u64;
            },
        };
        let answer = format!("HTTP/1.1 {status} Proxy\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        if status != 200 {
            return stream.shutdown().await.ok();
        }
        let host = target.rsplit_once(':')?.0.to_owned();
        let to = {
            let routes = self.inner.routes.lock().unwrap();
            *routes.get(&Some(host)).unwrap_or(&routes[&None])
        };
        let mut to = TcpStream::connect(to).await.ok()?;
        tokio::io::copy_bidirectional(&mut stream, &mut to)
            .await
            .ok()?;
        Some(())
    }
}
