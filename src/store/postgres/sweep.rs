//! Finds dead leases, runs without a lease, and runs that were never dispatched.

use super::{
    ADVISORY_SPACE, ADVISORY_SWEEP, PostgresStore, is_failed_completion, run_type, seconds,
};
use crate::domain::RunId;
use crate::ports::store_error::StoreError;
use crate::ports::sweep::{SweepPolicy, SweepStore, Swept};
use crate::store::bounds::is_claimable;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::PgConnection;
use std::collections::BTreeSet;

/// `$1` is `worker_dead_after` in seconds.
macro_rules! lease_is_dead {
    () => {
        "a.ended_at IS NULL AND (a.deadline_at < now() OR NOT EXISTS (
            SELECT FROM verifyd.workers w WHERE w.worker_id = a.worker_id
            AND w.beat_at >= now() - make_interval(secs => $1)))"
    };
}

/// Whether the run of `d.run_id` is, and may be claimed.
macro_rules! is_queued {
    () => {
        $crate::store::sql::sql!(
            "(SELECT r.status = 'queued' AND " is_claimable!()
            " FROM operation_runs r WHERE r.id = d.run_id AND r.type = " run_type!() ")"
        )
    };
}

const DEAD_LEASES: &str = sql!(
    "SELECT a.run_id FROM verifyd.run_attempts a WHERE " lease_is_dead!() " ORDER BY a.run_id LIMIT $2"
);

/// Skips runs that are being completed.
pub(super) const LOCK_RUNS: &str = sql!(
    "SELECT id FROM operation_runs WHERE id = ANY($1) AND type = " run_type!()
    " ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"
);

/// Begins after the runs were locked, so it sees the current attempts. Returns with each run whether the
/// attempt counts.
const RECLAIM: &str = sql!(
    "WITH dead AS (
        UPDATE verifyd.run_attempts a
        SET ended_at = clock_timestamp(), end_reason = 'worker_lost'
        FROM operation_runs r
        WHERE a.run_id = ANY($2) AND r.id = a.run_id AND r.type = " run_type!()
    " AND r.status = 'running' AND " lease_is_dead!() " RETURNING a.run_id, a.counted
    )
    UPDATE operation_runs r SET status = 'queued' FROM dead
    WHERE r.id = dead.run_id AND r.type = " run_type!()
    " AND r.status = 'running' RETURNING r.id, dead.counted"
);

/// Dead leases of runs that are no longer running or no longer exist: another writer changed them. They would
/// come first in every later sweep.
const END_STRAYS: &str = sql!(
    "UPDATE verifyd.run_attempts a
     SET ended_at = clock_timestamp(), end_reason = 'superseded'
     WHERE a.run_id = ANY($2) AND " lease_is_dead!()
    " AND (a.run_id = ANY($3) OR NOT EXISTS (SELECT FROM operation_runs r
                                            WHERE r.id = a.run_id AND r.type = " run_type!()
    ")) AND NOT EXISTS (SELECT FROM operation_runs r WHERE r.id = a.run_id AND r.type = " run_type!()
    " AND r.status = 'running')"
);

/// A time of the future, as `infinity`, does not keep a run.
const WITHOUT_LEASE: &str = sql!(
    "SELECT r.id FROM operation_runs r WHERE r.type = " run_type!() " AND r.status = 'running' AND "
    is_claimable!() " AND (coalesce(r.started_at::timestamptz, r.created_at::timestamptz)
           BETWEEN now() - make_interval(secs => $1) AND now() + make_interval(secs => $1))
          IS NOT TRUE
      AND NOT EXISTS (SELECT FROM verifyd.run_attempts a
                      WHERE a.run_id = r.id AND a.ended_at IS NULL)
      ORDER BY r.id LIMIT $2 FOR NO KEY UPDATE OF r SKIP LOCKED"
);

/// A lease taken between the snapshot of the statement above and its lock shows here.
const REQUEUE_WITHOUT_LEASE: &str = sql!(
    "UPDATE operation_runs r SET status = 'queued' WHERE r.id = ANY($1) AND r.type = " run_type!()
    " AND r.status = 'running' AND NOT EXISTS (SELECT FROM verifyd.run_attempts a
                                            WHERE a.run_id = r.id AND a.ended_at IS NULL)
      RETURNING r.id"
);

/// Whether `d`, the delivery of the queued run `w`, is an earlier run's: no run waits before its first claim,
/// and no hint is sent before the run is recorded. A recording time in the future is an error of a clock.
macro_rules! is_delivery_of_earlier {
    () => {
        "w.started_at IS NULL AND (d.not_before > now() OR d.delivered_at + interval '1 second'
             < w.created_at::timestamptz AND w.created_at::timestamptz <= now())"
    };
}

/// Whether no hint was sent for the run `w`, and it can be claimed. A hint for an earlier run of its id does
/// not count. Whether it can be claimed is tested only for an undispatched run.
macro_rules! is_undispatched {
    () => {
        $crate::store::sql::sql!(
            "CASE WHEN (SELECT true FROM verifyd.run_deliveries d WHERE d.run_id = w.id AND ("
            is_delivery_of_earlier!() ") IS NOT TRUE) THEN false ELSE (SELECT " is_claimable!()
            " FROM operation_runs r WHERE r.id = w.id) END"
        )
    };
}

/// Undispatched queued runs: ahead of the cursor (`$5`), and behind it, after `$6`. At most `$7` are read on
/// either side, so that the cost does not grow with the number of dispatched runs, and no more than needed to
/// find `$3`: a window is read in the order in which it was made, and an `ORDER BY` after it would read all
/// of it.
macro_rules! windows {
    () => {
        $crate::store::sql::sql!(
            "WITH ahead AS MATERIALIZED (SELECT r.id, r.started_at, r.created_at FROM operation_runs r WHERE r.type = "
            run_type!() " AND r.status = 'queued' AND r.id > $5 ORDER BY r.id LIMIT $7),
             behind AS MATERIALIZED (SELECT r.id, r.started_at, r.created_at FROM operation_runs r WHERE r.type = "
            run_type!() " AND r.status = 'queued' AND r.id > $6 AND r.id <= $5 ORDER BY r.id LIMIT $7),
             undispatched_ahead AS MATERIALIZED (SELECT w.id FROM ahead w WHERE " is_undispatched!()
            " LIMIT $3),
             undispatched_behind AS MATERIALIZED (SELECT w.id FROM behind w WHERE " is_undispatched!()
            " LIMIT $3)"
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

/// Due runs: undispatched ones, those not delivered, those delivered too long ago (`$1`: whether, `$2`:
/// seconds), and `$4`: those reclaimed by this sweep. Each part has its own index; one condition would read
/// all deliveries. The ends of the windows are returned, too.
///
/// The run of a delivery is looked up by its id, in a subquery: with statistics from a time when hardly
/// anything was queued, a join would begin with all queued runs. The same holds for reclaimed runs, and for a
/// run's delivery.
const DUE: &str = sql!(
    windows!() " SELECT ARRAY(
        SELECT id FROM undispatched_ahead UNION SELECT id FROM undispatched_behind
        UNION
        (SELECT d.run_id FROM verifyd.run_deliveries d
         WHERE d.delivered_at IS NULL AND (d.not_before IS NULL OR d.not_before <= now()) AND "
    is_queued!() " ORDER BY d.run_id LIMIT $3)
        UNION
        (SELECT d.run_id FROM verifyd.run_deliveries d
         WHERE $1 AND d.delivered_at < now() - make_interval(secs => $2)
         AND (d.not_before IS NULL OR d.not_before <= now()) AND " is_queued!()
    " ORDER BY d.run_id LIMIT $3)
        UNION
        SELECT d.run_id FROM unnest($4::bigint[]) AS d (run_id) WHERE " is_queued!()
    " ORDER BY 1 LIMIT $3), " left_at!("ahead") ", " left_at!("behind")
);

/// `$1`: runs that are queued again or due, `$2`: those delivered now, `$3`: those that wait with exponential
/// backoff after failed completions. One statement in the order of the ids, so that it cannot deadlock with
/// MARK_UNDISPATCHED. A run that was claimed and released since DUE keeps its `not_before`, which is after
/// the beginning of this transaction. The wait of a run that was never claimed belongs to an earlier run, as
/// long as it is the same as when that was seen.
const MARK_DELIVERIES: &str = sql!(
    "WITH left_over AS MATERIALIZED (
        SELECT d.run_id, d.not_before FROM verifyd.run_deliveries d
        WHERE d.run_id = ANY($1) AND d.not_before > now()
          AND (SELECT r.started_at IS NULL FROM operation_runs r WHERE r.id = d.run_id))
     INSERT INTO verifyd.run_deliveries AS d (run_id, delivered_at, not_before)
     SELECT id, CASE WHEN id = ANY($2) THEN now() END, CASE WHEN id = ANY($3) THEN
         clock_timestamp() + (SELECT make_interval(secs => 2 ^ count(*))
                              FROM verifyd.run_attempts WHERE run_id = id AND " is_failed_completion!()
    ") END FROM unnest($1::bigint[]) AS t(id) ORDER BY id
     ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at,
         not_before = excluded.not_before
     WHERE d.not_before IS NULL OR d.not_before <= now()
        OR d.not_before = (SELECT o.not_before FROM left_over o WHERE o.run_id = d.run_id)"
);

/// A run that was completed between DUE and MARK_DELIVERIES leaves a row behind, and so does one that its
/// application completed or deleted itself. Reads only the oldest rows, and those that were due and not
/// delivered by this sweep, so that its cost is bounded: each run is looked up by its id, and no plan reads
/// all deliveries or all active runs.
const FORGET_ORPHANS: &str = sql!(
    "DELETE FROM verifyd.run_deliveries WHERE run_id = ANY(ARRAY(
        SELECT o.run_id FROM (
            (SELECT run_id FROM verifyd.run_deliveries
             WHERE delivered_at < now() - interval '1 day' ORDER BY delivered_at LIMIT $1)
            UNION ALL
            (SELECT run_id FROM verifyd.run_deliveries
             WHERE delivered_at IS NULL
             AND (not_before IS NULL OR not_before < now() - interval '1 day') LIMIT $1)
        ) o
        WHERE (SELECT r.status IN ('queued', 'running') FROM operation_runs r
               WHERE r.id = o.run_id AND r.type = " run_type!() ") IS NOT TRUE))"
);

const FORGET_WORKERS: &str = "DELETE FROM verifyd.workers WHERE beat_at < now() - interval '1 day'";

/// In the order of the ids: see MARK_DELIVERIES.
const MARK_UNDISPATCHED: &str = "
    UPDATE verifyd.run_deliveries SET delivered_at = NULL WHERE run_id IN (
        SELECT run_id FROM verifyd.run_deliveries WHERE run_id = ANY($1)
        ORDER BY run_id FOR UPDATE)";

/// Splits into runs whose attempt counted, and runs whose attempt was a failed completion.
pub(super) fn split_counted(queued: Vec<(i64, bool)>) -> (Vec<i64>, Vec<i64>) {
    let (counted, failed): (Vec<_>, Vec<_>) = queued.into_iter().partition(|(_, counted)| *counted);
    let ids = |runs: Vec<(i64, bool)>| runs.into_iter().map(|(id, _)| id).collect();
    (ids(counted), ids(failed))
}

#[async_trait]
impl SweepStore for PostgresStore {
    async fn sweep(&self, policy: &SweepPolicy) -> Result<Option<Swept>, StoreError> {
        self.transaction(async |tx| {
            let is_only_sweep: bool = self
                .scalar("SELECT pg_try_advisory_xact_lock($1, $2)")
                .bind(ADVISORY_SPACE)
                .bind(ADVISORY_SWEEP)
                .fetch_one(&mut *tx)
                .await?;
            if !is_only_sweep {
                return Ok(None);
            }
            let (mut reclaimed, postponed) = self.reclaim_dead(tx, policy).await?;
            let room = i64::from(policy.batch) - (reclaimed.len() + postponed.len()) as i64;
            reclaimed.extend(self.requeue_without_lease(tx, policy, room).await?);
            let (mut due, ahead, behind) = self.find_due(tx, policy, &reclaimed).await?;
            let next = policy.after(&due, ahead, behind);
            due.retain(|run| !postponed.contains(run));
            reclaimed.extend(&postponed);
            reclaimed.sort_unstable();
            let touched: BTreeSet<i64> = reclaimed.iter().chain(&due).copied().collect();
            let touched: Vec<i64> = touched.into_iter().collect();
            self.mark_deliveries(tx, &touched, &due, &postponed).await?;
            self.sql(FORGET_ORPHANS)
                .bind(i64::from(policy.batch))
                .execute(&mut *tx)
                .await?;
            self.sql(FORGET_WORKERS).execute(&mut *tx).await?;
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
        self.execute(self.sql(MARK_UNDISPATCHED).bind(ids)).await?;
        Ok(())
    }
}

impl PostgresStore {
    /// See [`DUE`].
    async fn find_due(
        &self,
        tx: &mut PgConnection,
        policy: &SweepPolicy,
        reclaimed: &[i64],
    ) -> Result<(Vec<i64>, Option<i64>, Option<i64>), StoreError> {
        Ok(self
            .rows(DUE)
            .bind(policy.redeliver)
            .bind(seconds(policy.redeliver_after))
            .bind(i64::from(policy.batch))
            .bind(reclaimed)
            .bind(policy.from.up_to.0)
            .bind(policy.from.again_after.0)
            .bind(i64::from(policy.window))
            .fetch_one(&mut *tx)
            .await?)
    }

    /// Records when queued runs are to be delivered.
    pub(super) async fn mark_deliveries(
        &self,
        tx: &mut PgConnection,
        queued: &[i64],
        due: &[i64],
        postponed: &[i64],
    ) -> Result<(), StoreError> {
        if queued.is_empty() {
            return Ok(());
        }
        self.sql(MARK_DELIVERIES)
            .bind(queued)
            .bind(due)
            .bind(postponed)
            .execute(&mut *tx)
            .await?;
        Ok(())
    }

    /// Returns the runs that are queued again, and those whose attempt was a failed completion.
    async fn reclaim_dead(
        &self,
        tx: &mut PgConnection,
        policy: &SweepPolicy,
    ) -> Result<(Vec<i64>, Vec<i64>), StoreError> {
        let dead_after = seconds(policy.worker_dead_after);
        let candidates: Vec<i64> = self
            .scalar(DEAD_LEASES)
            .bind(dead_after)
            .bind(i64::from(policy.batch))
            .fetch_all(&mut *tx)
            .await?;
        if candidates.is_empty() {
            return Ok((candidates, Vec::new()));
        }
        let locked: Vec<i64> = self
            .scalar(LOCK_RUNS)
            .bind(&candidates)
            .fetch_all(&mut *tx)
            .await?;
        let reclaimed: Vec<(i64, bool)> = self
            .rows(RECLAIM)
            .bind(dead_after)
            .bind(&locked)
            .fetch_all(&mut *tx)
            .await?;
        self.sql(END_STRAYS)
            .bind(dead_after)
            .bind(&candidates)
            .bind(&locked)
            .execute(&mut *tx)
            .await?;
        Ok(split_counted(reclaimed))
    }

    async fn requeue_without_lease(
        &self,
        tx: &mut PgConnection,
        policy: &SweepPolicy,
        room: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let locked: Vec<i64> = self
            .scalar(WITHOUT_LEASE)
            .bind(seconds(policy.worker_dead_after))
            .bind(room.max(0))
            .fetch_all(&mut *tx)
            .await?;
        if locked.is_empty() {
            return Ok(locked);
        }
        Ok(self
            .scalar(REQUEUE_WITHOUT_LEASE)
            .bind(&locked)
            .fetch_all(&mut *tx)
            .await?)
    }
}
