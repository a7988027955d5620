//! What Microsoft Entra's token errors mean: one table from AADSTS codes to reasons.

use super::evidence;
use super::fault::{Fault, Retry};
use crate::domain::Reason;
use crate::domain::report::EvidenceKind;
use serde_json::Value;
use std::time::Duration;

const NO: Retry = Retry::Never;
const ONCE: Retry = Retry::Once;
const WAIT: Retry = Retry::Backoff(None);

/// Source: the public reference of Microsoft Entra's error codes. The numbers may change, so every
/// code that is not here falls back on the OAuth error and then on `auth_unknown`.
static CODES: &[(&[u32], Reason, Retry)] = &[
    (&[7000215, 70002], Reason::SecretInvalid, NO),
    (&[7000222], Reason::SecretExpired, NO),
    (&[7000218], Reason::CredentialNotAccepted, NO),
    (&[700025], Reason::AppIsPublicClient, NO),
    (&[700016, 700011], Reason::AppNotFound, NO),
    (&[7000229], Reason::ServicePrincipalMissing, NO),
    (&[7000112, 70001], Reason::AppDisabled, NO),
    (&[65001, 90094], Reason::ConsentMissing, NO),
    (
        &[650056, 650057, 65005],
        Reason::AppPermissionsMisconfigured,
        NO,
    ),
    (&[500011, 650052], Reason::ResourceUnavailable, NO),
    (&[90002], Reason::TenantNotFound, NO),
    (&[900023], Reason::TenantIdMalformed, NO),
    (&[5000224], Reason::TenantUnavailable, NO),
    (&[90038, 900382, 900432], Reason::WrongCloud, NO),
    (&[700027, 50012], Reason::CertificateNotRegistered, NO),
    (&[700030], Reason::CertificateSubjectRejected, NO),
    // A fresh assertion has new times.
    (&[700024], Reason::AssertionTimeInvalid, ONCE),
    (
        &[5002727, 70011, 28002, 900144, 90014],
        Reason::RequestMalformed,
        NO,
    ),
    (&[70021, 700211, 700213], Reason::FederationMismatch, NO),
    (&[70025], Reason::FederationNotConfigured, NO),
    (&[700223, 700238], Reason::FederationBlocked, NO),
    (&[53003, 530032], Reason::ConditionalAccessBlocked, NO),
    (&[50196, 90055], Reason::Throttled, WAIT),
    (
        &[90033, 90006, 90024, 90012, 50033, 90090],
        Reason::ProviderUnavailable,
        WAIT,
    ),
];

/// OAuth errors that name a temporary condition whatever code comes with them.
static TEMPORARY: &[&str] = &["temporarily_unavailable", "server_error"];

/// What an OAuth error means when no code comes with it.
static OAUTH: &[(&str, Reason)] = &[
    ("invalid_client", Reason::CredentialNotAccepted),
    ("consent_required", Reason::ConsentMissing),
    ("invalid_resource", Reason::ResourceUnavailable),
    ("invalid_scope", Reason::RequestMalformed),
    ("unsupported_grant_type", Reason::RequestMalformed),
];

fn by_code(code: u32) -> Option<(Reason, Retry)> {
    CODES
        .iter()
        .find(|(codes, _, _)| codes.contains(&code))
        .map(|(_, reason, retry)| (*reason, *retry))
}

/// The fault that a token answer other than success stands for. `body` is null when it was no JSON.
pub(super) fn fault(status: u16, body: Option<&Value>, retry_after: Option<Duration>) -> Fault {
    let error = body.and_then(|b| evidence::code(b.get("error")));
    let codes = body.map(codes).unwrap_or_default();
    let known = codes
        .iter()
        .find_map(|code| by_code(*code).map(|(reason, retry)| (*code, reason, retry)));
    let (reason, retry) = match (known, error) {
        (Some((700027, ..)), _) if says_key_expired(body) => (Reason::CertificateExpired, NO),
        (Some((_, reason, retry)), _) => (reason, retry),
        (None, Some(error)) if TEMPORARY.contains(&error) => (Reason::ProviderUnavailable, WAIT),
        _ if status == 429 => (Reason::Throttled, WAIT),
        _ if status >= 500 => (Reason::ProviderUnavailable, WAIT),
        // Not the token endpoint's own answer: it always names its error.
        (None, None) => (Reason::ResponseInvalid, NO),
        (None, Some(error)) if codes.is_empty() => OAUTH
            .iter()
            .find(|(name, _)| *name == error)
            .map_or((Reason::AuthUnknown, NO), |(_, reason)| (*reason, NO)),
        (None, Some(_)) => (Reason::AuthUnknown, NO),
    };
    let retry = match retry {
        Retry::Backoff(_) => Retry::Backoff(retry_after),
        other => other,
    };
    let id = |member: &str| {
        evidence::guid(
            body.and_then(|b| b.get(member))
                .and_then(serde_json::Value::as_str),
        )
    };
    Fault::new(reason)
        .status(status)
        .with_some(
            EvidenceKind::AadstsCode,
            known
                .map(|(code, ..)| code)
                .or(codes.first().copied())
                .map(|code| format!("AADSTS{code}")),
        )
        .with_some(EvidenceKind::OauthError, error)
        .with_some(EvidenceKind::TraceId, id("trace_id"))
        .with_some(EvidenceKind::CorrelationId, id("correlation_id"))
        .retry(retry)
}

/// The answer's codes: `error_codes`, or else the number at the start of the description.
fn codes(body: &Value) -> Vec<u32> {
    let listed: Vec<u32> = body
        .get("error_codes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .take(16)
        .filter_map(|code| {
            code.as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .or_else(|| code.as_str().and_then(|s| s.parse().ok()))
        })
        .collect();
    if !listed.is_empty() {
        return listed;
    }
    description(body)
        .and_then(|text| text.trim_start().strip_prefix("AADSTS"))
        .map(|rest| {
            rest.bytes()
                .take_while(u8::is_ascii_digit)
                .map(char::from)
                .collect::<String>()
        })
        .and_then(|digits| digits.parse().ok())
        .into_iter()
        .collect()
}

fn description(body: &Value) -> Option<&str> {
    body.get("error_description").and_then(Value::as_str)
}

/// The only place where the description decides: the code is the same for a certificate that is
/// unknown and for one that has expired.
fn says_key_expired(body: Option<&Value>) -> bool {
    body.and_then(description)
        .is_some_and(|text| text.to_ascii_lowercase().contains("key used is expired"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(error: &str, codes: &[u32], description: &str) -> Value {
        json!({
            "error": error,
            "error_description": description,
            "error_codes": codes,
            "trace_id": "0d5cb9b6-9b8a-4d35-9b3b-1a8a3a0c0100",
            "correlation_id": "8a2ff67c-6b23-4d7c-9ea2-8ed3f4ab1c11",
        })
    }

    /// Written out once more, so that a slip in the table shows.
    #[test]
    fn every_code_has_its_reason() {
        use Reason::*;
        let expected: &[(u32, Reason, Retry)] = &[
            (7000215, SecretInvalid, NO),
            (70002, SecretInvalid, NO),
            (7000222, SecretExpired, NO),
            (7000218, CredentialNotAccepted, NO),
            (700025, AppIsPublicClient, NO),
            (700016, AppNotFound, NO),
            (700011, AppNotFound, NO),
            (7000229, ServicePrincipalMissing, NO),
            (7000112, AppDisabled, NO),
            (70001, AppDisabled, NO),
            (65001, ConsentMissing, NO),
            (90094, ConsentMissing, NO),
            (650056, AppPermissionsMisconfigured, NO),
            (650057, AppPermissionsMisconfigured, NO),
            (65005, AppPermissionsMisconfigured, NO),
            (500011, ResourceUnavailable, NO),
            (650052, ResourceUnavailable, NO),
            (90002, TenantNotFound, NO),
            (900023, TenantIdMalformed, NO),
            (5000224, TenantUnavailable, NO),
            (90038, WrongCloud, NO),
            (900382, WrongCloud, NO),
            (900432, WrongCloud, NO),
            (700027, CertificateNotRegistered, NO),
            (50012, CertificateNotRegistered, NO),
            (700030, CertificateSubjectRejected, NO),
            (700024, AssertionTimeInvalid, ONCE),
            (5002727, RequestMalformed, NO),
            (70011, RequestMalformed, NO),
            (28002, RequestMalformed, NO),
            (900144, RequestMalformed, NO),
            (90014, RequestMalformed, NO),
            (70021, FederationMismatch, NO),
            (700211, FederationMismatch, NO),
            (700213, FederationMismatch, NO),
            (70025, FederationNotConfigured, NO),
            (700223, FederationBlocked, NO),
            (700238, FederationBlocked, NO),
            (53003, ConditionalAccessBlocked, NO),
            (530032, ConditionalAccessBlocked, NO),
            (50196, Throttled, WAIT),
            (90055, Throttled, WAIT),
            (90033, ProviderUnavailable, WAIT),
            (90006, ProviderUnavailable, WAIT),
            (90024, ProviderUnavailable, WAIT),
            (90012, ProviderUnavailable, WAIT),
            (50033, ProviderUnavailable, WAIT),
            (90090, ProviderUnavailable, WAIT),
        ];
        let rows: usize = CODES.iter().map(|(codes, ..)| codes.len()).sum();
        assert_eq!(rows, expected.len());
        for (code, reason, retry) in expected {
            let fault = fault(400, Some(&answer("invalid_client", &[*code], "")), None);
            assert_eq!((fault.reason, fault.retry), (*reason, *retry), "{code}");
            assert!(
                fault
                    .evidence
                    .iter()
                    .any(|e| e.value == format!("AADSTS{code}")),
                "{code}"
            );
        }
    }

    #[test]
    fn an_expired_certificate_is_told_by_its_description() {
        let text = "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered. [Reason - The Key used is expired., ...]";
        let body = answer("invalid_client", &[700027], text);
        assert_eq!(
            fault(401, Some(&body), None).reason,
            Reason::CertificateExpired
        );
    }

    #[test]
    fn the_description_never_becomes_evidence() {
        let body = answer("invalid_client", &[7000215], "AADSTS7000215: canary-text");
        let fault = fault(401, Some(&body), None);
        assert!(!format!("{fault:?}").contains("canary-text"));
    }

    #[test]
    fn codes_are_read_from_the_description_when_they_are_not_listed() {
        let body = json!({"error": "invalid_client", "error_description": "AADSTS7000222: gone"});
        assert_eq!(fault(401, Some(&body), None).reason, Reason::SecretExpired);
    }

    #[test]
    fn a_known_code_wins_over_an_unknown_one() {
        let body = answer("invalid_client", &[1, 53003], "");
        let fault = fault(400, Some(&body), None);
        assert_eq!(fault.reason, Reason::ConditionalAccessBlocked);
        assert!(fault.evidence.iter().any(|e| e.value == "AADSTS53003"));
    }

    #[test]
    fn fallbacks_go_by_the_oauth_error_and_then_to_unknown() {
        let reason =
            |error: &str, codes: &[u32]| fault(400, Some(&answer(error, codes, "")), None).reason;
        assert_eq!(
            reason("temporarily_unavailable", &[1]),
            Reason::ProviderUnavailable
        );
        assert_eq!(reason("server_error", &[]), Reason::ProviderUnavailable);
        assert_eq!(reason("invalid_client", &[1]), Reason::AuthUnknown);
        for (error, expected) in OAUTH {
            assert_eq!(reason(error, &[]), *expected);
        }
        assert_eq!(reason("invalid_grant", &[]), Reason::AuthUnknown);
        assert_eq!(reason("brand_new", &[999_999]), Reason::AuthUnknown);
    }

    #[test]
    fn without_an_error_the_status_decides() {
        let wait = Some(Duration::from_secs(3));
        let throttled = fault(429, None, wait);
        assert_eq!(throttled.reason, Reason::Throttled);
        assert_eq!(throttled.retry, Retry::Backoff(wait));
        assert_eq!(fault(502, None, None).reason, Reason::ProviderUnavailable);
        assert_eq!(fault(403, None, None).reason, Reason::ResponseInvalid);
        let odd = json!({"error": "eyJhbGciOi.eyJzdWIi.c2ln"});
        assert_eq!(fault(400, Some(&odd), None).reason, Reason::ResponseInvalid);
    }
}
