//! What a connection or its credential lacks is told without a request.

use crate::microsoft::directory::CLIENT;
use crate::microsoft::fixture::{At, secret, settings, target};
use std::sync::Arc;
use verifyd::domain::Reason;
use verifyd::domain::connection::ProviderConnection;
use verifyd::domain::credential::Credential;
use verifyd::ports::provider::{Provider as _, Unmet};
use verifyd::provider::microsoft::MicrosoftProvider;

const OTHER: &str = "6f0c8b5e-3f0f-4b6e-8b5e-222222222222";

fn preflight_at(
    now: &str,
    change: impl FnOnce(&mut ProviderConnection),
    credential: &Credential,
) -> Result<(), Unmet> {
    let settings = settings("http://127.0.0.1:1", "http://127.0.0.1:1");
    let clock = Arc::new(At(now.parse().unwrap()));
    let mut connection = target("health_check").connection;
    change(&mut connection);
    MicrosoftProvider::new(&settings, clock)
        .unwrap()
        .preflight(&connection, credential)
}

fn preflight(credential: &Credential) -> Result<(), Unmet> {
    preflight_at("2026-01-01T00:00:00Z", |_| {}, credential)
}

fn secret_of(client_id: Option<&str>) -> Credential {
    Credential::ClientSecret {
        secret: "s3cr3t~value".to_owned().into(),
        client_id: client_id.map(str::to_owned),
    }
}

/// A private key and its certificate, valid from the first day of 2020 to the second of 2040.
fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["worker.test".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 2);
    let certificate = params.self_signed(&key).unwrap();
    (key.serialize_pem(), certificate.pem())
}

fn certificate(key: &str, certificate: &str) -> Credential {
    Credential::Certificate {
        private_key_pem: key.to_owned().into(),
        certificate_pem: certificate.to_owned(),
    }
}

fn values(unmet: &Unmet) -> Vec<&str> {
    let evidence = unmet.evidence.iter();
    evidence.map(|e| e.value.as_str()).collect()
}

#[test]
fn cloud_and_client_id_have_to_be_known() {
    let now = "2026-01-01T00:00:00Z";
    let mars = |c: &mut ProviderConnection| c.cloud = Some("mars".into());
    let unmet = preflight_at(now, mars, &secret_of(None)).unwrap_err();
    assert_eq!(unmet.reason, Reason::CloudUnknown);
    let expected = ["provider_connections.cloud", "one of: test", "mars"];
    assert_eq!(values(&unmet), expected);

    // The connection has its client id, or its credential.
    for (own, stored, reason) in [
        (Some(CLIENT), None, None),
        (None, Some(CLIENT), None),
        (None, None, Some(Reason::ClientIdMalformed)),
        (Some(""), Some(CLIENT), Some(Reason::ClientIdMalformed)),
        (Some("x"), Some(CLIENT), Some(Reason::ClientIdMalformed)),
        (
            Some("6f0c8b5e3f0f4b6e8b5e111111111111"),
            None,
            Some(Reason::ClientIdMalformed),
        ),
        (Some(CLIENT), Some(OTHER), Some(Reason::CredentialMalformed)),
    ] {
        let own_id = |c: &mut ProviderConnection| c.client_id = own.map(str::to_owned);
        let found = preflight_at(now, own_id, &secret_of(stored));
        assert_eq!(found.err().map(|u| u.reason), reason, "{own:?} {stored:?}");
    }
}

#[test]
fn credentials_that_cannot_be_used_are_refused() {
    let (key, pem) = pair(&rcgen::PKCS_RSA_SHA256);
    let (other_key, other_pem) = pair(&rcgen::PKCS_RSA_SHA256);
    let (ec_key, ec_pem) = pair(&rcgen::PKCS_ECDSA_P256_SHA256);
    preflight(&certificate(&key, &pem)).unwrap();
    // A chain starts with the leaf, and may hold the key.
    preflight(&certificate(&key, &format!("{key}{pem}{other_pem}"))).unwrap();

    let file = Credential::FederatedTokenFile {
        path: "relative/token".into(),
    };
    for (credential, expected) in [
        (secret("  "), "the client secret"),
        (secret("a\nb"), "the client secret"),
        (secret("\u{feff}ab"), "the client secret"),
        (secret("ab\u{a0}"), "the client secret"),
        (secret(&"x".repeat(5000)), "the client secret"),
        (file, "credential.federated_token_file"),
        (certificate("", ""), "credential.certificate"),
        (
            certificate("x", "-----BEGIN CERTIFICATE-----"),
            "credential.certificate",
        ),
        (certificate(&key, &ec_pem), "credential.certificate"),
        (certificate("x", &pem), "credential.private_key"),
        (certificate(&ec_key, &pem), "credential.private_key"),
        (certificate(&other_key, &pem), "credential.private_key"),
    ] {
        let unmet = preflight(&credential).unwrap_err();
        assert_eq!(unmet.reason, Reason::CredentialMalformed, "{credential:?}");
        let told = values(&unmet)[0];
        assert!(told.contains(expected), "{credential:?}: {told}");
    }
}

#[test]
fn a_certificate_outside_its_own_dates_is_refused_as_far_as_clocks_agree() {
    let (key, pem) = pair(&rcgen::PKCS_RSA_SHA256);
    let end = "2040-01-02T00:00:00Z";
    let not_yet = Some((Reason::CertificateNotYetValid, "2020-01-01T00:00:00Z"));
    for (now, expected) in [
        ("2019-12-25T00:00:00Z", not_yet),
        ("2019-12-31T23:58:00Z", None),
        ("2040-01-01T23:59:59Z", None),
        (end, Some((Reason::CredentialExpired, end))),
    ] {
        let unmet = preflight_at(now, |_| {}, &certificate(&key, &pem)).err();
        let found = unmet.as_ref().map(|u| (u.reason, values(u)[0]));
        assert_eq!(found, expected, "{now}");
    }
}
