//! What `doctor` does with a run as `serve` would, as far as it is the same in both databases. All of it is
//! rolled back.

mod keeper;
mod read_back;
mod waiting;
mod written;

pub(super) use self::keeper::Keeper;
pub(super) use self::waiting::refused_claims;

use self::keeper::at_step;
use self::read_back::{Identity, OF_RESULT, Written, changed_columns, identity};
use self::written::{completions, facts, inventories};
use super::bounds::{is_claimable, is_valid_connection};
use super::claims::{ClaimRequest, lock_running, release_locked};
use super::completion::{Completed, CompletionRequest, InventoryRow};
use super::dialect::{each, now, own, postgres_only, run_type};
use super::inventory::permissions_in;
use super::recording::{is_unfilled, kept_out};
use super::repeated_ids::has_own_id;
use super::sql::{both, sql_for};
use super::sql_store::SqlConnection;
use super::starting_point::keep;
use super::statement::{Sql, Statement};
use super::sweep::{Due, due_runs, runs_without_lease};
use crate::domain::attempt::AttemptEnd;
use crate::domain::{ConnectionId, RunId, TenantId, WorkerId};
use crate::ports::claims::{Claim, ClaimPolicy};
use crate::ports::probe::{
    CLAIMING, COMPLETING, KEEPING_FACTS, RECORDING, RELEASING, SWEEPING, WRITING_INVENTORY, Writing,
};
use crate::ports::store_error::StoreError;
use crate::ports::sweep::{SweepCursor, SweepPolicy};
use async_trait::async_trait;
use std::time::Duration;

/// A check of an existing connection as the API records it: see `insert_run!` of `recording`. `$1`: the connection.
macro_rules! record {
    ($db:ident $columns:literal, $values:literal) => {
        sql_for!(
            $db "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at" $columns
            ") SELECT c.workspace_id, c.tenant_id, " run_type!() ", 'queued', "
            each!("jsonb_build_object", "json_object")
            "('provider', c.provider, 'module', c.module, 'provider_connection_id', c.id, 'target_scope', "
            each!("jsonb_build_object", "json_object") "('entra_tenant_id', c.entra_tenant_id)), " now!() $values
            " FROM provider_connections c WHERE c.id = $1 RETURNING id, " is_unfilled!()
        )
    };
}

const RECORD: Sql = both!(record!("", ""));

const RECORD_EMPTY: Sql = both!(record!(
    ", outcome, started_at, completed_at",
    ", NULL, NULL, NULL"
));

/// A check of a connection that does not exist, of the workspace and tenant of the newest run of any type. `$1`: the
/// connection.
macro_rules! record_without_connection {
    ($db:ident $columns:literal, $values:literal) => {
        sql_for!(
            $db "INSERT INTO operation_runs (workspace_id, tenant_id, type, status, context, created_at" $columns
            ") SELECT coalesce((SELECT r.workspace_id FROM operation_runs r ORDER BY r.id DESC LIMIT 1), 1),
                 (SELECT r.tenant_id FROM operation_runs r ORDER BY r.id DESC LIMIT 1), " run_type!() ", 'queued', "
            each!("jsonb_build_object", "json_object")
            "('provider', 'microsoft', 'module', 'health_check', 'provider_connection_id', CAST($1 AS bigint),
              'target_scope', " each!("jsonb_build_object", "json_object")
            "('entra_tenant_id', '00000000-0000-0000-0000-000000000000')), " now!() $values
            " RETURNING id, " is_unfilled!()
        )
    };
}

const RECORD_WITHOUT_CONNECTION: Sql = both!(record_without_connection!("", ""));

const RECORD_EMPTY_WITHOUT_CONNECTION: Sql = both!(record_without_connection!(
    ", outcome, started_at, completed_at",
    ", NULL, NULL, NULL"
));

/// Connections of as many tenants as are tried: [`RECORD`] records a check of each, until one is accepted. A rule that
/// refuses the runs of one tenant stops nothing else. Those that were checked last come first: a rule of tenants that have
/// left, which may be the oldest ones, does not refuse theirs.
const SAMPLES: Sql = both!(
    "SELECT CAST(min(c.id) AS bigint), CAST(c.tenant_id AS bigint) FROM provider_connections c LEFT JOIN "
    own!(latest_reports) " l ON l.connection_id = c.id WHERE " is_valid_connection!()
    " GROUP BY c.tenant_id ORDER BY max(l.completed_at) DESC NULLS LAST, 1 LIMIT 3"
);

/// Runs that the next worker would claim, where no check can be recorded: the latest ones, since those that are refused
/// stay. Never waits for a lock.
const QUEUED: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status = 'queued' AND r.started_at IS NULL AND " is_claimable!() " AND " has_own_id!("r")
    " ORDER BY r.id DESC LIMIT 3"
    postgres_only!(" FOR NO KEY UPDATE SKIP LOCKED")
);

/// Begins what [`UNDO_RUN`] undoes: everything that is tried with one run.
const TRY_RUN: Sql = both!("SAVEPOINT tried_run");

const UNDO_RUN: Sql = both!("ROLLBACK TO SAVEPOINT tried_run");

/// Begins what [`UNDO`] undoes, which is also possible after an error. Of several of this name the last one counts.
const TRY: Sql = both!("SAVEPOINT tried");

const UNDO: Sql = both!("ROLLBACK TO SAVEPOINT tried");

/// Limits the claims of runs that wait in this transaction: a trigger may wait for as long as a statement may take.
const LIMIT_CLAIMS: Sql =
    both!("SELECT " each!("set_config('statement_timeout', '2s', true)", "1"));

/// Has the INSERTs that follow in this transaction notify nobody.
const NOTIFY_NOBODY: Sql = both!("SELECT " each!("set_config('verifyd.told', 'on', true)", "1"));

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

/// What has come of recording a check.
enum Recorded {
    Run(RunId),
    /// Its check is there already, or something else says why verifyd cannot.
    Nothing,
    Refused(StoreError),
}

/// What each database does in its own way of the steps of `serve` with a run, with the functions of `serve`. All of it is
/// in one transaction, which is rolled back.
#[async_trait]
pub(super) trait RunSteps: Send {
    /// The connection of the transaction, for shared statements.
    fn connection(&mut self) -> Box<dyn SqlConnection + '_>;

    /// Inserts a check of the connection by this statement. Returns its id, and whether nothing has filled its row.
    async fn insert(
        &mut self,
        record: Sql,
        connection: ConnectionId,
    ) -> Result<Option<(i64, bool)>, sqlx::Error>;

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

    /// Returns the names of the application's triggers on `operation_runs`, and whether INSERTs and whether UPDATEs fire
    /// them.
    async fn triggers(&mut self) -> Result<Vec<(String, bool, bool)>, StoreError>;

    /// Returns the rules (`CREATE RULE`) of the application's tables that are written: table, name, and whether they are of
    /// INSERTs, not of UPDATEs.
    async fn rules(&mut self) -> Result<Vec<(String, String, bool)>, StoreError> {
        Ok(Vec::new())
    }
}

/// Records a check by the first statement, or by the second where the first fills its row. What is refused is undone;
/// where that fails, nothing more can be tried.
async fn record(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
    (plain, empty): (Sql, Sql),
    connection: ConnectionId,
) -> Result<Recorded, StoreError> {
    TRY.execute(&mut *steps.connection()).await?;
    let mut recorded = steps.insert(plain, connection).await;
    if let Ok(Some((_, false))) = recorded {
        UNDO.execute(&mut *steps.connection()).await?;
        recorded = steps.insert(empty, connection).await;
    }
    let error = match recorded {
        Ok(Some((run, _))) if run > 0 => return Ok(Recorded::Run(RunId(run))),
        // No worker claims it, as the test of the next ids says.
        Ok(Some(_)) => return Ok(Recorded::Nothing),
        Ok(None) => return Ok(Recorded::Refused(keeper.refused(RECORDING, kept_out()))),
        Err(error) => error,
    };
    // A trigger of SQLite may have ended the transaction (ROLLBACK): what came next would stay.
    if UNDO.execute(&mut *steps.connection()).await.is_err() {
        return Err(keeper.refused(RECORDING, error.into()));
    }
    if steps.is_named(&error).await? {
        return Ok(Recorded::Nothing);
    }
    match StoreError::from(error) {
        refusal @ (StoreError::Refused(_) | StoreError::Schema(_)) => {
            Ok(Recorded::Refused(keeper.refused(RECORDING, refusal)))
        }
        // It is one of the test.
        other => Err(keeper.refused(RECORDING, other)),
    }
}

/// Records a check. Returns also whether that has notified. Tries it twice where it has not: another producer may have
/// notified for the first, and committed before that could be seen. A check that notifies is undone, and recorded without
/// that: until then INSERTs of others leave it to this one to notify (migration 6).
async fn record_and_notify(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
    connection: ConnectionId,
) -> Result<(Recorded, Option<bool>), StoreError> {
    let mut notifies = Some(false);
    for _ in 0..2 {
        let recorded = record(steps, keeper, (RECORD, RECORD_EMPTY), connection).await?;
        let Recorded::Run(_) = recorded else {
            return Ok((recorded, None));
        };
        notifies = steps.has_notified().await?;
        if notifies.is_none() {
            return Ok((recorded, None));
        }
        UNDO.execute(&mut *steps.connection()).await?;
        if notifies == Some(true) {
            break;
        }
    }
    NOTIFY_NOBODY.execute(&mut *steps.connection()).await?;
    let recorded = record(steps, keeper, (RECORD, RECORD_EMPTY), connection).await?;
    Ok((recorded, notifies))
}

/// Whether a trigger has recorded the check of this tenant for another one.
async fn is_moved(
    steps: &mut dyn RunSteps,
    run: RunId,
    tenant: TenantId,
) -> Result<bool, StoreError> {
    let (found, ..) = identity(&mut *steps.connection(), run).await?;
    let found: Option<i64> = found.and_then(|found| found.parse().ok());
    Ok(found.is_some_and(|found| found != tenant.0))
}

/// Returns the connections of [`SAMPLES`].
async fn samples(steps: &mut dyn RunSteps) -> Result<Vec<Checked>, StoreError> {
    let samples = Statement::from(SAMPLES);
    let samples: Vec<(i64, i64)> = samples.fetch_all(&mut *steps.connection()).await?;
    let samples = samples.into_iter().map(|(connection, tenant)| Checked {
        connection: ConnectionId(connection),
        tenant: TenantId(tenant),
    });
    Ok(samples.collect())
}

/// Returns the runs of [`QUEUED`].
async fn queued(steps: &mut dyn RunSteps) -> Result<Vec<RunId>, StoreError> {
    let queued = Statement::from(QUEUED);
    let queued = queued.fetch_ids(&mut *steps.connection()).await?;
    Ok(queued.into_iter().map(RunId).collect())
}

/// A run that was claimed, and what no later step may change of it.
struct Claimed {
    claim: Claim,
    before: Identity,
}

/// Tests what a step has left in the row. Returns `created_at` where that alone has changed: nobody needs it to go on.
async fn is_as_written(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
    run: RunId,
    before: &Identity,
    written: &Written<'_>,
) -> Result<Vec<&'static str>, StoreError> {
    let changed = changed_columns(&mut *steps.connection(), run, before, written).await?;
    match changed.iter().all(|column| *column == "created_at") {
        true => Ok(changed),
        false => Err(keeper.changes_row(&changed)),
    }
}

/// Releases the run and undoes it. Returns what [`is_as_written`] does.
async fn release(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
    Claimed { claim, before }: &Claimed,
) -> Result<Vec<&'static str>, StoreError> {
    TRY.execute(&mut *steps.connection()).await?;
    let end = AttemptEnd::Shutdown;
    let is_released = lock_running(&mut *steps.connection(), claim.run.id).await?
        && release_locked(&mut *steps.connection(), claim, end, None, None).await?;
    if !is_released {
        return Err(keeper.keeps_row());
    }
    let changed = is_as_written(steps, keeper, claim.run.id, before, &Written::Release).await?;
    UNDO.execute(&mut *steps.connection()).await?;
    Ok(changed)
}

/// Completes the run and undoes it. It is refused where the completion itself says so, as in `serve`, or where the run
/// has not ended with its result all the same: what a completion returns does not show what a trigger does after it.
/// Returns the other columns that are not as they were written.
async fn complete(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
    before: &Identity,
    request: &CompletionRequest,
) -> Result<Vec<&'static str>, StoreError> {
    TRY.execute(&mut *steps.connection()).await?;
    let completed = steps.complete(request).await?;
    if !completed.is_altered && !completed.contains(request.run) {
        return Err(keeper.keeps_row());
    }
    let written = Written::Completion(request);
    let changed = changed_columns(&mut *steps.connection(), request.run, before, &written).await?;
    let is_lost = changed.iter().any(|column| OF_RESULT.contains(column));
    if completed.is_altered || is_lost {
        return Err(keeper.changes_row(&changed));
    }
    UNDO.execute(&mut *steps.connection()).await?;
    Ok(changed)
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
    lost.map_err(|error| at_step(SWEEPING, error))?;
    let due: Result<Due, StoreError> = due_runs(&SWEEP, &[], None).fetch_one(connection).await;
    due.map_err(|error| at_step(SWEEPING, error))?;
    Ok(())
}

/// Does with a run what `serve` does with it. A trigger or a constraint of the application may refuse each step. Where
/// it refuses the checks that are recorded, only queued runs of other producers show whether it refuses all runs.
pub(super) async fn try_run(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
) -> Result<Writing, StoreError> {
    let (mut refusal, mut unrecorded) = (None, None);
    let samples = samples(steps).await?;
    for sample in &samples {
        TRY_RUN.execute(&mut *steps.connection()).await?;
        let (recorded, notifies) = record_and_notify(steps, keeper, sample.connection).await?;
        match recorded {
            Recorded::Run(run) if is_moved(steps, run, sample.tenant).await? => {
                UNDO_RUN.execute(&mut *steps.connection()).await?;
                let moved = keeper.changes_row(&["tenant_id"]);
                unrecorded.get_or_insert(keeper.refused(RECORDING, moved));
            }
            Recorded::Run(run) => match try_steps(steps, keeper, run, Some(*sample)).await {
                Ok(changed) => {
                    let changed = (!changed.is_empty()).then(|| keeper.changes(&changed));
                    return Ok(Writing::Accepted { notifies, changed });
                }
                Err(error) => undo_run(steps, &mut refusal, error).await?,
            },
            Recorded::Refused(error) => {
                unrecorded.get_or_insert(error);
            }
            Recorded::Nothing => {}
        }
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    if samples.is_empty() {
        try_run_without_connection(steps, keeper).await?;
    }
    let queued = queued(steps).await?;
    match unrecorded {
        None if queued.is_empty() => Ok(Writing::NothingTried),
        None => {
            try_queued(steps, keeper, &queued, false, None).await?;
            Ok(Writing::OnlyClaimed)
        }
        Some(error) if queued.is_empty() => Ok(Writing::NotTried(error)),
        Some(error) => {
            let checked = samples.first().copied();
            match try_queued(steps, keeper, &queued, true, checked).await {
                Err(refusal) if !is_of_this_transaction(&refusal) => Err(refusal),
                _ => Ok(Writing::NotRecording(error)),
            }
        }
    }
}

/// Undoes what was tried with a run, and notes what refused it, unless another run was refused before. What may pass ends
/// the test, and so does a trigger of SQLite that has ended the transaction.
async fn undo_run(
    steps: &mut dyn RunSteps,
    refusal: &mut Option<StoreError>,
    error: StoreError,
) -> Result<(), StoreError> {
    let undone = UNDO_RUN.execute(&mut *steps.connection()).await;
    if error.is_transient() || undone.is_err() {
        return Err(error);
    }
    refusal.get_or_insert(error);
    Ok(())
}

/// Tries a run where there is no connection that one could be of. It shows only what a CHECK refuses of every run: a
/// trigger may ask for the connection.
async fn try_run_without_connection(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
) -> Result<(), StoreError> {
    TRY_RUN.execute(&mut *steps.connection()).await?;
    NOTIFY_NOBODY.execute(&mut *steps.connection()).await?;
    let by = (RECORD_WITHOUT_CONNECTION, RECORD_EMPTY_WITHOUT_CONNECTION);
    let Recorded::Run(run) = record(steps, keeper, by, ConnectionId(1)).await? else {
        return Ok(());
    };
    let mut refusal = None;
    match try_steps(steps, keeper, run, None).await {
        Ok(_) => _ = UNDO_RUN.execute(&mut *steps.connection()).await?,
        Err(error) => undo_run(steps, &mut refusal, error).await?,
    }
    match refusal {
        Some(error) if error.violates_check() => Err(error),
        _ => Ok(()),
    }
}

/// Tries queued runs of other producers until one is accepted: each step, or only the claim.
async fn try_queued(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
    runs: &[RunId],
    each_step: bool,
    checked: Option<Checked>,
) -> Result<(), StoreError> {
    let mut refusal = None;
    for run in runs {
        TRY_RUN.execute(&mut *steps.connection()).await?;
        let tried = match each_step {
            true => try_steps(steps, keeper, *run, checked).await.map(drop),
            false => try_claiming(steps, keeper, *run).await.map(drop),
        };
        match tried {
            Ok(()) => return Ok(()),
            Err(error) => undo_run(steps, &mut refusal, error).await?,
        }
    }
    refusal.map_or(Ok(()), Err)
}

/// Whether a foreign key has refused what follows a claim. PostgreSQL tests the keys of a row again, also those that stay,
/// where the same transaction has written it before: not in `serve`, which takes a transaction for each step.
fn is_of_this_transaction(refusal: &StoreError) -> bool {
    matches!(refusal.step(), Some(RELEASING | COMPLETING)) && refusal.sqlstate() == Some("23503")
}

/// Claims, releases and completes the run, and writes what a check of this connection has found. Returns the columns
/// that are not as they were written, though the steps are accepted.
async fn try_steps(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
    run: RunId,
    checked: Option<Checked>,
) -> Result<Vec<&'static str>, StoreError> {
    let at = |step: &'static str| move |error| keeper.refused(step, error);
    let claimed = try_claiming(steps, keeper, run).await?;
    let released = release(steps, keeper, &claimed).await;
    let mut changed = released.map_err(at(RELEASING))?;
    for request in completions(&claimed.claim, checked)? {
        let completed = complete(steps, keeper, &claimed.before, &request).await;
        for column in completed.map_err(at(COMPLETING))? {
            if !changed.contains(&column) {
                changed.push(column);
            }
        }
    }
    let Some(checked) = checked else {
        return Ok(changed);
    };
    let written = refresh_inventories(steps, run, checked.tenant).await;
    written.map_err(at(WRITING_INVENTORY))?;
    let kept = execute(steps, keep(&facts(checked))).await;
    kept.map_err(at(KEEPING_FACTS))?;
    Ok(changed)
}

/// Claims the run as the next worker would. Of another producer's run that is all: a rollback does not undo what a trigger
/// does outside of the transaction.
async fn try_claiming(
    steps: &mut dyn RunSteps,
    keeper: &Keeper,
    run: RunId,
) -> Result<Claimed, StoreError> {
    let at_claim = |error| keeper.refused(CLAIMING, error);
    let before = identity(&mut *steps.connection(), run).await;
    let before = before.map_err(at_claim)?;
    let claimed = steps.claim(claim(run)).await;
    let claimed = claimed.and_then(|claim| claim.ok_or_else(|| keeper.keeps_row()));
    let claim = claimed.map_err(at_claim)?;
    let as_written = is_as_written(steps, keeper, run, &before, &Written::Claim).await;
    as_written.map_err(at_claim)?;
    let claimed = identity(&mut *steps.connection(), run).await;
    let (tenant, workspace, _) = claimed.map_err(at_claim)?;
    let before = (tenant, workspace, before.2);
    Ok(Claimed { claim, before })
}
