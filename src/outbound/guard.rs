//! Which network addresses may be called. Tokens and secrets are sent to public addresses only; loopback is
//! allowed for the hosts that the configuration names as loopback.

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::dns;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;
use url::{Host, Url};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Decides at connection time, after name resolution, so that a name that changes its address
/// between a check and a call gains nothing.
#[derive(Clone, Debug)]
pub struct AddressGuard {
    loopback_hosts: Arc<BTreeSet<String>>,
    /// All addresses may be called.
    is_unrestricted: bool,
}

/// A name that leads to no address that may be called.
#[derive(Debug, thiserror::Error)]
#[error("the name resolves to no public address")]
pub struct NoPublicAddress;

/// Whether the name is one of loopback (RFC 6761): `localhost` and all names below it, with a dot at the end or
/// without.
pub fn names_loopback(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Whether the name has more than one label and is none of loopback. One of a single label leads into the network that
/// this machine is in.
pub fn is_qualified(host: &str) -> bool {
    let name = host.trim_end_matches('.');
    name.contains('.') && !names_loopback(name)
}

/// Returns whether the address keeps what is sent to it from the network: https, or http to this machine.
pub fn is_https_or_loopback(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => match url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
            Some(Host::Ipv6(ip)) => IpAddr::from(ip).is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        },
        _ => false,
    }
}

/// Whether the text of this host says that it is on this machine.
fn leads_to_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Result<IpAddr, _> = literal.parse();
    ip.map_or_else(|_| names_loopback(host), |ip| ip.is_loopback())
}

impl AddressGuard {
    /// Creates a guard. `loopback_hosts`: hosts as they are written in the configured addresses.
    pub fn new(loopback_hosts: BTreeSet<String>) -> Self {
        Self {
            loopback_hosts: Arc::new(loopback_hosts),
            is_unrestricted: false,
        }
    }

    /// Creates a guard for an address that the operator has configured, which no row and no request can change.
    pub fn unrestricted() -> Self {
        Self {
            loopback_hosts: Arc::default(),
            is_unrestricted: true,
        }
    }

    /// Whether `host`, which leads to `ip`, may be called.
    fn admits(&self, host: &str, ip: IpAddr) -> bool {
        if self.is_unrestricted {
            true
        } else if self.loopback_hosts.contains(host) {
            ip.is_loopback()
        } else {
            is_global(ip)
        }
    }

    /// Whether the configuration names this host as one on loopback.
    pub fn is_loopback_host(&self, host: &str) -> bool {
        self.loopback_hosts.contains(&host.to_ascii_lowercase())
            || self.is_unrestricted && leads_to_loopback(host)
    }

    /// Returns whether the text of the address allows a call. Names are decided when they are resolved;
    /// literal addresses are not resolved, so they are decided here.
    pub fn admits_url(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        match url.host() {
            Some(Host::Ipv4(ip)) => self.admits(host, ip.into()),
            Some(Host::Ipv6(ip)) => self.admits(host, ip.into()),
            Some(Host::Domain(name)) => self.admits_name(name),
            None => false,
        }
    }

    /// Returns the same for an address in the form that hyper takes. What hyper regards as a literal address
    /// is decided here; any other spelling of one is a name, and decided when it is resolved.
    pub fn admits_uri(&self, uri: &Uri) -> bool {
        let Some(host) = uri.host() else { return false };
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse() {
            Ok(ip) => self.admits(host, ip),
            Err(_) => self.admits_name(host),
        }
    }

    /// Whether a name may be resolved: no configuration makes one of loopback public.
    fn admits_name(&self, name: &str) -> bool {
        self.is_loopback_host(name) || !names_loopback(name)
    }

    /// Resolves a name to the addresses that may be called; an error when there is none.
    async fn admitted(self, name: String) -> Result<std::vec::IntoIter<SocketAddr>, BoxError> {
        let host = name.to_ascii_lowercase();
        let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
        let admitted: Vec<SocketAddr> = found
            .filter(|address| self.admits(&host, address.ip()))
            .collect();
        if admitted.is_empty() {
            return Err(NoPublicAddress.into());
        }
        Ok(admitted.into_iter())
    }
}

impl Service<dns::Name> for AddressGuard {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: dns::Name) -> Self::Future {
        Box::pin(self.clone().admitted(name.as_str().to_owned()))
    }
}

/// Serves a machine of Azure its settings and certificates, as 169.254.169.254 does elsewhere.
const AZURE_WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Whether the address is one of the public Internet (IANA's special-purpose registries), and leads out of the cloud that
/// this machine is in.
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_global_v4(ip),
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_documentation()
        || ip.is_multicast()
        // Carrier-grade NAT
        || (a == 100 && (64..128).contains(&b))
        // IETF protocol assignments, and the former 6to4 relays
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        // Azure's services for its machines: one address in every network, whoever it belongs to
        || ip == AZURE_WIRE_SERVER
        // Benchmarks
        || (a == 198 && (18..20).contains(&b))
        // Reserved, and broadcast
        || a >= 240)
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_global_v4(Ipv4Addr::new(a, b, c, d))
    };
    // NAT64: the embedded address decides.
    if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) {
        return embedded(g, h);
    }
    // 6to4 likewise.
    if a == 0x2002 {
        return embedded(b, c);
    }
    if let Some(ip) = ip.to_ipv4_mapped() {
        return is_global_v4(ip);
    }
    // Only 2000::/3 is given out, less IETF assignments (Teredo among them) and documentation.
    (a & 0xe000) == 0x2000
        && !(a == 0x2001 && b < 0x0200)
        && !(a == 0x2001 && b == 0x0db8)
        && !(a == 0x3fff && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_global() {
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            // Metadata of Alibaba, of Azure and of Oracle
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "64:ff9b::a83f:8110",
            "::ffff:168.63.129.16",
            // Metadata of Amazon
            "fd00:ec2::254",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_global(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn public_addresses_are_global() {
        for ip in [
            "20.190.128.1",
            "40.126.0.1",
            "168.63.129.15",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "2603:1006:2000::1",
            "2620:1ec:4::1",
            "64:ff9b::14be:8001",
            "::ffff:20.190.128.1",
        ] {
            assert!(is_global(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn loopback_is_open_to_configured_hosts_only() {
        let guard = AddressGuard::new(["127.0.0.1".into(), "localhost".into()].into());
        let url = |text: &str| text.parse::<Url>().unwrap();
        assert!(guard.admits_url(&url("http://127.0.0.1:9/")));
        assert!(!guard.admits_url(&url("https://127.0.0.2/")));
        assert!(!guard.admits_url(&url("https://[::1]/")));
        assert!(!guard.admits_url(&url("https://169.254.169.254/")));
        assert!(guard.admits_url(&url("http://LOCALHOST/")));
        for text in ["https://localhost./", "https://a.localhost/"] {
            assert!(!guard.admits_url(&url(text)), "{text}");
        }
        assert!(guard.admits_url(&url("https://localhost.example/")));
        for (text, admitted) in [
            ("http://127.0.0.1:9/", true),
            ("https://127.0.0.2/", false),
            ("https://[::1]/", false),
            ("https://[::ffff:169.254.169.254]/", false),
            ("https://169.254.169.254/", false),
            ("https://20.190.128.1/", true),
            ("/no/host", false),
        ] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(guard.admits_uri(&uri), admitted, "{text}");
        }
        assert!(guard.admits("localhost", Ipv4Addr::LOCALHOST.into()));
        // A configured loopback name that leads elsewhere is refused as well.
        assert!(!guard.admits("localhost", Ipv4Addr::new(20, 190, 128, 1).into()));
        assert!(!guard.admits("graph.microsoft.com", Ipv4Addr::LOCALHOST.into()));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_loopback_is_refused_unless_configured() {
        let resolve = |hosts: BTreeSet<String>| async move {
            AddressGuard::new(hosts)
                .call("localhost".parse().unwrap())
                .await
                .map(Iterator::count)
        };
        assert!(resolve(BTreeSet::new()).await.is_err());
        assert!(resolve(["localhost".into()].into()).await.unwrap() > 0);
        // Another spelling of an address is a name to hyper.
        let odd = AddressGuard::new(BTreeSet::new()).call("0x7f.1".parse().unwrap());
        assert!(odd.await.is_err());
    }
}
