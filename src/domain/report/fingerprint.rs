//! The fingerprint of a report. Equal fingerprints mean that nothing has changed.

use super::diff::stable_evidence;
use super::{Check, Evidence, Identity};
use crate::domain::ConnectionId;
use serde::Serialize;

/// Members in the order of their names, all of them: then what serde writes is canonical already.
#[derive(Serialize)]
struct Stable<'a> {
    checks: Vec<StableCheck<'a>>,
    flow: &'a str,
    schema_version: &'a str,
    target: Target<'a>,
}

#[derive(Serialize)]
struct StableCheck<'a> {
    blocking: bool,
    evidence: Vec<&'a Evidence>,
    key: &'a str,
    reason_code: Option<super::Reason>,
    severity: super::Severity,
    status: super::CheckStatus,
}

#[derive(Serialize)]
struct Target<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entra_tenant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_connection_id: Option<ConnectionId>,
}

/// Beyond it a number in canonical JSON is not written as the integer that it is.
const LARGEST_PLAIN: i64 = 1 << 53;

/// RFC 8785 for a document of strings, booleans, nulls and small integers whose members are declared
/// in order: serde_json escapes strings as it demands.
fn canonical(stable: &Stable<'_>) -> Result<Vec<u8>, serde_json::Error> {
    match stable.target.provider_connection_id {
        Some(id) if id.0.abs() > LARGEST_PLAIN => serde_json_canonicalizer::to_vec(stable),
        _ => serde_json::to_vec(stable),
    }
}

/// Returns the SHA-256, in lowercase hex, of the RFC 8785 canonical JSON of the stable content: schema
/// version, flow, target, and of each check (sorted by key) its status, severity, blocking, reason code and
/// stable evidence (sorted).
pub fn fingerprint(
    schema_version: &str,
    flow: &str,
    target: &Identity,
    checks: &[Check],
) -> Result<String, serde_json::Error> {
    let mut stable: Vec<StableCheck<'_>> = checks
        .iter()
        .map(|check| StableCheck {
            blocking: check.blocking,
            evidence: stable_evidence(check),
            key: &check.key,
            reason_code: check.reason_code,
            severity: check.severity,
            status: check.status,
        })
        .collect();
    stable.sort_by(|a, b| a.key.cmp(b.key));
    let canonical = canonical(&Stable {
        checks: stable,
        flow,
        schema_version,
        target: Target {
            client_id: target.client_id.as_deref(),
            cloud: target.cloud.as_deref(),
            entra_tenant_id: target.entra_tenant_id.as_deref(),
            provider_connection_id: target.provider_connection_id,
        },
    })?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &canonical);
    Ok(hex::encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::report::{CheckStatus, EvidenceKind, Severity};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_hashed_is_canonical(
            text in ".{0,40}",
            id in proptest::option::of(any::<i64>()),
            cloud in proptest::option::of(".{0,10}"),
        ) {
            let evidence = Evidence { kind: EvidenceKind::Count, value: text.clone() };
            let check = StableCheck {
                blocking: true,
                evidence: vec![&evidence],
                key: &text,
                reason_code: None,
                severity: Severity::High,
                status: CheckStatus::Pass,
            };
            let stable = Stable {
                checks: vec![check],
                flow: &text,
                schema_version: "1",
                target: Target {
                    client_id: None,
                    cloud: cloud.as_deref(),
                    entra_tenant_id: Some(&text),
                    provider_connection_id: id.map(ConnectionId),
                },
            };
            prop_assert_eq!(
                canonical(&stable).unwrap(),
                serde_json_canonicalizer::to_vec(&stable).unwrap()
            );
        }
    }
}
