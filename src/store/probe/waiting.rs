//! Tries the claims of runs that wait, though workers work: what refuses them leaves nothing in the database.

use super::{Keeper, LIMIT_CLAIMS, RunSteps, TRY_RUN, UNDO_RUN, try_claiming};
use crate::domain::{RunId, TenantId};
use crate::ports::probe::RefusedClaim;
use crate::ports::store_error::StoreError;
use crate::store::bounds::{is_claimable, time};
use crate::store::dialect::{before, now, own, postgres_only, run_type};
use crate::store::due::{due_since, is_due, not_before};
use crate::store::repeated_ids::has_own_id;
use crate::store::sql::both;
use crate::store::statement::{Sql, earlier};
use std::time::Duration;

/// The oldest runs of as many tenants as are tried, of those that have been due since before `$1`, among the oldest that
/// are queued.
const WAITING: Sql = both!(
    "SELECT min(r.id), CAST(r.tenant_id AS bigint) FROM (
        SELECT r.id, r.tenant_id, r.outcome, r.completed_at, " time!("r.created_at") " AS recorded_at, "
    not_before!("r") " AS not_before FROM operation_runs r
        WHERE r.type = " run_type!() " AND r.status = 'queued' ORDER BY r.id LIMIT 10000) r
     WHERE " is_claimable!() " AND " due_since!() " < " before!("$1") "
     GROUP BY r.tenant_id ORDER BY 1 LIMIT 3"
);

/// Locks the run, unless a worker has taken it or is about to. Never waits.
const LOCK_DUE: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.id = $1 AND r.type = " run_type!() " AND r.status = 'queued' AND "
    is_claimable!() " AND " has_own_id!("r") " AND " is_due!(not_before!("r"))
    postgres_only!(" FOR NO KEY UPDATE SKIP LOCKED")
);

/// Claims each of the runs that have waited for so long, and undoes it at once: a worker meets no lock for longer than
/// one of these claims. Reports those that a rule refuses, until nothing more can be tried or one has taken too long.
/// Returns whether the last one has ended the transaction.
pub(in crate::store) async fn refused_claims(
    steps: &mut dyn RunSteps,
    waited: Duration,
    report: &mut (dyn FnMut(RefusedClaim) + Send),
) -> Result<bool, StoreError> {
    let keeper = Keeper::of(steps).await?;
    let waiting = WAITING.bind(earlier(waited));
    let waiting: Vec<(i64, Option<i64>)> = waiting.fetch_all(&mut *steps.connection()).await?;
    LIMIT_CLAIMS.execute(&mut *steps.connection()).await?;
    for (run, tenant) in waiting {
        let run = RunId(run);
        TRY_RUN.execute(&mut *steps.connection()).await?;
        let due = LOCK_DUE.bind(run.0);
        if due.fetch_ids(&mut *steps.connection()).await?.is_empty() {
            continue;
        }
        let Err(error) = try_claiming(steps, &keeper, run).await else {
            UNDO_RUN.execute(&mut *steps.connection()).await?;
            continue;
        };
        if error.is_of_server() || error.is_answer().is_none() {
            return Err(error);
        }
        // query_canceled
        let is_late = error.sqlstate() == Some("57014");
        report(RefusedClaim {
            run,
            tenant: tenant.map(TenantId),
            error,
        });
        // A trigger may have ended the session, or the transaction.
        let undone = UNDO_RUN.execute(&mut *steps.connection()).await;
        if undone.is_err() || is_late {
            return Ok(undone.is_err());
        }
    }
    Ok(false)
}
