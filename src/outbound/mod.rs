//! Outbound calls: the HTTP client of verifyd, with the rules for every call.
//!
//! `guard` (which addresses) and `proxy` (which route) → `connect` (TCP and TLS) → `pool` (which connection)
//! → `client` (one exchange). The adapters use this module; it uses none of them.

mod bounded;
mod client;
mod connect;
pub(crate) mod failure;
pub(crate) mod guard;
pub(crate) mod jwt;
mod pool;
mod pooled;
pub(crate) mod proxy;
pub(crate) mod retry_after;
mod settings;

pub use client::{AnswerBody, Client, Resend, Resends, Reuse};
pub use settings::OutboundSettings;

use crate::files::trusted_authorities;
use guard::{AddressGuard, is_qualified};
use http::{HeaderValue, Uri};
use proxy::{Proxies, Proxy, ProxyAddressError, ProxyTrouble};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// `User-Agent` of every call.
pub const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("verifyd/", env!("CARGO_PKG_VERSION")));

/// Why outbound calls cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("cannot create an HTTP client: {0}")]
    Tls(String),
    #[error("outbound.proxy: {0}")]
    Proxy(#[from] ProxyAddressError),
    #[error("https trusts no certificate authority: {0}")]
    Authorities(String),
}

/// Names that may be called through a proxy, which resolves them in place of the guard.
#[derive(Clone, Debug)]
pub enum ProxiedHosts {
    /// These only.
    Only(BTreeSet<String>),
    /// All names of more than one label, but those of `localhost`.
    Qualified,
}

impl ProxiedHosts {
    fn admit(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        match self {
            Self::Only(hosts) => hosts.contains(&host),
            Self::Qualified => is_qualified(&host),
        }
    }
}

/// What calls of all adapters share: the proxy, and the trusted certificates.
#[derive(Clone, Debug)]
pub struct Outbound {
    proxies: Arc<Proxies>,
    tls: Arc<ClientConfig>,
    /// Whether TLS trusts an authority at all.
    is_any_trusted: bool,
}

impl Outbound {
    /// Creates the configuration of outbound calls, with the machine's trusted certificates.
    ///
    /// A machine without trusted root certificates still gets clients, which trust none: plain http on
    /// loopback works (the demo needs no more), and https fails.
    pub fn new(settings: &OutboundSettings) -> Result<Self, OutboundError> {
        let unusable = |error: rustls::Error| OutboundError::Tls(root_cause(&error));
        let builder = tls_builder().map_err(unusable)?;
        let (tls, is_any_trusted) = match builder.with_platform_verifier() {
            Ok(trusting) => (trusting.with_no_client_auth(), true),
            Err(error) => {
                tracing::warn!(
                    error = %root_cause(&error),
                    "no trusted root certificates: https calls will fail with tls_failed"
                );
                let trusting_none = tls_builder()
                    .map_err(unusable)?
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth();
                (trusting_none, false)
            }
        };
        Ok(Self {
            proxies: Arc::new(Proxies::new(settings)?),
            tls: Arc::new(tls),
            is_any_trusted,
        })
    }

    /// Without a proxy.
    pub fn direct() -> Result<Self, OutboundError> {
        Self::new(&OutboundSettings::default())
    }

    /// Trusts these root certificates, and not those of the machine.
    pub fn trusting(mut self, roots: RootCertStore) -> Result<Self, OutboundError> {
        let builder = tls_builder().map_err(|error| OutboundError::Tls(root_cause(&error)))?;
        self.is_any_trusted = !roots.is_empty();
        let tls = builder.with_root_certificates(roots).with_no_client_auth();
        self.tls = Arc::new(tls);
        Ok(self)
    }

    /// Returns which file of trusted authorities TLS skips, of those that variables of the environment name. Fails if
    /// nothing is left that it trusts: all calls over https would end as `tls_failed`.
    pub fn check_authorities(&self) -> Result<Option<String>, OutboundError> {
        // Apple's verifier reads no variable.
        if cfg!(target_vendor = "apple") || !trusted_authorities::are_named(std::env::var_os) {
            return Ok(None);
        }
        let problem = trusted_authorities::problem(std::env::var_os);
        if self.is_any_trusted {
            return Ok(problem);
        }
        let problem = problem.unwrap_or_else(|| trusted_authorities::EMPTY.to_owned());
        Err(OutboundError::Authorities(problem))
    }

    /// A client. Hosts in `loopback` are on this machine and never go through a proxy.
    pub fn client(
        &self,
        loopback: BTreeSet<String>,
        proxied: ProxiedHosts,
        connect_timeout: Duration,
    ) -> Client {
        Client::new(connect::Connector::new(
            AddressGuard::new(loopback),
            Arc::clone(&self.proxies),
            proxied,
            &self.tls,
            connect_timeout,
        ))
    }

    /// A client for one server of the operator's, which may be on any network.
    pub fn client_of_operator(&self, host: &str, connect_timeout: Duration) -> Client {
        Client::new(connect::Connector::new(
            AddressGuard::unrestricted(),
            Arc::clone(&self.proxies),
            ProxiedHosts::Only([host.to_ascii_lowercase()].into()),
            &self.tls,
            connect_timeout,
        ))
    }

    /// The proxy that is configured.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxies.proxy()
    }

    /// The proxy for calls to this address, which is not on loopback.
    pub fn proxy_of(&self, uri: &Uri) -> Option<&Proxy> {
        self.proxies.route(uri)
    }

    /// Asks the proxy for a way to this address, and closes it again.
    pub async fn try_proxy(
        &self,
        proxy: &Proxy,
        uri: &Uri,
        limit: Duration,
    ) -> Result<(), ProxyTrouble> {
        let connector = connect::Connector::new(
            AddressGuard::new(BTreeSet::new()),
            Arc::clone(&self.proxies),
            ProxiedHosts::Only(BTreeSet::new()),
            &self.tls,
            limit,
        );
        connector.try_proxy(proxy, uri).await
    }
}

fn tls_builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error>
{
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

/// Returns the text of the innermost cause.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = failure::causes(error).last().unwrap_or(error);
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_proxy_may_resolve() {
        for (host, admitted) in [
            ("hooks.example.com", true),
            ("hooks.example.com.", true),
            ("localhost", false),
            ("a.localhost", false),
            ("metadata", false),
            ("metadata.", false),
        ] {
            assert_eq!(ProxiedHosts::Qualified.admit(host), admitted, "{host}");
        }
        let only = ProxiedHosts::Only(["graph.microsoft.com".to_owned()].into());
        assert!(only.admit("Graph.Microsoft.com"));
        assert!(!only.admit("hooks.example.com"));
    }
}
