//! What `doctor` does with a run as `serve` would, as far as it is the same in both databases. All of it is
//! rolled back.

use super::bounds::{is_claimable, is_valid_connection};
use super::claims::ClaimRequest;
use super::completion::CompletionRequest;
use super::dialect::{each, now, postgres_only, run_type};
use super::recording::{KEPT_OUT, is_unfilled};
use super::sql::{both, sql_for};
use super::statement::Sql;
use crate::domain::completion::Completion;
use crate::domain::report::{Check, CheckStatus, Identity, NextStep, ReportDraft, Severity};
use crate::domain::{Outcome, Reason, RunId, WorkerId};
use crate::ports::claims::{Claim, ClaimPolicy};
use crate::ports::probe::RECORDING;
use crate::ports::store_error::StoreError;
use std::time::Duration;

/// A check of an existing connection as the API records it: see `insert_run!` of `recording`.
macro_rules! record {
    ($db:ident $columns:literal, $values:literal) => {
        sql_for!(
            $db "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at" $columns
            ") SELECT c.workspace_id, c.tenant_id, " run_type!() ", 'queued', "
            each!("jsonb_build_object", "json_object")
            "('provider', c.provider, 'module', c.module, 'provider_connection_id', c.id, 'target_scope', "
            each!("jsonb_build_object", "json_object") "('entra_tenant_id', c.entra_tenant_id)), " now!() $values
            " FROM provider_connections c WHERE " is_valid_connection!() " ORDER BY c.id LIMIT 1 RETURNING id, "
            is_unfilled!()
        )
    };
}

pub(super) const RECORD: Sql = both!(record!("", ""));

pub(super) const RECORD_EMPTY: Sql = both!(record!(
    ", outcome, started_at, completed_at",
    ", NULL, NULL, NULL"
));

/// Counts what [`RECORD`] records a check of.
pub(super) const CHECKABLE: Sql = both!(
    "SELECT CAST(count(*) AS bigint) FROM (SELECT 1 FROM provider_connections c WHERE "
    is_valid_connection!() " LIMIT 1) AS checkable"
);

/// A run that the next worker would claim, where no check can be recorded. Never waits for a lock.
pub(super) const QUEUED: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status = 'queued' AND r.started_at IS NULL AND " is_claimable!() " ORDER BY r.id LIMIT 1"
    postgres_only!(" FOR NO KEY UPDATE SKIP LOCKED")
);

/// The claim of a run that no other worker can claim meanwhile.
pub(super) fn claim(run: RunId) -> ClaimRequest {
    ClaimRequest {
        run,
        worker: WorkerId("doctor".to_owned()),
        policy: ClaimPolicy {
            max_attempts: 1,
            run_deadline: Duration::from_secs(60),
            isolated: true,
        },
    }
}

/// Returns a completion with each outcome.
pub(super) fn completions(claim: &Claim) -> Result<Vec<CompletionRequest>, StoreError> {
    let outcomes = [Outcome::Succeeded, Outcome::Failed, Outcome::Blocked].into_iter();
    outcomes
        .map(|outcome| CompletionRequest::new(claim, &completion(claim, outcome)))
        .collect()
}

/// A completion as a check makes it; of no connection, so that it locks no row that a worker writes.
fn completion(claim: &Claim, outcome: Outcome) -> Completion {
    let reason = (outcome != Outcome::Succeeded).then_some(Reason::InternalError);
    let check = Check {
        key: "engine.completion".to_owned(),
        title: "The check could be finished".to_owned(),
        status: match reason {
            Some(_) => CheckStatus::Fail,
            None => CheckStatus::Pass,
        },
        message: reason.map_or_else(|| "A test of doctor.".to_owned(), Reason::message),
        blocking: true,
        evidence: Vec::new(),
        severity: Severity::High,
        next_steps: vec![NextStep {
            url: "/".to_owned(),
            label: "Look at the run".to_owned(),
        }],
        reason_code: reason,
    };
    let finished = ReportDraft {
        identity: Identity::default(),
        generated_at: claim.claimed_at,
        previous_report_id: None,
        checks: vec![check],
    }
    .finish(&[], "/");
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
        connection: None,
        facts: None,
    }
}

/// Names the step that was refused. What a trigger does besides, in other tables, is not about verifyd's schema.
pub(super) fn refused(step: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Schema(why) if step == RECORDING => {
            StoreError::Schema(format!("{step}: {why}"))
        }
        StoreError::Refused(why) | StoreError::Schema(why) => {
            StoreError::Refused(format!("{step}: {why}"))
        }
        other => other,
    }
}

/// A trigger that keeps the check out without an error is a refusal, too. `checkable`: connections to check.
pub(super) fn not_kept_out(checkable: i64) -> Result<(), StoreError> {
    match checkable {
        0 => Ok(()),
        _ => Err(refused(RECORDING, StoreError::Refused(KEPT_OUT.into()))),
    }
}

/// What can keep a row as it is without an error.
pub(super) const TRIGGER: &str = "a trigger";

/// Returns what the step has written. `None` is a refusal, too, by `keeper`.
pub(super) fn accepted<T>(
    step: &str,
    keeper: &str,
    written: Result<Option<T>, StoreError>,
) -> Result<T, StoreError> {
    let kept = || StoreError::Refused(format!("{keeper} keeps the row of operation_runs as it is"));
    let written = written.and_then(|written| written.ok_or_else(kept));
    written.map_err(|error| refused(step, error))
}
