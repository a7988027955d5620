//! The difference between a report and the previous one of the same connection.

use super::{Check, Evidence, Report};
use crate::domain::names::text_enum;
use serde::Serialize;
use std::collections::BTreeMap;

/// How a check compares with the one of the same key before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    New,
    Unchanged,
    Changed,
    Gone,
}
text_enum!(
    Change, "change",
    New => "new", Unchanged => "unchanged", Changed => "changed", Gone => "gone",
);

/// One check, before and now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckDiff<'a> {
    pub key: &'a str,
    pub change: Change,
    pub before: Option<&'a Check>,
    pub now: Option<&'a Check>,
}

/// Returns changes by check key, in the order of `now`, followed by the checks that are gone.
pub fn diff<'a>(before: &'a Report, now: &'a Report) -> Vec<CheckDiff<'a>> {
    let mut old: BTreeMap<&str, &Check> =
        before.checks.iter().map(|c| (c.key.as_str(), c)).collect();
    let mut rows: Vec<CheckDiff<'a>> = now
        .checks
        .iter()
        .map(|check| {
            let previous = old.remove(check.key.as_str());
            CheckDiff {
                key: &check.key,
                change: match previous {
                    None => Change::New,
                    Some(p) if same_finding(p, check) => Change::Unchanged,
                    Some(_) => Change::Changed,
                },
                before: previous,
                now: Some(check),
            }
        })
        .collect();
    rows.extend(old.into_values().map(|check| CheckDiff {
        key: &check.key,
        change: Change::Gone,
        before: Some(check),
        now: None,
    }));
    rows
}

/// Returns whether two checks are equal for the fingerprint.
fn same_finding(a: &Check, b: &Check) -> bool {
    fn stable(check: &Check) -> Vec<&Evidence> {
        let mut evidence: Vec<&Evidence> = check
            .evidence
            .iter()
            .filter(|e| e.kind.is_stable())
            .collect();
        evidence.sort();
        evidence
    }
    (a.status, a.severity, a.blocking, a.reason_code)
        == (b.status, b.severity, b.blocking, b.reason_code)
        && stable(a) == stable(b)
}
