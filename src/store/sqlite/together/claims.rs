//! `queued` → `running`, many at a time.

use super::list;
use crate::domain::{RunId, WorkerId};
use crate::ports::store::{Claim, ClaimAnswer, ClaimPolicy, MAX_FUTILE_ATTEMPTS};
use crate::store::claims::{ContextRow, TakenRow};
use crate::store::sqlite::bounds::{context_columns, is_claimable};
use crate::store::sqlite::earlier::is_before_start;
use crate::store::sqlite::{SqliteStore, Tx, commit, futile, later, now, now_moved_by, run_type};
use crate::store::together::{Group, Ran, Together};
use chrono::{DateTime, Utc};
use sqlx::{FromRow as _, Row as _};
use std::collections::HashMap;
use uuid::Uuid;

/// `r` may be claimed as far as its deliveries say: before its first claim nothing waits.
macro_rules! due {
    () => {
        concat!(
            "(NOT EXISTS (SELECT 1 FROM verifyd_run_deliveries d \
                          WHERE d.run_id = r.id AND d.not_before > ",
            now!(),
            ") OR r.started_at IS NULL OR NOT EXISTS (SELECT 1 FROM verifyd_run_attempts o \
                                                      WHERE o.run_id = r.id AND NOT o.earlier))"
        )
    };
}

/// Runs that are exhausted, need to be alone or have an open attempt are left, and those with attempts of an
/// earlier run, which have to be set aside first. `$2`: futile attempts, at most.
const OPEN_ATTEMPTS: &str = concat!(
    "WITH wanted AS MATERIALIZED ( \
        SELECT value ->> 0 AS id, value ->> 1 AS token, value ->> 2 AS worker_id, \
               value ->> 3 AS most, value ->> 4 AS deadline FROM json_each($1) \
    ), history AS MATERIALIZED ( \
        SELECT w.*, coalesce(max(a.attempt), 0) AS last, \
               count(*) FILTER (WHERE a.counted AND NOT a.earlier) AS spent, \
               count(*) FILTER (WHERE a.counted AND NOT a.earlier \
                                      AND a.end_reason = 'worker_lost') AS lost, \
               count(*) FILTER (WHERE a.attempt IS NOT NULL AND (a.ended_at IS NULL \
                   OR NOT a.earlier AND (a.end_reason = 'completed' OR ",
    is_before_start!(),
    "))) AS other, \
               count(*) FILTER (WHERE ",
    futile!(),
    ") AS futile \
        FROM wanted w CROSS JOIN operation_runs r ON r.id = w.id \
            LEFT JOIN verifyd_run_attempts a ON a.run_id = w.id \
        WHERE r.type = ",
    run_type!(),
    " AND r.status = 'queued' AND ",
    is_claimable!(),
    " AND ",
    due!(),
    " GROUP BY w.id \
    ) \
    INSERT INTO verifyd_run_attempts \
        (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at) \
    SELECT id, last + 1, token, worker_id, 1, ",
    now!(),
    ", ",
    now_moved_by!("deadline"),
    " FROM history WHERE other = 0 AND spent < most AND futile < $2 \
                         AND NOT (spent + 1 >= most AND lost > 0) \
     RETURNING run_id, attempt, claimed_at"
);

/// With what the rest of a claim is made of: the attempts, the new one included.
const TAKE_RUNS: &str = concat!(
    "UPDATE operation_runs SET status = 'running', started_at = CASE WHEN ( \
        SELECT count(*) FROM verifyd_run_attempts a \
        WHERE a.run_id = operation_runs.id AND NOT a.earlier) > 1 \
     THEN coalesce(started_at, ",
    now!(),
    ") ELSE ",
    now!(),
    " END WHERE id IN (SELECT value FROM json_each($1)) AND type = ",
    run_type!(),
    " AND status = 'queued' RETURNING id, workspace_id, tenant_id, created_at, ",
    context_columns!("$2"),
    ", (SELECT count(*) FROM verifyd_run_attempts a \
        WHERE a.run_id = operation_runs.id AND a.counted AND NOT a.earlier) AS counted_attempts, \
       (SELECT min(claimed_at) FROM verifyd_run_attempts a \
        WHERE a.run_id = operation_runs.id AND NOT a.earlier) AS first_claimed_at"
);

/// Of those that were not claimed: the ones that may yet be.
const STILL_QUEUED: &str = concat!(
    "SELECT r.id FROM json_each($1) w CROSS JOIN operation_runs r ON r.id = w.value WHERE r.type = ",
    run_type!(),
    " AND r.status = 'queued' AND ",
    is_claimable!(),
    " AND ",
    due!()
);

pub(in crate::store::sqlite) struct ClaimRequest {
    pub run: RunId,
    pub worker: WorkerId,
    pub policy: ClaimPolicy,
}

impl Together<SqliteStore> for ClaimRequest {
    type Answer = ClaimAnswer;
    type On = Tx;
    const NAME: &'static str = "claim";
    const LANES: usize = 1;

    fn keys(&self) -> Vec<(&'static str, i64)> {
        vec![("run", self.run.0)]
    }

    fn group(store: &SqliteStore) -> &Group<Self, Self::Answer> {
        &store.claims
    }

    async fn run(store: &SqliteStore, mut tx: Tx, calls: Vec<Self>) -> Ran<SqliteStore, Self> {
        let tokens: Vec<Uuid> = calls.iter().map(|_| Uuid::new_v4()).collect();
        let wanted = calls.iter().zip(&tokens).map(|(call, token)| {
            (
                call.run.0,
                token.to_string(),
                &call.worker.0,
                call.policy.max_attempts,
                later(call.policy.run_deadline),
            )
        });
        let opened: Vec<(i64, i32, DateTime<Utc>)> = sqlx::query_as(OPEN_ATTEMPTS)
            .bind(list(wanted)?)
            .bind(MAX_FUTILE_ATTEMPTS)
            .fetch_all(&mut *tx)
            .await?;
        let rows = sqlx::query(TAKE_RUNS)
            .bind(list(opened.iter().map(|(run, ..)| run))?)
            .bind(store.context_bytes)
            .fetch_all(&mut *tx)
            .await?;
        let opened: HashMap<i64, (i32, DateTime<Utc>)> = opened
            .into_iter()
            .map(|(run, attempt, at)| (run, (attempt, at)))
            .collect();
        let places: HashMap<i64, usize> = calls
            .iter()
            .enumerate()
            .map(|(place, call)| (call.run.0, place))
            .collect();
        let mut answers: Vec<Option<ClaimAnswer>> = calls.iter().map(|_| None).collect();
        for row in rows {
            let run = TakenRow::from_row(&row)?;
            let (Some(place), Some((attempt, claimed_at))) =
                (places.get(&run.id).copied(), opened.get(&run.id).copied())
            else {
                continue;
            };
            let context = ContextRow::from_row(&row)?;
            let (request, context) = context.read(store.context_bytes);
            let counted: i64 = row.try_get("counted_attempts")?;
            answers[place] = Some(ClaimAnswer::Claimed(Box::new(Claim {
                start: None,
                attempt,
                token: tokens[place],
                worker: calls[place].worker.clone(),
                counted_attempts: u32::try_from(counted).unwrap_or(u32::MAX),
                exhausted: false,
                last_resort: false,
                first_claimed_at: row.try_get("first_claimed_at")?,
                claimed_at,
                run: run.with(request),
                context,
            })));
        }
        let left: Vec<i64> = calls
            .iter()
            .zip(&answers)
            .filter_map(|(call, answer)| answer.is_none().then_some(call.run.0))
            .collect();
        if !left.is_empty() {
            let queued: Vec<i64> = sqlx::query_scalar(STILL_QUEUED)
                .bind(list(left.iter())?)
                .fetch_all(&mut *tx)
                .await?;
            for (call, answer) in calls.iter().zip(&mut answers) {
                if answer.is_none() && !queued.contains(&call.run.0) {
                    *answer = Some(ClaimAnswer::NotClaimable);
                }
            }
        }
        commit(tx).await?;
        Ok((answers, None))
    }
}
