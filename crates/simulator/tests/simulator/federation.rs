//! Tokens of an external issuer.

use super::caller::{Answer, Caller, claims, now};
use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use verifyd_simulator::{FEDERATED_AUDIENCE, FEDERATED_SUBJECT, Scenario};

#[tokio::test]
async fn the_trusted_issuers_token_signs_in() {
    let caller = Caller::new().await;
    let token = caller
        .simulator
        .issue_federated_token(FEDERATED_SUBJECT)
        .unwrap();
    let tenant = Scenario::HealthyIntune.tenant_id(3);
    let answer = caller.present(&tenant, &token).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    let claims = claims(body["access_token"].as_str().unwrap());
    assert_eq!(
        (&claims["tid"], &claims["appidacr"]),
        (&json!(tenant), &json!("2"))
    );
}

#[tokio::test]
async fn another_subject_is_refused() {
    let caller = Caller::new().await;
    let token = caller
        .simulator
        .issue_federated_token("system:serviceaccount:default:default")
        .unwrap();
    let answer = caller
        .present(&Scenario::Healthy.tenant_id(0), &token)
        .await;
    assert_eq!(answer.aadsts(), 700213);
}

#[tokio::test]
async fn another_issuer_is_refused() {
    let caller = Caller::new().await;
    let other = Caller::new().await;
    let token = other
        .simulator
        .issue_federated_token(FEDERATED_SUBJECT)
        .unwrap();
    let answer = caller
        .present(&Scenario::Healthy.tenant_id(0), &token)
        .await;
    assert_eq!(answer.aadsts(), 700211);
}

#[tokio::test]
async fn a_forged_token_is_refused() {
    let caller = Caller::new().await;
    let real = caller
        .simulator
        .issue_federated_token(FEDERATED_SUBJECT)
        .unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let forged = jsonwebtoken::encode(
        &Header::new(Algorithm::ES256),
        &json!({
            "iss": claims(&real)["iss"],
            "sub": FEDERATED_SUBJECT,
            "aud": FEDERATED_AUDIENCE,
            "iat": now(),
            "nbf": now(),
            "exp": now() + 600,
            "jti": "x",
        }),
        &EncodingKey::from_ec_der(&key.serialize_der()),
    )
    .unwrap();
    let answer = caller
        .present(&Scenario::Healthy.tenant_id(0), &forged)
        .await;
    assert_eq!(answer.aadsts(), 700027);
}

#[tokio::test]
async fn an_old_token_is_refused() {
    let caller = Caller::new().await;
    let token = caller
        .simulator
        .issue_federated_token(FEDERATED_SUBJECT)
        .unwrap();
    caller.clock.put_forward(TimeDelta::seconds(3_600 + 301));
    let answer = caller
        .present(&Scenario::Healthy.tenant_id(0), &token)
        .await;
    assert_eq!(answer.aadsts(), 700024);
}

#[tokio::test]
async fn an_app_without_federated_credential_takes_no_token() {
    let caller = Caller::new().await;
    let token = caller
        .simulator
        .issue_federated_token(FEDERATED_SUBJECT)
        .unwrap();
    let answer = caller
        .present(&Scenario::FederationNotConfigured.tenant_id(0), &token)
        .await;
    assert_eq!(answer.aadsts(), 70025);
}

#[tokio::test]
async fn tokens_are_given_over_http_as_well() {
    let caller = Caller::new().await;
    let fetch = async |query: &str| {
        let url = caller.url(&format!("/__simulator/federated-token{query}"));
        Answer::of(caller.http.get(url).send().await.unwrap())
            .await
            .text
    };
    let tenant = Scenario::Healthy.tenant_id(0);
    assert_eq!(caller.present(&tenant, &fetch("").await).await.status, 200);
    let stranger = fetch("?subject=stranger").await;
    assert_eq!(caller.present(&tenant, &stranger).await.aadsts(), 700213);
}
