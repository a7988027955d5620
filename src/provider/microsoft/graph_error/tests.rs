use super::codes::{WAIT, WORDS};
use super::*;
use serde_json::json;

fn body(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message, "innerError": {
        "date": "2026-01-01T00:00:00",
        "request-id": "2a4b2ec2-2f7a-4b8e-9a0d-7f6f4f4c3a01",
        "client-request-id": "8a2ff67c-6b23-4d7c-9ea2-8ed3f4ab1c11",
    }}})
}

fn judged(status: u16, code: &str, message: &str) -> Fault {
    fault(status, Some(&body(code, message)), None, false, false)
}

/// As Intune hides its own error in Graph's.
fn nested(code: &str, message: &str) -> String {
    json!({"ErrorCode": code, "Message": json!({"_version": 3,
        "Message": format!("{message} - Operation ID (for customer support): 0 - Activity ID: 1"),
        "CustomApiErrorPhrase": "", "RetryAfter": null, "HttpHeaders": "{}"}).to_string()})
    .to_string()
}

#[test]
fn every_code_has_its_reason_in_every_case() {
    for (code, reason, retry) in CODES.iter().chain(VAGUE) {
        for code in [
            code.to_string(),
            code.to_ascii_lowercase(),
            code.to_ascii_uppercase(),
        ] {
            let fault = judged(418, &code, "");
            assert_eq!((fault.reason, fault.retry), (*reason, *retry), "{code}");
        }
    }
    let names: std::collections::BTreeSet<_> = CODES.iter().chain(VAGUE).map(|c| c.0).collect();
    assert_eq!(names.len(), CODES.len() + VAGUE.len());
}

#[test]
fn every_line_of_words_is_reached() {
    for (words, reason, retry) in WORDS {
        let fault = judged(400, "BadRequest", &words.join(" - "));
        assert_eq!((fault.reason, fault.retry), (*reason, *retry), "{words:?}");
        assert!(words.iter().all(|word| *word == word.to_ascii_lowercase()));
    }
}

#[test]
fn unknown_codes_go_by_the_status() {
    use Reason::*;
    for (status, reason, retry) in [
        (400, GraphUnknown, NO),
        (401, TokenRejected, NO),
        (402, ServiceNotLicensed, NO),
        (403, PermissionDenied, NO),
        (404, ResourceNotFound, NO),
        (405, RequestMalformed, NO),
        (408, ProviderTimeout, WAIT),
        (409, ProviderUnavailable, WAIT),
        (410, ResourceNotFound, NO),
        (412, RequestMalformed, NO),
        (422, RequestMalformed, NO),
        (423, ProviderUnavailable, WAIT),
        (429, Throttled, WAIT),
        (451, TenantUnavailable, NO),
        (500, ProviderUnavailable, WAIT),
        (501, ResourceNotFound, NO),
        (502, ProviderUnavailable, WAIT),
        (503, ProviderUnavailable, WAIT),
        (504, ProviderUnavailable, WAIT),
        (509, Throttled, WAIT),
    ] {
        let fault = judged(status, "SomethingNew", "");
        assert_eq!((fault.reason, fault.retry), (reason, retry), "{status}");
    }
}

#[test]
fn an_answer_that_is_not_graphs_is_invalid() {
    for status in [400, 403, 404, 451] {
        let reason = fault(status, None, None, false, false).reason;
        assert_eq!(reason, Reason::ResponseInvalid, "{status}");
    }
    assert_eq!(
        fault(401, None, None, false, false).reason,
        Reason::TokenRejected
    );
    assert_eq!(
        fault(502, None, None, false, false).reason,
        Reason::ProviderUnavailable
    );
}

#[test]
fn a_missing_licence_is_told_by_the_message_in_whatever_form() {
    let text = "Request not applicable to target tenant.";
    let licence = "Tenant does not have a valid Intune license/subscription";
    for (status, code, message, reason) in [
        (
            400,
            "BadRequest",
            text.to_owned(),
            Reason::IntuneNotLicensed,
        ),
        (
            400,
            "BadRequest",
            text.to_uppercase(),
            Reason::IntuneNotLicensed,
        ),
        (
            400,
            "BadRequest",
            nested("BadRequest", text),
            Reason::IntuneNotLicensed,
        ),
        (
            403,
            "UnknownError",
            nested("Forbidden", text),
            Reason::IntuneNotLicensed,
        ),
        (
            400,
            "UnknownError",
            json!({"CustomApiErrorPhrase": text}).to_string(),
            Reason::IntuneNotLicensed,
        ),
        (
            403,
            "Forbidden",
            licence.to_owned(),
            Reason::IntuneNotLicensed,
        ),
        (
            403,
            "TenantNotLicensedForIntune",
            String::new(),
            Reason::IntuneNotLicensed,
        ),
        (
            403,
            "AadPremiumLicenseRequired",
            String::new(),
            Reason::EntraNotLicensed,
        ),
        (
            403,
            "Forbidden",
            "Tenant does not have a SPO license.".into(),
            Reason::ServiceNotLicensed,
        ),
        (
            403,
            "Forbidden",
            "Insufficient privileges".into(),
            Reason::PermissionDenied,
        ),
    ] {
        assert_eq!(judged(status, code, &message).reason, reason, "{message}");
    }
}

#[test]
fn the_innermost_known_code_is_the_most_exact() {
    let body = json!({"error": {"code": "accessDenied", "message": "",
        "innerError": {"code": "Authorization_IdentityNotFound"}}});
    let fault = fault(403, Some(&body), None, false, false);
    assert_eq!(fault.reason, Reason::ServicePrincipalMissing);
    let codes: Vec<&str> = fault
        .evidence
        .iter()
        .filter(|e| e.kind == EvidenceKind::GraphCode)
        .map(|e| e.value.as_str())
        .collect();
    assert_eq!(codes, ["accessDenied", "Authorization_IdentityNotFound"]);
}

#[test]
fn a_refusal_of_the_service_behind_graph_is_no_rejected_token() {
    for (code, message) in [
        ("UnknownError", nested("Forbidden", "An error has occurred")),
        (
            "Unauthorized",
            nested("Unauthorized", "An error has occurred"),
        ),
        (
            "UnknownError",
            json!({"Message": "An error has occurred"}).to_string(),
        ),
    ] {
        assert_eq!(
            judged(401, code, &message).reason,
            Reason::PermissionDenied,
            "{message}"
        );
    }
    assert_eq!(
        judged(401, "Unauthorized", "").reason,
        Reason::TokenRejected
    );
}

#[test]
fn a_token_is_rejected_for_different_reasons() {
    for (message, reason) in [
        (
            "Access token validation failure. Invalid audience.",
            Reason::WrongCloud,
        ),
        (
            "Lifetime validation failed, the token is expired.",
            Reason::TokenTimeInvalid,
        ),
        (
            "CompactToken parsing failed with error code: 80049217",
            Reason::TokenRejected,
        ),
        ("Access token is empty.", Reason::TokenRejected),
    ] {
        assert_eq!(
            judged(401, "InvalidAuthenticationToken", message).reason,
            reason,
            "{message}"
        );
    }
}

#[test]
fn a_challenge_for_other_claims_is_conditional_access() {
    let reason = |body: Option<&Value>| fault(401, body, None, true, false).reason;
    let token = body("InvalidAuthenticationToken", "");
    assert_eq!(reason(Some(&token)), Reason::ConditionalAccessBlocked);
    assert_eq!(reason(None), Reason::ConditionalAccessBlocked);
    let revoked = body(
        "InvalidAuthenticationToken",
        "Continuous access evaluation resulted in challenge with result: InteractionRequired \
         and code: TokenIssuedBeforeRevocationTimestamp",
    );
    assert_eq!(reason(Some(&revoked)), Reason::TokenRejected);
}

#[test]
fn a_server_in_trouble_is_not_asked_about_the_tenant() {
    let fault = judged(500, "Forbidden", "Tenant does not have an Intune license");
    assert_eq!(
        (fault.reason, fault.retry),
        (Reason::ProviderUnavailable, WAIT)
    );
    let fault = judged(429, "Forbidden", "");
    assert_eq!((fault.reason, fault.retry), (Reason::Throttled, WAIT));
}

#[test]
fn intunes_nested_message_can_ask_to_wait() {
    let nested = json!({"Message": "slow down", "RetryAfter": "7"}).to_string();
    let fault = judged(429, "UnknownError", &nested);
    assert_eq!(fault.reason, Reason::Throttled);
    assert_eq!(fault.retry, Retry::Backoff(Some(Duration::from_secs(7))));
}

#[test]
fn messages_never_become_evidence() {
    let fault = judged(403, "Forbidden", "canary-text");
    assert!(!format!("{fault:?}").contains("canary-text"));
    let has_request = fault
        .evidence
        .iter()
        .any(|e| e.kind == EvidenceKind::RequestId);
    assert!(has_request);
}
