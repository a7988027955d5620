//! Which addresses a webhook endpoint may have.

use crate::domain::web_address::{self, WebAddressError};
use crate::notify::settings::WebhookSettings;
use crate::outbound::guard::{AddressGuard, is_qualified};
use crate::ports::webhook_endpoints::AddressPolicy;
use std::collections::BTreeSet;
use url::{Host, Url};

/// Longest address, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// Why an address cannot be an endpoint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    #[error("longer than 2048 bytes")]
    TooLong,
    #[error("not a URL, allowed: https://HOST/PATH")]
    NoUrl,
    #[error("must be https (http only for hosts in webhooks.loopback_hosts)")]
    NotHttps,
    #[error("must not contain a user name or a password, which lists would show")]
    Userinfo,
    #[error("must not contain a #: what follows it is never sent; percent-encode # as %23")]
    Fragment,
    #[error("not a public address (loopback only for hosts in webhooks.loopback_hosts)")]
    NotPublic,
    #[error(transparent)]
    Written(#[from] WebAddressError),
    #[error(
        "its host has no dot, so it is not public (loopback only for hosts in webhooks.loopback_hosts)"
    )]
    Unqualified,
}

/// The rule for addresses of endpoints.
#[derive(Clone, Debug)]
pub struct AddressRule {
    guard: AddressGuard,
    loopback_hosts: BTreeSet<String>,
}

impl AddressRule {
    /// Creates the rule that `settings` describe.
    pub fn new(settings: &WebhookSettings) -> Self {
        let loopback_hosts = settings.loopback_hosts();
        Self {
            guard: AddressGuard::new(loopback_hosts.clone()),
            loopback_hosts,
        }
    }

    /// Checks the text of an address for a new endpoint.
    fn check(&self, text: &str) -> Result<Url, AddressError> {
        let url = self.check_stored(text)?;
        if url.fragment().is_some() {
            return Err(AddressError::Fragment);
        }
        let url = web_address::parse(text)?;
        if let Some(Host::Domain(name)) = url.host()
            && !self.loopback_hosts.contains(name)
            && !is_qualified(name)
        {
            return Err(AddressError::Unqualified);
        }
        Ok(url)
    }

    /// The same for an endpoint that is there. What its name resolves to is checked at each connection.
    pub(super) fn check_stored(&self, url: &str) -> Result<Url, AddressError> {
        if url.len() > MAX_URL_BYTES {
            return Err(AddressError::TooLong);
        }
        let url = Url::parse(url).map_err(|_| AddressError::NoUrl)?;
        let host = url.host_str().unwrap_or_default();
        match url.scheme() {
            "https" => {}
            "http" if self.loopback_hosts.contains(host) => {}
            _ => return Err(AddressError::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Userinfo);
        }
        if !self.guard.admits_url(&url) {
            return Err(AddressError::NotPublic);
        }
        Ok(url)
    }

    /// The hosts that may be called on loopback, also without TLS.
    pub(super) fn loopback_hosts(&self) -> &BTreeSet<String> {
        &self.loopback_hosts
    }
}

impl AddressPolicy for AddressRule {
    fn admit(&self, url: &str) -> Result<String, String> {
        let checked = self.check(url);
        checked.map(String::from).map_err(|error| error.to_string())
    }
}
