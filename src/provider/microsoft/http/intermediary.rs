//! Recognises answers of intermediaries: proxies, filters, firewalls, logins of networks.
//!
//! Names and words of widespread products are sufficient to distinguish them from the provider's own answers.
//! They decide only where an answer has nothing of the provider's own.

use super::decoding::{decode, object};
use crate::domain::Reason;
use crate::provider::microsoft::embedded;
use crate::provider::microsoft::fault::Retry;
use http::HeaderMap;
use serde::Deserialize;
use std::sync::LazyLock;

/// Words beyond this length of a page are not looked at.
const MAX_PAGE_BYTES: usize = 64 * 1024;

/// By which intermediaries are recognised: `intermediaries.toml`, parsed once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signs {
    servers: Vec<String>,
    microsoft_headers: Vec<String>,
    refused: Vec<String>,
    refused_elsewhere: Vec<String>,
    not_reached: Vec<String>,
}

static SIGNS: LazyLock<Signs> = LazyLock::new(|| embedded(include_str!("intermediaries.toml")));

/// Whether the text contains one of the signs.
fn has(text: &str, signs: &[String]) -> bool {
    signs.iter().any(|sign| text.contains(sign))
}

/// What an intermediary answered in place of the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Intermediary {
    /// It does not let the call pass.
    Refuses,
    /// It does not reach the provider itself.
    CannotReach,
}

impl Intermediary {
    /// The remark that a report adds to the reason.
    pub const CANNOT_REACH: &str =
        "A proxy on the way answers that it does not reach the provider.";

    /// Returns its reason, and whether a retry may help.
    pub fn meaning(self) -> (Reason, Retry) {
        match self {
            Self::Refuses => (Reason::ProxyRefused, Retry::Never),
            Self::CannotReach => (Reason::ProviderUnreachable, Retry::Backoff),
        }
    }

    /// Translates a proxy's own error: a refusal is recognised by its name, or by a status that servers do
    /// not use.
    fn of_error(status: u16, refuses: bool) -> Self {
        match refuses || status < 500 {
            true => Self::Refuses,
            false => Self::CannotReach,
        }
    }
}

/// What the headers of an answer say about its author.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Author {
    /// A proxy names its own error.
    named: Option<Intermediary>,
    is_proxy: bool,
    is_microsoft: bool,
}

impl Author {
    pub fn of(status: u16, headers: &HeaderMap) -> Self {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_ascii_lowercase)
        };
        let named = text("x-squid-error")
            .and_then(|error| of_squid(status, &error))
            .or_else(|| text("proxy-status").and_then(|value| of_proxy_status(status, &value)));
        let server = text("server").unwrap_or_default();
        Self {
            named,
            is_proxy: has(&server, &SIGNS.servers),
            is_microsoft: SIGNS
                .microsoft_headers
                .iter()
                .any(|name| headers.contains_key(name)),
        }
    }

    /// Whether its headers are Microsoft's.
    pub const fn is_microsoft(self) -> bool {
        self.is_microsoft
    }

    /// Who wrote a page that comes with the status of a success, if it was not the provider.
    pub fn of_page(self, body: &[u8]) -> Option<Intermediary> {
        (!self.is_microsoft).then(|| of_page(200, body)).flatten()
    }

    /// Who wrote an answer with this body, if it was not the provider.
    pub fn intermediary(self, status: u16, body: &[u8]) -> Option<Intermediary> {
        if status < 400 {
            return None;
        }
        let of_page = || {
            (!self.is_microsoft)
                .then(|| of_page(status, body))
                .flatten()
        };
        let of_server = || self.is_proxy.then(|| Intermediary::of_error(status, false));
        self.named.or_else(of_page).or_else(of_server)
    }
}

/// `X-Squid-Error: ERR_DNS_FAIL 0`: only pages that Squid makes have it.
fn of_squid(status: u16, error: &str) -> Option<Intermediary> {
    let refuses = ["denied", "block", "filter", "auth"];
    let refuses = refuses.iter().any(|word| error.contains(word));
    (error.starts_with("err_") && !error.starts_with("err_none"))
        .then(|| Intermediary::of_error(status, refuses))
}

/// `Proxy-Status: proxy.example.net; error=dns_timeout` (RFC 9209).
fn of_proxy_status(status: u16, value: &str) -> Option<Intermediary> {
    let (_, error) = value.split_once("error=")?;
    let refuses = ["http_request_denied", "destination_ip_prohibited"];
    let refuses = refuses.iter().any(|name| error.starts_with(name));
    Some(Intermediary::of_error(status, refuses))
}

fn of_page(status: u16, body: &[u8]) -> Option<Intermediary> {
    let text = decode(&body[..body.len().min(MAX_PAGE_BYTES)]);
    if object(&text).is_some() {
        return None;
    }
    let text = text.to_lowercase();
    match status {
        _ if has(&text, &SIGNS.refused) || has(&text, &SIGNS.refused_elsewhere) => {
            Some(Intermediary::Refuses)
        }
        500.. if has(&text, &SIGNS.not_reached) => Some(Intermediary::CannotReach),
        _ => None,
    }
}
