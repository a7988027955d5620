//! The token endpoint: the request, secrets, and every refusal that a scenario asks for.

use super::caller::{Answer, CLIENT_ID, Caller, claims, now};
use verifyd_simulator::{SIMULATED_SECRET, Scenario, SimulatorOptions, service_principal_id};

#[tokio::test]
async fn a_good_secret_yields_a_token_for_this_tenant_and_app() {
    let caller = Caller::new().await;
    let tenant = Scenario::Healthy.tenant_id(12);
    let answer = caller.sign_in(&tenant).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("cache-control").contains("no-store"));
    let body = answer.json();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 3599);
    assert_eq!(body.get("refresh_token"), None);
    let claims = claims(body["access_token"].as_str().unwrap());
    assert_eq!(claims["tid"], *tenant);
    assert_eq!(claims["appid"], CLIENT_ID);
    assert_eq!(claims["aud"], *caller.simulator.base_url);
    assert_eq!(claims["oid"], *service_principal_id(&tenant, CLIENT_ID));
    let expires = claims["exp"].as_i64().unwrap();
    assert!((expires - now() - 3599).abs() < 60, "{expires}");
    let roles = claims["roles"].as_array().unwrap();
    assert!(roles.contains(&"Organization.Read.All".into()));
    assert_eq!(roles.len(), 12);
}

#[tokio::test]
async fn a_wrong_secret_is_refused_in_entras_shape() {
    let caller = Caller::new().await;
    let tenant = Scenario::Healthy.tenant_id(0);
    let correlation = "6a9b5c9e-52a5-4a37-9d3e-9a6d4a3d2f10";
    let request = caller
        .http
        .post(caller.token_url(&tenant))
        .header("client-request-id", correlation)
        .form(&[
            ("client_id", CLIENT_ID),
            ("scope", &caller.scope()),
            ("grant_type", "client_credentials"),
            ("client_secret", "another-canary-secret"),
        ]);
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.status, 401);
    assert!(
        answer
            .header("content-type")
            .starts_with("application/json")
    );
    assert!(!answer.header("date").is_empty());
    assert_eq!(answer.header("client-request-id"), correlation);
    let body = answer.json();
    assert_eq!(body["error"], "invalid_client");
    assert_eq!(body["error_codes"], serde_json::json!([7000215]));
    assert_eq!(body["correlation_id"], correlation);
    assert_eq!(body["trace_id"], answer.header("x-ms-request-id"));
    let description = body["error_description"].as_str().unwrap();
    assert!(description.starts_with("AADSTS7000215: "), "{description}");
    assert!(description.contains(correlation));
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    let uri = body["error_uri"].as_str().unwrap();
    assert!(uri.ends_with("/error?code=7000215"), "{uri}");
    assert!(!answer.text.contains("canary"));
}

#[tokio::test]
async fn the_secret_can_be_chosen() {
    let options = SimulatorOptions {
        client_secret: "chosen".into(),
        ..SimulatorOptions::default()
    };
    let caller = Caller::with(options).await;
    let tenant = Scenario::Healthy.tenant_id(0);
    assert_eq!(caller.sign_in(&tenant).await.aadsts(), 7000215);
    let answer = caller
        .sign_in_with(&tenant, &[("client_secret", "chosen")])
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn every_code_of_every_scenario_is_answered_by_its_instance() {
    let caller = Caller::new().await;
    let mut codes_seen = 0;
    for &scenario in Scenario::ALL {
        let codes = scenario.codes();
        for instance in 0..u32::try_from(codes.len()).unwrap() * 2 {
            let answer = caller.sign_in(&scenario.tenant_id(instance)).await;
            let expected = codes[instance as usize % codes.len()];
            assert_eq!(answer.aadsts(), u64::from(expected), "{scenario}");
            assert!((400..=503).contains(&answer.status), "{scenario}");
            let body = answer.json();
            let description = body["error_description"].as_str().unwrap();
            assert!(description.starts_with(&format!("AADSTS{expected}: ")));
            assert!(!body["error"].as_str().unwrap().is_empty());
            codes_seen += 1;
        }
    }
    assert!(codes_seen > 80, "{codes_seen}");
}

#[tokio::test]
async fn an_expired_certificate_is_told_by_the_description() {
    let caller = Caller::new().await;
    let describe = async |scenario: Scenario| {
        let answer = caller.sign_in(&scenario.tenant_id(0)).await;
        assert_eq!(answer.aadsts(), 700027);
        answer.text.contains("key used is expired")
    };
    assert!(describe(Scenario::CertificateExpired).await);
    assert!(!describe(Scenario::CertificateNotRegistered).await);
}

#[tokio::test]
async fn policies_are_only_reached_with_a_good_credential() {
    let caller = Caller::new().await;
    let wrong = [("client_secret", "wrong")];
    for (scenario, code) in [
        (Scenario::ConditionalAccessBlocked, 7000215),
        (Scenario::ConsentMissing, 7000215),
        (Scenario::AppNotFound, 700016),
        (Scenario::SecretExpired, 7000222),
    ] {
        let answer = caller.sign_in_with(&scenario.tenant_id(0), &wrong).await;
        assert_eq!(answer.aadsts(), code, "{scenario}");
    }
}

#[tokio::test]
async fn what_the_request_lacks_is_named() {
    let caller = Caller::new().await;
    let tenant = Scenario::Healthy.tenant_id(0);
    let scope = caller.scope();
    let whole = [
        ("client_id", CLIENT_ID),
        ("scope", &*scope),
        ("grant_type", "client_credentials"),
        ("client_secret", SIMULATED_SECRET),
    ];
    assert_eq!(caller.post_form(&tenant, &whole).await.status, 200);
    for absent in ["client_id", "scope", "grant_type"] {
        let mut fields = whole.to_vec();
        fields.retain(|(name, _)| *name != absent);
        let answer = caller.post_form(&tenant, &fields).await;
        assert_eq!(answer.aadsts(), 900144, "{absent}");
        assert!(answer.text.contains(&format!("'{absent}'")), "{absent}");
    }
    assert_eq!(caller.sign_in_with(&tenant, &[]).await.aadsts(), 7000218);
    let empty = [("client_secret", "")];
    assert_eq!(caller.sign_in_with(&tenant, &empty).await.aadsts(), 7000218);
    let untyped = [("client_assertion", "a.b.c")];
    assert_eq!(
        caller.sign_in_with(&tenant, &untyped).await.aadsts(),
        900144
    );
    for (name, value, code) in [
        ("grant_type", "password", 70003),
        ("client_id", "not-a-guid", 700016),
        ("scope", "a/.default b/.default", 70011),
        ("scope", "User.Read", 1002012),
        ("scope", "https://graph.microsoft.com/.default", 500011),
    ] {
        let mut fields = whole.to_vec();
        fields.iter_mut().find(|(n, _)| *n == name).unwrap().1 = value;
        let answer = caller.post_form(&tenant, &fields).await;
        assert_eq!(answer.aadsts(), code, "{name}={value}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_form_has_no_fields() {
    let caller = Caller::new().await;
    let request = caller
        .http
        .post(caller.token_url(&Scenario::Healthy.tenant_id(0)))
        .json(&serde_json::json!({"grant_type": "client_credentials"}));
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.aadsts(), 900144);
}

#[tokio::test]
async fn tenants_that_do_not_exist_are_told_from_ids_that_are_none() {
    let caller = Caller::new().await;
    for (tenant, code) in [
        ("11111111-2222-4333-8444-555555555555", 90002),
        ("5c000000-0000-4000-8000-000000009999", 90002),
        ("nobody.example", 90002),
        ("nonsense", 900023),
    ] {
        let answer = caller.sign_in(tenant).await;
        assert_eq!((answer.aadsts(), answer.status), (code, 400), "{tenant}");
        assert_eq!(answer.json()["error"], "invalid_request");
    }
}

#[tokio::test]
async fn tenant_ids_are_read_in_any_case() {
    let caller = Caller::new().await;
    let tenant = Scenario::Healthy.tenant_id(0).to_uppercase();
    let token = caller.token(&tenant).await;
    assert_eq!(claims(&token)["tid"], *tenant.to_lowercase());
    assert_eq!(caller.simulator.calls(&tenant).total, 1);
}
