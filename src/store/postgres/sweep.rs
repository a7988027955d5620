//! What the reconciler finds: dead leases, runs without a lease, runs that nobody was told about.

use super::{
    ADVISORY_SPACE, ADVISORY_SWEEP, PostgresStore, Tx, commit, rollback, run_type, seconds,
};
use crate::domain::RunId;
use crate::ports::store::{StoreError, SweepPolicy, Swept};
use crate::store::error::from_sqlx;
use std::collections::BTreeSet;

/// `$1` is `worker_dead_after` in seconds.
macro_rules! lease_is_dead {
    () => {
        "a.ended_at IS NULL AND (a.deadline_at < now() OR NOT EXISTS ( \
            SELECT FROM verifyd.workers w WHERE w.worker_id = a.worker_id \
            AND w.beat_at >= now() - make_interval(secs => $1)))"
    };
}

const DEAD_LEASES: &str = concat!(
    "SELECT a.run_id FROM verifyd.run_attempts a WHERE ",
    lease_is_dead!(),
    " ORDER BY a.run_id LIMIT $2"
);

/// Runs that somebody is completing right now are skipped.
const LOCK_RUNS: &str = concat!(
    "SELECT id FROM operation_runs WHERE id = ANY($1) AND type = ",
    run_type!(),
    " ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"
);

/// Begins after the runs were locked, so it sees the attempts as they are.
const RECLAIM: &str = concat!(
    "WITH dead AS ( \
        UPDATE verifyd.run_attempts a \
        SET ended_at = clock_timestamp(), end_reason = 'worker_lost' \
        FROM operation_runs r \
        WHERE a.run_id = ANY($2) AND r.id = a.run_id AND r.type = ",
    run_type!(),
    " AND r.status = 'running' AND ",
    lease_is_dead!(),
    " RETURNING a.run_id \
    ) \
    UPDATE operation_runs r SET status = 'queued' FROM dead \
    WHERE r.id = dead.run_id AND r.type = ",
    run_type!(),
    " AND r.status = 'running' RETURNING r.id"
);

/// Dead leases of runs that are not running any more, or not there any more: somebody changed them
/// from outside. They would come first in every later sweep.
const END_STRAYS: &str = concat!(
    "UPDATE verifyd.run_attempts a \
     SET ended_at = clock_timestamp(), end_reason = 'superseded' \
     WHERE a.run_id = ANY($2) AND ",
    lease_is_dead!(),
    " AND (a.run_id = ANY($3) OR NOT EXISTS (SELECT FROM operation_runs r \
                                            WHERE r.id = a.run_id AND r.type = ",
    run_type!(),
    ")) AND NOT EXISTS (SELECT FROM operation_runs r WHERE r.id = a.run_id AND r.type = ",
    run_type!(),
    " AND r.status = 'running')"
);

const WITHOUT_LEASE: &str = concat!(
    "SELECT r.id FROM operation_runs r WHERE r.type = ",
    run_type!(),
    " AND r.status = 'running' \
      AND coalesce(r.started_at::timestamptz, r.created_at::timestamptz, '-infinity') \
          < now() - make_interval(secs => $1) \
      AND NOT EXISTS (SELECT FROM verifyd.run_attempts a \
                      WHERE a.run_id = r.id AND a.ended_at IS NULL) \
      ORDER BY r.id LIMIT $2 FOR NO KEY UPDATE OF r SKIP LOCKED"
);

/// A lease taken between the snapshot of the statement above and its lock shows here.
const REQUEUE_WITHOUT_LEASE: &str = concat!(
    "UPDATE operation_runs r SET status = 'queued' WHERE r.id = ANY($1) AND r.type = ",
    run_type!(),
    " AND r.status = 'running' AND NOT EXISTS (SELECT FROM verifyd.run_attempts a \
                                            WHERE a.run_id = r.id AND a.ended_at IS NULL) \
      RETURNING r.id"
);

/// What is queued and was never heard of, what was not delivered, what was delivered too long ago
/// (`$1` says whether, `$2` how many seconds), and `$4`: what was reclaimed just now. Each part has
/// an index to itself; in one condition they would need all deliveries to be read.
const DUE: &str = concat!(
    "(SELECT r.id FROM operation_runs r WHERE r.type = ",
    run_type!(),
    " AND r.status = 'queued' \
      AND NOT EXISTS (SELECT FROM verifyd.run_deliveries d WHERE d.run_id = r.id) \
      ORDER BY r.id LIMIT $3) \
     UNION \
     (SELECT r.id FROM verifyd.run_deliveries d JOIN operation_runs r ON r.id = d.run_id \
      WHERE d.delivered_at IS NULL AND (d.not_before IS NULL OR d.not_before <= now()) \
      AND r.type = ",
    run_type!(),
    " AND r.status = 'queued' ORDER BY r.id LIMIT $3) \
     UNION \
     (SELECT r.id FROM verifyd.run_deliveries d JOIN operation_runs r ON r.id = d.run_id \
      WHERE $1 AND d.delivered_at < now() - make_interval(secs => $2) \
      AND (d.not_before IS NULL OR d.not_before <= now()) AND r.type = ",
    run_type!(),
    " AND r.status = 'queued' ORDER BY r.id LIMIT $3) \
     UNION \
     SELECT r.id FROM operation_runs r WHERE r.id = ANY($4) AND r.type = ",
    run_type!(),
    " AND r.status = 'queued' \
     ORDER BY 1 LIMIT $3"
);

/// `$1`: reclaimed and due runs, `$2`: those that are delivered now. One statement in the order of
/// the ids, so that it cannot deadlock with UNDELIVER. A run that was claimed and given back since
/// DUE keeps its `not_before`: it lies after the beginning of this transaction.
const MARK_DELIVERIES: &str = "\
    INSERT INTO verifyd.run_deliveries AS d (run_id, delivered_at) \
    SELECT id, CASE WHEN id = ANY($2) THEN now() END FROM unnest($1::bigint[]) AS t(id) \
    ORDER BY id \
    ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at, not_before = NULL \
    WHERE d.not_before IS NULL OR d.not_before <= now()";

/// A run that was completed between DUE and MARK_DELIVERIES leaves a row behind, and so does one
/// that its application deleted. Looks at the oldest only, so that its cost is bounded.
const FORGET_ORPHANS: &str = concat!(
    "DELETE FROM verifyd.run_deliveries d USING ( \
        SELECT run_id FROM verifyd.run_deliveries \
        WHERE delivered_at < now() - interval '1 day' ORDER BY delivered_at LIMIT $1 \
     ) old \
     WHERE d.run_id = old.run_id AND NOT EXISTS (SELECT FROM operation_runs r \
        WHERE r.id = d.run_id AND r.type = ",
    run_type!(),
    " AND r.status IN ('queued', 'running'))"
);

const FORGET_WORKERS: &str = "DELETE FROM verifyd.workers WHERE beat_at < now() - interval '1 day'";

/// In the order of the ids: see MARK_DELIVERIES.
const UNDELIVER: &str = "\
    UPDATE verifyd.run_deliveries SET delivered_at = NULL WHERE run_id IN ( \
        SELECT run_id FROM verifyd.run_deliveries WHERE run_id = ANY($1) \
        ORDER BY run_id FOR UPDATE)";

impl PostgresStore {
    pub(super) async fn sweep_runs(
        &self,
        policy: &SweepPolicy,
    ) -> Result<Option<Swept>, StoreError> {
        let mut tx = self.begin().await?;
        let alone: bool = self
            .scalar("SELECT pg_try_advisory_xact_lock($1, $2)")
            .bind(ADVISORY_SPACE)
            .bind(ADVISORY_SWEEP)
            .fetch_one(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        if !alone {
            rollback(tx).await?;
            return Ok(None);
        }
        let mut reclaimed = self.reclaim_dead(&mut tx, policy).await?;
        let room = i64::from(policy.batch) - reclaimed.len() as i64;
        reclaimed.extend(self.requeue_without_lease(&mut tx, policy, room).await?);
        reclaimed.sort_unstable();
        let due: Vec<i64> = self
            .scalar(DUE)
            .bind(policy.redeliver)
            .bind(seconds(policy.redeliver_after))
            .bind(i64::from(policy.batch))
            .bind(&reclaimed)
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        let touched: BTreeSet<i64> = reclaimed.iter().chain(&due).copied().collect();
        if !touched.is_empty() {
            self.sql(MARK_DELIVERIES)
                .bind(touched.into_iter().collect::<Vec<i64>>())
                .bind(&due)
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?;
        }
        self.sql(FORGET_ORPHANS)
            .bind(i64::from(policy.batch))
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        self.sql(FORGET_WORKERS)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await?;
        Ok(Some(Swept {
            reclaimed: reclaimed.into_iter().map(RunId).collect(),
            due: due.into_iter().map(RunId).collect(),
        }))
    }

    async fn reclaim_dead(
        &self,
        tx: &mut Tx,
        policy: &SweepPolicy,
    ) -> Result<Vec<i64>, StoreError> {
        let dead_after = seconds(policy.worker_dead_after);
        let candidates: Vec<i64> = self
            .scalar(DEAD_LEASES)
            .bind(dead_after)
            .bind(i64::from(policy.batch))
            .fetch_all(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        if candidates.is_empty() {
            return Ok(candidates);
        }
        let locked: Vec<i64> = self
            .scalar(LOCK_RUNS)
            .bind(&candidates)
            .fetch_all(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        let reclaimed = self
            .scalar(RECLAIM)
            .bind(dead_after)
            .bind(&locked)
            .fetch_all(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        self.sql(END_STRAYS)
            .bind(dead_after)
            .bind(&candidates)
            .bind(&locked)
            .execute(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        Ok(reclaimed)
    }

    async fn requeue_without_lease(
        &self,
        tx: &mut Tx,
        policy: &SweepPolicy,
        room: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let locked: Vec<i64> = self
            .scalar(WITHOUT_LEASE)
            .bind(seconds(policy.worker_dead_after))
            .bind(room.max(0))
            .fetch_all(&mut **tx)
            .await
            .map_err(from_sqlx)?;
        if locked.is_empty() {
            return Ok(locked);
        }
        self.scalar(REQUEUE_WITHOUT_LEASE)
            .bind(&locked)
            .fetch_all(&mut **tx)
            .await
            .map_err(from_sqlx)
    }

    pub(super) async fn undeliver_runs(&self, runs: &[RunId]) -> Result<(), StoreError> {
        if runs.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = runs.iter().map(|run| run.0).collect();
        let mut tx = self.begin().await?;
        self.sql(UNDELIVER)
            .bind(ids)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        commit(tx).await
    }
}
