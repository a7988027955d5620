//! Calls through a proxy: to which hosts, with which credentials, and what its refusals become.

use crate::microsoft::directory::HEALTH;
use crate::microsoft::fixture::{Found, Still, run, settings, target};
use crate::microsoft::tls_server::{Ending, Server};
use std::collections::BTreeSet;
use std::sync::Arc;
use test_support::connect_proxy::{ConnectProxy, Way};
use test_support::tls_identity::Identity;
use verifyd::domain::Reason;
use verifyd::domain::report::{CheckStatus, EvidenceKind};
use verifyd::domain::tls_cause::TlsCause;
use verifyd::outbound::{Outbound, OutboundSettings};
use verifyd::provider::microsoft::MicrosoftProvider;

const AUTHENTICATION: &str = "provider.authentication";
/// A name that nobody resolves but the proxy.
const NAME: &str = "login.example.test";

async fn checked(server: &Server, proxy: &str, no_proxy: &str) -> Found {
    checked_trusting(server, proxy, no_proxy, server.identity.roots()).await
}

async fn checked_trusting(
    server: &Server,
    proxy: &str,
    no_proxy: &str,
    roots: rustls::RootCertStore,
) -> Found {
    let outbound = Outbound::new(&OutboundSettings {
        proxy: proxy.into(),
        no_proxy: no_proxy.into(),
    });
    let outbound = outbound.unwrap().trusting(roots).unwrap();
    let base = server.directory.base();
    let settings = settings(base, base);
    let provider = MicrosoftProvider::with_outbound(&settings, Arc::new(Still), &outbound);
    run(&provider.unwrap(), &target("health_check")).await
}

fn assert_ready(found: &Found) {
    let failed = found.with(CheckStatus::Fail);
    assert!(failed.is_empty() && found.0.healthy, "{failed:?}");
}

/// `found` failed on its way out; the kinds of evidence that say why.
fn refusal(found: &Found) -> (Vec<&str>, Vec<&str>, Vec<&str>, Vec<&str>) {
    refusal_for(found, Reason::ProviderUnreachable)
}

fn refusal_for(found: &Found, reason: Reason) -> (Vec<&str>, Vec<&str>, Vec<&str>, Vec<&str>) {
    assert_eq!(
        found.status(AUTHENTICATION),
        (CheckStatus::Fail, Some(reason))
    );
    let of = |kind| found.evidence(AUTHENTICATION, kind);
    (
        of(EvidenceKind::Proxy),
        of(EvidenceKind::HttpStatus),
        of(EvidenceKind::Cause),
        of(EvidenceKind::Attempts),
    )
}

#[tokio::test]
async fn every_call_goes_through_the_proxy_with_its_credentials() {
    let server = Server::behind_proxy(HEALTH, NAME).await;
    let way = Way::OpenFor("dom\\user:p@ss:w/rd".into());
    let proxy = ConnectProxy::start(way, server.address).await;
    let address = format!("http://dom%5Cuser:p%40ss%3Aw%2Frd@127.0.0.1:{}", proxy.port);
    assert_ready(&checked(&server, &address, "").await);
    let asked: BTreeSet<String> = proxy.asked().into_iter().collect();
    assert_eq!(asked, [format!("{NAME}:443")].into());
    assert!(server.requests() > 3);
}

#[tokio::test]
async fn a_proxy_over_tls_is_one_too_and_has_to_be_trusted() {
    let server = Server::behind_proxy(HEALTH, NAME).await;
    let identity = Identity::of(&["localhost"]);
    let tls = Some(identity.server());
    let proxy = ConnectProxy::with(Way::Open, server.address, tls).await;
    let address = format!("https://localhost:{}", proxy.port);
    let mut both = server.identity.roots();
    both.extend(identity.roots().roots);
    assert_ready(&checked_trusting(&server, &address, "", both).await);
    assert!(!proxy.asked().is_empty());

    let found = checked(&server, &address, "").await;
    let name = format!("localhost:{}", proxy.port);
    let cause = TlsCause::UnknownIssuer;
    let text = format!("no trusted TLS connection to the proxy could be made: {cause}");
    let expected = (vec![&*name], vec![], vec![&*text], vec![]);
    assert_eq!(refusal(&found), expected);
    let step = &found.check(AUTHENTICATION).next_steps[0];
    assert!(step.label.starts_with("For outbound.proxy: "));
    assert!(step.label.ends_with(cause.step()), "{}", step.label);
}

#[tokio::test]
async fn a_host_that_no_certificate_can_name_is_told_as_one() {
    let server = Server::behind_proxy(HEALTH, "login-.example.test").await;
    let proxy = ConnectProxy::start(Way::Open, server.address).await;
    let found = checked(&server, &format!("http://127.0.0.1:{}", proxy.port), "").await;
    let (_, _, cause, _) = refusal_for(&found, Reason::TlsFailed);
    assert_eq!(cause, [TlsCause::InvalidName.to_string()]);
}

#[tokio::test]
async fn what_the_proxy_refuses_is_told_with_its_name_and_status() {
    let server = Server::behind_proxy(HEALTH, NAME).await;
    let secret = || Way::OpenFor("user:right".into());
    let endless = Way::Endless(b"HTTP/1.1 100 Continue\r\n\r\n");
    let status = |number| Way::Status(number);
    for (way, userinfo, status, cause, attempts) in [
        (
            secret(),
            "",
            Some("407"),
            "the proxy asks for a user name and a password (407)",
            None,
        ),
        (
            secret(),
            "user:canary@",
            Some("407"),
            "the proxy does not accept the user name and the password (407)",
            None,
        ),
        (
            status(403),
            "",
            Some("403"),
            "the proxy refuses this host (403)",
            None,
        ),
        (
            status(502),
            "",
            Some("502"),
            "the proxy could not open the tunnel (status 502)",
            Some("3"),
        ),
        (
            endless,
            "",
            None,
            "the answer of the proxy is not HTTP, or not complete",
            None,
        ),
    ] {
        let proxy = ConnectProxy::start(way, server.address).await;
        let address = format!("http://{userinfo}127.0.0.1:{}", proxy.port);
        let found = checked(&server, &address, "").await;
        let name = format!("127.0.0.1:{}", proxy.port);
        let expected = (
            vec![name.as_str()],
            status.into_iter().collect(),
            vec![cause],
            attempts.into_iter().collect(),
        );
        let reason = match status {
            Some("407" | "403") => Reason::ProxyRefused,
            _ => Reason::ProviderUnreachable,
        };
        assert_eq!(refusal_for(&found, reason), expected);
        // What the kernel keeps on the way is a few MiB.
        assert!(proxy.taken() < 32 << 20, "{}", proxy.taken());
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_proxy_that_drops_a_connection_is_asked_again() {
    let server = Server::behind_proxy(HEALTH, NAME).await;
    let proxy = ConnectProxy::start(Way::ClosingFirst(1), server.address).await;
    assert_ready(&checked(&server, &format!("http://127.0.0.1:{}", proxy.port), "").await);
    let proxy = ConnectProxy::start(Way::ClosingFirst(1000), server.address).await;
    let found = checked(&server, &format!("http://127.0.0.1:{}", proxy.port), "").await;
    let name = format!("127.0.0.1:{}", proxy.port);
    let cause = "the proxy closed the connection without an answer";
    let expected = (vec![&*name], vec![], vec![cause], vec!["3"]);
    assert_eq!(refusal(&found), expected);
}

#[tokio::test]
async fn a_proxy_that_is_away_is_told_as_one() {
    let server = Server::behind_proxy(HEALTH, NAME).await;
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let found = checked(&server, &format!("http://127.0.0.1:{port}"), "").await;
    let name = format!("127.0.0.1:{port}");
    let cause = "the proxy cannot be reached";
    assert_eq!(
        refusal(&found),
        (vec![&*name], vec![], vec![cause], vec!["3"])
    );
}

#[tokio::test]
async fn exceptions_and_loopback_are_called_directly() {
    let server = Server::behind_proxy(HEALTH, NAME).await;
    let proxy = ConnectProxy::start(Way::Open, server.address).await;
    let address = format!("http://127.0.0.1:{}", proxy.port);
    for no_proxy in ["example.test", ".example.test:443", "*"] {
        // The name leads nowhere without the proxy.
        let found = checked(&server, &address, no_proxy).await;
        let (proxy, ..) = refusal(&found);
        assert_eq!(proxy, Vec::<&str>::new(), "{no_proxy}");
    }
    let loopback = Server::start(HEALTH, Ending::Open, 100).await;
    assert_ready(&checked(&loopback, &address, "").await);
    assert_eq!(proxy.asked(), Vec::<String>::new());
    // Another port, another name.
    assert_ready(&checked(&server, &address, "example.test:8443,ample.test").await);
    assert!(!proxy.asked().is_empty());
}

/// Literal addresses, and names of loopback, are judged as without a proxy.
#[tokio::test]
async fn private_addresses_are_not_asked_of_the_proxy() {
    for name in ["10.0.0.1", "localhost.", "a.localhost"] {
        let server = Server::behind_proxy(HEALTH, name).await;
        let proxy = ConnectProxy::start(Way::Open, server.address).await;
        let found = checked(&server, &format!("http://127.0.0.1:{}", proxy.port), "").await;
        let (_, status, ..) = refusal(&found);
        assert_eq!(status, Vec::<&str>::new(), "{name}");
        assert_eq!(proxy.asked(), Vec::<String>::new(), "{name}");
    }
}
