//! What the test of writing writes: completions as large as those of real checks, inventories and facts.

use super::Checked;
use crate::domain::completion::Completion;
use crate::domain::connection_facts::{ConnectionFacts, KeptFacts};
use crate::domain::permission::{
    InventoryEntry, InventoryRefresh, InventorySource, PermissionDetails, PermissionStatus,
    StoredPermission,
};
use crate::domain::report::{
    Check, CheckStatus, Evidence, EvidenceKind, FinishedReport, Identity, NextStep, ReportDraft,
    Severity,
};
use crate::domain::{Outcome, Reason, RunId, TenantId};
use crate::ports::claims::Claim;
use crate::ports::store_error::StoreError;
use crate::store::completion::{CompletionRequest, InventoryRow};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Checks of a report that are added to the first one. With them it has some 22 KB: more than a report of a built-in
/// module in which every check fails. One as large as its schema allows would also be refused by rules that refuse no
/// real one.
const FURTHER_CHECKS: usize = 20;

/// Characters of their messages, evidence and labels: as long as the longest of a real report, as a rule.
const MESSAGE_CHARS: usize = 400;
const EVIDENCE_CHARS: usize = 100;
const LABEL_CHARS: usize = 60;

/// Returns a completion with each outcome.
pub(super) fn completions(
    claim: &Claim,
    checked: Option<Checked>,
) -> Result<Vec<CompletionRequest>, StoreError> {
    let outcomes = [Outcome::Succeeded, Outcome::Failed, Outcome::Blocked].into_iter();
    outcomes
        .map(|outcome| CompletionRequest::new(claim, &completion(claim, outcome, checked)))
        .collect()
}

/// A completion as a check makes it. Its inventory is written by itself: see [`inventories`].
fn completion(claim: &Claim, outcome: Outcome, checked: Option<Checked>) -> Completion {
    let reason = (outcome != Outcome::Succeeded).then_some(Reason::InternalError);
    let finished = ReportDraft {
        identity: Identity::default(),
        generated_at: claim.claimed_at,
        previous_report_id: None,
        checks: checks(reason),
    }
    .finish(&[], "/");
    of_report(finished, outcome, reason, checked)
}

fn of_report(
    finished: FinishedReport,
    outcome: Outcome,
    reason: Option<Reason>,
    checked: Option<Checked>,
) -> Completion {
    let blocked = reason.filter(|_| outcome == Outcome::Blocked);
    Completion {
        outcome,
        fingerprint: finished.report.fingerprint.clone(),
        overall: finished.report.summary.overall.as_str().to_owned(),
        failure_summary: finished.failure_summary(outcome),
        blocked: blocked.map(|reason| finished.blocked_by(reason)),
        report: finished.json,
        checked: None,
        inventory: None,
        connection: checked.map(|checked| checked.connection),
        facts: None,
    }
}

/// One that fails for the reason, if there is one, and warnings.
fn checks(reason: Option<Reason>) -> Vec<Check> {
    let text = |chars: usize| {
        let text = "A test of doctor. ".chars().cycle().take(chars);
        text.collect::<String>().trim_end().to_owned()
    };
    let step = |label: String| NextStep {
        url: "/".to_owned(),
        label,
    };
    let first = Check {
        key: "engine.completion".to_owned(),
        title: "The check could be finished".to_owned(),
        status: match reason {
            Some(_) => CheckStatus::Fail,
            None => CheckStatus::Pass,
        },
        message: reason.map_or_else(|| text(LABEL_CHARS), Reason::message),
        blocking: true,
        evidence: Vec::new(),
        severity: Severity::High,
        next_steps: vec![step("Look at the run".to_owned())],
        reason_code: reason,
    };
    let further = (1..=FURTHER_CHECKS).map(|number| Check {
        key: format!("engine.completion_{number}"),
        title: text(LABEL_CHARS),
        status: CheckStatus::Warn,
        message: text(MESSAGE_CHARS),
        blocking: false,
        evidence: vec![Evidence::new(EvidenceKind::Found, text(EVIDENCE_CHARS)); 2],
        severity: Severity::Low,
        next_steps: vec![step(text(LABEL_CHARS)); 2],
        reason_code: Some(Reason::InternalError),
    });
    std::iter::once(first).chain(further).collect()
}

/// Returns two inventories with the same permissions, each granted in one and missing in the other: the second one
/// updates what the first one inserts. What is stored of the tenant is part of both, and so stays as it is.
pub(super) fn inventories(
    run: RunId,
    tenant: TenantId,
    stored: &[StoredPermission],
) -> [InventoryRow; 2] {
    use PermissionStatus::{Granted, Missing};
    let source = InventorySource::AppRoleAssignments;
    [[Granted, Missing], [Missing, Granted]].map(|statuses| {
        let keys = ["Doctor.Read.All", "Doctor.ReadWrite.All"];
        let entries = keys.into_iter().zip(statuses).map(|(key, status)| {
            let details = PermissionDetails {
                required: true,
                source: (status == Granted).then_some(source),
                ..PermissionDetails::default()
            };
            (key.to_owned(), InventoryEntry { status, details })
        });
        let kept = stored.iter().map(|row| {
            let details = serde_json::from_value(row.details.clone()).unwrap_or_default();
            let status = row.status;
            (
                row.permission_key.clone(),
                InventoryEntry { status, details },
            )
        });
        let entries: BTreeMap<String, InventoryEntry> = kept.chain(entries).collect();
        let refresh = InventoryRefresh {
            workspace_id: None,
            tenant_id: tenant,
            source,
            entries: Arc::new(entries.into()),
        };
        InventoryRow::new(run, &Arc::new(refresh))
    })
}

pub(super) fn facts(checked: Checked) -> KeptFacts {
    KeptFacts {
        connection_id: checked.connection,
        tenant_id: checked.tenant,
        entra_tenant_id: String::new(),
        client_id: String::new(),
        credential_changed_at: None,
        expiry_found_at: None,
        facts: ConnectionFacts::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    /// A rule that limits the size of a context lets a small one pass.
    #[test]
    fn the_report_is_valid_and_as_large_as_a_real_one() {
        for reason in [None, Some(Reason::InternalError)] {
            let draft = ReportDraft {
                identity: Identity::default(),
                generated_at: DateTime::UNIX_EPOCH,
                previous_report_id: None,
                checks: checks(reason),
            };
            let finished = draft.finish(&[], "/");
            assert_eq!(finished.replaced, None);
            let bytes = finished.json.get().len();
            assert!((20_000..40_000).contains(&bytes), "{bytes}");
        }
    }
}
