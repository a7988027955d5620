//! TLS that fails: the report says why, and what to do about it.

use crate::microsoft::fixture::{Found, Still, run, settings, target};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, RootCertStore, ServerConfig};
use std::sync::Arc;
use test_support::tls_identity;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use verifyd::domain::Reason;
use verifyd::domain::report::{CheckStatus, EvidenceKind};
use verifyd::domain::tls_cause::TlsCause;
use verifyd::outbound::{Outbound, OutboundSettings};
use verifyd::provider::microsoft::MicrosoftProvider;

const AUTHENTICATION: &str = "provider.authentication";
const NAME: &str = "localhost";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// What a client meets.
enum Peer {
    Serves(Arc<ServerConfig>),
    /// These bytes, once the client has said something; then nothing any more.
    Says(Vec<u8>),
}

async fn start(peer: Peer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{NAME}:{}", listener.local_addr().unwrap().port());
    let peer = Arc::new(peer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let peer = Arc::clone(&peer);
            tokio::spawn(async move { meet(&peer, stream).await });
        }
    });
    url
}

async fn meet(peer: &Peer, mut stream: TcpStream) -> Option<()> {
    match peer {
        Peer::Serves(config) => {
            let acceptor = TlsAcceptor::from(Arc::clone(config));
            let accepted = acceptor.accept(stream).into_fallible().await;
            stream = accepted.err()?.1;
        }
        Peer::Says(bytes) => {
            if stream.read(&mut [0; 4096]).await.ok()? == 0 {
                return None;
            }
            stream.write_all(bytes).await.ok()?;
            if bytes.is_empty() {
                return None;
            }
        }
    }
    // To close while something is unread would take the alert back.
    copy(&mut stream, &mut sink()).await.ok()?;
    Some(())
}

fn alert(description: AlertDescription) -> Peer {
    Peer::Says(vec![21, 3, 3, 0, 2, 2, description.into()])
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    roots
}

/// Serves a certificate of this authority.
fn signed(by: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Peer {
    let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    Peer::Serves(Arc::new(tls_identity::server(
        certificate.der().clone(),
        &key,
    )))
}

/// Serves clients that have a certificate of this authority.
fn for_known_clients(by: &Authority, protocols: &[&[u8]]) -> Peer {
    let Peer::Serves(anybody) = signed(by, |_| {}) else {
        unreachable!()
    };
    let provider = Arc::clone(anybody.crypto_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(by)), provider.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_cert_resolver(Arc::clone(&anybody.cert_resolver));
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Peer::Serves(Arc::new(config))
}

/// Checks a provider at this address.
async fn checked(url: &str, outbound: Outbound, trusted: &Authority) -> Found {
    let outbound = outbound.trusting(roots(trusted)).unwrap();
    let settings = settings(url, url);
    let provider = MicrosoftProvider::with_outbound(&settings, Arc::new(Still), &outbound);
    run(&provider.unwrap(), &target("health_check")).await
}

#[tokio::test]
async fn a_report_says_why_tls_failed_and_what_to_do() {
    let ours = authority("ours");
    let far = |year| date_time_ymd(year, 1, 1);
    let refused = TlsCause::Refused;
    let cases = [
        (
            signed(&authority("theirs"), |_| {}),
            TlsCause::UnknownIssuer,
        ),
        // Made again under the same name.
        (signed(&authority("ours"), |_| {}), TlsCause::UnknownIssuer),
        (
            Peer::Serves(Arc::new(tls_identity::server(
                ours.der().clone(),
                ours.key(),
            ))),
            TlsCause::AuthorityAsServer,
        ),
        (
            signed(&ours, |params| params.not_after = far(2021)),
            TlsCause::Expired,
        ),
        (
            signed(&ours, |params| params.not_before = far(2900)),
            TlsCause::NotYetValid,
        ),
        (
            signed(&ours, |params| {
                params.subject_alt_names.clear();
                let other = "login.example.com".try_into().unwrap();
                params
                    .subject_alt_names
                    .push(rcgen::SanType::DnsName(other));
            }),
            TlsCause::WrongName,
        ),
        (
            alert(AlertDescription::HandshakeFailure),
            refused(AlertDescription::HandshakeFailure),
        ),
        (
            alert(AlertDescription::ProtocolVersion),
            TlsCause::ProtocolVersion,
        ),
        // The handshake is complete at the client when these refuse it.
        (
            for_known_clients(&ours, &[b"http/1.1"]),
            refused(AlertDescription::CertificateRequired),
        ),
        (
            for_known_clients(&ours, &[b"h2"]),
            refused(AlertDescription::CertificateRequired),
        ),
        (
            Peer::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            TlsCause::NotTls,
        ),
        (Peer::Says(Vec::new()), TlsCause::Closed),
    ];
    for (peer, cause) in cases {
        let url = start(peer).await;
        let found = checked(&url, Outbound::direct().unwrap(), &ours).await;
        // What ends without an alert is as any lost connection.
        let (reason, evidence) = match cause {
            TlsCause::Closed => (Reason::ProviderUnreachable, vec![]),
            _ => (Reason::TlsFailed, vec![cause.to_string()]),
        };
        let check = found.check(AUTHENTICATION);
        assert_eq!(check.status, CheckStatus::Fail, "{cause}");
        assert_eq!(check.reason_code, Some(reason), "{cause}");
        assert_eq!(
            found.evidence(AUTHENTICATION, EvidenceKind::Cause),
            evidence
        );
        let named = format!("Cause: {cause}.");
        assert!(check.message.ends_with(&named), "{}", check.message);
        let step = &check.next_steps[0];
        assert!(step.label.eq_ignore_ascii_case(cause.step()));
        assert!(step.url.starts_with("/runs/"), "{}", step.url);
    }
}

#[tokio::test]
async fn a_report_says_why_tls_to_the_proxy_failed() {
    let ours = authority("ours");
    let asks = TlsCause::Refused(AlertDescription::CertificateRequired);
    for (peer, cause, label, attempts) in [
        (
            for_known_clients(&ours, &[b"http/1.1"]),
            asks,
            &*format!("For outbound.proxy: {}", asks.step()),
            vec![],
        ),
        (
            Peer::Says(Vec::new()),
            TlsCause::Closed,
            "Check scheme, host and port of outbound.proxy (HTTPS_PROXY)",
            vec!["3"],
        ),
    ] {
        let outbound = Outbound::new(&OutboundSettings {
            proxy: start(peer).await.into(),
            no_proxy: String::new(),
        });
        let url = "https://login.example.test";
        let found = checked(url, outbound.unwrap(), &ours).await;
        let check = found.check(AUTHENTICATION);
        assert_eq!(check.reason_code, Some(Reason::ProviderUnreachable));
        let evidence = |kind| found.evidence(AUTHENTICATION, kind);
        let named = format!("no trusted TLS connection to the proxy could be made: {cause}");
        assert_eq!(evidence(EvidenceKind::Cause), [named]);
        assert_eq!(evidence(EvidenceKind::Attempts), attempts);
        assert_eq!(check.next_steps[0].label, label);
    }
}
