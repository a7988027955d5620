//! Reads the address of a Redis server or of Sentinels, and explains what is wrong with it.

use crate::domain::server_address;
use percent_encoding::percent_decode_str;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use url::{Host, Url};

/// The schemes that an address may have.
pub const SCHEMES: [&str; 4] = ["redis", "rediss", "redis+sentinel", "rediss+sentinel"];

/// What stands behind the scheme of a server's address in that of Sentinels.
const SENTINEL: &str = "+sentinel";

/// Port of a Sentinel whose address has none.
const SENTINEL_PORT: u16 = 26379;

const SEVERAL_HOSTS: &str = "it names several hosts; those of Sentinels need the scheme redis+sentinel or \
     rediss+sentinel, others are not supported";

const SENTINEL_USERNAME: &str = "sentinel_username";
const SENTINEL_PASSWORD: &str = "sentinel_password";

/// Returns what is wrong with the address; `None` if [`read`] can read it. Never quotes user or password.
pub fn problem(text: &str) -> Option<String> {
    let Some(parts) = SentinelParts::of(text) else {
        return problem_of_url(text, false);
    };
    let mut hosts = parts.hosts.iter();
    hosts.find_map(|host| problem_of_url(&parts.with_host(host), true))
}

/// Checks the address of a server, or that of Sentinels reduced to one host.
fn problem_of_url(text: &str, of_sentinels: bool) -> Option<String> {
    let says = |problem: &str| Some(problem.to_owned());
    match server_address::problem(text) {
        Some(problem) if problem == server_address::SEVERAL_HOSTS => return says(SEVERAL_HOSTS),
        Some(problem) => return Some(problem),
        None => {}
    }
    // Just read.
    let url = Url::parse(text).ok()?;
    if url.host_str().is_some_and(|host| host.contains(',')) {
        return says(SEVERAL_HOSTS);
    }
    let credentials = [
        ("user", url.username()),
        ("password", url.password().unwrap_or_default()),
    ];
    for (part, text) in credentials {
        if server_address::has_bare_percent(text) {
            return Some(format!("percent-encode % as %25 in the {part}"));
        }
    }
    if !url.username().is_empty() && url.password().is_none() {
        return says(
            "it has a user and no password; a password alone follows a colon, as in redis://:PASSWORD@HOST",
        );
    }
    let everywhere = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_unspecified(),
        Some(Host::Ipv6(ip)) => ip.is_unspecified(),
        Some(Host::Domain(name)) => name == "0.0.0.0",
        None => false,
    };
    if everywhere {
        return says("0.0.0.0 and [::] are addresses to listen on, not to connect to");
    }
    if of_sentinels && name_and_database(url.path()).is_none() {
        return says(
            "the path is not the name of a primary that Sentinel monitors, with or without the number of a database, \
             such as /mymaster or /mymaster/0",
        );
    }
    let database = url.path().trim_matches('/');
    if !of_sentinels && !database.is_empty() && database.parse::<u32>().is_err() {
        return says("the path is not the number of a database, such as /0");
    }
    let allowed = match of_sentinels {
        true => "protocol, sentinel_username, sentinel_password",
        false => "protocol (the database's number is the path, TLS the scheme rediss)",
    };
    let is_known = |name: &str| {
        name == "protocol" || of_sentinels && [SENTINEL_USERNAME, SENTINEL_PASSWORD].contains(&name)
    };
    server_address::unknown_parameter(&url, is_known, allowed).or_else(|| {
        let protocols = ["2", "3", "resp2", "resp3"];
        let mut values = url.query_pairs().filter(|(name, _)| name == "protocol");
        if !values.all(|(_, value)| protocols.contains(&&*value)) {
            return says("the parameter protocol has another value, allowed: 2, 3, resp2, resp3");
        }
        let has = |name: &str| parameter(&url, name).is_some();
        if has(SENTINEL_USERNAME) && !has(SENTINEL_PASSWORD) {
            return says("it has a sentinel_username and no sentinel_password");
        }
        server_address::repeated_parameter(url.query_pairs(), &[])
    })
}

/// What an address leads to.
pub(super) enum Target {
    Server(ConnectionInfo),
    Sentinels(SentinelTarget),
}

/// A primary that Sentinels know by its name.
pub(super) struct SentinelTarget {
    pub name: String,
    pub sentinels: Vec<ConnectionInfo>,
    /// How to connect to the primary, at an address that is not its own.
    primary: ConnectionInfo,
}

impl SentinelTarget {
    /// Returns how to connect to the primary at this address.
    pub fn primary_at(&self, host: String, port: u16) -> ConnectionInfo {
        let address = match self.primary.addr() {
            ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        self.primary.clone().set_addr(address)
    }
}

/// Reads an address that has no [`problem`]; `None` if the client cannot use it.
pub(super) fn read(text: &str) -> Option<Target> {
    match SentinelParts::of(text) {
        Some(parts) => parts.target().map(Target::Sentinels),
        None => Some(Target::Server(text.into_connection_info().ok()?)),
    }
}

/// Host and port of an address, an IPv6 address in brackets as in a URL.
pub(super) fn place(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }
            if host.contains(':') =>
        {
            format!("[{host}]:{port}")
        }
        other => other.to_string(),
    }
}

/// The parts of `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME/DATABASE?PARAMETER=VALUE`.
struct SentinelParts<'a> {
    /// Of the servers: `redis` or `rediss`.
    scheme: &'a str,
    /// With the `@` behind them.
    credentials: &'a str,
    hosts: Vec<&'a str>,
    /// Path and parameters.
    behind: &'a str,
}

impl<'a> SentinelParts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at(end);
        let (credentials, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        Some(Self {
            scheme: scheme.strip_suffix(SENTINEL)?,
            credentials,
            hosts: hosts.split(',').collect(),
            behind,
        })
    }

    /// Returns the address as a URL with this host alone.
    fn with_host(&self, host: &str) -> String {
        let Self {
            scheme,
            credentials,
            behind,
            ..
        } = self;
        format!("{scheme}://{credentials}{host}{behind}")
    }

    fn target(&self) -> Option<SentinelTarget> {
        let Self {
            scheme,
            credentials,
            ..
        } = self;
        let mut urls = Vec::new();
        for host in &self.hosts {
            urls.push(Url::parse(&self.with_host(host)).ok()?);
        }
        let url = urls.first()?;
        let (name, database) = name_and_database(url.path())?;
        let (host, query) = (url.host_str()?, url.query().unwrap_or_default());
        let primary = format!("{scheme}://{credentials}{host}/{database}?{query}");
        let mut own = RedisConnectionInfo::default();
        if let Some(user) = parameter(url, SENTINEL_USERNAME) {
            own = own.set_username(user);
        }
        if let Some(password) = parameter(url, SENTINEL_PASSWORD) {
            own = own.set_password(password);
        }
        let sentinels = urls.iter().map(|url| {
            let port = url.port().unwrap_or(SENTINEL_PORT);
            let address = format!("{scheme}://{}:{port}", url.host_str()?);
            let info = address.into_connection_info().ok()?;
            Some(info.set_redis_settings(own.clone()))
        });
        Some(SentinelTarget {
            name: name.to_owned(),
            sentinels: sentinels.collect::<Option<_>>()?,
            primary: primary.into_connection_info().ok()?,
        })
    }
}

/// Reads the path of the address of Sentinels. A name has the characters that Sentinel allows.
fn name_and_database(path: &str) -> Option<(&str, u32)> {
    let path = path.trim_matches('/');
    let (name, database) = path.split_once('/').unwrap_or((path, "0"));
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, database.parse().ok()?))
}

/// Returns the value of a parameter, in which `+` is no blank.
fn parameter(url: &Url, wanted: &str) -> Option<String> {
    let value = url.query()?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        percent_decode_str(name).eq(wanted.bytes()).then_some(value)
    })?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::Client;
    use redis::ConnectionAddr::{Tcp, TcpTls};

    #[test]
    fn what_is_wrong_is_named_and_what_is_not_the_client_takes() {
        for (address, words) in [
            ("redis://:ab#cd@h", "percent-encode # as %23"),
            ("redis://:ab/cd@h:6379/0", "percent-encode / as %2F"),
            ("redis://S3cret@h", "redis://:PASSWORD@HOST"),
            ("redis://h/db0", "the number of a database"),
            ("redis://h/-1", "the number of a database"),
            ("redis://h/0/1", "the number of a database"),
            ("redis://0.0.0.0", "to listen on"),
            ("redis://[::]:6379", "to listen on"),
            (
                "redis://h?db=2",
                "the parameter \"db\" is not known, allowed: protocol",
            ),
            ("redis://h?ssl=true", "TLS the scheme rediss"),
            ("redis://h?protocol=4", "allowed: 2, 3, resp2, resp3"),
            ("redis://h?S3cret!", "percent-encode ? as %3F"),
            (
                "redis://u:12?secretpart=S3cret@h",
                "percent-encode ? as %3F",
            ),
            (
                "redis://us#er:S3cret@h",
                "percent-encode # as %23 in the user",
            ),
            ("redis://::1:6379", "an IPv6 address must be in brackets"),
            ("redis://", "the host is missing"),
            ("redis://:S3cret@h,i", "need the scheme redis+sentinel"),
            ("rediss://h:6379,i:6379/0", "need the scheme redis+sentinel"),
            ("redis://:S3cret%ss@h", "% as %25 in the password"),
            ("redis://u%:S3cret@h", "% as %25 in the user"),
            (
                "redis+sentinel://:S3cret%@h,i/m",
                "% as %25 in the password",
            ),
            ("redis+sentinel://:ab#cd@h,i/m", "percent-encode # as %23"),
            ("redis+sentinel://:a,b/cd@h/m", "percent-encode / as %2F"),
            ("redis+sentinel://h,/m", "the host is missing"),
            ("redis+sentinel://h,i:0/m", "the port is not a number"),
            ("redis+sentinel://h,::1/m", "must be in brackets"),
            ("redis+sentinel://h,0.0.0.0/m", "to listen on"),
            ("redis+sentinel://h", "such as /mymaster or"),
            ("redis+sentinel://h/my%20master", "such as /mymaster or"),
            ("redis+sentinel://h/m/db0", "such as /mymaster or"),
            ("redis+sentinel://h/m/0/1", "such as /mymaster or"),
            ("redis+sentinel://S3cret@h/m", "redis://:PASSWORD@HOST"),
            (
                "redis+sentinel://h/m?password=S3cret",
                "allowed: protocol, sentinel_username, sentinel_password",
            ),
            (
                "redis+sentinel://h/m?sentinel_password=a&S3cret",
                "percent-encode & as %26 in the password",
            ),
            (
                "redis+sentinel://h/m?sentinel_username=u",
                "no sentinel_password",
            ),
            ("redis+sentinel://h/m?protocol=4", "allowed: 2, 3, resp2"),
            (
                "redis://h?protocol=3&protocol=2",
                "the parameter protocol stands there twice; leave one out",
            ),
            (
                "redis+sentinel://h,i/m?sentinel_password=S3cret&sentinel_password=S3cret",
                "the parameter sentinel_password stands there twice",
            ),
            (
                "redis+sentinel://h/m?sentinel_password=a&sentinel%5Fpassword=b",
                "the parameter sentinel_password stands there twice",
            ),
            (
                "redis://h?sentinel_password=a",
                "is not known, allowed: protocol",
            ),
        ] {
            let problem = problem(address).unwrap_or_default();
            assert!(problem.contains(words), "{address}: {problem}");
            for secret in ["S3cret", "secretpart"] {
                assert!(!problem.contains(secret), "{problem}");
            }
        }
        for address in [
            "redis://h",
            "redis://h?protocol=2",
            "redis://[::1]:6379/2",
            "rediss://user:p%23w@h:6380/1?protocol=resp3",
            "redis://:p@10.0.0.1",
        ] {
            assert_eq!(problem(address), None, "{address}");
            Client::open(address).unwrap();
        }
    }

    #[test]
    fn sentinels_are_read_with_credentials_of_their_own() {
        let text = "rediss+sentinel://u:p%40w@h,[::1]:7/my.master-1/2\
                    ?protocol=3&sentinel_username=s&sentinel%5Fpassword=a+b%26c";
        assert_eq!(problem(text), None);
        let Some(Target::Sentinels(target)) = read(text) else {
            panic!("no Sentinels");
        };
        assert_eq!(target.name, "my.master-1");
        let primary = target.primary_at("::2".to_owned(), 6379);
        let TcpTls {
            host,
            port,
            insecure,
            ..
        } = primary.addr()
        else {
            panic!("no TLS");
        };
        assert_eq!((host.as_str(), *port, *insecure), ("::2", 6379, false));
        let settings = primary.redis_settings();
        assert_eq!(settings.username(), Some("u"));
        assert_eq!(settings.password(), Some("p@w"));
        assert_eq!(settings.db(), 2);
        let places: Vec<String> = target
            .sentinels
            .iter()
            .map(|sentinel| {
                assert_eq!(sentinel.redis_settings().username(), Some("s"));
                assert_eq!(sentinel.redis_settings().password(), Some("a+b&c"));
                assert_eq!(sentinel.redis_settings().db(), 0);
                assert!(matches!(
                    sentinel.addr(),
                    TcpTls {
                        insecure: false,
                        ..
                    }
                ));
                place(sentinel.addr())
            })
            .collect();
        assert_eq!(places, ["h:26379", "[::1]:7"]);

        let Some(Target::Sentinels(plain)) = read("redis+sentinel://h/m") else {
            panic!("no Sentinels");
        };
        assert_eq!(
            plain.primary_at("i".to_owned(), 1).addr().to_string(),
            "i:1"
        );
        assert!(matches!(plain.sentinels[0].addr(), Tcp(..)));
        assert_eq!(plain.sentinels[0].redis_settings().password(), None);
        assert!(matches!(read("redis://h"), Some(Target::Server(_))));
    }
}
