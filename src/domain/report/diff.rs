//! The difference between a report and the previous one of the same connection.

use super::{Check, Evidence, Report};
use crate::domain::names::text_enum;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

text_enum! {
    /// How a check compares with the one of the same key before.
    pub enum Change: "change" {
        New => "new",
        Unchanged => "unchanged",
        Changed => "changed",
        Gone => "gone",
    }
}

/// One check, before and now.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct CheckChange {
    pub key: String,
    #[schema(inline)]
    pub change: Change,
    pub before: Option<Check>,
    pub now: Option<Check>,
}

/// Returns changes by check key, in the order of `now`, followed by the checks that are gone.
pub fn diff(before: &Report, now: &Report) -> Vec<CheckChange> {
    let mut old: BTreeMap<&str, &Check> =
        before.checks.iter().map(|c| (c.key.as_str(), c)).collect();
    let mut rows: Vec<CheckChange> = now
        .checks
        .iter()
        .map(|check| {
            let previous = old.remove(check.key.as_str());
            CheckChange {
                key: check.key.clone(),
                change: match previous {
                    None => Change::New,
                    Some(p) if same_finding(p, check) => Change::Unchanged,
                    Some(_) => Change::Changed,
                },
                before: previous.cloned(),
                now: Some(check.clone()),
            }
        })
        .collect();
    rows.extend(old.into_values().map(|check| CheckChange {
        key: check.key.clone(),
        change: Change::Gone,
        before: Some(check.clone()),
        now: None,
    }));
    rows
}

/// Returns whether two checks are equal for the fingerprint.
fn same_finding(a: &Check, b: &Check) -> bool {
    (a.status, a.severity, a.blocking, a.reason_code)
        == (b.status, b.severity, b.blocking, b.reason_code)
        && stable_evidence(a) == stable_evidence(b)
}

/// Returns the evidence that the fingerprint includes, sorted.
pub fn stable_evidence(check: &Check) -> Vec<&Evidence> {
    let stable = check.evidence.iter().filter(|e| e.kind.is_stable());
    let mut evidence: Vec<&Evidence> = stable.collect();
    evidence.sort();
    evidence
}
