//! `queued` → `running`, for one run or many.
//!
//! [`OPEN_ATTEMPTS`] and [`TAKE_RUNS`] claim. A batch sends them at once. The runs that it leaves undecided
//! are claimed one by one: attempts of earlier claims are ended before the same statements are sent.

use super::{
    SqliteStore, Tx, is_failed_completion, json_list, modifier, now, now_moved_by, run_type,
};
use crate::domain::run::RunRequest;
use crate::ports::claims::{Claim, ClaimAnswer, ContextSize, MAX_FAILED_COMPLETIONS};
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::batching::{BatchResult, BatchedCall, Batcher};
use crate::store::bounds::{context_columns, is_claimable};
use crate::store::claims::{self, ClaimByItself, ClaimRequest, ContextRow, TakenRow};
use crate::store::dialect::{a_second_after, moment};
use crate::store::groups::{Grouped, in_group, of_group};
use crate::store::reused_ids::{is_before_start, set_aside};
use crate::store::sql::sql;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{FromRow as _, Row as _, SqliteConnection};
use std::collections::HashMap;
use uuid::Uuid;

/// Whether the deliveries of `r` allow a claim: before its first claim no run waits. `$prepared`: whether
/// data of an earlier run was set aside before.
macro_rules! may_be_claimed {
    ($prepared:literal) => {
        $crate::store::sql::sql!(
            "(NOT EXISTS (SELECT 1 FROM verifyd_run_deliveries d
                          WHERE d.run_id = r.id AND d.not_before > " now!()
            ") OR r.started_at IS NULL AND NOT " $prepared
            " OR NOT EXISTS (SELECT 1 FROM verifyd_run_attempts o
                             WHERE o.run_id = r.id AND NOT o.earlier))"
        )
    };
}

/// `$2`: limit of failed completions; `$3`: whether the runs are isolated; `$4`: whether each was prepared
/// before. If not, it skips runs with an open attempt, and those with attempts of an earlier run, which have
/// to be ended or set aside first. `$of`: see `of_group!` (`$5`, `$6`).
macro_rules! open_attempts {
    ($of:ident) => {
        sql!(
            "WITH wanted AS MATERIALIZED (
                SELECT value ->> 0 AS id, value ->> 1 AS token, value ->> 2 AS worker_id,
                       value ->> 3 AS max_attempts, value ->> 4 AS deadline FROM json_each($1)
            ), history AS MATERIALIZED (
                SELECT w.*, coalesce(max(a.attempt), 0) AS last,
                       count(*) FILTER (WHERE a.counted AND NOT a.earlier) AS spent,
                       count(*) FILTER (WHERE a.counted AND NOT a.earlier
                                              AND a.end_reason = 'worker_lost') AS lost,
                       count(*) FILTER (WHERE a.attempt IS NOT NULL AND (a.ended_at IS NULL
                           OR NOT a.earlier AND (a.end_reason = 'completed' OR " is_before_start!(sqlite "r")
            "))) AS other,
                       count(*) FILTER (WHERE " is_failed_completion!() ") AS failed
                FROM wanted w CROSS JOIN operation_runs r ON r.id = w.id
                    LEFT JOIN verifyd_run_attempts a ON a.run_id = w.id
                WHERE r.type = " run_type!() " AND r.status = 'queued' AND " is_claimable!() " AND "
            may_be_claimed!("$4") of_group!(sqlite $of " AND " in_group!("r.workspace_id", "$5", "$6")) " GROUP BY w.id
            ), judged AS MATERIALIZED (
                SELECT *, spent >= max_attempts OR failed >= $2 AS exhausted,
                       spent + 1 >= max_attempts AND lost > 0 AS last_chance FROM history
            )
            INSERT INTO verifyd_run_attempts
                (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at)
            SELECT id, last + 1, token, worker_id, NOT exhausted, " now!() ", " now_moved_by!("deadline")
            " FROM judged WHERE ($4 OR other = 0) AND ($3 OR NOT (exhausted OR last_chance))
             RETURNING run_id, attempt, claimed_at, counted"
        )
    };
}

const OPEN_ATTEMPTS: Grouped<&str> = Grouped {
    all: open_attempts!(all),
    in_group: open_attempts!(group),
};

/// Claims the runs and returns their attempts, the new one included. `$2`: limit of failed completions.
const TAKE_RUNS: &str = sql!(
    "UPDATE operation_runs SET status = 'running', started_at = CASE WHEN (
        SELECT count(*) FROM verifyd_run_attempts a
        WHERE a.run_id = operation_runs.id AND NOT a.earlier) > 1
     THEN coalesce(started_at, " now!() ") ELSE " now!()
    " END WHERE id IN (SELECT value FROM json_each($1)) AND type = " run_type!()
    " AND status = 'queued' RETURNING id, workspace_id, tenant_id, created_at,
       (SELECT count(*) FROM verifyd_run_attempts a
        WHERE a.run_id = operation_runs.id AND NOT a.earlier) AS own_attempt,
       (SELECT count(*) FROM verifyd_run_attempts a
        WHERE a.run_id = operation_runs.id AND a.counted AND NOT a.earlier) AS counted_attempts,
       (SELECT a.result_refusal FROM verifyd_run_attempts a
        WHERE a.run_id = operation_runs.id AND a.counted AND NOT a.earlier
        ORDER BY a.attempt DESC LIMIT 1) AS result_refusal,
       (SELECT count(*) >= $2 FROM verifyd_run_attempts a
        WHERE a.run_id = operation_runs.id AND " is_failed_completion!() ") AS forced_completion,
       (SELECT min(claimed_at) FROM verifyd_run_attempts a
        WHERE a.run_id = operation_runs.id AND NOT a.earlier) AS first_claimed_at"
);

/// `$2`: largest context in bytes.
const CONTEXTS: &str = sql!(
    "SELECT id, " context_columns!(sqlite "$2")
    " FROM operation_runs WHERE id IN (SELECT value FROM json_each($1))"
);

/// Of those that were not claimed: the ones that may yet be. `$of`: see `of_group!` (`$3`, `$4`).
macro_rules! still_queued {
    ($of:ident) => {
        sql!(
            "SELECT r.id FROM json_each($1) w CROSS JOIN operation_runs r ON r.id = w.value WHERE r.type = "
            run_type!() " AND r.status = 'queued' AND " is_claimable!() " AND " may_be_claimed!("$2")
            of_group!(sqlite $of " AND " in_group!("r.workspace_id", "$3", "$4"))
        )
    };
}

const STILL_QUEUED: Grouped<&str> = Grouped {
    all: still_queued!(all),
    in_group: still_queued!(group),
};

/// Somebody put the run back to `queued` from outside while its lease was alive.
const SUPERSEDE: &str = sql!(
    "UPDATE verifyd_run_attempts SET ended_at = " now!()
    ", end_reason = 'superseded' WHERE run_id = $1 AND ended_at IS NULL"
);

impl BatchedCall<SqliteStore> for ClaimRequest {
    type Answer = ClaimAnswer;
    const NAME: &'static str = "claim";

    fn key(&self) -> i64 {
        self.run.0
    }

    fn batcher(store: &SqliteStore) -> &Batcher<Self, Self::Answer> {
        &store.in_process.claims
    }

    async fn run(
        store: &SqliteStore,
        mut tx: Tx,
        calls: Vec<Self>,
    ) -> BatchResult<SqliteStore, Self> {
        let mut claims = store.claim_runs(&mut tx, &calls, false).await?;
        claims::add_starting_points(&mut tx, &mut claims).await?;
        let left = claims::unclaimed(&calls, &claims);
        let queued = store.still_queued_runs(&mut tx, &left, false).await?;
        tx.commit().await?;
        let answers = claims::answers(&calls, claims, |run| queued.contains(&run));
        Ok((answers, None))
    }
}

#[async_trait]
impl ClaimByItself for SqliteStore {
    async fn claim_by_itself(&self, call: ClaimRequest) -> Result<ClaimAnswer, StoreError> {
        let (run, isolated) = (call.run, call.policy.isolated);
        self.transaction_with_end(async |tx| {
            if self.in_process.group.get().is_some()
                && self
                    .still_queued_runs(tx, &[run.0], false)
                    .await?
                    .is_empty()
            {
                return Ok(End::Rollback(ClaimAnswer::NotClaimable));
            }
            if let Some(claim) = self.claim_prepared(tx, call).await? {
                return Ok(End::Commit(ClaimAnswer::Claimed(Box::new(claim))));
            }
            let queued = self.still_queued_runs(tx, &[run.0], true).await?;
            Ok(End::Rollback(match queued.is_empty() {
                true => ClaimAnswer::NotClaimable,
                // Or it has become due just now: then it is delivered again.
                false if isolated => return Err(claims::kept()),
                false => ClaimAnswer::RequiresIsolation,
            }))
        })
        .await
    }
}

impl SqliteStore {
    /// Ends or sets aside earlier attempts of a run, and claims it.
    pub(super) async fn claim_prepared(
        &self,
        tx: &mut SqliteConnection,
        call: ClaimRequest,
    ) -> Result<Option<Claim>, StoreError> {
        set_aside(&mut &mut *tx, call.run).await?;
        let supersede = sqlx::query(SUPERSEDE).bind(call.run.0);
        supersede.execute(&mut *tx).await?;
        let claims = self.claim_runs(tx, &[call], true).await?;
        Ok(claims.into_iter().flatten().next())
    }

    /// Claims what can be claimed, in the order of the calls. Once each run is `prepared` (without other
    /// attempts) every case is decided.
    async fn claim_runs(
        &self,
        tx: &mut SqliteConnection,
        calls: &[ClaimRequest],
        prepared: bool,
    ) -> Result<Vec<Option<Claim>>, StoreError> {
        let tokens: Vec<Uuid> = calls.iter().map(|_| Uuid::new_v4()).collect();
        let wanted = calls.iter().zip(&tokens).map(|(call, token)| {
            (
                call.run.0,
                token.to_string(),
                &call.worker.0,
                call.policy.max_attempts,
                modifier('+', call.policy.lease),
            )
        });
        // A run that is prepared was found to be of the group before.
        let group = self.in_process.group.get().filter(|_| !prepared);
        let open = sqlx::query_as(OPEN_ATTEMPTS.of(group));
        let open = open
            .bind(json_list(wanted)?)
            .bind(MAX_FAILED_COMPLETIONS)
            .bind(calls.iter().all(|c| c.policy.isolated))
            .bind(prepared);
        let open = match group {
            Some(group) => open
                .bind(json_list(group.listed.iter())?)
                .bind(group.has_listed),
            None => open,
        };
        let opened: Vec<(i64, i32, DateTime<Utc>, bool)> = open.fetch_all(&mut *tx).await?;
        let rows = sqlx::query(TAKE_RUNS)
            .bind(json_list(opened.iter().map(|(run, ..)| run))?)
            .bind(MAX_FAILED_COMPLETIONS)
            .fetch_all(&mut *tx)
            .await?;
        if rows.len() < opened.len() && !prepared {
            // A trigger has kept a row: the attempt would stay, and count once its lease has ended.
            return Err(claims::kept());
        }
        let mut claims: Vec<Option<Claim>> = calls.iter().map(|_| None).collect();
        for row in &rows {
            let run = TakenRow::from_row(row)?;
            let place = calls.iter().position(|call| call.run.0 == run.id);
            let attempt = opened.iter().find(|(opened, ..)| *opened == run.id);
            let (Some(place), Some((_, attempt, claimed_at, counted))) = (place, attempt) else {
                continue;
            };
            let count = |column: &str| -> sqlx::Result<u32> {
                Ok(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or(u32::MAX))
            };
            claims[place] = Some(Claim {
                start: None,
                run: run.with(RunRequest::default()),
                context: ContextSize::Unknown,
                attempt: *attempt,
                own_attempt: count("own_attempt")?,
                token: tokens[place],
                worker: calls[place].worker.clone(),
                counted_attempts: count("counted_attempts")?,
                exhausted: !counted,
                result_refusal: row.try_get("result_refusal")?,
                forced_completion: row.try_get("forced_completion")?,
                first_claimed_at: row.try_get("first_claimed_at")?,
                claimed_at: *claimed_at,
            });
        }
        self.read_contexts(tx, &mut claims).await?;
        Ok(claims)
    }

    /// Reads contexts, except those of runs whose completion is forced.
    async fn read_contexts(
        &self,
        tx: &mut SqliteConnection,
        claims: &mut [Option<Claim>],
    ) -> Result<(), StoreError> {
        let mut readable: HashMap<i64, &mut Claim> = claims
            .iter_mut()
            .flatten()
            .filter(|claim| !claim.forced_completion)
            .map(|claim| (claim.run.id.0, claim))
            .collect();
        let rows = sqlx::query(CONTEXTS)
            .bind(json_list(readable.keys())?)
            .bind(self.in_process.context_bytes)
            .fetch_all(tx)
            .await?;
        for row in &rows {
            if let Some(claim) = readable.get_mut(&row.try_get("id")?) {
                let context = ContextRow::from_row(row)?;
                (claim.run.request, claim.context) = context.read(self.in_process.context_bytes);
            }
        }
        Ok(())
    }

    /// Which of these runs are queued, in the group, and due.
    async fn still_queued_runs(
        &self,
        tx: &mut SqliteConnection,
        runs: &[i64],
        prepared: bool,
    ) -> Result<Vec<i64>, StoreError> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let group = self.in_process.group.get();
        let queued = sqlx::query_scalar(STILL_QUEUED.of(group));
        let queued = queued.bind(json_list(runs.iter())?).bind(prepared);
        let queued = match group {
            Some(group) => queued
                .bind(json_list(group.listed.iter())?)
                .bind(group.has_listed),
            None => queued,
        };
        Ok(queued.fetch_all(tx).await?)
    }
}
