//! Shows the route of outbound calls, and tests the proxy.

use super::{Line, State, bad, ok};
use crate::config::Settings;
use crate::files::trusted_authorities;
use crate::outbound::Outbound;
use crate::outbound::guard::names_loopback;
use crate::outbound::proxy::{Proxy, ProxyTrouble, tls_step};
use http::Uri;
use std::borrow::Cow;
use std::collections::BTreeSet;

const PART: &str = "outbound";

/// A line for a file of trusted authorities that cannot be used; one for each host of the default cloud that is called
/// through a proxy, which is tried, and one for all others.
pub(super) async fn check(settings: &Settings, lines: &mut Vec<Line>) {
    let outbound = match Outbound::new(&settings.outbound) {
        Ok(outbound) => outbound,
        Err(error) => {
            let remedy = "correct outbound.proxy (HTTPS_PROXY)";
            lines.push(bad(PART, State::Failed, error.to_string(), remedy));
            return;
        }
    };
    let authorities = match outbound.check_authorities() {
        Ok(None) => None,
        Ok(Some(problem)) => Some((State::Warning, format!("https skips it: {problem}"))),
        Err(error) => Some((State::Failed, error.to_string())),
    };
    if let Some((state, problem)) = authorities {
        lines.push(bad(PART, state, problem, trusted_authorities::REMEDY));
    }
    let Some(configured) = outbound.proxy() else {
        lines.push(ok(PART, "without a proxy"));
        return;
    };
    let set_by = settings.origin("outbound.proxy");
    lines.push(ok(PART, format!("proxy {configured} ({set_by})")));
    let microsoft = &settings.microsoft;
    let mut directly = BTreeSet::new();
    let mut untried = BTreeSet::new();
    let clouds = microsoft.clouds.iter();
    for (key, address) in clouds.flat_map(|(key, c)| [(key, &c.login), (key, &c.graph)]) {
        let Ok(uri) = address.parse::<Uri>() else {
            continue;
        };
        let host = uri.host().unwrap_or_default().to_owned();
        match outbound.proxy_of(&uri) {
            Some(proxy) if !is_loopback(&host) && *key == microsoft.default_cloud => {
                let limit = microsoft.connect_timeout();
                let tried = outbound.try_proxy(proxy, &uri, limit).await;
                lines.push(line(&host, proxy, tried));
            }
            Some(_) if !is_loopback(&host) => {
                untried.insert(host);
            }
            _ => {
                directly.insert(host);
            }
        }
    }
    if !untried.is_empty() {
        let hosts = joined(&untried);
        lines.push(ok(
            PART,
            format!("{hosts}: through {configured}, not tried"),
        ));
    }
    if !directly.is_empty() {
        lines.push(ok(PART, format!("{}: directly", joined(&directly))));
    }
}

fn line(host: &str, proxy: &Proxy, tried: Result<(), ProxyTrouble>) -> Line {
    match tried {
        Ok(()) => ok(
            PART,
            format!("{host}: through {proxy}, which opens the way"),
        ),
        Err(trouble) => bad(
            PART,
            State::Failed,
            format!("{host}: through {proxy}: {trouble}"),
            remedy(trouble),
        ),
    }
}

fn remedy(trouble: ProxyTrouble) -> Cow<'static, str> {
    let remedy = match trouble {
        ProxyTrouble::AsksForCredentials => {
            "put user and password into the address of the proxy (percent-encoded), in outbound.proxy or in \
             the file that VERIFYD__OUTBOUND__PROXY_FILE names"
        }
        ProxyTrouble::RefusesCredentials => {
            "correct user and password in the address of the proxy; reserved characters are percent-encoded"
        }
        ProxyTrouble::RefusesHost => "allow CONNECT to this host in the proxy",
        ProxyTrouble::Status(_) => "look at the log of the proxy: it could not reach the host",
        ProxyTrouble::Unreachable | ProxyTrouble::Timeout | ProxyTrouble::Closed => {
            "check host and port of outbound.proxy (HTTPS_PROXY), and that this machine may connect to them"
        }
        ProxyTrouble::Tls(cause) => return tls_step(cause),
        ProxyTrouble::NotHttp => {
            "check that host and port of outbound.proxy are those of an HTTP proxy"
        }
    };
    remedy.into()
}

fn joined(hosts: &BTreeSet<String>) -> String {
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    hosts.join(", ")
}

fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    let is_address = |ip: std::net::IpAddr| ip.is_loopback();
    names_loopback(host) || literal.parse().is_ok_and(is_address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tls_cause::TlsCause;

    #[test]
    fn what_is_no_tls_leads_to_the_address_of_the_proxy() {
        for cause in [TlsCause::NotTls, TlsCause::Closed] {
            let remedy = remedy(ProxyTrouble::Tls(cause));
            assert_eq!(
                remedy,
                "check scheme, host and port of outbound.proxy (HTTPS_PROXY)"
            );
        }
        assert!(remedy(ProxyTrouble::Tls(TlsCause::Expired)).ends_with(TlsCause::Expired.step()));
    }
}
