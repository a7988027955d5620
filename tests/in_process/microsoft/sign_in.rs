//! Credentials, assertions, tokens, and what becomes of them.

use crate::microsoft::directory::{CLIENT, Directory, HEALTH, INTUNE, Reply, TENANT};
use crate::microsoft::fixture::{provider, provider_with, run, secret, settings, target};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use std::io::Write;
use std::sync::{Arc, Mutex};
use test_support::{own_process, test_name};
use verifyd::domain::credential::Credential;
use verifyd::domain::report::CheckStatus;
use verifyd::domain::{ConnectionId, Reason};
use verifyd::ports::provider::Provider;

const AUTHENTICATION: &str = "provider.authentication";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[tokio::test]
async fn a_certificate_signs_an_assertion_that_its_public_key_verifies() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["worker.test".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let mut target = target("health_check");
    target.credential = Credential::Certificate {
        private_key_pem: key.serialize_pem().into(),
        certificate_pem: certificate.pem(),
    };
    let directory = Directory::start(HEALTH).await;
    let provider = provider(&directory);
    provider
        .preflight(&target.connection, &target.credential)
        .unwrap();
    // The first is refused for its time, once: a fresh one goes out.
    directory.script(|seen| {
        let refused = || Reply::token_error(401, "invalid_client", 700024);
        (seen.call == "token" && seen.before == 0).then(refused)
    });
    let found = run(&provider, &target).await;
    assert!(found.0.healthy);
    let requests = directory.seen("token");
    assert_eq!(requests.len(), 2);

    use x509_parser::prelude::FromDer;
    let der = certificate.der();
    let (_, x509) = x509_parser::prelude::X509Certificate::from_der(der).unwrap();
    let public = DecodingKey::from_rsa_der(&x509.public_key().subject_public_key.data);
    let url = format!("{}/{TENANT}/oauth2/v2.0/token", directory.base());
    let mut rules = Validation::new(Algorithm::PS256);
    rules.set_audience(&[&url]);
    // The provider's clock stands still.
    rules.validate_exp = false;
    let mut ids = Vec::new();
    for request in &requests {
        assert_eq!(request.form["client_assertion_type"], ASSERTION_TYPE);
        assert!(!request.form.contains_key("client_secret"));
        let jwt = &request.form["client_assertion"];
        let header = jsonwebtoken::decode_header(jwt).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        assert_eq!(header.x5t_s256.unwrap(), URL_SAFE_NO_PAD.encode(digest));
        assert_eq!(header.typ.as_deref(), Some("JWT"));
        let claims = jsonwebtoken::decode::<Value>(jwt, &public, &rules)
            .unwrap()
            .claims;
        assert_eq!(
            (&claims["iss"], &claims["sub"]),
            (&CLIENT.into(), &CLIENT.into())
        );
        let (nbf, exp) = (
            claims["nbf"].as_i64().unwrap(),
            claims["exp"].as_i64().unwrap(),
        );
        assert_eq!(nbf, 1_767_225_600, "2026-01-01T00:00:00Z");
        assert!((300..=600).contains(&(exp - nbf)));
        ids.push(claims["jti"].as_str().unwrap().to_owned());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_federated_token_is_read_from_its_file_at_each_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let directory = Directory::start(HEALTH).await;
    let provider = provider(&directory);
    let mut target = target("health_check");
    target.credential = Credential::FederatedTokenFile { path: path.clone() };
    let unreadable = (CheckStatus::Fail, Some(Reason::FederatedTokenUnreadable));
    let found = run(&provider, &target).await;
    assert_eq!(found.status(AUTHENTICATION), unreadable);
    assert_eq!(directory.count("token"), 0);
    let in_utf16: Vec<u8> = "\u{feff}aaaa.bbbb.third\r\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (written, content) in [
        ("aaaa.bbbb.first\n".into(), "aaaa.bbbb.first"),
        ("\u{feff}aaaa.bbbb.second\r\n".into(), "aaaa.bbbb.second"),
        (in_utf16, "aaaa.bbbb.third"),
    ] {
        std::fs::write(&path, &written).unwrap();
        assert!(run(&provider, &target).await.0.healthy);
        let sent = directory.seen("token").pop().unwrap();
        assert_eq!(sent.form["client_assertion"], content);
        assert_eq!(sent.form["client_assertion_type"], ASSERTION_TYPE);
    }
    let sent = directory.count("token");
    let long = format!("a.b.{}", "c".repeat(70_000));
    for content in ["", "no token", "a.b", "a..c", "a.b.c d", &long] {
        std::fs::write(&path, content).unwrap();
        let found = run(&provider, &target).await;
        assert_eq!(found.status(AUTHENTICATION), unreadable, "{content:.20}");
    }
    let path = folder.path().to_owned();
    target.credential = Credential::FederatedTokenFile { path };
    let found = run(&provider, &target).await;
    assert_eq!(found.status(AUTHENTICATION), unreadable);
    assert_eq!(directory.count("token"), sent);
}

#[tokio::test]
async fn what_preflight_should_have_stopped_calls_nobody() {
    let directory = Directory::start(HEALTH).await;
    let provider = provider(&directory);
    let mut cloud = target("health_check");
    cloud.connection.cloud = Some("mars".into());
    let mut client = target("health_check");
    client.connection.client_id = Some("x') or true".into());
    let mut tenant = target("health_check");
    tenant.entra_tenant_id = "common/../x".into();
    for (target, reason) in [
        (cloud, Reason::CloudUnknown),
        (client, Reason::ClientIdMalformed),
        (tenant, Reason::TargetScopeMalformed),
    ] {
        let found = run(&provider, &target).await;
        assert_eq!(
            found.status(AUTHENTICATION),
            (CheckStatus::Fail, Some(reason))
        );
    }
    let unknown = run(&provider, &target("no_such_module")).await;
    assert!(unknown.0.checks.is_empty());
    assert_eq!(directory.count("token"), 0);
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_a_replaced_credential_has_its_own() {
    let directory = Directory::start(HEALTH).await;
    let provider = provider(&directory);
    let mut target = target("health_check");
    for _ in 0..3 {
        assert!(run(&provider, &target).await.0.healthy);
    }
    assert_eq!(directory.count("token"), 1);
    target.credential = secret("canary-other-secret");
    run(&provider, &target).await;
    assert_eq!(directory.count("token"), 2);
    let sent = directory.seen("token").pop().unwrap();
    assert_eq!(sent.form["client_secret"], "canary-other-secret");
    target.connection.id = ConnectionId(70);
    run(&provider, &target).await;
    assert_eq!(directory.count("token"), 3, "never shared by connections");
}

#[tokio::test]
async fn a_cached_token_that_graph_rejects_is_replaced_once() {
    let directory = Directory::start(HEALTH).await;
    let provider = provider(&directory);
    run(&provider, &target("health_check")).await;
    let old = directory.seen("organization")[0].headers["authorization"].clone();
    directory.script(move |seen| {
        let rejected = || Reply::graph_error(401, "InvalidAuthenticationToken", "expired");
        (seen.headers.get("authorization") == Some(&old)).then(rejected)
    });
    let found = run(&provider, &target("health_check")).await;
    assert_eq!(found.with(CheckStatus::Pass).len(), found.0.checks.len());
    assert_eq!(directory.count("token"), 2);
}

#[tokio::test]
async fn a_token_that_graph_never_accepts_is_rejected() {
    let directory = Directory::start(HEALTH).await;
    directory.script(|seen| {
        let rejected = || Reply::graph_error(401, "InvalidAuthenticationToken", "no");
        (seen.call != "token").then(rejected)
    });
    let provider = provider(&directory);
    for tokens in [2, 4] {
        let found = run(&provider, &target("health_check")).await;
        assert_eq!(found.check(AUTHENTICATION).status, CheckStatus::Pass);
        assert_eq!(
            found.status("provider.identity"),
            (CheckStatus::Fail, Some(Reason::TokenRejected))
        );
        assert_eq!(directory.count("token"), tokens);
    }
}

#[tokio::test]
async fn a_check_replaces_its_token_at_most_once() {
    let directory = Directory::start(INTUNE).await;
    // With an opaque token the probes come last.
    directory.change(|facts| facts.opaque = true);
    directory.script(|seen| {
        let first = seen.call == "organization" && seen.before == 0;
        let rejected = || Reply::graph_error(401, "InvalidAuthenticationToken", "no");
        (first || seen.call == "/v1.0/deviceManagement").then(rejected)
    });
    let found = run(&provider(&directory), &target("intune")).await;
    // Other calls were answered with this very token: it is the service that refuses.
    assert_eq!(
        found.status("intune.service"),
        (CheckStatus::Fail, Some(Reason::PermissionNotEffective))
    );
    assert_eq!(found.with(CheckStatus::Fail), ["intune.service"]);
    assert_eq!(directory.count("token"), 2);
}

#[tokio::test]
async fn a_secret_that_was_revoked_since_fails_the_sign_in_itself() {
    let directory = Directory::start(HEALTH).await;
    let provider = provider(&directory);
    run(&provider, &target("health_check")).await;
    directory.script(|seen| {
        Some(match seen.call.as_str() {
            "token" => Reply::token_error(401, "invalid_client", 7000215),
            _ => Reply::graph_error(401, "InvalidAuthenticationToken", "revoked"),
        })
    });
    let found = run(&provider, &target("health_check")).await;
    assert_eq!(
        found.status(AUTHENTICATION),
        (CheckStatus::Fail, Some(Reason::SecretInvalid))
    );
    assert_eq!(found.with(CheckStatus::Fail), [AUTHENTICATION]);
}

/// Keeps what the process logs.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// In a process of its own, which logs nothing else.
#[tokio::test]
async fn no_secret_reaches_logs_or_the_report() {
    if !own_process::entered(test_name!(no_secret_reaches_logs_or_the_report), &[]) {
        return;
    }
    let logged = Logged::default();
    let writer = logged.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let directory = Directory::start(INTUNE).await;
    let provider = provider_with(&settings(directory.base(), directory.base()));
    let target = target("intune");
    let healthy = run(&provider, &target).await;
    directory.answer("token", Reply::token_error(401, "invalid_client", 7000215));
    let mut other = target.clone();
    other.credential = secret("canary-wrong-secret");
    let refused = run(&provider, &other).await;
    let log = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("provider call"), "{log}");
    for canary in ["canary", "eyJ", "Bearer e"] {
        assert!(!log.contains(canary), "{canary} in {log}");
    }
    for found in [healthy, refused] {
        let report = found.report(&target.credential.secret_values());
        assert_eq!(report.replaced, None);
    }
}
