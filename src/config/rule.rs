//! What is allowed as the value of a key, in one place: checked, and worded for messages and docs.

use super::{grants, groups, table_list};
use crate::domain::host_list::HostList;
use crate::domain::server_address;
use crate::domain::text_decoding::{self, Named};
use crate::domain::web_address::{self, WebAddressError};
use crate::outbound::guard::is_https_or_loopback;
use crate::outbound::proxy::{self, ProxyAddressError};
use crate::store::LISTEN_OFF;
use crate::telemetry::traces::{self, HeadersError};
use config::{Value, ValueKind};
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;
use url::Host;

/// What is allowed as the value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// From, to.
    Integer(i64, i64),
    /// From, to; both as humantime writes them.
    Duration(&'static str, &'static str),
    /// From 0 to 1.
    Ratio,
    OneOf(&'static [&'static str]),
    QueueName,
    Listen,
    Filter,
    Path,
    Hosts,
    Link,
    LinkWithId,
    RedirectUri,
    CloudName,
    CloudBase,
    Portal,
    DatabaseUrl,
    PostgresUrl,
    /// Of what listens, or that nothing does.
    ListenUrl,
    RedisUrl,
    ProxyUrl,
    NoProxy,
    CollectorUrl,
    Headers,
    Keys,
    LaravelKeys,
    Issuer,
    PublicUrl,
    ClientId,
    ClaimName,
    /// Scopes of OpenID Connect.
    OidcScopes,
    Grants,
    GroupName,
    Groups,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Integer(from, to) => return write!(f, "a whole number from {from} to {to}"),
            Self::Duration(from, to) => return write!(f, "a duration from {from} to {to}"),
            Self::OneOf(words) => return write!(f, "one of {}", words.join(", ")),
            Self::Ratio => "a number from 0 to 1",
            Self::QueueName => "1 to 64 letters, digits, '-', '_' or '.'",
            Self::Listen => "an IP address and a port, such as 127.0.0.1:9464 or [::]:9464",
            Self::Filter => "a filter such as info or info,verifyd=debug",
            Self::Path => "a path, or empty",
            Self::Hosts => "names or addresses of hosts, separated by commas, or empty",
            Self::Link => "an https address, or a path that begins with /",
            Self::LinkWithId => "an https address, or a path that begins with /, with {id} in it",
            Self::RedirectUri => {
                "an https address without a fragment (http only for loopback), or empty"
            }
            Self::CloudName => "the name of a cloud under microsoft.clouds",
            Self::CloudBase => "an https address without a path (http only for loopback)",
            Self::Portal => "an https address without a path",
            Self::DatabaseUrl => "a postgres://, postgresql:// or sqlite: address, or empty",
            Self::PostgresUrl => "a postgres:// or postgresql:// address, or empty",
            Self::ListenUrl => "a postgres:// or postgresql:// address, off, or empty",
            Self::RedisUrl => "a redis://, rediss://, redis+sentinel:// or rediss+sentinel:// address, or empty",
            Self::ProxyUrl => "an http:// or https:// address, none, or empty",
            Self::NoProxy => {
                "names, addresses and networks, each with a port or without, separated by commas, or empty"
            }
            Self::CollectorUrl => {
                "an http:// or https:// address without user, query and fragment, or empty"
            }
            Self::Headers => "headers, each name=value, separated by commas, or empty",
            Self::Keys => {
                "a list of keys, each \"id:base64 of 32 bytes\" or { id = \"…\", key = \"…\" }"
            }
            Self::LaravelKeys => "a list of keys, each \"base64:\" and 32 bytes in base64",
            Self::Issuer => "an https address without a query (http only for loopback), or empty",
            Self::PublicUrl => "an https address without a path (http only for loopback), or empty",
            Self::ClientId => "a word of ASCII, or empty",
            Self::ClaimName => "a word of ASCII",
            Self::OidcScopes => "words of ASCII, openid among them",
            Self::Grants => grants::ALLOWED,
            Self::GroupName => "default, or the name of a group of worker.groups",
            Self::Groups => groups::ALLOWED,
        })
    }
}

impl Rule {
    /// Whether the value must never be shown as it is.
    pub(super) fn is_secret(self) -> bool {
        matches!(
            self,
            Self::DatabaseUrl
                | Self::PostgresUrl
                | Self::ListenUrl
                | Self::RedisUrl
                | Self::ProxyUrl
                | Self::Headers
                | Self::Keys
                | Self::LaravelKeys
        )
    }

    /// The value that a text of the environment or the command line stands for. What is not
    /// understood stays text, and [`Rule::check`] refuses it.
    pub(super) fn read(self, origin: &str, text: &str) -> Value {
        let origin = origin.to_owned();
        let text = text_decoding::without_byte_order_mark(text);
        let kind = match self {
            Self::Integer(..) => match text.trim().parse::<i64>() {
                Ok(number) => ValueKind::I64(number),
                Err(_) => ValueKind::String(text.to_owned()),
            },
            Self::Ratio => match text.trim().parse::<f64>() {
                Ok(number) => ValueKind::Float(number),
                Err(_) => ValueKind::String(text.to_owned()),
            },
            Self::Keys | Self::LaravelKeys => ValueKind::Array(
                text.split([',', '\n'])
                    .map(str::trim)
                    .filter(|item| !item.is_empty() && !item.starts_with('#'))
                    .map(|item| Value::new(Some(&origin), item))
                    .collect(),
            ),
            Self::Grants | Self::Groups => table_list::read(&origin, text),
            _ => ValueKind::String(text.trim().to_owned()),
        };
        Value::new(Some(&origin), kind)
    }

    /// Refuses what is not allowed; says what was found instead.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        let ok = match (self, &value.kind) {
            (Self::Integer(from, to), ValueKind::I64(number)) => {
                if (from..=to).contains(number) {
                    return Ok(());
                }
                return Err(number.to_string());
            }
            (Self::Ratio, ValueKind::I64(0 | 1)) => true,
            (Self::Ratio, ValueKind::Float(number)) => {
                if (0.0..=1.0).contains(number) {
                    return Ok(());
                }
                return Err(number.to_string());
            }
            (Self::Keys | Self::LaravelKeys, ValueKind::Array(items)) => {
                return items
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, item)| self.check_item(index, item));
            }
            (Self::Headers, ValueKind::String(text)) => match traces::headers(text) {
                Err(error @ HeadersError::Reserved(_)) => return Err(error.to_string()),
                read => read.is_ok(),
            },
            (Self::Grants, ValueKind::Array(items)) => return grants::check(items),
            (Self::Groups, ValueKind::Array(items)) => return groups::check(items),
            (rule, ValueKind::String(text)) => {
                if let Some(problem) = rule.address_problem(text) {
                    return Err(format!("one that cannot be read: {problem}"));
                }
                rule.allows_text(text)
            }
            _ => false,
        };
        if ok { Ok(()) } else { Err(self.found(value)) }
    }

    /// The schemes of an address, where it must begin with one.
    fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::DatabaseUrl => &["postgres", "postgresql", "sqlite"],
            Self::PostgresUrl | Self::ListenUrl => &["postgres", "postgresql"],
            Self::RedisUrl => &crate::queue::redis::SCHEMES,
            Self::ProxyUrl
            | Self::RedirectUri
            | Self::CloudBase
            | Self::Portal
            | Self::Issuer
            | Self::PublicUrl => &["http", "https"],
            _ => &[],
        }
    }

    /// Why an address of the right scheme cannot be read. Quotes nothing that may be a part of the password.
    fn address_problem(self, text: &str) -> Option<String> {
        let address = text.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let (scheme, _) = address.split_once(':').unwrap_or_default();
        let lower = scheme.to_ascii_lowercase();
        let is_known = self.schemes().contains(&&*lower);
        // A quotation mark, for example, or what copying has left.
        let first = text.chars().next().filter(|_| address.len() < text.len());
        if let Some(first) = first.filter(|_| is_known) {
            let first = Named(first);
            return Some(format!(
                "it begins with {first}; nothing may be before the scheme"
            ));
        }
        match self {
            Self::ProxyUrl => proxy_problem(text),
            Self::DatabaseUrl | Self::PostgresUrl | Self::ListenUrl | Self::RedisUrl
                if is_known && scheme != lower =>
            {
                Some(format!("the scheme must be in lower case, {lower}:"))
            }
            Self::DatabaseUrl | Self::PostgresUrl | Self::ListenUrl if is_known => {
                crate::store::address_problem(text)
            }
            Self::RedisUrl if is_known => crate::queue::redis::address_problem(text),
            Self::Link
            | Self::LinkWithId
            | Self::RedirectUri
            | Self::CloudBase
            | Self::Portal
            | Self::Issuer
            | Self::PublicUrl
            | Self::CollectorUrl => match web_address::parse(&text.replace("{id}", "1")) {
                // A path, or what `allows_text` refuses.
                Ok(_) | Err(WebAddressError::Unreadable) => None,
                Err(error) => Some(format!("it {error}")),
            },
            _ => None,
        }
    }

    fn check_item(self, index: usize, item: &Value) -> Result<(), String> {
        let ok = match &item.kind {
            ValueKind::String(_) => true,
            ValueKind::Table(members) if self == Self::Keys => {
                members.len() == 2
                    && ["id", "key"].iter().all(|name| {
                        members
                            .get(*name)
                            .is_some_and(|v| matches!(v.kind, ValueKind::String(_)))
                    })
            }
            _ => false,
        };
        if ok {
            Ok(())
        } else {
            Err(format!("{} as element [{index}]", type_name(item)))
        }
    }

    fn found(self, value: &Value) -> String {
        let short = |text: &str| text.len() <= 40 && !text.chars().any(char::is_control);
        // An address may have a password, whatever key it was put under.
        let is_address = |text: &str| text.contains("://") || text.contains('@');
        match (self, &value.kind) {
            // Only where nobody would put a secret by mistake.
            (
                Self::Integer(..)
                | Self::Duration(..)
                | Self::Ratio
                | Self::OneOf(_)
                | Self::Listen,
                ValueKind::String(text),
            ) if short(text) && !is_address(text) => format!("the text {text:?}"),
            (Self::Duration(..), ValueKind::I64(number)) => {
                format!("the number {number} without a unit (for seconds write \"{number}s\")")
            }
            _ => type_name(value).to_owned(),
        }
    }

    fn allows_text(self, text: &str) -> bool {
        match self {
            Self::Duration(from, to) => {
                let (Ok(value), Ok(from), Ok(to)) = (duration(text), duration(from), duration(to))
                else {
                    return false;
                };
                (from..=to).contains(&value)
            }
            Self::OneOf(words) => words.contains(&text),
            Self::QueueName => {
                (1..=64).contains(&text.len())
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            }
            Self::Listen => text.parse::<SocketAddr>().is_ok(),
            // A bare word that is no level would be a target, of which nothing is left out, and all others are.
            Self::Filter => {
                let mut directives = text.split(',').map(str::trim);
                directives.all(|one| {
                    one.contains(['=', '['])
                        || !one.is_empty() && one.parse::<LevelFilter>().is_ok()
                }) && tracing_subscriber::EnvFilter::try_new(text).is_ok()
            }
            Self::Path => !text.contains('\0'),
            Self::Hosts => {
                text.is_empty()
                    || text.split(',').map(str::trim).all(|host| {
                        // An IPv6 address stands in brackets in a URL, and alone elsewhere.
                        host.parse::<Ipv6Addr>().is_ok() || Host::parse(host).is_ok()
                    })
            }
            Self::Link => is_link(text),
            Self::LinkWithId => text.contains("{id}") && is_link(&text.replace("{id}", "1")),
            Self::RedirectUri => text.is_empty() || is_redirect_uri(text),
            Self::CloudName => is_cloud_name(text),
            Self::CloudBase => is_cloud_base(text),
            Self::Portal => text.starts_with("https://") && is_cloud_base(text),
            Self::DatabaseUrl => {
                text.is_empty()
                    || text.strip_prefix("sqlite:").is_some_and(|p| !p.is_empty())
                    || Self::PostgresUrl.allows_text(text)
            }
            Self::PostgresUrl => text.is_empty() || is_server_url(text, self.schemes()),
            Self::ListenUrl => text == LISTEN_OFF || Self::PostgresUrl.allows_text(text),
            // One of several Sentinels is no URL; `address_problem` has read it.
            Self::RedisUrl => {
                let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
                text.is_empty() || self.schemes().contains(&scheme)
            }
            // See `address_problem`.
            Self::ProxyUrl => true,
            Self::NoProxy => !text.chars().any(char::is_control),
            Self::CollectorUrl => text.is_empty() || is_collector_url(text),
            Self::Issuer => text.is_empty() || is_issuer(text),
            Self::PublicUrl => text.is_empty() || is_cloud_base(text),
            Self::ClientId => text.is_empty() || is_word(text),
            Self::ClaimName => is_word(text),
            Self::GroupName => groups::is_name(text),
            Self::OidcScopes => {
                let mut scopes = text.split(' ');
                scopes.clone().all(is_word) && scopes.any(|scope| scope == "openid")
            }
            // See `check`.
            Self::Integer(..)
            | Self::Ratio
            | Self::Headers
            | Self::Keys
            | Self::LaravelKeys
            | Self::Grants
            | Self::Groups => false,
        }
    }
}

/// Why the text cannot be the address of a proxy: of one that cannot be read, which part is wrong.
fn proxy_problem(text: &str) -> Option<String> {
    let problem = proxy::address_problem(text)?;
    let part = match problem {
        ProxyAddressError::Unreadable | ProxyAddressError::More if text.contains("://") => {
            server_address::problem(text)
        }
        ProxyAddressError::Unreadable | ProxyAddressError::More => {
            server_address::problem(&format!("http://{text}"))
        }
        _ => None,
    };
    Some(part.unwrap_or_else(|| problem.to_string()))
}

/// A duration with its unit, such as `5s`.
pub(super) fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

/// Whether the text may name a cloud: it must be writable as part of an environment variable.
pub(super) fn is_cloud_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('_')
        && !text.contains("__")
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn is_link(text: &str) -> bool {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) || text.contains('\\') {
        return false;
    }
    // Two slashes would lead to another host.
    let is_path = text.starts_with('/') && !text.starts_with("//");
    is_path || (text.starts_with("https://") && web_address::parse(text).is_ok())
}

fn is_cloud_base(text: &str) -> bool {
    let Ok(url) = web_address::parse(text) else {
        return false;
    };
    let bare = url.path() == "/"
        && !text.ends_with('/')
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    bare && is_https_or_loopback(&url)
}

/// As Microsoft Entra takes them at a registration; 500 characters leave the link room in a report,
/// percent-encoded.
fn is_redirect_uri(text: &str) -> bool {
    let Ok(url) = web_address::parse(text) else {
        return false;
    };
    text.len() <= 500
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && is_https_or_loopback(&url)
}

fn is_issuer(text: &str) -> bool {
    web_address::parse(text).is_ok_and(|url| {
        url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && is_https_or_loopback(&url)
    })
}

fn is_word(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_collector_url(text: &str) -> bool {
    web_address::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

fn is_server_url(text: &str, schemes: &[&str]) -> bool {
    let first = HostList::of(text).first();
    first.is_some_and(|url| schemes.contains(&url.scheme()) && text.contains("://"))
}

/// The type of a value in words.
fn type_name(value: &Value) -> &'static str {
    match &value.kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => {
            "a whole number"
        }
        ValueKind::Float(_) => "a number with a fraction",
        ValueKind::String(text) if text.is_empty() => "an empty text",
        ValueKind::String(_) => "another text",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list",
    }
}
