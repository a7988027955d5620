//! Sign-in with OpenID Connect: by a provider that sends what a test wants, and by a certified one in a browser.

pub mod fake;
mod in_a_browser;
mod over_http;
mod place;
mod session_ends;
mod userinfo;

use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use verifyd::domain::tls_cause::TlsCause;
use verifyd::http::api::Switch;
use verifyd::http::oidc::{OidcSettings, SignIn};
use verifyd::outbound::Outbound;
use verifyd::ports::clock::SystemClock;

/// The client's secret, in which characters have to be encoded.
const SECRET: &str = "s3cr3t: +/%";

/// Readers and runners of tenant 1, readers of workspace 2, and whoever may only run.
fn settings(issuer: &str, public_url: &str, secret_file: PathBuf) -> OidcSettings {
    let grants = json!([
        { "value": "readers", "scopes": ["read"], "workspace": 1, "tenant": 1 },
        { "value": "runners", "scopes": ["run"], "workspace": 1, "tenant": 1 },
        { "value": "others", "scopes": ["read"], "workspace": 2 },
    ]);
    OidcSettings {
        issuer: issuer.to_owned(),
        public_url: public_url.to_owned(),
        client_id: "verifyd".to_owned(),
        client_secret_file: secret_file,
        scopes: "openid profile".to_owned(),
        claim: "groups".to_owned(),
        grants: serde_json::from_value(grants).unwrap(),
        sign_out_at_provider: Switch::On,
    }
}

/// A file with the secret, as an editor leaves it.
fn secret_file(folder: &tempfile::TempDir) -> PathBuf {
    let file = folder.path().join("client-secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    file
}

#[tokio::test]
async fn why_tls_fails_is_told_with_what_to_do() {
    let fake = fake::Fake::start().await;
    let issuer = fake.issuer().replace("http:", "https:");
    let settings = settings(&issuer, place::PUBLIC_URL, PathBuf::new());
    let sign_in = SignIn::new(settings, Outbound::direct().unwrap(), Arc::new(SystemClock));
    let problem = sign_in.unwrap().examine().await.unwrap_err();
    let cause = TlsCause::NotTls;
    let told = format!("no trusted TLS connection: {cause}; {}", cause.step());
    assert_eq!(problem, format!("127.0.0.1: {told}"));
}
