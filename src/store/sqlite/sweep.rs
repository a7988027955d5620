//! Finds dead leases, runs without a lease, and runs that were never dispatched.

use super::{SqliteStore, earlier, id_list, is_failed_completion, now, now_moved_by, run_type};
use crate::domain::RunId;
use crate::ports::store_error::StoreError;
use crate::ports::sweep::{SweepPolicy, SweepStore, Swept};
use crate::store::bounds::{is_claimable, time};
use crate::store::dialect::a_second_after;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::SqliteConnection;
use sqlx::types::Json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// `$1` moves the time back by `worker_dead_after`.
const DEAD_LEASES: &str = sql!(
    "SELECT a.run_id, a.counted FROM verifyd_run_attempts a
     WHERE a.ended_at IS NULL AND (a.deadline_at < " now!()
    " OR NOT EXISTS (SELECT 1 FROM verifyd_workers w
                     WHERE w.worker_id = a.worker_id AND w.beat_at >= " now_moved_by!("$1")
    ")) ORDER BY a.run_id LIMIT $2"
);

/// A time of the future does not keep a run.
const WITHOUT_LEASE: &str = sql!(
    "SELECT r.id, true FROM operation_runs r WHERE r.type = " run_type!()
    " AND r.status = 'running' AND " is_claimable!() " AND ("
    time!(sqlite "coalesce(r.started_at, r.created_at)") " BETWEEN " now_moved_by!("$1") " AND "
    now_moved_by!("'+1 minute'") ") IS NOT TRUE AND NOT EXISTS (SELECT 1 FROM verifyd_run_attempts a
                      WHERE a.run_id = r.id AND a.ended_at IS NULL)
      ORDER BY r.id LIMIT $2"
);

const REQUEUE: &str = sql!(
    "UPDATE operation_runs SET status = 'queued' WHERE id IN (SELECT value FROM json_each($1))
     AND type = " run_type!() " AND status = 'running' RETURNING id"
);

/// Dead leases of runs that are no longer running, or no longer exist, were ended by another writer; all
/// others by their worker's death.
const END_DEAD: &str = sql!(
    "UPDATE verifyd_run_attempts SET ended_at = " now!()
    ", end_reason = CASE WHEN run_id IN (SELECT value FROM json_each($2))
                         THEN 'worker_lost' ELSE 'superseded' END
     WHERE run_id IN (SELECT value FROM json_each($1)) AND ended_at IS NULL"
);

/// Whether the run of `d.run_id` is, and may be claimed.
macro_rules! is_queued {
    () => {
        $crate::store::sql::sql!(
            "(SELECT r.status = 'queued' AND " is_claimable!()
            " FROM operation_runs r WHERE r.id = d.run_id AND r.type = " run_type!() ")"
        )
    };
}

/// Whether `d`, the delivery of the queued run `w`, is an earlier run's.
macro_rules! is_delivery_of_earlier {
    () => {
        $crate::store::sql::sql!(
            "w.started_at IS NULL AND (coalesce(d.not_before, '') > " now!()
            " OR coalesce(" a_second_after!(sqlite "d.delivered_at") " < " time!(sqlite "w.created_at")
            " AND " time!(sqlite "w.created_at") " <= " now!() ", 0))"
        )
    };
}

/// The undispatched ones of the queued runs between two ids, as PostgreSQL's statement of the same
/// name looks for them.
macro_rules! window {
    ($name:literal, $between:literal) => {
        $crate::store::sql::sql!(
            $name
            " AS MATERIALIZED (SELECT r.id, r.started_at, r.created_at FROM operation_runs r WHERE r.type = "
            run_type!() " AND r.status = 'queued' AND " $between
            " ORDER BY r.id LIMIT $7), undispatched_" $name " AS MATERIALIZED (SELECT w.id FROM " $name
            " w WHERE NOT EXISTS (SELECT 1 FROM verifyd_run_deliveries d
                                  WHERE d.run_id = w.id AND NOT (" is_delivery_of_earlier!()
            ")) AND (SELECT " is_claimable!()
            " FROM operation_runs r WHERE r.id = w.id) ORDER BY w.id LIMIT $3)"
        )
    };
}

/// The last run of a window that was looked at, if there may be more after it.
macro_rules! left_at {
    ($window:literal) => {
        $crate::store::sql::sql!(
            "CASE WHEN (SELECT count(*) FROM undispatched_" $window
            ") = $3 THEN (SELECT max(id) FROM undispatched_" $window ") WHEN (SELECT count(*) FROM "
            $window ") = $7 THEN (SELECT max(id) FROM " $window ") END"
        )
    };
}

/// Due runs: undispatched ones ahead of `$5` and behind it after `$6`, those not delivered, those delivered
/// too long ago (`$1`: whether, `$2`: by how much), and `$4`: those reclaimed by this sweep. The ends of the
/// windows are returned, too.
const DUE: &str = sql!(
    "WITH " window!("ahead", "r.id > $5") ", " window!("behind", "r.id > $6 AND r.id <= $5")
    ", due AS (SELECT * FROM undispatched_ahead UNION SELECT * FROM undispatched_behind
        UNION
        SELECT * FROM (SELECT d.run_id FROM verifyd_run_deliveries d
         WHERE d.delivered_at IS NULL AND (d.not_before IS NULL OR d.not_before <= " now!() ") AND "
    is_queued!() " ORDER BY d.run_id LIMIT $3)
        UNION
        SELECT * FROM (SELECT d.run_id FROM verifyd_run_deliveries d
         WHERE $1 AND d.delivered_at < " now_moved_by!("$2")
    " AND (d.not_before IS NULL OR d.not_before <= " now!() ") AND " is_queued!()
    " ORDER BY d.run_id LIMIT $3)
        UNION
        SELECT d.run_id FROM (SELECT value AS run_id FROM json_each($4)) d WHERE " is_queued!()
    " ORDER BY 1 LIMIT $3)
     SELECT (SELECT json_group_array(id) FROM due), " left_at!("ahead") ", " left_at!("behind")
);

/// `$1`: runs that are queued again or due, `$2`: those that are delivered now, `$3`: those that wait
/// with exponential backoff after failed completions.
const MARK_DELIVERIES: &str = sql!(
    "INSERT INTO verifyd_run_deliveries (run_id, delivered_at, not_before)
     SELECT t.value, CASE WHEN t.value IN (SELECT value FROM json_each($2)) THEN " now!()
    " END, CASE WHEN t.value IN (SELECT value FROM json_each($3)) THEN "
    "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+' || (1 << (
         SELECT count(*) FROM verifyd_run_attempts WHERE run_id = t.value AND " is_failed_completion!()
    ")) || ' seconds') END FROM json_each($1) t WHERE true
     ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at,
         not_before = excluded.not_before"
);

/// Of runs that were completed or deleted by others. Looks at the oldest only, and at what this sweep has
/// not delivered though it was due, so that its cost is bounded.
const FORGET_ORPHANS: &str = sql!(
    "DELETE FROM verifyd_run_deliveries WHERE run_id IN (
        SELECT * FROM (SELECT d.run_id FROM verifyd_run_deliveries d WHERE d.delivered_at < "
    now_moved_by!("'-1 day'") " ORDER BY d.delivered_at LIMIT $1)
        UNION ALL
        SELECT * FROM (SELECT d.run_id FROM verifyd_run_deliveries d
        WHERE d.delivered_at IS NULL AND (d.not_before IS NULL OR d.not_before < "
    now_moved_by!("'-1 day'") ") LIMIT $1))
     AND NOT EXISTS (SELECT 1 FROM operation_runs r
        WHERE r.id = verifyd_run_deliveries.run_id AND r.type = " run_type!()
    " AND r.status IN ('queued', 'running'))"
);

const FORGET_WORKERS: &str = sql!(
    "DELETE FROM verifyd_workers WHERE beat_at < " now_moved_by!("'-1 day'")
);

const MARK_UNDISPATCHED: &str = "
    UPDATE verifyd_run_deliveries SET delivered_at = NULL
    WHERE run_id IN (SELECT value FROM json_each($1))";

#[async_trait]
impl SweepStore for SqliteStore {
    async fn sweep(&self, policy: &SweepPolicy) -> Result<Option<Swept>, StoreError> {
        let Ok(_only_sweep) = self.sweeping.try_lock() else {
            return Ok(None);
        };
        self.transaction(async |tx| {
            let dead = self
                .find(tx, DEAD_LEASES, policy.worker_dead_after, policy.batch)
                .await?;
            let counted: BTreeMap<i64, bool> = dead.into_iter().collect();
            let dead: Vec<i64> = counted.keys().copied().collect();
            let mut reclaimed = requeue(tx, &dead).await?;
            let postponed: Vec<i64> = reclaimed
                .iter()
                .filter(|run| !counted[*run])
                .copied()
                .collect();
            if !dead.is_empty() {
                sqlx::query(END_DEAD)
                    .bind(id_list(&dead))
                    .bind(id_list(&reclaimed))
                    .execute(&mut *tx)
                    .await?;
            }
            let room = policy.batch.saturating_sub(reclaimed.len() as u32);
            let without_lease: Vec<i64> = self
                .find(tx, WITHOUT_LEASE, policy.worker_dead_after, room)
                .await?
                .into_iter()
                .map(|(run, _)| run)
                .collect();
            reclaimed.extend(requeue(tx, &without_lease).await?);
            reclaimed.sort_unstable();
            let (mut due, ahead, behind) = find_due(tx, policy, &reclaimed).await?;
            let next = policy.after(&due, ahead, behind);
            due.retain(|run| !postponed.contains(run));
            let touched: BTreeSet<i64> = reclaimed.iter().chain(&due).copied().collect();
            let touched: Vec<i64> = touched.into_iter().collect();
            mark_deliveries(tx, &touched, &due, &postponed).await?;
            sqlx::query(FORGET_ORPHANS)
                .bind(policy.batch)
                .execute(&mut *tx)
                .await?;
            sqlx::query(FORGET_WORKERS).execute(&mut *tx).await?;
            Ok(Some(Swept {
                reclaimed: reclaimed.into_iter().map(RunId).collect(),
                due: due.into_iter().map(RunId).collect(),
                next,
                more: ahead.is_some(),
            }))
        })
        .await
    }

    async fn mark_undispatched(&self, runs: &[RunId]) -> Result<(), StoreError> {
        if runs.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = runs.iter().map(|run| run.0).collect();
        self.execute(sqlx::query(MARK_UNDISPATCHED).bind(id_list(&ids)))
            .await?;
        Ok(())
    }
}

impl SqliteStore {
    async fn find(
        &self,
        tx: &mut SqliteConnection,
        statement: &'static str,
        dead_after: Duration,
        limit: u32,
    ) -> Result<Vec<(i64, bool)>, StoreError> {
        Ok(sqlx::query_as(statement)
            .bind(earlier(dead_after))
            .bind(limit)
            .fetch_all(&mut *tx)
            .await?)
    }
}

/// See [`DUE`].
async fn find_due(
    tx: &mut SqliteConnection,
    policy: &SweepPolicy,
    reclaimed: &[i64],
) -> Result<(Vec<i64>, Option<i64>, Option<i64>), StoreError> {
    let (Json(due), ahead, behind) = sqlx::query_as(DUE)
        .bind(policy.redeliver)
        .bind(earlier(policy.redeliver_after))
        .bind(policy.batch)
        .bind(id_list(reclaimed))
        .bind(policy.from.up_to.0)
        .bind(policy.from.again_after.0)
        .bind(policy.window)
        .fetch_one(&mut *tx)
        .await?;
    Ok((due, ahead, behind))
}

/// Records when queued runs are to be delivered.
pub(super) async fn mark_deliveries(
    tx: &mut SqliteConnection,
    queued: &[i64],
    due: &[i64],
    postponed: &[i64],
) -> Result<(), StoreError> {
    if queued.is_empty() {
        return Ok(());
    }
    sqlx::query(MARK_DELIVERIES)
        .bind(id_list(queued))
        .bind(id_list(due))
        .bind(id_list(postponed))
        .execute(&mut *tx)
        .await?;
    Ok(())
}

pub(super) async fn requeue(
    tx: &mut SqliteConnection,
    runs: &[i64],
) -> Result<Vec<i64>, StoreError> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let mut requeued: Vec<i64> = sqlx::query_scalar(REQUEUE)
        .bind(id_list(runs))
        .fetch_all(&mut *tx)
        .await?;
    requeued.sort_unstable();
    Ok(requeued)
}
