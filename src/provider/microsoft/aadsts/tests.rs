use super::*;
use serde_json::{Value, json};

const NO: Retry = Retry::Never;
const ONCE: Retry = Retry::Once;
const WAIT: Retry = Retry::Backoff(None);
const SECRET: CredentialKind = CredentialKind::ClientSecret;
const CERTIFICATE: CredentialKind = CredentialKind::Certificate;
const FEDERATED: CredentialKind = CredentialKind::FederatedTokenFile;

fn answer(error: &str, codes: &[u64], description: &str) -> Value {
    json!({
        "error": error,
        "error_description": description,
        "error_codes": codes,
        "trace_id": "0d5cb9b6-9b8a-4d35-9b3b-1a8a3a0c0100",
        "correlation_id": "8a2ff67c-6b23-4d7c-9ea2-8ed3f4ab1c11",
    })
}

fn by(kind: CredentialKind) -> SignIn<'static> {
    SignIn {
        kind,
        federated: None,
        now: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

fn fault_of(kind: CredentialKind, status: u16, body: &[u8]) -> Fault {
    let refusal = Refusal {
        status,
        body,
        retry_after: None,
        request_id: None,
        intermediary: None,
    };
    fault(refusal, by(kind))
}

fn reason(kind: CredentialKind, error: &str, codes: &[u64], description: &str) -> Reason {
    let body = answer(error, codes, description).to_string();
    fault_of(kind, 400, body.as_bytes()).reason
}

/// Written out once more, so that a slip in the table shows.
#[test]
fn every_code_has_its_reason() {
    use Reason::*;
    let expected: &[(CredentialKind, u64, Reason, Retry)] = &[
        (SECRET, 7000215, SecretInvalid, NO),
        (SECRET, 70002, SecretInvalid, NO),
        (SECRET, 50012, SecretInvalid, NO),
        (SECRET, 7000222, SecretExpired, NO),
        (SECRET, 7000216, CredentialNotAccepted, NO),
        (SECRET, 7000218, CredentialNotAccepted, NO),
        (SECRET, 700025, AppIsPublicClient, NO),
        (SECRET, 700016, AppNotFound, NO),
        (SECRET, 700011, AppNotFound, NO),
        (SECRET, 7000229, ServicePrincipalMissing, NO),
        (SECRET, 7000112, AppDisabled, NO),
        (SECRET, 70001, AppDisabled, NO),
        (SECRET, 65001, ConsentMissing, NO),
        (SECRET, 90094, ConsentMissing, NO),
        (SECRET, 90099, ConsentMissing, NO),
        (SECRET, 650056, AppPermissionsMisconfigured, NO),
        (SECRET, 650057, AppPermissionsMisconfigured, NO),
        (SECRET, 65005, AppPermissionsMisconfigured, NO),
        (SECRET, 500011, ResourceUnavailable, NO),
        (SECRET, 500014, ResourceUnavailable, NO),
        (SECRET, 650052, ResourceUnavailable, NO),
        (SECRET, 90002, TenantNotFound, NO),
        (SECRET, 900023, TenantIdMalformed, NO),
        (SECRET, 5000224, TenantUnavailable, NO),
        (SECRET, 5000225, TenantUnavailable, NO),
        (SECRET, 90038, WrongCloud, NO),
        (SECRET, 900382, WrongCloud, NO),
        (SECRET, 900432, WrongCloud, NO),
        (SECRET, 500021, TenantRestricted, NO),
        (CERTIFICATE, 700027, CertificateNotRegistered, NO),
        (CERTIFICATE, 700026, CertificateNotRegistered, NO),
        (CERTIFICATE, 50012, CertificateNotRegistered, NO),
        (CERTIFICATE, 700030, CertificateSubjectRejected, NO),
        (CERTIFICATE, 1000502, CertificateOutsideValidity, NO),
        // A fresh assertion has new times.
        (CERTIFICATE, 700024, AssertionTimeInvalid, ONCE),
        (FEDERATED, 700024, FederatedTokenExpired, NO),
        (FEDERATED, 70021, FederationMismatch, NO),
        (FEDERATED, 700211, FederationMismatch, NO),
        (FEDERATED, 700212, FederationMismatch, NO),
        (FEDERATED, 700213, FederationMismatch, NO),
        (FEDERATED, 7002138, FederationMismatch, NO),
        (FEDERATED, 70025, FederationNotConfigured, NO),
        (FEDERATED, 700223, FederationBlocked, NO),
        (FEDERATED, 700238, FederationBlocked, NO),
        (FEDERATED, 50166, FederationIssuerUnreachable, WAIT),
        (FEDERATED, 7000272, FederationIssuerUnreachable, WAIT),
        (FEDERATED, 700027, FederatedTokenRejected, NO),
        (CERTIFICATE, 5002727, RequestMalformed, NO),
        (SECRET, 70011, RequestMalformed, NO),
        (SECRET, 28002, RequestMalformed, NO),
        (SECRET, 900144, RequestMalformed, NO),
        (SECRET, 90014, RequestMalformed, NO),
        (SECRET, 9002313, RequestMalformed, NO),
        (SECRET, 53003, ConditionalAccessBlocked, NO),
        (SECRET, 530032, ConditionalAccessBlocked, NO),
        (SECRET, 50196, Throttled, WAIT),
        (SECRET, 90055, Throttled, WAIT),
        (SECRET, 90033, ProviderUnavailable, WAIT),
        (SECRET, 90006, ProviderUnavailable, WAIT),
        (SECRET, 90024, ProviderUnavailable, WAIT),
        (SECRET, 90012, ProviderUnavailable, WAIT),
        (SECRET, 50033, ProviderUnavailable, WAIT),
        (SECRET, 90090, ProviderUnavailable, WAIT),
        (SECRET, 90030, ProviderUnavailable, WAIT),
        (CERTIFICATE, 2205013, ProviderUnavailable, WAIT),
        (SECRET, 900942, ConsentMissing, NO),
        (SECRET, 530021, ConditionalAccessBlocked, NO),
        (SECRET, 900491, ServicePrincipalMissing, NO),
        (SECRET, 7000232, SignInDenied, NO),
        (SECRET, 9002319, AppIsPublicClient, NO),
        (CERTIFICATE, 7000214, CredentialNotAccepted, NO),
        (CERTIFICATE, 7000274, CertificateOutsideValidity, NO),
        (CERTIFICATE, 7000213, CertificateSubjectRejected, NO),
        (CERTIFICATE, 500061, CertificateNotRegistered, NO),
        (FEDERATED, 7000274, FederatedTokenRejected, NO),
        (FEDERATED, 70023, FederatedTokenRejected, NO),
        (FEDERATED, 7000110, FederationMismatch, NO),
    ];
    for (kind, code, reason, retry) in expected {
        let body = answer("invalid_client", &[*code], "").to_string();
        let fault = fault_of(*kind, 400, body.as_bytes());
        assert_eq!(
            (fault.reason, fault.retry),
            (*reason, *retry),
            "{kind} {code}"
        );
        let shown = format!("AADSTS{code}");
        assert!(fault.evidence.iter().any(|e| e.value == shown), "{code}");
        assert_eq!(fault.look_up, None);
    }
}

#[test]
fn of_several_codes_the_class_decides_and_not_the_order() {
    for (kind, codes, expected) in [
        (SECRET, [70002, 50012], Reason::SecretInvalid),
        (
            CERTIFICATE,
            [70002, 50012],
            Reason::CertificateNotRegistered,
        ),
        (FEDERATED, [70002, 50012], Reason::FederatedTokenRejected),
        (SECRET, [70002, 7000222], Reason::SecretExpired),
        (SECRET, [7000222, 90002], Reason::TenantNotFound),
        (SECRET, [900144, 7000218], Reason::CredentialNotAccepted),
        (SECRET, [90033, 7000215], Reason::SecretInvalid),
        (SECRET, [65001, 700016], Reason::AppNotFound),
        (FEDERATED, [70002, 700213], Reason::FederationMismatch),
        (SECRET, [1, 53003], Reason::ConditionalAccessBlocked),
        (SECRET, [7000215, 7000222], Reason::SecretExpired),
        (SECRET, [90002, 90038], Reason::WrongCloud),
        (SECRET, [500011, 90094], Reason::ConsentMissing),
        (CERTIFICATE, [50012, 700024], Reason::AssertionTimeInvalid),
        (FEDERATED, [70021, 700213], Reason::FederationMismatch),
    ] {
        let [one, two] = codes;
        for codes in [[one, two], [two, one]] {
            assert_eq!(
                reason(kind, "invalid_client", &codes, ""),
                expected,
                "{codes:?}"
            );
        }
    }
    let text = "AADSTS70002: Error. AADSTS50012: Invalid.";
    assert_eq!(
        reason(CERTIFICATE, "invalid_client", &[70002], text),
        Reason::CertificateNotRegistered
    );
    // A quoted code does not replace one that is specific.
    let text = "AADSTS65001: see AADSTS90002";
    assert_eq!(reason(SECRET, "x", &[65001], text), Reason::ConsentMissing);
}

#[test]
fn a_code_of_several_causes_is_told_by_its_description() {
    let text = "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered. [Reason - The Key used is expired., ...]";
    let judged = |kind| reason(kind, "invalid_client", &[700027], text);
    assert_eq!(judged(CERTIFICATE), Reason::CertificateExpired);
    assert_eq!(judged(FEDERATED), Reason::FederatedTokenRejected);
    let text = "AADSTS50012: Client assertion is not within its valid time range.";
    assert_eq!(
        reason(CERTIFICATE, "invalid_client", &[50012], text),
        Reason::AssertionTimeInvalid
    );
}

#[test]
fn a_stale_token_is_told_from_a_wrong_clock() {
    let judged = |expires_in: i64| {
        let now = by(FEDERATED).now;
        let claims = FederatedClaims {
            subject: Some("system:serviceaccount:a:b".into()),
            expires_at: Some(now + chrono::TimeDelta::seconds(expires_in)),
            ..FederatedClaims::default()
        };
        let body = answer("invalid_client", &[700024], "").to_string();
        let refusal = Refusal {
            status: 401,
            body: body.as_bytes(),
            retry_after: None,
            request_id: None,
            intermediary: None,
        };
        fault(
            refusal,
            SignIn {
                federated: Some(&claims),
                ..by(FEDERATED)
            },
        )
    };
    let stale = judged(-60);
    assert_eq!(stale.reason, Reason::FederatedTokenExpired);
    let values: Vec<&str> = stale.evidence.iter().map(|e| e.value.as_str()).collect();
    assert!(values.contains(&"2025-12-31T23:59:00Z"), "{values:?}");
    assert!(values.contains(&"system:serviceaccount:a:b"), "{values:?}");
    assert_eq!(judged(600).reason, Reason::AssertionTimeInvalid);
}

#[test]
fn what_does_not_match_is_named() {
    for (code, name) in [
        (700211, "issuer"),
        (9002317, "issuer"),
        (700212, "audience"),
        (700227, "audience"),
        (7002121, "audience"),
        (7002203, "subject"),
        (700213, "subject"),
        (7002138, "subject"),
    ] {
        let body = answer("invalid_client", &[code], "").to_string();
        let fault = fault_of(FEDERATED, 400, body.as_bytes());
        let field = fault
            .evidence
            .iter()
            .find(|e| e.kind == EvidenceKind::Field);
        assert_eq!(field.unwrap().value, name);
        assert!(fault.remark.unwrap().contains(name));
    }
}

#[test]
fn an_unknown_code_of_a_family_is_about_the_external_token() {
    for (kind, error, code, expected) in [
        (
            FEDERATED,
            "invalid_grant",
            7_002_999,
            Reason::FederatedTokenRejected,
        ),
        (
            FEDERATED,
            "unauthorized_client",
            70_022_999,
            Reason::FederatedTokenRejected,
        ),
        (
            FEDERATED,
            "brand_new",
            500_139,
            Reason::FederatedTokenRejected,
        ),
        (
            FEDERATED,
            "interaction_required",
            7_999_999,
            Reason::ConditionalAccessBlocked,
        ),
        (FEDERATED, "invalid_grant", 7_999_999, Reason::AuthUnknown),
        // Five digits are too few for a family.
        (FEDERATED, "invalid_grant", 70_029, Reason::AuthUnknown),
        (
            FEDERATED,
            "invalid_request",
            7_999_999,
            Reason::FederatedTokenRejected,
        ),
        (
            FEDERATED,
            "invalid_scope",
            7_999_999,
            Reason::RequestMalformed,
        ),
        (SECRET, "invalid_grant", 7_002_999, Reason::AuthUnknown),
        (
            CERTIFICATE,
            "invalid_request",
            7_002_999,
            Reason::RequestMalformed,
        ),
    ] {
        assert_eq!(reason(kind, error, &[code], ""), expected, "{error} {code}");
    }
}

#[test]
fn the_tokens_dates_tell_what_is_wrong_with_its_time() {
    let by = by(FEDERATED);
    let at = |seconds: i64| Some(by.now + chrono::TimeDelta::seconds(seconds));
    let judged = |code: u64, iat, nbf, exp| {
        let claims = FederatedClaims {
            issued_at: iat,
            not_before: nbf,
            expires_at: exp,
            ..FederatedClaims::default()
        };
        let body = answer("invalid_request", &[code], "").to_string();
        let refusal = Refusal {
            status: 400,
            body: body.as_bytes(),
            retry_after: None,
            request_id: None,
            intermediary: None,
        };
        let federated = Some(&claims);
        let fault = fault(refusal, SignIn { federated, ..by });
        let advice = fault.advice.unwrap();
        (advice.field, advice.steps[0].0)
    };
    let clock = |who: &str| format!("Set the clock of {who} (NTP)");
    let issuers = (Some("nbf"), clock("the token's issuer"));
    let both = (None, clock("the worker and that of the token's issuer"));
    for (iat, nbf, expected) in [
        (at(120), None, issuers.clone()),
        (at(-60), at(120), issuers.clone()),
        (at(-60), at(-60), both.clone()),
        (None, None, both.clone()),
    ] {
        let (field, step) = judged(700_024, iat, nbf, at(3600));
        assert_eq!((field, step.to_owned()), expected, "{iat:?} {nbf:?}");
    }
    for (iat, exp, expected) in [
        (None, at(3600), Some("iat")),
        (at(0), at(26 * 3600), Some("exp")),
        (at(0), at(3600), None),
        (None, None, None),
    ] {
        assert_eq!(judged(70_023, iat, None, exp).0, expected);
    }
}

#[test]
fn an_error_of_a_login_is_told_from_a_word_of_a_gateway() {
    let judged = |body: &str| fault_of(SECRET, 403, body.as_bytes()).reason;
    for (body, expected) in [
        (
            r#"{"error":"interaction_required"}"#,
            Reason::ConditionalAccessBlocked,
        ),
        (r#"{"error":"consent_required"}"#, Reason::ConsentMissing),
        (
            r#"{"error":"brand_new","claims":"{}"}"#,
            Reason::ConditionalAccessBlocked,
        ),
        (r#"{"error":"access_denied"}"#, Reason::ProxyRefused),
        (r#"{"error":"forbidden"}"#, Reason::ProxyRefused),
        (
            r#"{"error":"Forbidden","timestamp":"2026-01-01","status":403}"#,
            Reason::ProxyRefused,
        ),
        (r#"{"claims":"{}"}"#, Reason::ProxyRefused),
        (
            r#"{"error":"access_denied","error_description":""}"#,
            Reason::SignInDenied,
        ),
    ] {
        assert_eq!(judged(body), expected, "{body}");
    }
}

#[test]
fn the_description_never_becomes_evidence() {
    let body = answer("invalid_client", &[7000215], "AADSTS7000215: canary-text").to_string();
    let fault = fault_of(SECRET, 401, body.as_bytes());
    assert!(!format!("{fault:?}").contains("canary-text"));
}

#[test]
fn fallbacks_go_by_the_oauth_error_and_then_to_unknown() {
    for (error, codes, expected) in [
        (
            "temporarily_unavailable",
            &[9_999_999][..],
            Reason::ProviderUnavailable,
        ),
        ("server_error", &[], Reason::ProviderUnavailable),
        (
            "invalid_client",
            &[9_999_999],
            Reason::CredentialNotAccepted,
        ),
        ("INVALID_CLIENT", &[], Reason::CredentialNotAccepted),
        ("unauthorized_client", &[9_999_999], Reason::AppNotFound),
        ("invalid_grant", &[9_999_999], Reason::AuthUnknown),
        ("access_denied", &[9_999_999], Reason::SignInDenied),
        (
            "interaction_required",
            &[50_097],
            Reason::ConditionalAccessBlocked,
        ),
        ("invalid_request", &[9_999_999], Reason::RequestMalformed),
        ("consent_required", &[], Reason::ConsentMissing),
        ("invalid_resource", &[], Reason::ResourceUnavailable),
        ("brand_new", &[9_999_999], Reason::AuthUnknown),
    ] {
        assert_eq!(reason(SECRET, error, codes, ""), expected, "{error}");
        let body = answer(error, codes, "").to_string();
        let fault = fault_of(SECRET, 400, body.as_bytes());
        let look_up = fault.look_up.map(NonZeroU64::get);
        assert_eq!(look_up, codes.first().copied(), "{error}");
    }
    let claims = br#"{"error":"invalid_grant","claims":"{}","suberror":"brand_new"}"#;
    let challenged = fault_of(SECRET, 400, claims).reason;
    assert_eq!(challenged, Reason::ConditionalAccessBlocked);
    let consent = br#"{"error":"invalid_grant","suberror":"consent_required"}"#;
    assert_eq!(
        fault_of(SECRET, 400, consent).reason,
        Reason::ConsentMissing
    );
}

#[test]
fn without_an_error_the_status_decides() {
    let wait = Some(Duration::from_secs(3));
    let refusal = Refusal {
        status: 429,
        body: b"",
        retry_after: wait,
        request_id: None,
        intermediary: None,
    };
    let throttled = fault(refusal, by(SECRET));
    assert_eq!(throttled.reason, Reason::Throttled);
    assert_eq!(throttled.retry, Retry::Backoff(wait));
    let judged = |status, body: &[u8]| fault_of(SECRET, status, body).reason;
    assert_eq!(judged(502, b""), Reason::ProviderUnavailable);
    assert_eq!(
        judged(404, b"<html>Not here</html>"),
        Reason::ResponseInvalid
    );
    // The login service never refuses without a word of its own.
    assert_eq!(judged(403, b"<html>Blocked</html>"), Reason::ProxyRefused);
    assert_eq!(judged(407, b""), Reason::ProxyRefused);
    assert_eq!(judged(470, b"Action: Deny."), Reason::ProxyRefused);
    assert_eq!(judged(408, b""), Reason::ProviderTimeout);
    assert_eq!(judged(425, b""), Reason::ProviderUnavailable);
    assert_eq!(judged(511, b"<html>Log in</html>"), Reason::ProxyRefused);
    let odd = br#"{"error": "eyJhbGciOi.eyJzdWIi.c2ln"}"#;
    assert_eq!(judged(400, odd), Reason::ResponseInvalid);
    // The error is more specific than the status.
    let refused = br#"{"error":"invalid_client","error_codes":[7000222]}"#;
    for status in [400, 401, 403, 429, 500, 503] {
        assert_eq!(judged(status, refused), Reason::SecretExpired, "{status}");
    }
}
