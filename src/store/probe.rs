//! What `doctor` does with a run as `serve` would, as far as it is the same in both databases. All of it is
//! rolled back.

use super::bounds::{is_claimable, is_valid_connection};
use super::claims::{ClaimRequest, release_in};
use super::completion::{Completed, CompletionRequest, InventoryRow};
use super::dialect::{each, now, postgres_only, run_type};
use super::inventory::permissions_in;
use super::recording::{is_unfilled, kept_out};
use super::repeated_ids::has_own_id;
use super::sql::{both, sql_for};
use super::sql_store::SqlConnection;
use super::starting_point::keep;
use super::statement::{Sql, Statement};
use super::sweep::{Due, due_runs, runs_without_lease};
use crate::domain::attempt::AttemptEnd;
use crate::domain::completion::Completion;
use crate::domain::connection_facts::{ConnectionFacts, KeptFacts};
use crate::domain::permission::{
    InventoryEntry, InventoryRefresh, InventorySource, PermissionDetails, PermissionStatus,
    StoredPermission,
};
use crate::domain::report::{Check, CheckStatus, Identity, NextStep, ReportDraft, Severity};
use crate::domain::{ConnectionId, Outcome, Reason, RunId, TenantId, WorkerId};
use crate::ports::claims::{Claim, ClaimPolicy};
use crate::ports::probe::{
    CLAIMING, COMPLETING, KEEPING_FACTS, RECORDING, RELEASING, SWEEPING, WRITING_INVENTORY, Writing,
};
use crate::ports::store_error::StoreError;
use crate::ports::sweep::{SweepCursor, SweepPolicy};
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

const RECORD: Sql = both!(record!("", ""));

const RECORD_EMPTY: Sql = both!(record!(
    ", outcome, started_at, completed_at",
    ", NULL, NULL, NULL"
));

/// The connection that [`RECORD`] records a check of, and its tenant.
const CHECKED: Sql = both!(
    "SELECT CAST(c.id AS bigint), CAST(c.tenant_id AS bigint) FROM provider_connections c WHERE " is_valid_connection!()
    " ORDER BY c.id LIMIT 1"
);

/// Counts what [`RECORD`] records a check of.
const CHECKABLE: Sql = both!(
    "SELECT CAST(count(*) AS bigint) FROM (SELECT 1 FROM provider_connections c WHERE "
    is_valid_connection!() " LIMIT 1) AS checkable"
);

/// A run that the next worker would claim, where no check can be recorded. Never waits for a lock.
const QUEUED: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status = 'queued' AND r.started_at IS NULL AND " is_claimable!() " AND " has_own_id!("r")
    " ORDER BY r.id LIMIT 1"
    postgres_only!(" FOR NO KEY UPDATE SKIP LOCKED")
);

/// Begins what [`UNDO`] undoes, which is also possible after an error. Of several of this name the last one counts.
const TRY: Sql = both!("SAVEPOINT tried");

const UNDO: Sql = both!("ROLLBACK TO SAVEPOINT tried");

/// The claim of a run that no other worker can claim meanwhile.
fn claim(run: RunId) -> ClaimRequest {
    ClaimRequest {
        run,
        worker: WorkerId("doctor".to_owned()),
        policy: ClaimPolicy {
            max_attempts: 1,
            lease: Duration::from_secs(60),
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
/// updates what the first one inserts. What is stored of the tenant is part of both, and so stays as it is.
fn inventories(run: RunId, tenant: TenantId, stored: &[StoredPermission]) -> [InventoryRow; 2] {
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
enum Recorded {
    Run(RunId),
    /// There is no connection to check, its check is there already, or something else says why verifyd cannot.
    Nothing,
    Refused(StoreError),
}

/// What each database does in its own way of the steps of `serve` with a run, with the functions of `serve`. All of it is
/// in one transaction, which is rolled back.
#[async_trait]
pub(super) trait RunSteps: Send {
    /// The connection of the transaction, for shared statements.
    fn connection(&mut self) -> Box<dyn SqlConnection + '_>;

    /// Inserts a check by [`RECORD`] or [`RECORD_EMPTY`]. Returns its id, and whether nothing has filled its row.
    async fn insert(&mut self, record: Sql) -> Result<Option<(i64, bool)>, sqlx::Error>;

    /// Whether it is no fault, or named elsewhere, that verifyd cannot record a run.
    async fn is_named(&mut self, refusal: &sqlx::Error) -> Result<bool, StoreError>;

    /// Whether the INSERT that was the last one has notified; `None`: it cannot be told.
    async fn has_notified(&mut self) -> Result<Option<bool>, StoreError> {
        Ok(None)
    }

    async fn claim(&mut self, request: ClaimRequest) -> Result<Option<Claim>, StoreError>;

    async fn complete(&mut self, request: &CompletionRequest) -> Result<Completed, StoreError>;

    async fn refresh_inventory(&mut self, row: &InventoryRow) -> Result<(), StoreError>;

    /// Whether policies decide which runs are read and written.
    async fn is_restricted(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// Records a check. What is refused is undone; where that fails, nothing more can be tried.
async fn record(steps: &mut dyn RunSteps) -> Result<Recorded, StoreError> {
    TRY.execute(&mut *steps.connection()).await?;
    let mut recorded = steps.insert(RECORD).await;
    if let Ok(Some((_, false))) = recorded {
        UNDO.execute(&mut *steps.connection()).await?;
        recorded = steps.insert(RECORD_EMPTY).await;
    }
    let error = match recorded {
        Ok(Some((run, _))) if run > 0 => return Ok(Recorded::Run(RunId(run))),
        // No worker claims it, as the test of the next ids says.
        Ok(Some(_)) => return Ok(Recorded::Nothing),
        Ok(None) => {
            let checkable = CHECKABLE.fetch_one(&mut *steps.connection()).await;
            let (checkable,): (i64,) = checkable?;
            return Ok(match checkable {
                0 => Recorded::Nothing,
                _ => Recorded::Refused(kept_out()),
            });
        }
        Err(error) => error,
    };
    // A trigger of SQLite may have ended the transaction (ROLLBACK): what came next would stay.
    if UNDO.execute(&mut *steps.connection()).await.is_err() {
        return Err(refused(RECORDING, error.into()));
    }
    if steps.is_named(&error).await? {
        return Ok(Recorded::Nothing);
    }
    match StoreError::from(error) {
        refusal @ (StoreError::Refused(_) | StoreError::Schema(_)) => {
            Ok(Recorded::Refused(refusal))
        }
        // It is one of the test.
        other => Err(other),
    }
}

/// Records a check. Returns also whether that has notified. Where it has not, records it once more: another producer may
/// have notified for the first, and committed before that could be seen.
async fn record_and_notify(
    steps: &mut dyn RunSteps,
) -> Result<(Recorded, Option<bool>), StoreError> {
    let recorded = record(steps).await?;
    let Recorded::Run(_) = recorded else {
        return Ok((recorded, None));
    };
    let notifies = steps.has_notified().await?;
    if notifies != Some(false) {
        return Ok((recorded, notifies));
    }
    UNDO.execute(&mut *steps.connection()).await?;
    let recorded = record(steps).await?;
    let notifies = match recorded {
        Recorded::Run(_) => steps.has_notified().await?,
        Recorded::Nothing | Recorded::Refused(_) => None,
    };
    Ok((recorded, notifies))
}

/// Returns the run of [`QUEUED`].
async fn queued(steps: &mut dyn RunSteps) -> Result<Option<RunId>, StoreError> {
    let queued = Statement::from(QUEUED);
    let queued: Option<(i64,)> = queued.fetch_optional(&mut *steps.connection()).await?;
    Ok(queued.map(|(run,)| RunId(run)))
}

/// Releases the run and undoes it. False: its row stayed as it is.
async fn release(steps: &mut dyn RunSteps, claim: &Claim) -> Result<bool, StoreError> {
    TRY.execute(&mut *steps.connection()).await?;
    let end = AttemptEnd::Shutdown;
    let released = release_in(&mut *steps.connection(), claim, end, None).await?;
    UNDO.execute(&mut *steps.connection()).await?;
    Ok(released)
}

/// Completes the run and undoes it. False: its row stayed as it is.
async fn complete(
    steps: &mut dyn RunSteps,
    request: &CompletionRequest,
) -> Result<bool, StoreError> {
    TRY.execute(&mut *steps.connection()).await?;
    let completed = steps.complete(request).await?;
    UNDO.execute(&mut *steps.connection()).await?;
    Ok(completed.contains(request.run))
}

/// Refreshes the inventory of the tenant twice, and undoes it.
async fn refresh_inventories(
    steps: &mut dyn RunSteps,
    run: RunId,
    tenant: TenantId,
) -> Result<(), StoreError> {
    TRY.execute(&mut *steps.connection()).await?;
    let stored = permissions_in(&mut *steps.connection(), tenant).await?;
    for row in &inventories(run, tenant, &stored) {
        steps.refresh_inventory(row).await?;
    }
    UNDO.execute(&mut *steps.connection()).await?;
    Ok(())
}

/// Executes the statement and undoes it.
async fn execute(steps: &mut dyn RunSteps, statement: Statement) -> Result<(), StoreError> {
    TRY.execute(&mut *steps.connection()).await?;
    statement.execute(&mut *steps.connection()).await?;
    UNDO.execute(&mut *steps.connection()).await?;
    Ok(())
}

/// A sweep of one run.
const SWEEP: SweepPolicy = SweepPolicy {
    worker_dead_after: Duration::from_secs(60),
    redeliver_after: Duration::from_secs(60),
    redeliver: true,
    batch: 1,
    window: 1,
    from: SweepCursor::START,
};

/// Does what a sweep does with runs before it changes any: a policy may fail, for lack of a setting for example.
pub(super) async fn try_sweep(connection: &mut dyn SqlConnection) -> Result<(), StoreError> {
    let lost = runs_without_lease(&SWEEP, 1, Vec::new());
    let lost = lost.fetch_ids(connection).await;
    lost.map_err(|error| refused(SWEEPING, error))?;
    let due: Result<Due, StoreError> = due_runs(&SWEEP, &[]).fetch_one(connection).await;
    due.map_err(|error| refused(SWEEPING, error))?;
    Ok(())
}

/// Does with a run what `serve` does with it. A trigger or a constraint of the application may refuse each step. Where
/// it refuses the check that is recorded, only a queued run of another producer shows whether it refuses all runs.
pub(super) async fn try_run(steps: &mut dyn RunSteps) -> Result<Writing, StoreError> {
    let (recorded, notifies) = record_and_notify(steps).await?;
    match recorded {
        Recorded::Run(run) => {
            try_steps(steps, run).await?;
            Ok(Writing::Accepted { notifies })
        }
        Recorded::Nothing => {
            let Some(run) = queued(steps).await? else {
                return Ok(Writing::NothingTried);
            };
            try_claiming(steps, run).await?;
            Ok(Writing::OnlyClaimed)
        }
        Recorded::Refused(error) => {
            let error = refused(RECORDING, error);
            match queued(steps).await? {
                Some(run) => match try_steps(steps, run).await {
                    Err(refusal) if is_of_this_transaction(&refusal) => {
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
fn is_of_this_transaction(refusal: &StoreError) -> bool {
    matches!(refusal.step(), Some(RELEASING | COMPLETING)) && refusal.sqlstate() == Some("23503")
}

/// Claims, releases and completes the run, and writes what a check has found.
async fn try_steps(steps: &mut dyn RunSteps, run: RunId) -> Result<(), StoreError> {
    let keeper = match steps.is_restricted().await? {
        true => "row-level security or a trigger",
        false => "a trigger",
    };
    let claimed = steps.claim(claim(run)).await;
    let claim = accepted(CLAIMING, keeper, claimed)?;
    let released = release(steps, &claim).await;
    accepted(RELEASING, keeper, released.map(is_changed))?;
    let found = Statement::from(CHECKED);
    let found: Option<(i64, i64)> = found.fetch_optional(&mut *steps.connection()).await?;
    let checked = found.map(|(connection, tenant)| Checked {
        connection: ConnectionId(connection),
        tenant: TenantId(tenant),
    });
    for request in completions(&claim, checked)? {
        let completed = complete(steps, &request).await;
        accepted(COMPLETING, keeper, completed.map(is_changed))?;
    }
    let Some(checked) = checked else {
        return Ok(());
    };
    let written = refresh_inventories(steps, run, checked.tenant).await;
    written.map_err(|error| refused(WRITING_INVENTORY, error))?;
    let kept = execute(steps, keep(&facts(checked))).await;
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
fn refused(step: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Schema(why) if step == RECORDING => StoreError::Schema(why.at(step)),
        StoreError::Refused(why) | StoreError::Schema(why) => StoreError::Refused(why.at(step)),
        other => other,
    }
}

/// Returns what the step has written. `None` is a refusal, too, by `keeper`.
fn accepted<T>(
    step: &str,
    keeper: &str,
    written: Result<Option<T>, StoreError>,
) -> Result<T, StoreError> {
    let kept = || format!("{keeper} keeps the row of operation_runs as it is").into();
    let written = written.and_then(|written| written.ok_or_else(|| StoreError::Refused(kept())));
    written.map_err(|error| refused(step, error))
}
