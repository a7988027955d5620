//! The outbound proxy: its address, the hosts that are called without it, and its answers.

use super::settings::OutboundSettings;
use crate::domain::tls_cause::TlsCause;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret as _;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use url::Url;
use zeroize::Zeroizing;

/// The value for no proxy, whatever the environment says.
pub const NONE: &str = "none";

/// A proxy. `Debug` and `Display` show host and port only.
#[derive(Clone)]
pub struct Proxy {
    pub(super) uri: Uri,
    pub(super) authorization: Option<HeaderValue>,
    name: String,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxy").field(&self.name).finish()
    }
}

/// `host:port`
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Why an address cannot be a proxy's. No message quotes any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyAddressError {
    #[error("only proxies over http:// and https:// can be used")]
    Scheme,
    #[error(
        "it cannot be read; percent-encode #, /, ?, @, [, ], : and % in the user and in the password"
    )]
    Unreadable,
    #[error("without http:// in front it needs a port, such as proxy.example.com:3128")]
    NoPort,
    #[error(
        "there is more text after host and port; percent-encode #, / and ? in the user and in the password"
    )]
    More,
    #[error("the user must not contain a ':'")]
    User,
}

impl Proxy {
    /// `http://user:password@host:port`; without a scheme it is http, and the port is needed.
    fn parse(text: &str) -> Result<Self, ProxyAddressError> {
        let text = text.trim();
        let port = text.rsplit_once(':').map(|(_, port)| port);
        if !text.contains("://") && port.is_none_or(|port| port.parse::<u16>().is_err()) {
            return Err(ProxyAddressError::NoPort);
        }
        let with_scheme = Zeroizing::new(match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        });
        let url = Url::parse(&with_scheme).map_err(|_| ProxyAddressError::Unreadable)?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(ProxyAddressError::Scheme);
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(ProxyAddressError::More);
        }
        let port = url.port_or_known_default().filter(|port| *port > 0);
        let (Some(host), Some(port)) = (url.host_str(), port) else {
            return Err(ProxyAddressError::Unreadable);
        };
        let name = format!("{host}:{port}");
        let uri = Uri::builder()
            .scheme(url.scheme())
            .authority(name.as_str())
            .path_and_query("/")
            .build()
            .map_err(|_| ProxyAddressError::Unreadable)?;
        Ok(Self {
            uri,
            authorization: authorization(&url)?,
            name,
        })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }
}

/// `Basic`, from the user and the password of the address, percent-decoded.
fn authorization(url: &Url) -> Result<Option<HeaderValue>, ProxyAddressError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let mut pair: Zeroizing<Vec<u8>> = Zeroizing::new(percent_decode_str(url.username()).collect());
    if pair.contains(&b':') {
        return Err(ProxyAddressError::User);
    }
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)));
    let mut value = HeaderValue::from_str(&text).map_err(|_| ProxyAddressError::Unreadable)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Why the text cannot be `outbound.proxy`; `None` if it can.
pub fn address_problem(text: &str) -> Option<ProxyAddressError> {
    if text.is_empty() || text == NONE {
        return None;
    }
    Proxy::parse(text).err()
}

/// An address without its user and its password, to be shown to people.
pub fn masked(text: &str) -> String {
    if text.is_empty() || text == NONE {
        return text.to_owned();
    }
    let Ok(proxy) = Proxy::parse(text) else {
        return "***".to_owned();
    };
    let scheme = proxy.uri.scheme_str().unwrap_or_default();
    match proxy.authorization {
        Some(_) => format!("{scheme}://***@{proxy}"),
        None => format!("{scheme}://{proxy}"),
    }
}

/// Why a proxy did not open the tunnel. Each is a fixed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyTrouble {
    #[error("the proxy cannot be reached")]
    Unreachable,
    #[error("the proxy did not answer within the timeout")]
    Timeout,
    #[error("no trusted TLS connection to the proxy could be made: {0}")]
    Tls(TlsCause),
    #[error("the proxy asks for a user name and a password (407)")]
    AsksForCredentials,
    #[error("the proxy does not accept the user name and the password (407)")]
    RefusesCredentials,
    #[error("the proxy refuses this host (403)")]
    RefusesHost,
    #[error("the proxy could not open the tunnel (status {0})")]
    Status(u16),
    #[error("the proxy closed the connection without an answer")]
    Closed,
    #[error("the answer of the proxy is not HTTP, or not complete")]
    NotHttp,
}

impl ProxyTrouble {
    /// Translates an answer to CONNECT that is not 2xx.
    pub(super) fn of(status: u16, had_credentials: bool) -> Self {
        match status {
            407 if had_credentials => Self::RefusesCredentials,
            407 => Self::AsksForCredentials,
            403 => Self::RefusesHost,
            status => Self::Status(status),
        }
    }

    /// Status of the proxy's answer, when it gave one.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::AsksForCredentials | Self::RefusesCredentials => Some(407),
            Self::RefusesHost => Some(403),
            Self::Status(status) => Some(status),
            Self::Unreachable | Self::Timeout | Self::Tls(_) | Self::Closed | Self::NotHttp => None,
        }
    }
}

/// Returns what to do where TLS to the proxy failed, as words that follow others.
pub fn tls_step(cause: TlsCause) -> Cow<'static, str> {
    match cause {
        TlsCause::NotTls | TlsCause::Closed => {
            "check scheme, host and port of outbound.proxy (HTTPS_PROXY)".into()
        }
        _ => format!("for outbound.proxy: {}", cause.step()).into(),
    }
}

/// Which calls go through which proxy.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    proxy: Option<Proxy>,
    exceptions: Exceptions,
}

impl Proxies {
    pub(super) fn new(settings: &OutboundSettings) -> Result<Self, ProxyAddressError> {
        let text = settings.proxy.expose_secret();
        let proxy = match text {
            "" | NONE => None,
            text => Some(Proxy::parse(text)?),
        };
        Ok(Self {
            proxy,
            exceptions: Exceptions::new(&settings.no_proxy),
        })
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// The proxy for calls to this host. Only https goes through one: plain http is for loopback,
    /// and for a collector on the operator's network.
    pub(super) fn route(&self, uri: &Uri) -> Option<&Proxy> {
        let proxy = self.proxy.as_ref()?;
        let proxied = uri.scheme_str() == Some("https") && !self.exceptions.contain(uri);
        proxied.then_some(proxy)
    }
}

/// `NO_PROXY`. The matcher of hyper-util knows names and networks; ports are sorted out here.
#[derive(Debug, Default)]
struct Exceptions {
    any_port: Option<Matcher>,
    by_port: BTreeMap<u16, Matcher>,
}

impl Exceptions {
    fn new(list: &str) -> Self {
        let mut any_port = Vec::new();
        let mut by_port: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for entry in list.split([',', ' ', '\t', '\n']).filter(|e| !e.is_empty()) {
            match with_port(entry) {
                Some((host, port)) => by_port.entry(port).or_default().push(plain(host)),
                None => any_port.push(plain(entry)),
            }
        }
        Self {
            any_port: (!any_port.is_empty()).then(|| matcher(&any_port)),
            by_port: by_port
                .into_iter()
                .map(|(port, hosts)| (port, matcher(&hosts)))
                .collect(),
        }
    }

    fn contain(&self, uri: &Uri) -> bool {
        let port = uri.port_u16().unwrap_or(443);
        let of_port = self.by_port.get(&port);
        self.any_port
            .iter()
            .chain(of_port)
            .any(|matcher| matcher.intercept(uri).is_none())
    }
}

/// One that intercepts everything but these.
fn matcher(hosts: &[String]) -> Matcher {
    Matcher::builder()
        .all("http://proxy.invalid")
        .no(hosts.join(","))
        .build()
}

/// `host:443`, `[::1]:443`. Colons in an address of IPv6 without brackets are its own.
fn with_port(entry: &str) -> Option<(&str, u16)> {
    let (host, port) = entry.rsplit_once(':')?;
    let has_brackets = host.starts_with('[') && host.ends_with(']');
    if host.contains(':') && !has_brackets {
        return None;
    }
    Some((host, port.parse().ok()?))
}

/// As the matcher takes it: `[::1]` is an address, `*.example.com` all names below one.
fn plain(entry: &str) -> String {
    let inner = entry.strip_prefix('[').and_then(|e| e.strip_suffix(']'));
    match inner {
        Some(address) if address.parse::<IpAddr>().is_ok() => address.to_owned(),
        _ => match entry.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') => suffix.to_owned(),
            _ => entry.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(proxy: &str, no_proxy: &str) -> Proxies {
        Proxies::new(&OutboundSettings {
            proxy: proxy.into(),
            no_proxy: no_proxy.into(),
        })
        .unwrap()
    }

    #[test]
    fn an_address_is_read_with_its_credentials() {
        for (text, name, credentials) in [
            ("http://proxy.example:3128", "proxy.example:3128", None),
            ("proxy.example:3128", "proxy.example:3128", None),
            ("https://proxy.example/", "proxy.example:443", None),
            ("http://[fd00::1]:8080", "[fd00::1]:8080", None),
            ("http://u:p@proxy.example", "proxy.example:80", Some("u:p")),
            ("u:p@proxy.example:1", "proxy.example:1", Some("u:p")),
            ("http://u@proxy.example", "proxy.example:80", Some("u:")),
            (
                "http://dom%5Cu:p%40%3A%23%25%C3%A4@proxy.example",
                "proxy.example:80",
                Some("dom\\u:p@:#%ä"),
            ),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(proxy.to_string(), name, "{text}");
            let expected = credentials.map(|c| format!("Basic {}", STANDARD.encode(c)));
            let sent = proxy.authorization.as_ref().map(|v| v.to_str().unwrap());
            assert_eq!(sent, expected.as_deref(), "{text}");
            assert!(!format!("{proxy:?}").contains("u:"), "{proxy:?}");
        }
    }

    #[test]
    fn neither_user_nor_password_is_shown() {
        for (text, shown) in [
            ("", ""),
            (NONE, NONE),
            (
                "http://u:canary@proxy.example:3128",
                "http://***@proxy.example:3128",
            ),
            (
                "u:canary@proxy.example:3128",
                "http://***@proxy.example:3128",
            ),
            ("https://proxy.example", "https://proxy.example:443"),
            ("socks5://u:canary@proxy.example", "***"),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_proxy_is_said() {
        for (text, problem) in [
            ("socks5://proxy.example:1080", ProxyAddressError::Scheme),
            ("http://", ProxyAddressError::Unreadable),
            ("http://proxy.example:0", ProxyAddressError::Unreadable),
            ("proxy.example:0", ProxyAddressError::Unreadable),
            ("proxy.example", ProxyAddressError::NoPort),
            ("u:p@proxy.example", ProxyAddressError::NoPort),
            ("http://u:p#x@proxy.example", ProxyAddressError::Unreadable),
            ("http://proxy.example/path", ProxyAddressError::More),
            ("http://u%3Av:p@proxy.example", ProxyAddressError::User),
        ] {
            assert_eq!(address_problem(text), Some(problem), "{text}");
        }
        for text in ["", NONE, "http://u:p@proxy.example:3128"] {
            assert_eq!(address_problem(text), None, "{text}");
        }
    }

    #[test]
    fn exceptions_are_names_addresses_networks_and_ports() {
        let list = "example.com, .suffix.org *.star.net,10.0.0.0/8,192.0.2.7,[2001:db8::1],fd00::/8,\
                    host.test:8443,[2001:db8::2]:444";
        let proxies = proxies("http://proxy.example:3128", list);
        for (host, direct) in [
            ("example.com", true),
            ("EXAMPLE.com", true),
            ("a.example.com", true),
            ("example.com:8443", true),
            ("notexample.com", false),
            ("example.com.evil.test", false),
            ("a.suffix.org", true),
            ("suffix.org", true),
            ("a.star.net", true),
            ("10.1.2.3", true),
            ("11.1.2.3", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("[2001:db8::1]", true),
            ("[2001:db8::3]", false),
            ("[fd12::1]", true),
            ("host.test:8443", true),
            ("host.test", false),
            ("[2001:db8::2]:444", true),
            ("[2001:db8::2]", false),
            ("graph.microsoft.com", false),
        ] {
            let uri: Uri = format!("https://{host}/x").parse().unwrap();
            assert_eq!(proxies.route(&uri).is_none(), direct, "{host}");
        }
    }

    #[test]
    fn a_star_excepts_everything_and_none_is_no_proxy() {
        let uri: Uri = "https://graph.microsoft.com/".parse().unwrap();
        assert!(proxies("http://p:1", "*").route(&uri).is_none());
        assert!(proxies(NONE, "").route(&uri).is_none());
        assert!(proxies("", "").route(&uri).is_none());
        assert!(proxies("http://p:1", "").route(&uri).is_some());
        // Plain http is for loopback.
        let plain: Uri = "http://graph.microsoft.com/".parse().unwrap();
        assert!(proxies("http://p:1", "").route(&plain).is_none());
    }
}
