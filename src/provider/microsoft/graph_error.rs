//! What Microsoft Graph's errors mean: one table from codes to reasons, then the status.

use super::evidence;
use super::fault::{Fault, Retry};
use crate::domain::Reason;
use crate::domain::report::EvidenceKind;
use serde_json::Value;
use std::time::Duration;

const NO: Retry = Retry::Never;
const WAIT: Retry = Retry::Backoff(None);

/// `error.code`, compared without regard to case: services behind Graph differ in it.
static CODES: &[(&str, Reason, Retry)] = &[
    (
        "Authorization_IdentityNotFound",
        Reason::ServicePrincipalMissing,
        NO,
    ),
    ("Authorization_RequestDenied", Reason::PermissionDenied, NO),
    ("accessDenied", Reason::PermissionDenied, NO),
    ("Forbidden", Reason::PermissionDenied, NO),
    ("InvalidAuthenticationToken", Reason::TokenRejected, NO),
    ("Authentication_ExpiredToken", Reason::TokenRejected, NO),
    ("unauthenticated", Reason::TokenRejected, NO),
    ("Unauthorized", Reason::TokenRejected, NO),
    ("TooManyRequests", Reason::Throttled, WAIT),
    ("activityLimitReached", Reason::Throttled, WAIT),
    ("Request_ThrottledTemporarily", Reason::Throttled, WAIT),
    ("serviceNotAvailable", Reason::ProviderUnavailable, WAIT),
    ("ServiceUnavailable", Reason::ProviderUnavailable, WAIT),
    (
        "Service_ServiceUnavailable",
        Reason::ProviderUnavailable,
        WAIT,
    ),
    (
        "Service_InternalServerError",
        Reason::ProviderUnavailable,
        WAIT,
    ),
    ("GatewayTimeout", Reason::ProviderUnavailable, WAIT),
    ("Request_BadRequest", Reason::RequestMalformed, NO),
    ("Request_UnsupportedQuery", Reason::RequestMalformed, NO),
    ("invalidRequest", Reason::RequestMalformed, NO),
];

/// The message, compared without regard to case, by which alone a tenant without the Intune
/// licence can be told.
const NOT_APPLICABLE: &str = "request not applicable to target tenant";

/// The fault that a Graph answer other than success stands for. `body` is null when it was no JSON.
pub(super) fn fault(status: u16, body: Option<&Value>, retry_after: Option<Duration>) -> Fault {
    let error = body.and_then(|b| b.get("error"));
    let code = error.and_then(|e| evidence::code(e.get("code")));
    let message = Message::of(error);
    let (reason, retry) = if status == 400 && message.holds(NOT_APPLICABLE) {
        (Reason::IntuneNotLicensed, NO)
    } else {
        code.and_then(by_code)
            .or_else(|| message.inner_code().and_then(by_code))
            .unwrap_or_else(|| by_status(status, error.is_some()))
    };
    let retry = match retry {
        Retry::Backoff(_) => Retry::Backoff(retry_after.or(message.retry_after())),
        other => other,
    };
    let inner = error.and_then(|e| e.get("innerError").or_else(|| e.get("innererror")));
    let id = |member: &str| {
        evidence::guid(
            inner
                .and_then(|i| i.get(member))
                .and_then(serde_json::Value::as_str),
        )
    };
    Fault::new(reason)
        .status(status)
        .with_some(EvidenceKind::GraphCode, code)
        .with_some(EvidenceKind::RequestId, id("request-id"))
        .with_some(EvidenceKind::CorrelationId, id("client-request-id"))
        .retry(retry)
}

fn by_code(code: &str) -> Option<(Reason, Retry)> {
    CODES
        .iter()
        .find(|(name, ..)| name.eq_ignore_ascii_case(code))
        .map(|(_, reason, retry)| (*reason, *retry))
}

fn by_status(status: u16, is_graph: bool) -> (Reason, Retry) {
    match status {
        401 => (Reason::TokenRejected, NO),
        429 => (Reason::Throttled, WAIT),
        500.. => (Reason::ProviderUnavailable, WAIT),
        // Not Graph's own answer: it always has an error object.
        _ if !is_graph => (Reason::ResponseInvalid, NO),
        403 => (Reason::PermissionDenied, NO),
        _ => (Reason::GraphUnknown, NO),
    }
}

/// `error.message`: a text, in which Intune hides another JSON object.
struct Message<'a> {
    text: &'a str,
    nested: Option<Value>,
}

impl<'a> Message<'a> {
    fn of(error: Option<&'a Value>) -> Self {
        let text = error
            .and_then(|e| e.get("message"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        let nested = text
            .trim_start()
            .starts_with('{')
            .then(|| serde_json::from_str(text).ok())
            .flatten();
        Self { text, nested }
    }

    /// Whether the text, or the message nested in it, holds these words (given in lowercase).
    fn holds(&self, words: &str) -> bool {
        let nested = self
            .nested
            .iter()
            .flat_map(|n| [n.get("Message"), n.get("CustomApiErrorPhrase")])
            .filter_map(|v| v.and_then(Value::as_str));
        std::iter::once(self.text)
            .chain(nested)
            .any(|text| text.to_ascii_lowercase().contains(words))
    }

    fn inner_code(&self) -> Option<&str> {
        evidence::code(self.nested.as_ref()?.get("ErrorCode"))
            .or_else(|| evidence::code(self.nested.as_ref()?.get("CustomApiErrorPhrase")))
    }

    /// Seconds that Intune asks to wait.
    fn retry_after(&self) -> Option<Duration> {
        let value = self.nested.as_ref()?.get("RetryAfter")?;
        value
            .as_u64()
            .or_else(|| value.as_str().and_then(|s| s.trim().parse().ok()))
            .map(super::http::bounded_wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(code: &str, message: &str) -> Value {
        json!({"error": {"code": code, "message": message, "innerError": {
            "date": "2026-01-01T00:00:00",
            "request-id": "2a4b2ec2-2f7a-4b8e-9a0d-7f6f4f4c3a01",
            "client-request-id": "8a2ff67c-6b23-4d7c-9ea2-8ed3f4ab1c11",
        }}})
    }

    #[test]
    fn every_code_has_its_reason() {
        use Reason::*;
        let expected: &[(&str, Reason, Retry)] = &[
            (
                "authorization_identitynotfound",
                ServicePrincipalMissing,
                NO,
            ),
            ("Authorization_RequestDenied", PermissionDenied, NO),
            ("AccessDenied", PermissionDenied, NO),
            ("forbidden", PermissionDenied, NO),
            ("InvalidAuthenticationToken", TokenRejected, NO),
            ("Authentication_ExpiredToken", TokenRejected, NO),
            ("unauthenticated", TokenRejected, NO),
            ("Unauthorized", TokenRejected, NO),
            ("tooManyRequests", Throttled, WAIT),
            ("activityLimitReached", Throttled, WAIT),
            ("Request_ThrottledTemporarily", Throttled, WAIT),
            ("serviceNotAvailable", ProviderUnavailable, WAIT),
            ("ServiceUnavailable", ProviderUnavailable, WAIT),
            ("Service_ServiceUnavailable", ProviderUnavailable, WAIT),
            ("Service_InternalServerError", ProviderUnavailable, WAIT),
            ("GatewayTimeout", ProviderUnavailable, WAIT),
            ("Request_BadRequest", RequestMalformed, NO),
            ("Request_UnsupportedQuery", RequestMalformed, NO),
            ("invalidRequest", RequestMalformed, NO),
        ];
        assert_eq!(expected.len(), CODES.len());
        for (code, reason, retry) in expected {
            let fault = fault(418, Some(&body(code, "")), None);
            assert_eq!((fault.reason, fault.retry), (*reason, *retry), "{code}");
        }
    }

    #[test]
    fn unknown_codes_go_by_the_status() {
        let reason = |status| fault(status, Some(&body("SomethingNew", "")), None).reason;
        assert_eq!(reason(401), Reason::TokenRejected);
        assert_eq!(reason(403), Reason::PermissionDenied);
        assert_eq!(reason(404), Reason::GraphUnknown);
        assert_eq!(reason(400), Reason::GraphUnknown);
        assert_eq!(reason(429), Reason::Throttled);
        for status in [500, 502, 503, 504] {
            assert_eq!(reason(status), Reason::ProviderUnavailable, "{status}");
        }
    }

    #[test]
    fn an_answer_that_is_not_graphs_is_invalid() {
        for status in [400, 403, 404, 451] {
            assert_eq!(
                fault(status, None, None).reason,
                Reason::ResponseInvalid,
                "{status}"
            );
        }
        assert_eq!(fault(401, None, None).reason, Reason::TokenRejected);
    }

    #[test]
    fn a_missing_intune_licence_is_told_by_the_message_alone() {
        let text = "Request not applicable to target tenant.";
        for message in [
            text.to_owned(),
            json!({"_version": 3, "Message": text, "RetryAfter": null}).to_string(),
            json!({"_version": 3, "Message": "An error has occurred", "CustomApiErrorPhrase": text})
                .to_string(),
        ] {
            let fault = fault(400, Some(&body("BadRequest", &message)), None);
            assert_eq!(fault.reason, Reason::IntuneNotLicensed, "{message}");
        }
        let other = fault(403, Some(&body("BadRequest", text)), None);
        assert_eq!(other.reason, Reason::PermissionDenied);
    }

    #[test]
    fn intunes_nested_message_can_ask_to_wait() {
        let nested = json!({"Message": "slow down", "RetryAfter": "7"}).to_string();
        let fault = fault(429, Some(&body("UnknownError", &nested)), None);
        assert_eq!(fault.reason, Reason::Throttled);
        assert_eq!(fault.retry, Retry::Backoff(Some(Duration::from_secs(7))));
    }

    #[test]
    fn messages_never_become_evidence() {
        let fault = fault(403, Some(&body("Forbidden", "canary-text")), None);
        assert!(!format!("{fault:?}").contains("canary-text"));
        assert!(
            fault
                .evidence
                .iter()
                .any(|e| e.kind == EvidenceKind::RequestId)
        );
    }
}
