//! From an error's body to its reason.

use super::Suite;
use std::hint::black_box;
use verifyd::domain::reason::Reason;
use verifyd::provider::microsoft::{graph_error_reason, token_error_reason};

const GRAPH: &[u8] = br#"{"error":{"code":"Authorization_RequestDenied",
"message":"Insufficient privileges to complete the operation.",
"innerError":{"date":"2026-01-01T00:00:00","request-id":"2a4b2ec2-2f7a-4b8e-9a0d-7f6f4f4c3a01",
"client-request-id":"8a2ff67c-6b23-4d7c-9ea2-8ed3f4ab1c11"}}}"#;

/// Intune hides another object in the message.
const INTUNE: &[u8] = br#"{"error":{"code":"BadRequest",
"message":"{\"_version\":3,\"Message\":\"Request not applicable to target tenant. - Operation ID (for customer support): 00000000-0000-0000-0000-000000000000\",\"CustomApiErrorPhrase\":\"\",\"RetryAfter\":null,\"ErrorSourceService\":\"\",\"HttpHeaders\":\"{}\"}",
"innerError":{"date":"2026-01-01T00:00:00","request-id":"2a4b2ec2-2f7a-4b8e-9a0d-7f6f4f4c3a01",
"client-request-id":"8a2ff67c-6b23-4d7c-9ea2-8ed3f4ab1c11"}}}"#;

const AADSTS: &[u8] = br#"{"error":"invalid_client",
"error_description":"AADSTS7000222: The provided client secret keys for app '5c000000-0000-4000-8000-00000000000a' are expired. Trace ID: 2a4b2ec2-2f7a-4b8e-9a0d-7f6f4f4c3a01 Correlation ID: 8a2ff67c-6b23-4d7c-9ea2-8ed3f4ab1c11 Timestamp: 2026-01-01 00:00:00Z",
"error_codes":[7000222],"timestamp":"2026-01-01 00:00:00Z",
"trace_id":"2a4b2ec2-2f7a-4b8e-9a0d-7f6f4f4c3a01",
"correlation_id":"8a2ff67c-6b23-4d7c-9ea2-8ed3f4ab1c11",
"error_uri":"https://login.microsoftonline.com/error?code=7000222"}"#;

pub fn measure(suite: &mut Suite) {
    type Map = fn(u16, &[u8]) -> Reason;
    let cases: [(&str, Map, u16, &[u8], Reason); 3] = [
        (
            "error/graph",
            graph_error_reason,
            403,
            GRAPH,
            Reason::PermissionDenied,
        ),
        (
            "error/intune",
            graph_error_reason,
            400,
            INTUNE,
            Reason::IntuneNotLicensed,
        ),
        (
            "error/aadsts",
            token_error_reason,
            401,
            AADSTS,
            Reason::SecretExpired,
        ),
    ];
    for (name, map, status, body, expected) in cases {
        assert_eq!(map(status, body), expected, "{name}");
        suite.measure(name, |b| b.iter(|| map(status, black_box(body))));
    }
}
