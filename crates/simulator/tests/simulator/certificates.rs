//! Certificate assertions.

use super::caller::{Answer, CLIENT_ID, Caller, now};
use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::sync::LazyLock;
use verifyd_simulator::{Scenario, SimulatorError, SimulatorOptions};

/// A certificate with its key. Made once, since RSA keys take their time.
struct Pair {
    certificate: String,
    key: String,
}

fn pair(key: &rcgen::KeyPair, expired: bool) -> Pair {
    let mut parameters = rcgen::CertificateParams::new(vec!["verifyd.example".into()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(if expired { 2021 } else { 2900 }, 1, 1);
    Pair {
        certificate: parameters.self_signed(key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

static GOOD: LazyLock<Pair> = LazyLock::new(|| pair(&rsa(), false));
static EXPIRED: LazyLock<Pair> = LazyLock::new(|| pair(&rsa(), true));

fn rsa() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap()
}

/// Signs in with an assertion that is right but for what `change` does to it.
async fn present(
    caller: &Caller,
    key: &Pair,
    thumbprint: &str,
    change: impl FnOnce(&mut Header, &mut Value),
) -> Answer {
    let tenant = Scenario::Healthy.tenant_id(0);
    let mut header = Header::new(Algorithm::PS256);
    header.x5t_s256 = Some(thumbprint.to_owned());
    let mut claims = json!({
        "aud": caller.token_url(&tenant),
        "iss": CLIENT_ID,
        "sub": CLIENT_ID,
        "jti": uuid::Uuid::new_v4(),
        "nbf": now(),
        "iat": now(),
        "exp": now() + 300,
    });
    change(&mut header, &mut claims);
    let key = EncodingKey::from_rsa_pem(key.key.as_bytes()).unwrap();
    let assertion = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    caller.present(&tenant, &assertion).await
}

#[tokio::test]
async fn only_the_key_of_a_registered_and_valid_certificate_signs_in() {
    let options = SimulatorOptions {
        certificates_pem: vec![GOOD.certificate.clone()],
        ..SimulatorOptions::default()
    };
    let (caller, stranger) = (Caller::with(options).await, Caller::new().await);
    let register = |pair: &Pair| caller.simulator.register_certificate(&pair.certificate);
    let (good, expired) = (register(&GOOD).unwrap(), register(&EXPIRED).unwrap());
    let answer = present(&caller, &GOOD, &good, |_, _| {}).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for (caller, key, thumbprint, words) in [
        (&stranger, &GOOD, &good, "key was not found"),
        (&caller, &EXPIRED, &expired, "key used is expired"),
        (&caller, &EXPIRED, &good, "signature does not fit"),
    ] {
        let answer = present(caller, key, thumbprint, |_, _| {}).await;
        assert_eq!(answer.aadsts(), 700027, "{words}");
        assert!(answer.text.contains(words), "{words}: {}", answer.text);
    }
}

#[tokio::test]
async fn what_an_assertion_says_is_checked() {
    type Change = fn(&mut Header, &mut Value);
    let cases: [(&str, Change, u64); 9] = [
        (
            "audience",
            |_, c| c["aud"] = json!("http://127.0.0.1/t"),
            700023,
        ),
        ("subject", |_, c| c["sub"] = json!("somebody"), 700021),
        (
            "issuer",
            |_, c| {
                c["iss"] = json!("5d6f1c6e-4ac2-4a86-a0f1-3c63d24f8b01");
                c["sub"] = c["iss"].clone();
            },
            700021,
        ),
        (
            "too old",
            |_, c| {
                c["nbf"] = json!(now() - 1_200);
                c["exp"] = json!(now() - 600);
            },
            700024,
        ),
        ("too early", |_, c| c["nbf"] = json!(now() + 600), 700024),
        (
            "ends before it begins",
            |_, c| c["exp"] = json!(now() - 1),
            700024,
        ),
        (
            "no end",
            |_, c| drop(c.as_object_mut().unwrap().remove("exp")),
            50027,
        ),
        ("algorithm", |h, _| h.alg = Algorithm::RS256, 5002727),
        ("no thumbprint", |h, _| h.x5t_s256 = None, 5002727),
    ];
    let caller = Caller::new().await;
    let thumbprint = caller
        .simulator
        .register_certificate(&GOOD.certificate)
        .unwrap();
    for (what, change, code) in cases {
        let answer = present(&caller, &GOOD, &thumbprint, change).await;
        assert_eq!(answer.aadsts(), code, "{what}");
    }
}

#[tokio::test]
async fn clocks_may_differ_by_less_than_five_minutes() {
    let caller = Caller::new().await;
    let thumbprint = caller
        .simulator
        .register_certificate(&GOOD.certificate)
        .unwrap();
    caller.clock.put_forward(TimeDelta::seconds(300 + 240));
    let late = present(&caller, &GOOD, &thumbprint, |_, _| {}).await;
    assert_eq!(late.status, 200, "{}", late.text);
    caller.clock.put_forward(TimeDelta::seconds(240));
    let too_late = present(&caller, &GOOD, &thumbprint, |_, _| {}).await;
    assert_eq!(too_late.aadsts(), 700024);
}

#[tokio::test]
async fn what_is_no_assertion_is_malformed() {
    let caller = Caller::new().await;
    for assertion in ["x", "a.b.c", "e30.e30.e30"] {
        let answer = caller
            .present(&Scenario::Healthy.tenant_id(0), assertion)
            .await;
        assert_eq!(answer.aadsts(), 50027, "{assertion}");
    }
}

#[tokio::test]
async fn only_rsa_certificates_are_registered() {
    let caller = Caller::new().await;
    let elliptic = pair(&rcgen::KeyPair::generate().unwrap(), false);
    for pem in ["", "nonsense", &elliptic.key, &elliptic.certificate] {
        let error = caller.simulator.register_certificate(pem).unwrap_err();
        assert!(matches!(error, SimulatorError::Certificate(_)), "{error}");
    }
}

#[tokio::test]
async fn certificates_are_registered_over_http_as_well() {
    let caller = Caller::new().await;
    let post = async |body: String| {
        let request = caller.http.post(caller.url("/__simulator/certificates"));
        Answer::of(request.body(body).send().await.unwrap()).await
    };
    let registered = post(GOOD.certificate.clone()).await;
    assert_eq!(registered.status, 201);
    let body = registered.json();
    let thumbprint = body["x5t#S256"].as_str().unwrap();
    let answer = present(&caller, &GOOD, thumbprint, |_, _| {}).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(post("nonsense".to_owned()).await.status, 422);
}
