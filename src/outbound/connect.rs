//! Opens connections: name resolution, proxy, TCP and TLS, within one timeout.

use super::bounded::{Allowance, Bounded, HEAD_BYTES};
use super::failure::{Failure, FailureKind};
use super::guard::AddressGuard;
use super::proxy::{Proxies, Proxy, ProxyTrouble};
use super::{AGENT, ProxiedHosts};
use crate::domain::tls_cause::TlsCause;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower_service::Service;

/// Bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open connection.
pub(super) struct Connected {
    pub stream: Box<dyn Stream>,
    /// ALPN has chosen HTTP/2.
    pub is_h2: bool,
}

/// Opens connections to addresses that may be called.
#[derive(Clone)]
pub(super) struct Connector {
    direct: HttpConnector<AddressGuard>,
    to_proxy: HttpConnector,
    guard: AddressGuard,
    proxies: Arc<Proxies>,
    proxied: ProxiedHosts,
    /// Offers HTTP/2 and HTTP/1.1.
    tls: TlsConnector,
    /// Offers HTTP/1.1, since only CONNECT is sent to a proxy.
    tls_to_proxy: TlsConnector,
    limit: Duration,
}

impl Connector {
    pub(super) fn new(
        guard: AddressGuard,
        proxies: Arc<Proxies>,
        proxied: ProxiedHosts,
        tls: &ClientConfig,
        limit: Duration,
    ) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            TlsConnector::from(Arc::new(tls))
        };
        let mut direct = HttpConnector::new_with_resolver(guard.clone());
        let mut to_proxy = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_nodelay(true);
        to_proxy.enforce_http(false);
        to_proxy.set_nodelay(true);
        // Divided among the addresses of a name, so that one that does not answer leaves time for the
        // others.
        direct.set_connect_timeout(Some(limit));
        to_proxy.set_connect_timeout(Some(limit));
        Self {
            direct,
            to_proxy,
            guard,
            proxies,
            proxied,
            tls: offering(&[b"h2", b"http/1.1"]),
            tls_to_proxy: offering(&[b"http/1.1"]),
            limit,
        }
    }

    /// The proxy that a call to this address goes through. Loopback never does.
    pub(super) fn proxy(&self, uri: &Uri) -> Option<&Proxy> {
        let host = uri.host()?;
        if self.guard.is_loopback_host(host) {
            return None;
        }
        self.proxies.route(uri)
    }

    /// Refuses addresses that may not be called, as far as their text decides it.
    pub(super) fn admit(&self, uri: &Uri) -> Result<(), Failure> {
        let host = uri.host().unwrap_or_default();
        let through = self.proxy(uri);
        // A proxy resolves names in place of the guard, so the name itself has to be allowed.
        let is_allowed = self.guard.admits_uri(uri)
            && (through.is_none() || is_literal(host) || self.proxied.admit(host));
        match is_allowed {
            true => Ok(()),
            false => Err(Failure {
                kind: FailureKind::AddressRefused,
                proxy: through.map(ToString::to_string),
            }),
        }
    }

    /// Opens a connection to scheme, host and port of this address.
    pub(super) async fn connect(&self, uri: &Uri) -> Result<Connected, Failure> {
        let proxy = self.proxy(uri);
        let connecting = async {
            match proxy {
                Some(proxy) => self.through(proxy, uri).await,
                None => self.directly(uri).await,
            }
        };
        let connected = match tokio::time::timeout(self.limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(match proxy {
                Some(_) => FailureKind::Proxy(ProxyTrouble::Timeout),
                None => FailureKind::ConnectTimeout,
            }),
        };
        connected.map_err(|kind| Failure {
            kind,
            proxy: proxy.map(ToString::to_string),
        })
    }

    async fn directly(&self, uri: &Uri) -> Result<Connected, FailureKind> {
        let tcp = self
            .direct
            .clone()
            .call(uri.clone())
            .await
            .map_err(|error| FailureKind::of_connecting(&error))?;
        let stream: Box<dyn Stream> = Box::new(tcp.into_inner());
        if uri.scheme_str() == Some("https") {
            return self.secured(stream, uri).await;
        }
        Ok(Connected {
            stream,
            is_h2: false,
        })
    }

    async fn through(&self, proxy: &Proxy, uri: &Uri) -> Result<Connected, FailureKind> {
        let tunnel = self.tunnel(proxy, uri).await.map_err(FailureKind::Proxy)?;
        self.secured(tunnel, uri).await
    }

    async fn secured(&self, stream: Box<dyn Stream>, uri: &Uri) -> Result<Connected, FailureKind> {
        let name = server_name(uri).ok_or(FailureKind::Tls(TlsCause::InvalidName))?;
        let secured = self
            .tls
            .connect(name, stream)
            .await
            .map_err(|error| FailureKind::of_handshake(&error))?;
        let is_h2 = secured.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Connected {
            stream: Box::new(secured),
            is_h2,
        })
    }

    /// CONNECT, and the way that it opens.
    pub(super) async fn tunnel(
        &self,
        proxy: &Proxy,
        uri: &Uri,
    ) -> Result<Box<dyn Stream>, ProxyTrouble> {
        let tcp = self
            .to_proxy
            .clone()
            .call(proxy.uri.clone())
            .await
            .map_err(|error| trouble(FailureKind::of_connecting(&error)))?;
        let mut stream: Box<dyn Stream> = Box::new(tcp.into_inner());
        if proxy.is_tls() {
            let name = server_name(&proxy.uri).ok_or(ProxyTrouble::Tls(TlsCause::InvalidName))?;
            let secured = self.tls_to_proxy.connect(name, stream).await;
            let secured = secured.map_err(|error| trouble(FailureKind::of_handshake(&error)))?;
            stream = Box::new(secured);
        }
        let allowance = Allowance::unbounded();
        allowance.set(HEAD_BYTES);
        let stream = TokioIo::new(Bounded::new(stream, allowance.clone()));
        let (mut sender, connection) = http1::handshake(stream)
            .await
            .map_err(|_| ProxyTrouble::NotHttp)?;
        tokio::spawn(async move {
            if connection.with_upgrades().await.is_err() {
                tracing::trace!("the connection to the proxy is lost");
            }
        });
        let request = connect_request(proxy, uri).map_err(|_| ProxyTrouble::NotHttp)?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| unanswered(&error, &allowance))?;
        if !answer.status().is_success() {
            let had_credentials = proxy.authorization.is_some();
            return Err(ProxyTrouble::of(answer.status().as_u16(), had_credentials));
        }
        allowance.lift();
        let opened = hyper::upgrade::on(answer).await;
        Ok(Box::new(TokioIo::new(
            opened.map_err(|_| ProxyTrouble::NotHttp)?,
        )))
    }

    /// Asks the proxy for a way to this address, and closes it again.
    pub(super) async fn try_proxy(&self, proxy: &Proxy, uri: &Uri) -> Result<(), ProxyTrouble> {
        match tokio::time::timeout(self.limit, self.tunnel(proxy, uri)).await {
            Ok(opened) => opened.map(drop),
            Err(_) => Err(ProxyTrouble::Timeout),
        }
    }
}

fn connect_request(proxy: &Proxy, uri: &Uri) -> http::Result<Request<Empty<Bytes>>> {
    let target = format!(
        "{}:{}",
        uri.host().unwrap_or_default(),
        uri.port_u16().unwrap_or(443)
    );
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(target.as_str())
        .header(HOST, target.as_str())
        .header(USER_AGENT, AGENT);
    if let Some(authorization) = &proxy.authorization {
        request = request.header(PROXY_AUTHORIZATION, authorization);
    }
    request.body(Empty::new())
}

/// Of a CONNECT that got no answer.
fn unanswered(error: &hyper::Error, allowance: &Allowance) -> ProxyTrouble {
    if let Some(cause) = allowance.refusal() {
        return ProxyTrouble::Tls(cause);
    }
    match FailureKind::of_exchange(error, false) {
        FailureKind::Lost if !allowance.is_used_up() => ProxyTrouble::Closed,
        _ => ProxyTrouble::NotHttp,
    }
}

fn trouble(kind: FailureKind) -> ProxyTrouble {
    match kind {
        FailureKind::ConnectTimeout => ProxyTrouble::Timeout,
        FailureKind::Tls(cause) => ProxyTrouble::Tls(cause),
        _ => ProxyTrouble::Unreachable,
    }
}

fn server_name(uri: &Uri) -> Option<ServerName<'static>> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).ok()
}

fn is_literal(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<std::net::IpAddr>().is_ok()
}
