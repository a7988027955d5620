//! Answers of something between here and the provider: proxies, filters, firewalls, logins of networks.
//!
//! Names and words of widespread products are enough to tell them from the provider's own answers. They
//! decide only where an answer says nothing of the provider's own.

use super::decoding::{decode, object};
use crate::domain::Reason;
use crate::provider::microsoft::fault::Retry;
use http::HeaderMap;

/// Words beyond this length of a page are not looked at.
const MAX_PAGE_BYTES: usize = 64 * 1024;

/// `Server` of products that stand before clients; a proxy leaves the header of a server behind it alone.
const SERVERS: &[&str] = &[
    "squid",
    "zscaler",
    "bluecoat",
    "blue coat",
    "proxysg",
    "mcafee",
    "skyhigh",
    "web gateway",
    "websense",
    "forcepoint",
    "fortigate",
    "fortiproxy",
    "ironport",
    "asyncos",
    "sophos",
    "netskope",
    "iboss",
    "privoxy",
    "tinyproxy",
    "mitmproxy",
    "wingate",
    "kerio",
    "e2guardian",
    "dansguardian",
    "smoothwall",
];

/// What Microsoft's own servers and gateways put into their answers.
const MICROSOFTS: &[&str] = &[
    "x-ms-ests-server",
    "x-ms-request-id",
    "request-id",
    "x-ms-ags-diagnostic",
    "x-azure-ref",
];

/// Of pages that block, in lower case.
const REFUSED: &[&str] = &[
    "access denied",
    "access is denied",
    "access blocked",
    "page blocked",
    "site blocked",
    "url blocked",
    "been blocked",
    "is blocked",
    "has blocked",
    "blocked by",
    "blocked request",
    "blocked page",
    "content blocked",
    "denied by",
    "prohibited by",
    "not permitted by",
    "restricted by",
    "administrative rules",
    "acceptable use",
    "blocked access",
    "<title>blocked",
    "<h1>blocked",
    "<h2>blocked",
    "<html>blocked",
    "policy_denied",
    "web filter",
    "webfilter",
    "content filter",
    "usage policy",
    "company policy",
    "security policy",
    "violation of",
    "not allowed to browse",
    "access control configuration prevents",
    "action: deny",
    "captive portal",
    "type=\"password\"",
    "type='password'",
    "type=password",
];

/// Of pages of proxies that do not get through, in lower case.
const NOT_REACHED: &[&str] = &[
    "unable to determine ip address",
    "dns_unresolved_hostname",
    "dns_server_failure",
    "(tcp_error)",
    "be resolved",
    "unable to resolve",
    "could not resolve",
    "cannot resolve",
    "can't resolve",
    "dns lookup fail",
    "dns failure",
    "dns error",
    "getaddrinfo",
    "host not found",
    "hostname not found",
    "host unreachable",
    "error reading from remote server",
    "error connecting to",
    "failed to connect to",
    "unknown host",
    "name resolution",
    "unable to connect to",
    "could not connect to",
    "cannot connect to",
    "can't connect to",
    "no route to host",
    "network is unreachable",
    "unable to forward this request",
    "requested url could not be retrieved",
];

/// What somebody in between says in the provider's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Between {
    /// It lets the call not pass.
    Refuses,
    /// It does not reach the provider itself.
    CannotReach,
}

impl Between {
    /// What a report adds to the reason.
    pub const CANNOT_REACH: &str =
        "A proxy on the way answers that it does not reach the provider.";

    /// The reason that it stands for, and whether trying again may help.
    pub fn meaning(self) -> (Reason, Retry) {
        match self {
            Self::Refuses => (Reason::ProxyRefused, Retry::Never),
            Self::CannotReach => (Reason::ProviderUnreachable, Retry::Backoff(None)),
        }
    }

    /// A proxy's own error: one that refuses is told by its name, or by a status that is no server's.
    fn of_error(status: u16, refuses: bool) -> Self {
        match refuses || status < 500 {
            true => Self::Refuses,
            false => Self::CannotReach,
        }
    }
}

/// What the headers of an answer say of who wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Author {
    /// A proxy names its own error.
    named: Option<Between>,
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
            is_proxy: SERVERS.iter().any(|name| server.contains(name)),
            is_microsoft: MICROSOFTS.iter().any(|name| headers.contains_key(*name)),
        }
    }

    /// Who wrote a page that comes with the status of a success, if it was not the provider.
    pub fn of_page(self, body: &[u8]) -> Option<Between> {
        (!self.is_microsoft).then(|| of_page(200, body)).flatten()
    }

    /// Who wrote an answer with this body, if it was not the provider.
    pub fn between(self, status: u16, body: &[u8]) -> Option<Between> {
        if status < 400 {
            return None;
        }
        let of_page = || {
            (!self.is_microsoft)
                .then(|| of_page(status, body))
                .flatten()
        };
        let of_server = || self.is_proxy.then(|| Between::of_error(status, false));
        self.named.or_else(of_page).or_else(of_server)
    }
}

/// `X-Squid-Error: ERR_DNS_FAIL 0`: only pages that Squid makes have it.
fn of_squid(status: u16, error: &str) -> Option<Between> {
    let refuses = ["denied", "block", "filter", "auth"];
    let refuses = refuses.iter().any(|word| error.contains(word));
    (error.starts_with("err_") && !error.starts_with("err_none"))
        .then(|| Between::of_error(status, refuses))
}

/// `Proxy-Status: proxy.example.net; error=dns_timeout` (RFC 9209).
fn of_proxy_status(status: u16, value: &str) -> Option<Between> {
    let (_, error) = value.split_once("error=")?;
    let refuses = ["http_request_denied", "destination_ip_prohibited"];
    let refuses = refuses.iter().any(|name| error.starts_with(name));
    Some(Between::of_error(status, refuses))
}

fn of_page(status: u16, body: &[u8]) -> Option<Between> {
    let text = decode(&body[..body.len().min(MAX_PAGE_BYTES)]);
    if object(&text).is_some() {
        return None;
    }
    let text = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    match status {
        _ if says(REFUSED) => Some(Between::Refuses),
        500.. if says(NOT_REACHED) => Some(Between::CannotReach),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Between::{CannotReach, Refuses};

    fn between(
        status: u16,
        headers: &[(&'static str, &'static str)],
        body: &str,
    ) -> Option<Between> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        Author::of(status, &headers).between(status, body.as_bytes())
    }

    #[test]
    fn a_proxy_that_names_its_error_is_told() {
        for (status, name, value, expected) in [
            (503, "x-squid-error", "ERR_DNS_FAIL 0", Some(CannotReach)),
            (
                503,
                "x-squid-error",
                "ERR_CONNECT_FAIL 111",
                Some(CannotReach),
            ),
            (
                504,
                "x-squid-error",
                "ERR_READ_TIMEOUT 0",
                Some(CannotReach),
            ),
            (503, "x-squid-error", "ERR_ACCESS_DENIED 0", Some(Refuses)),
            (
                407,
                "x-squid-error",
                "ERR_CACHE_ACCESS_DENIED 0",
                Some(Refuses),
            ),
            (503, "x-squid-error", "0", None),
            (
                502,
                "proxy-status",
                "gw; error=dns_timeout",
                Some(CannotReach),
            ),
            (
                403,
                "proxy-status",
                "gw; error=http_request_denied",
                Some(Refuses),
            ),
            (
                503,
                "proxy-status",
                "gw; error=destination_ip_prohibited",
                Some(Refuses),
            ),
            (502, "proxy-status", "gw; received-status=502", None),
            (503, "server", "squid/6.1", Some(CannotReach)),
            (403, "server", "squid/6.1", Some(Refuses)),
            (200, "x-squid-error", "ERR_DNS_FAIL 0", None),
            (503, "server", "nginx", None),
        ] {
            assert_eq!(
                between(status, &[(name, value)], ""),
                expected,
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn pages_that_block_are_told_from_pages_of_servers() {
        for (status, body, expected) in [
            (503, "<title>Web Page Blocked</title>", Some(Refuses)),
            (503, "<h1>FortiGuard - Access Blocked</h1>", Some(Refuses)),
            (404, "<p>Blocked by your usage policy</p>", Some(Refuses)),
            (
                503,
                "Network Error (dns_unresolved_hostname)",
                Some(CannotReach),
            ),
            (404, "<p>host not found</p>", None),
            (503, "<h1>503 Service Unavailable</h1>nginx", None),
            (
                503,
                "<h2>Our services aren't available right now</h2>",
                None,
            ),
            (503, "{\"error\":{\"message\":\"Access denied\"}}", None),
            (503, "", None),
        ] {
            assert_eq!(between(status, &[], body), expected, "{body}");
        }
        let own = [("x-azure-ref", "0abc")];
        assert_eq!(between(503, &own, "The request is blocked."), None);
    }
}
