//! What `doctor` does with a run as `serve` would, as far as it is the same in both databases. All of it is
//! rolled back.

use super::bounds::{is_claimable, is_valid_connection};
use super::claims::ClaimRequest;
use super::completion::{CompletionRequest, InventoryRow};
use super::dialect::{each, now, postgres_only, run_type};
use super::recording::{KEPT_OUT, is_unfilled};
use super::sql::{both, sql_for};
use super::starting_point::keep;
use super::statement::{Sql, Statement};
use crate::domain::completion::Completion;
use crate::domain::connection_facts::{ConnectionFacts, KeptFacts};
use crate::domain::permission::{
    InventoryEntry, InventoryRefresh, InventorySource, PermissionDetails, PermissionStatus,
};
use crate::domain::report::{Check, CheckStatus, Identity, NextStep, ReportDraft, Severity};
use crate::domain::{ConnectionId, Outcome, Reason, RunId, TenantId, WorkerId};
use crate::ports::claims::{Claim, ClaimPolicy};
use crate::ports::probe::{
    CLAIMING, COMPLETING, KEEPING_FACTS, RECORDING, RELEASING, WRITING_INVENTORY, Writing,
};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;
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

/// The connection that [`RECORD`] records a check of, and its tenant.
const CHECKED: Sql = both!(
    "SELECT CAST(c.id AS bigint), CAST(c.tenant_id AS bigint) FROM provider_connections c WHERE " is_valid_connection!()
    " ORDER BY c.id LIMIT 1"
);

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
fn claim(run: RunId) -> ClaimRequest {
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

/// A connection that can be checked.
#[derive(Clone, Copy)]
struct Checked {
    connection: ConnectionId,
    tenant: TenantId,
}

/// Returns a completion with each outcome.
fn completions(
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
        connection: checked.map(|checked| checked.connection),
        facts: None,
    }
}

/// Returns two inventories with the same permissions, each granted in one and missing in the other: the second one
/// updates what the first one inserts.
fn inventories(run: RunId, tenant: TenantId) -> [InventoryRow; 2] {
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
        let entries: BTreeMap<String, InventoryEntry> = entries.collect();
        let refresh = InventoryRefresh {
            workspace_id: None,
            tenant_id: tenant,
            source,
            entries: Arc::new(entries.into()),
        };
        InventoryRow::new(run, &Arc::new(refresh))
    })
}

fn facts(checked: Checked) -> KeptFacts {
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

/// What has come of recording a check.
pub(super) enum Recorded {
    Run(RunId),
    /// There is no connection to check, its check is there already, or something else says why verifyd cannot.
    Nothing,
    Refused(StoreError),
}

impl Recorded {
    /// A refusal of the row; an error of another kind is one of the test.
    pub fn refused(error: StoreError) -> Result<Self, StoreError> {
        match error {
            StoreError::Refused(_) | StoreError::Schema(_) => Ok(Self::Refused(error)),
            other => Err(other),
        }
    }
}

/// A trigger that keeps the check out without an error is a refusal, too. `checkable`: connections to check.
pub(super) fn kept_out(checkable: i64) -> Recorded {
    match checkable {
        0 => Recorded::Nothing,
        _ => Recorded::Refused(StoreError::Refused(KEPT_OUT.into())),
    }
}

/// The steps of `serve` with a run, in one transaction that is rolled back.
#[async_trait]
pub(super) trait RunSteps: Send {
    /// Records a check. What is refused is undone; where that fails, nothing more can be tried.
    async fn record(&mut self) -> Result<Recorded, StoreError>;

    /// Returns the run of [`QUEUED`].
    async fn queued(&mut self) -> Result<Option<RunId>, StoreError>;

    async fn claim(&mut self, request: ClaimRequest) -> Result<Option<Claim>, StoreError>;

    /// Releases the run and undoes it. False: its row stayed as it is.
    async fn release(&mut self, claim: &Claim) -> Result<bool, StoreError>;

    /// Completes the run and undoes it. False: its row stayed as it is.
    async fn complete(&mut self, request: &CompletionRequest) -> Result<bool, StoreError>;

    /// Returns the row of a statement, if there is one.
    async fn fetch(&mut self, statement: Statement) -> Result<Option<(i64, i64)>, StoreError>;

    /// Executes the statement and undoes it.
    async fn execute(&mut self, statement: Statement) -> Result<(), StoreError>;

    /// Writes the inventories, one after the other, beside what is stored of the tenant, and undoes it.
    async fn write_inventories(&mut self, rows: &[InventoryRow]) -> Result<(), StoreError>;

    /// Whether policies decide which runs are read and written.
    async fn is_restricted(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// Does with a run what `serve` does with it. A trigger or a constraint of the application may refuse each step. Where
/// it refuses the check that is recorded, only a queued run of another producer shows whether it refuses all runs.
pub(super) async fn try_run(steps: &mut dyn RunSteps) -> Result<Writing, StoreError> {
    match steps.record().await? {
        Recorded::Run(run) => {
            try_steps(steps, run).await?;
            Ok(Writing::Accepted)
        }
        Recorded::Nothing => {
            let Some(run) = steps.queued().await? else {
                return Ok(Writing::NothingTried);
            };
            try_claiming(steps, run).await?;
            Ok(Writing::OnlyClaimed)
        }
        Recorded::Refused(error) => {
            let error = refused(RECORDING, error);
            match steps.queued().await? {
                Some(run) => match try_steps(steps, run).await {
                    Err(StoreError::Refused(why)) if is_of_this_transaction(&why) => {
                        Ok(Writing::NotRecording(error))
                    }
                    tried => tried.map(|()| Writing::NotRecording(error)),
                },
                // Where policies hide all runs, none is found and `serve` finds none either.
                None if steps.is_restricted().await? => Err(error),
                None => Ok(Writing::NotTried(error)),
            }
        }
    }
}

/// Whether a foreign key has refused what follows a claim. PostgreSQL tests the keys of a row again, also those that stay,
/// where the same transaction has written it before: not in `serve`, which takes a transaction for each step.
fn is_of_this_transaction(why: &str) -> bool {
    let of_run = [RELEASING, COMPLETING];
    of_run.iter().any(|step| why.starts_with(step)) && why.ends_with("(SQLSTATE 23503)")
}

/// Claims, releases and completes the run, and writes what a check has found.
async fn try_steps(steps: &mut dyn RunSteps, run: RunId) -> Result<(), StoreError> {
    let keeper = match steps.is_restricted().await? {
        true => "row-level security or a trigger",
        false => "a trigger",
    };
    let claimed = steps.claim(claim(run)).await;
    let claim = accepted(CLAIMING, keeper, claimed)?;
    let released = steps.release(&claim).await;
    accepted(RELEASING, keeper, released.map(is_changed))?;
    let found = steps.fetch(CHECKED.into()).await?;
    let checked = found.map(|(connection, tenant)| Checked {
        connection: ConnectionId(connection),
        tenant: TenantId(tenant),
    });
    for request in completions(&claim, checked)? {
        let completed = steps.complete(&request).await;
        accepted(COMPLETING, keeper, completed.map(is_changed))?;
    }
    let Some(checked) = checked else {
        return Ok(());
    };
    let inventories = inventories(run, checked.tenant);
    let written = steps.write_inventories(&inventories).await;
    written.map_err(|error| refused(WRITING_INVENTORY, error))?;
    let kept = steps.execute(keep(&facts(checked))).await;
    kept.map_err(|error| refused(KEEPING_FACTS, error))
}

/// Claims a run of another producer, as the next worker would. It is not completed: a rollback does not undo what a
/// trigger does outside of the transaction.
async fn try_claiming(steps: &mut dyn RunSteps, run: RunId) -> Result<(), StoreError> {
    let claimed = steps.claim(claim(run)).await;
    claimed.map_err(|error| refused(CLAIMING, error))?;
    Ok(())
}

fn is_changed(changed: bool) -> Option<()> {
    changed.then_some(())
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

/// Returns what the step has written. `None` is a refusal, too, by `keeper`.
fn accepted<T>(
    step: &str,
    keeper: &str,
    written: Result<Option<T>, StoreError>,
) -> Result<T, StoreError> {
    let kept = || StoreError::Refused(format!("{keeper} keeps the row of operation_runs as it is"));
    let written = written.and_then(|written| written.ok_or_else(kept));
    written.map_err(|error| refused(step, error))
}
