//! Equal fingerprints mean "nothing changed".

use super::{Check, Evidence, Identity};
use serde::Serialize;
use std::fmt::Write as _;

#[derive(Serialize)]
struct Stable<'a> {
    schema_version: &'a str,
    flow: &'a str,
    target: &'a Identity,
    checks: Vec<StableCheck<'a>>,
}

#[derive(Serialize)]
struct StableCheck<'a> {
    key: &'a str,
    status: super::CheckStatus,
    severity: super::Severity,
    blocking: bool,
    reason_code: Option<super::Reason>,
    evidence: Vec<&'a Evidence>,
}

/// SHA-256, in lowercase hex, over the RFC 8785 canonical JSON of what stays the same as long as
/// nothing changed: schema version, flow, target, and of each check (sorted by key) its status,
/// severity, blocking, reason code and stable evidence (sorted).
pub fn fingerprint(
    schema_version: &str,
    flow: &str,
    target: &Identity,
    checks: &[Check],
) -> Result<String, serde_json::Error> {
    let mut stable: Vec<StableCheck<'_>> = checks
        .iter()
        .map(|check| {
            let mut evidence: Vec<&Evidence> = check
                .evidence
                .iter()
                .filter(|e| e.kind.is_stable())
                .collect();
            evidence.sort();
            StableCheck {
                key: &check.key,
                status: check.status,
                severity: check.severity,
                blocking: check.blocking,
                reason_code: check.reason_code,
                evidence,
            }
        })
        .collect();
    stable.sort_by(|a, b| a.key.cmp(b.key));
    let canonical = serde_json_canonicalizer::to_vec(&Stable {
        schema_version,
        flow,
        target,
        checks: stable,
    })?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &canonical);
    Ok(digest
        .as_ref()
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }))
}
