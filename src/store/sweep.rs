//! Finds dead leases, runs without a lease, and runs that were never dispatched.

use super::End;
use super::bounds::{is_claimable, time};
use super::budgets;
use super::dialect::{
    a_day_ago, a_second_after, among, before, clock, each, has_active_status, is_failed_completion,
    moment, now, own, postgres_only, run_type,
};
use super::groups::{DUE_RUNS, bind_group, forget_orphans_of_window};
use super::postgres::LOCK_TIMEOUT;
use super::refused_requeues::{
    MAX_WAITS, REQUEUE_TIME, RETRIED_AT_A_TIME, RefusedRequeues, RequeueError, RequeueTries, Spent,
    is_conflict, may_be_of_run,
};
use super::repeated_ids::{has_own_id, is_of_type, of_only_run};
use super::shares::limit_statements;
use super::sql::{both, sql_for};
use super::sql_store::{SqlConnection, SqlStore, execute, transaction_with_end};
use super::statement::{Sql, Statement, earlier};
use crate::domain::RunId;
use crate::domain::groups::GroupMembers;
use crate::ports::store_error::StoreError;
use crate::ports::sweep::{SweepPolicy, SweepStore, Swept};
use async_trait::async_trait;
use sqlx::types::Json;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Runs that are queued one by one whatever time that takes.
const MIN_TRIED: usize = MAX_WAITS + 1;

/// Whether no other replica sweeps, until the transaction ends. A lock of a row, because any session of any role can
/// take an advisory one. Adds the row where it is missing, and returns whether it has. SQLite's writing transactions come
/// one after another.
const IS_ONLY_SWEEP: Sql = both!(each!(
    "WITH made AS (
         INSERT INTO verifyd.sweep_lock (id)
         SELECT 1 WHERE NOT EXISTS (SELECT FROM verifyd.sweep_lock)
         ON CONFLICT DO NOTHING RETURNING id
     ), locked AS MATERIALIZED (
         SELECT id FROM verifyd.sweep_lock FOR UPDATE SKIP LOCKED
     )
     SELECT EXISTS (SELECT FROM locked) OR EXISTS (SELECT FROM made), EXISTS (SELECT FROM made)",
    "SELECT true, false"
));

/// A session that a run has ended may hold the lock a moment longer than its client gets the error.
const AWAIT_LOCK: Sql = both!(each!(
    "SELECT id FROM verifyd.sweep_lock FOR UPDATE",
    "SELECT 1"
));

/// `$1`: `worker_dead_after`.
macro_rules! lease_is_dead {
    ($db:ident) => {
        sql_for!(
            $db "a.ended_at IS NULL AND (a.deadline_at < " now!() " OR NOT EXISTS (
                SELECT 1 FROM " own!(workers) " w
                WHERE w.worker_id = a.worker_id AND w.beat_at >= " before!("$1") "))"
        )
    };
}

/// `$3`: runs that are left out.
const DEAD_LEASES: Sql = both!(
    "SELECT a.run_id FROM " own!(run_attempts) " a WHERE " lease_is_dead!()
    " AND NOT (a.run_id " among!("$3") ") ORDER BY a.run_id LIMIT $2"
);

/// Skips runs that are being completed.
pub(super) const LOCK_RUNS: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.id " among!("$1") " AND " is_of_type!("r") " ORDER BY r.id"
    postgres_only!(" FOR NO KEY UPDATE SKIP LOCKED")
);

/// Whether the run of the attempt `a` is running.
macro_rules! is_running {
    ($db:ident) => {
        $crate::store::repeated_ids::of_only_run!($db "a.run_id", "r.status = 'running'")
    };
}
pub(super) use {is_running, lease_is_dead};

/// Begins after the runs were locked, so it sees the current attempts. Returns with each run whether the
/// attempt counts.
const END_DEAD: Sql = both!(
    "UPDATE " own!(run_attempts) " AS a SET ended_at = " clock!() ", end_reason = 'worker_lost'
     WHERE a.run_id " among!("$2") " AND " lease_is_dead!() " AND " is_running!()
    " RETURNING run_id, counted"
);

/// Dead leases of runs that are no longer running or no longer exist: another writer changed them. They would
/// come first in every later sweep.
const END_SUPERSEDED: Sql = both!(
    "UPDATE " own!(run_attempts) " AS a SET ended_at = " clock!() ", end_reason = 'superseded'
     WHERE a.run_id " among!("$2") " AND " lease_is_dead!() " AND (a.run_id " among!("$3")
    " OR NOT EXISTS (SELECT 1 FROM operation_runs r WHERE r.id = a.run_id AND " is_of_type!("r")
    ")) AND " is_running!() " IS NOT TRUE"
);

/// A time of the future, as `infinity`, does not keep a run, nor does what is no time, as `now` in SQLite. `$3`: runs
/// that are left out.
pub(super) const WITHOUT_LEASE: Sql = both!(
    "SELECT r.id FROM operation_runs r WHERE r.type = " run_type!() " AND " has_active_status!("running") " AND "
    is_claimable!() " AND (" moment!("coalesce(r.started_at, r.created_at)") " BETWEEN " before!("$1")
    each!(
        " AND now() + make_interval(secs => $1)",
        " AND strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+1 minute')"
    )
    ") IS NOT TRUE
      AND NOT EXISTS (SELECT 1 FROM " own!(run_attempts) " a
                      WHERE a.run_id = r.id AND a.ended_at IS NULL)
      AND NOT (r.id " among!("$3") ") AND " has_own_id!("r") " ORDER BY r.id LIMIT $2"
    postgres_only!(" FOR NO KEY UPDATE OF r SKIP LOCKED")
);

/// Whether the run `r` is one of `$1`, and is running without a lease.
macro_rules! is_lost {
    ($db:ident) => {
        sql_for!(
            $db "r.id " among!("$1") " AND " is_of_type!("r") " AND r.status = 'running' AND " has_own_id!("r") "
              AND NOT EXISTS (SELECT 1 FROM " own!(run_attempts) " a
                              WHERE a.run_id = r.id AND a.ended_at IS NULL)"
        )
    };
}

/// A lease taken between the snapshot of the statement that locked the run and its lock shows here.
const REQUEUE: Sql = both!(
    "UPDATE operation_runs AS r SET status = 'queued' WHERE " is_lost!() " RETURNING id"
);

const STILL_LOST: Sql = both!("SELECT r.id FROM operation_runs r WHERE " is_lost!());

/// The time for which the transaction waits for a lock, and for a statement, where the database has such settings.
const CURRENT_TIMEOUTS: Sql = both!(each!(
    "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')",
    "SELECT '', ''"
));
const RESTORE_TIMEOUTS: Sql = both!(each!(
    "SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)",
    "SELECT $1, $2"
));

/// Longest time for a statement that queues runs again, in milliseconds: a rule of the application may have it wait.
const REQUEUE_STATEMENT_MS: u32 = 500;

/// A rule of the application may wait for a lock.
const LIMIT_LOCK_WAITS: Sql = Sql {
    postgres: LOCK_TIMEOUT,
    sqlite: "SELECT 1",
};

const SAVEPOINT: Sql = both!("SAVEPOINT requeue");
const ROLLBACK_TO_SAVEPOINT: Sql = both!("ROLLBACK TO SAVEPOINT requeue");
const RELEASE_SAVEPOINT: Sql = both!("RELEASE SAVEPOINT requeue");

/// Whether the run of `d.run_id` is, and may be claimed.
macro_rules! is_queued {
    ($db:ident) => {
        of_only_run!($db "d.run_id", "r.status = 'queued' AND " is_claimable!())
    };
}

/// Whether `d`, the delivery of the queued run `w`, is an earlier run's: no run waits before its first claim,
/// and no hint is sent before the run is recorded. A recording time in the future is an error of a clock.
macro_rules! is_delivery_of_earlier {
    (postgres) => {
        "w.started_at IS NULL AND (d.not_before > now() OR d.delivered_at + interval '1 second'
             < w.created_at::timestamptz AND w.created_at::timestamptz <= now())"
    };
    (sqlite) => {
        sql_for!(
            sqlite "w.started_at IS NULL AND (coalesce(d.not_before, '') > " now!() " OR coalesce("
            a_second_after!("d.delivered_at") " < " time!("w.created_at") " AND "
            time!("w.created_at") " <= " now!() ", 0))"
        )
    };
}

/// Whether no hint was sent for the run `w`, and it can be claimed. A hint for an earlier run of its id does
/// not count. Whether it can be claimed is tested only for an undispatched run.
macro_rules! is_undispatched {
    ($db:ident) => {
        sql_for!(
            $db "CASE WHEN (SELECT true FROM " own!(run_deliveries) " d WHERE d.run_id = w.id AND ("
            is_delivery_of_earlier!() ") IS NOT TRUE) THEN false ELSE "
            of_only_run!("w.id", is_claimable!()) " END"
        )
    };
}

/// The undispatched ones of the queued runs between two ids. At most `$7` are read, so that the cost does not
/// grow with the number of dispatched runs, and in PostgreSQL no more than needed to find `$3`: a window is
/// read in the order in which it was made, and an `ORDER BY` after it would read all of it.
macro_rules! window {
    ($db:ident $name:literal, $between:literal) => {
        sql_for!(
            $db $name
            " AS MATERIALIZED (SELECT r.id, r.started_at, r.created_at FROM operation_runs r WHERE r.type = "
            run_type!() " AND " has_active_status!("queued") " AND " $between
            " ORDER BY r.id LIMIT $7), undispatched_" $name " AS MATERIALIZED (SELECT w.id FROM " $name " w WHERE "
            is_undispatched!() each!("", " ORDER BY w.id") " LIMIT $3)"
        )
    };
}

/// The last run of a window that was looked at, if there may be more after it.
macro_rules! left_at {
    ($db:ident $window:literal) => {
        $crate::store::sql::sql!(
            "CASE WHEN (SELECT count(*) FROM undispatched_" $window
            ") = $3 THEN (SELECT max(id) FROM undispatched_" $window ") WHEN (SELECT count(*) FROM "
            $window ") = $7 THEN (SELECT max(id) FROM " $window ") END"
        )
    };
}
pub(super) use {is_delivery_of_earlier, left_at};

/// Due runs: undispatched ones ahead of the cursor (`$5`) and behind it, after `$6`, those not delivered, those
/// delivered too long ago (`$1`: whether, `$2`: by how much), and `$4`: those reclaimed by this sweep. Each part
/// has its own index; one condition would read all deliveries. The ends of the windows are returned, too.
///
/// The run of a delivery is looked up by its id, in a subquery: with statistics from a time when hardly
/// anything was queued, a join would begin with all queued runs. The same holds for reclaimed runs, and for a
/// run's delivery.
pub(super) const DUE: Sql = both!(
    "WITH " window!("ahead", "r.id > $5") ", " window!("behind", "r.id > $6 AND r.id <= $5")
    ", due AS (SELECT id FROM undispatched_ahead UNION SELECT id FROM undispatched_behind
        UNION
        SELECT * FROM (SELECT d.run_id FROM " own!(run_deliveries) " d
         WHERE d.delivered_at IS NULL AND (d.not_before IS NULL OR d.not_before <= " now!() ") AND "
    is_queued!() " ORDER BY d.run_id LIMIT $3) undispatched
        UNION
        SELECT * FROM (SELECT d.run_id FROM " own!(run_deliveries) " d
         WHERE $1 AND d.delivered_at < " before!("$2")
    " AND (d.not_before IS NULL OR d.not_before <= " now!() ") AND " is_queued!()
    " ORDER BY d.run_id LIMIT $3) lost
        UNION
        SELECT d.run_id FROM "
    each!("unnest($4::bigint[]) AS d (run_id)", "(SELECT value AS run_id FROM json_each($4)) d")
    " WHERE " is_queued!() " ORDER BY 1 LIMIT $3)
     SELECT "
    each!(
        "to_json(ARRAY(SELECT id FROM due ORDER BY id))",
        "(SELECT json_group_array(id) FROM due)"
    )
    ", " left_at!("ahead") ", " left_at!("behind")
);

/// A row of [`DUE`].
pub(super) type Due = (Json<Vec<i64>>, Option<i64>, Option<i64>);

/// `$1`: runs that are queued again or due, `$2`: those delivered now, `$3`: those that wait with exponential
/// backoff after failed completions. One statement in the order of the ids, so that it cannot deadlock with
/// MARK_UNDISPATCHED. A run that was claimed and released since DUE keeps its `not_before`, which is after
/// the beginning of this transaction. The wait of a run that was never claimed belongs to an earlier run, as
/// long as it is the same as when that was seen. A wait that is over stays: the run has been due since. In SQLite
/// nothing is written since DUE.
const MARK_DELIVERIES: Sql = Sql {
    postgres: sql_for!(
        postgres "WITH left_over AS MATERIALIZED (
            SELECT d.run_id, d.not_before FROM verifyd.run_deliveries d
            WHERE d.run_id = ANY($1) AND d.not_before > now()
              AND " of_only_run!("d.run_id", "r.started_at IS NULL") ")
         INSERT INTO verifyd.run_deliveries AS d (run_id, delivered_at, not_before)
         SELECT id, CASE WHEN id = ANY($2) THEN now() END, CASE WHEN id = ANY($3) THEN
             clock_timestamp() + (SELECT make_interval(secs => 2 ^ count(*))
                                  FROM verifyd.run_attempts WHERE run_id = id AND " is_failed_completion!()
        ") END FROM unnest($1::bigint[]) AS t(id) ORDER BY id
         ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at,
             not_before = coalesce(excluded.not_before, CASE WHEN d.not_before <= now() THEN d.not_before END)
         WHERE d.not_before IS NULL OR d.not_before <= now()
            OR d.not_before = (SELECT o.not_before FROM left_over o WHERE o.run_id = d.run_id)"
    ),
    sqlite: sql_for!(
        sqlite "INSERT INTO verifyd_run_deliveries (run_id, delivered_at, not_before)
         SELECT t.value, CASE WHEN t.value IN (SELECT value FROM json_each($2)) THEN " now!()
        " END, CASE WHEN t.value IN (SELECT value FROM json_each($3)) THEN
             strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+' || (1 << (
                 SELECT count(*) FROM verifyd_run_attempts WHERE run_id = t.value AND "
        is_failed_completion!() ")) || ' seconds') END FROM json_each($1) t WHERE true
         ON CONFLICT (run_id) DO UPDATE SET delivered_at = excluded.delivered_at,
             not_before = coalesce(excluded.not_before, CASE WHEN verifyd_run_deliveries.not_before <= " now!()
        " THEN verifyd_run_deliveries.not_before END)"
    ),
};

/// A run that was completed between DUE and MARK_DELIVERIES leaves a row behind, and so does one that its
/// application completed or deleted itself. Reads only the oldest rows, and those that were due and not
/// delivered by this sweep, so that its cost is bounded: each run is looked up by its id, and no plan reads
/// all deliveries or all active runs.
const FORGET_ORPHANS: Sql = both!(
    "DELETE FROM " own!(run_deliveries) " WHERE run_id " each!("= ANY(ARRAY(", "IN (")
    "   SELECT o.run_id FROM (
            SELECT * FROM (SELECT d.run_id FROM " own!(run_deliveries) " d
             WHERE d.delivered_at < " a_day_ago!() " ORDER BY d.delivered_at LIMIT $1) delivered
            UNION ALL
            SELECT * FROM (SELECT d.run_id FROM " own!(run_deliveries) " d
             WHERE d.delivered_at IS NULL
             AND (d.not_before IS NULL OR d.not_before < " a_day_ago!() ") LIMIT $1) undispatched
        ) o
        WHERE " of_only_run!("o.run_id", "r.status IN ('queued', 'running')") " IS NOT TRUE" each!("))", ")")
);

const FORGET_WORKERS: Sql = both!("DELETE FROM " own!(workers) " WHERE beat_at < " a_day_ago!());

/// In the order of the ids: see MARK_DELIVERIES.
pub(super) const MARK_UNDISPATCHED: Sql = both!(
    "UPDATE " own!(run_deliveries) " SET delivered_at = NULL WHERE run_id IN (
        SELECT run_id FROM " own!(run_deliveries) " WHERE run_id " among!("$1")
    " ORDER BY run_id" postgres_only!(" FOR UPDATE") ")"
);

#[async_trait]
impl<S: SqlStore> SweepStore for S {
    async fn sweep(&self, policy: &SweepPolicy) -> Result<Option<Swept>, StoreError> {
        let group = self.in_process().group.get();
        let refused = &self.in_process().refused_requeues;
        let mut tries = RequeueTries::begin();
        let swept = loop {
            let tried: Result<Option<Swept>, RequeueError> =
                transaction_with_end(self, async |tx| {
                    sweep_once(tx, refused, policy, group, &tries).await
                })
                .await;
            if let Some(swept) = tries.result_of(tried, refused) {
                break swept;
            }
        };
        super::refusals::publish(self, policy.worker_dead_after).await;
        swept
    }

    async fn mark_undispatched(&self, runs: &[RunId]) -> Result<(), StoreError> {
        if runs.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = runs.iter().map(|run| run.0).collect();
        execute(self, MARK_UNDISPATCHED.bind(ids)).await?;
        Ok(())
    }
}

/// One try of a sweep. `None`: another replica sweeps. One that writes nothing is rolled back: the lock alone gives it a
/// number in PostgreSQL, and its commit would wait for the disk.
async fn sweep_once(
    tx: &mut dyn SqlConnection,
    refused: &RefusedRequeues,
    policy: &SweepPolicy,
    group: Option<&GroupMembers>,
    tries: &RequeueTries,
) -> Result<End<Option<Swept>>, RequeueError> {
    if !tries.is_first() {
        AWAIT_LOCK.execute(tx).await?;
    }
    let (is_only_sweep, has_made_lock): (bool, bool) = IS_ONLY_SWEEP.fetch_one(tx).await?;
    if !is_only_sweep {
        return Ok(End::Rollback(None));
    }
    if tries.is_first() {
        // Few, as each may wait.
        refused.forget(RETRIED_AT_A_TIME);
    }
    let Reclaimed {
        queued: mut reclaimed,
        postponed,
        any_found,
    } = match tries.requeues() {
        true => reclaim(tx, refused, policy).await?,
        false => Reclaimed::default(),
    };
    let due = due_runs(policy, &reclaimed, group);
    let (Json(mut due), ahead, behind): Due = due.fetch_one(tx).await?;
    let next = policy.after(&due, ahead, behind);
    due.retain(|run| !postponed.contains(run));
    reclaimed.extend(&postponed);
    reclaimed.sort_unstable();
    let touched: BTreeSet<i64> = reclaimed.iter().chain(&due).copied().collect();
    let touched: Vec<i64> = touched.into_iter().collect();
    mark_deliveries(tx, &touched, &due, &postponed).await?;
    let mut forgotten = FORGET_ORPHANS.bind(policy.batch).execute(tx).await?;
    forgotten += forget_orphans_of_window(tx, group, policy).await?;
    forgotten += FORGET_WORKERS.execute(tx).await?;
    forgotten += budgets::FORGET.execute(tx).await?;
    let writes = has_made_lock || any_found || !touched.is_empty() || forgotten > 0;
    let swept = Some(Swept {
        reclaimed: reclaimed.into_iter().map(RunId).collect(),
        due: due.into_iter().map(RunId).collect(),
        next,
        more: ahead.is_some(),
    });
    Ok(match writes {
        true => End::Commit(swept),
        false => End::Rollback(swept),
    })
}

/// The statement that finds due runs of the group, besides those that were `reclaimed`. Its row is a [`Due`].
pub(super) fn due_runs(
    policy: &SweepPolicy,
    reclaimed: &[i64],
    group: Option<&GroupMembers>,
) -> Statement {
    let due = DUE_RUNS
        .of(group)
        .bind(policy.redeliver)
        .bind(earlier(policy.redeliver_after))
        .bind(policy.batch)
        .bind(reclaimed)
        .bind(policy.from.up_to.0)
        .bind(policy.from.again_after.0)
        .bind(policy.window);
    bind_group(due, group)
}

/// The statement that finds and locks runs without a lease, up to `most`.
pub(super) fn runs_without_lease(policy: &SweepPolicy, most: i64, left_out: Vec<i64>) -> Statement {
    let dead_after = earlier(policy.worker_dead_after);
    WITHOUT_LEASE.bind(dead_after).bind(most).bind(left_out)
}

/// What became of lost runs.
#[derive(Default)]
struct Reclaimed {
    queued: Vec<i64>,
    /// Those whose attempt was a failed completion.
    postponed: Vec<i64>,
    /// Whether there were any, also where none is queued again: their attempts may have ended.
    any_found: bool,
}

/// Queues lost runs again.
async fn reclaim(
    tx: &mut dyn SqlConnection,
    refused: &RefusedRequeues,
    policy: &SweepPolicy,
) -> Result<Reclaimed, RequeueError> {
    let mut spent = Spent::default();
    let mut reclaimed = reclaim_dead(tx, refused, &mut spent, policy).await?;
    let room =
        i64::from(policy.batch) - (reclaimed.queued.len() + reclaimed.postponed.len()) as i64;
    let without_lease = runs_without_lease(policy, room.max(0), refused.left_out());
    let without_lease = without_lease.fetch_ids(tx).await?;
    reclaimed.any_found |= !without_lease.is_empty();
    let queued = requeue(tx, refused, &mut spent, without_lease).await?;
    reclaimed.queued.extend(queued);
    Ok(reclaimed)
}

/// The same, of runs whose lease is dead.
async fn reclaim_dead(
    tx: &mut dyn SqlConnection,
    refused: &RefusedRequeues,
    spent: &mut Spent,
    policy: &SweepPolicy,
) -> Result<Reclaimed, RequeueError> {
    let dead_after = || earlier(policy.worker_dead_after);
    let candidates = DEAD_LEASES.bind(dead_after()).bind(policy.batch);
    let candidates = candidates.bind(refused.left_out());
    let candidates = candidates.fetch_ids(tx).await?;
    if candidates.is_empty() {
        return Ok(Reclaimed::default());
    }
    let locked = LOCK_RUNS.bind(&candidates[..]).fetch_ids(tx).await?;
    let end = END_DEAD.bind(dead_after()).bind(&locked[..]);
    let ended = end.fetch_all(tx).await?;
    let (queued, postponed) = requeue_ended(tx, refused, spent, ended).await?;
    let superseded = END_SUPERSEDED
        .bind(dead_after())
        .bind(candidates)
        .bind(locked);
    superseded.execute(tx).await?;
    Ok(Reclaimed {
        queued,
        postponed,
        any_found: true,
    })
}

/// Queues runs whose attempts were ended, each with whether its attempt counts. Returns those whose attempt
/// did, and those whose attempt was a failed completion.
pub(super) async fn requeue_ended(
    tx: &mut dyn SqlConnection,
    refused: &RefusedRequeues,
    spent: &mut Spent,
    ended: Vec<(i64, bool)>,
) -> Result<(Vec<i64>, Vec<i64>), RequeueError> {
    let runs = ended.iter().map(|(run, _)| *run).collect();
    let queued = requeue(tx, refused, spent, runs).await?;
    Ok(queued
        .into_iter()
        .partition(|run| ended.contains(&(*run, true))))
}

/// Queues runs again, and returns those that are. One that the database refuses, or keeps as it is, costs the
/// others nothing.
async fn requeue(
    tx: &mut dyn SqlConnection,
    refused: &RefusedRequeues,
    spent: &mut Spent,
    runs: Vec<i64>,
) -> Result<Vec<i64>, RequeueError> {
    if runs.is_empty() {
        return Ok(runs);
    }
    let (lock, statement): (String, String) = CURRENT_TIMEOUTS.fetch_one(tx).await?;
    LIMIT_LOCK_WAITS.execute(tx).await?;
    // Or for anything else, and meanwhile neither this sweep nor another one delivers anything.
    limit_statements(tx, REQUEUE_STATEMENT_MS).await?;
    let batch = match spent.is_one_by_one || refused.one_by_one.load(Ordering::Relaxed) {
        true => None,
        false => match try_requeue(tx, &runs).await {
            Ok(batch) => batch.ok(),
            Err(error) if !may_be_of_run(&error) => return Err(error.into()),
            Err(error) => {
                refused.one_by_one.store(true, Ordering::Relaxed);
                return Err(RequeueError::EndedByRun(error));
            }
        },
    };
    let (queued, tried) = match batch {
        Some(all) => (all, runs.len()),
        None => requeue_one_by_one(tx, refused, spent, &runs).await?,
    };
    let restore = RESTORE_TIMEOUTS.bind(lock).bind(statement);
    restore.execute(tx).await?;
    let others = runs[..tried].iter().filter(|run| !queued.contains(run));
    let others: Vec<i64> = others.copied().collect();
    if !others.is_empty() {
        for run in STILL_LOST.bind(others).fetch_ids(tx).await? {
            spent.leave_out(run, refused);
        }
    }
    Ok(queued)
}

/// Returns the runs that are queued again, and how many were tried. The next sweep finds the rest.
async fn requeue_one_by_one(
    tx: &mut dyn SqlConnection,
    refused: &RefusedRequeues,
    spent: &mut Spent,
    runs: &[i64],
) -> Result<(Vec<i64>, usize), RequeueError> {
    spent.is_one_by_one = true;
    let begun = Instant::now();
    let (mut queued, mut tried) = (Vec::new(), 0);
    for run in runs {
        let is_over = tried >= MIN_TRIED && begun.elapsed() > REQUEUE_TIME;
        if is_over || !spent.allows_another() {
            break;
        }
        tried += 1;
        match try_requeue(tx, &[*run]).await {
            Ok(Ok(one)) => queued.extend(one),
            Ok(Err(error)) if is_conflict(&error) => spent.conflicts.push((*run, error)),
            Ok(Err(error)) => {
                spent.waits += usize::from(error.is_transient());
                refused.note(*run, error);
            }
            Err(error) if !may_be_of_run(&error) => return Err(error.into()),
            Err(error) => {
                refused.note(*run, &error);
                return Err(RequeueError::EndedByRun(error));
            }
        }
    }
    Ok((queued, tried))
}

/// The inner error: the database refuses one of the runs, and none is queued. The outer one: the transaction is lost.
async fn try_requeue(
    tx: &mut dyn SqlConnection,
    runs: &[i64],
) -> Result<Result<Vec<i64>, StoreError>, StoreError> {
    SAVEPOINT.execute(tx).await?;
    let queued = REQUEUE.bind(runs).fetch_ids(tx).await;
    // Without a connection, nothing is known of the runs.
    if queued.is_err() && ROLLBACK_TO_SAVEPOINT.execute(tx).await.is_err() {
        return queued.map(Ok);
    }
    RELEASE_SAVEPOINT.execute(tx).await?;
    Ok(queued)
}

/// Records when queued runs are to be delivered.
pub(super) async fn mark_deliveries(
    tx: &mut dyn SqlConnection,
    queued: &[i64],
    due: &[i64],
    postponed: &[i64],
) -> Result<(), StoreError> {
    if !queued.is_empty() {
        let mark = MARK_DELIVERIES.bind(queued).bind(due).bind(postponed);
        mark.execute(tx).await?;
    }
    Ok(())
}
