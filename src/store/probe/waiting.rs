//! Tries the claims of runs that wait, though workers work: what refuses them leaves nothing in the database.

use super::{Keeper, RunSteps, TRY_RUN, UNDO_RUN, claim, refused, undo_run};
use crate::domain::RunId;
use crate::ports::probe::CLAIMING;
use crate::ports::store_error::StoreError;
use crate::store::bounds::{is_claimable, time};
use crate::store::dialect::{before, now, own, postgres_only, run_type};
use crate::store::repeated_ids::has_own_id;
use crate::store::sql::both;
use crate::store::statement::{Sql, earlier};
use std::time::Duration;

/// The oldest runs of as many tenants as are tried, of those that were recorded before `$1` and wait for no time. Never
/// waits for a lock.
const WAITING: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.type = " run_type!() " AND r.status = 'queued' AND " has_own_id!("r")
    " AND r.id IN (
        SELECT min(r.id) FROM operation_runs r WHERE r.type = " run_type!() " AND r.status = 'queued' AND "
    is_claimable!() " AND " time!("r.created_at") " < " before!("$1") " AND NOT EXISTS (
            SELECT 1 FROM " own!(run_deliveries) " d WHERE d.run_id = r.id AND d.not_before > " now!() ")
        GROUP BY r.tenant_id ORDER BY 1 LIMIT 3) ORDER BY r.id"
    postgres_only!(" FOR NO KEY UPDATE SKIP LOCKED")
);

/// Claims each of the runs that have waited for so long, and undoes it. Returns those that are refused, with the reason.
pub(in crate::store) async fn refused_claims(
    steps: &mut dyn RunSteps,
    waited: Duration,
) -> Result<Vec<(RunId, StoreError)>, StoreError> {
    let keeper = Keeper::of(steps).await?;
    let waiting = WAITING.bind(earlier(waited));
    let waiting = waiting.fetch_ids(&mut *steps.connection()).await?;
    let mut found = Vec::new();
    for run in waiting.into_iter().map(RunId) {
        TRY_RUN.execute(&mut *steps.connection()).await?;
        let claimed = steps.claim(claim(run)).await;
        let mut refusal = None;
        match claimed.and_then(|claim| claim.ok_or_else(|| keeper.keeps_row())) {
            Ok(_) => _ = UNDO_RUN.execute(&mut *steps.connection()).await?,
            Err(error) => undo_run(steps, &mut refusal, refused(CLAIMING, error)).await?,
        }
        found.extend(refusal.map(|error| (run, error)));
    }
    Ok(found)
}
