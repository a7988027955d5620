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
async fn what_the_app_does_not_trust_is_refused() {
    let (caller, other) = (Caller::new().await, Caller::new().await);
    let issue = |caller: &Caller, subject: &str| {
        let token = caller.simulator.issue_federated_token(subject);
        token.unwrap()
    };
    let good = issue(&caller, FEDERATED_SUBJECT);
    let key = rcgen::KeyPair::generate().unwrap();
    let forged = jsonwebtoken::encode(
        &Header::new(Algorithm::ES256),
        &json!({
            "iss": claims(&good)["iss"],
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
    let another_subject = issue(&caller, "system:serviceaccount:default:default");
    let another_issuer = issue(&other, FEDERATED_SUBJECT);
    for (what, scenario, token, code) in [
        ("subject", Scenario::Healthy, &another_subject, 700213),
        ("issuer", Scenario::Healthy, &another_issuer, 700211),
        ("key", Scenario::Healthy, &forged, 700027),
        ("app", Scenario::FederationNotConfigured, &good, 70025),
    ] {
        let answer = caller.present(&scenario.tenant_id(0), token).await;
        assert_eq!(answer.aadsts(), code, "{what}");
    }
    caller.clock.put_forward(TimeDelta::seconds(3_600 + 301));
    let tenant = Scenario::Healthy.tenant_id(0);
    assert_eq!(caller.present(&tenant, &good).await.aadsts(), 700024);
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
