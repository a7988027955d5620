//! `queued` → `running`, for one run or many.
//!
//! Every transition locks the run first, then its attempt.
//!
//! One statement claims: [`CLAIM`]. A batch sends it at once and never waits for a locked run. The runs that
//! it leaves undecided are claimed one by one: a separate statement locks the run, and attempts of earlier claims
//! are ended before the same statement is sent. A run that another transaction keeps locked is not waited for,
//! and nothing else for long: each call that waits takes a connection from the others.

use super::batching::{LOCK_TIMEOUT, status};
use super::{PostgresStore, commit_or_roll_back, is_failed_completion, seconds};
use crate::domain::run::RunRequest;
use crate::domain::{RunId, TenantId};
use crate::ports::claims::{Claim, ClaimAnswer, ContextSize, MAX_FAILED_COMPLETIONS};
use crate::ports::log_throttle::log_limited;
use crate::ports::store_error::StoreError;
use crate::store::End;
use crate::store::batching::{BatchResult, BatchedCall, Batcher};
use crate::store::bounds::{context_columns, context_state, is_claimable, is_small};
use crate::store::claims::{self, ClaimByItself, ClaimRequest, ContextRow, TakenRow};
use crate::store::dialect::{a_second_after, moment, now};
use crate::store::groups::{Grouped, in_group, of_group};
use crate::store::repeated_ids::{has_own_id, is_of_type};
use crate::store::reused_ids::{is_before_start, set_aside};
use crate::store::shares::{CallKind, CallTry, Length, Permit, RunCall};
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, FromRow as _, PgConnection, Postgres, Row as _};
use std::collections::HashMap;
use uuid::Uuid;

/// Claims runs. `$6`: limit of failed completions; `$7`: largest context in bytes; `$8`: whether the runs are
/// isolated; `$9`: whether each was locked and prepared before; `$10`: tenants whose claims wait, which are skipped.
///
/// Without preparation one statement is enough, though others may have committed between its snapshot and its
/// locks: a run that it locks is queued in its newest version, and the writer that queued it left an attempt
/// that is open in the snapshot, or one whose number collides with the new one. It then skips runs whose
/// context is not small (reading it may take long, or fail), and those with an open attempt or with attempts
/// of an earlier run, which have to be ended or set aside first.
///
/// A row of NULL: an attempt was opened, and a trigger of the application has kept the run as it was.
///
/// Runs are found by their ids alone, also in the other statements: see `status`.
///
/// `$of`: see `of_group!` (`$11`, `$12`).
macro_rules! claim {
    ($of:ident) => {
        sql!(
            "WITH wanted AS (
                SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::bigint[], $5::float8[])
                    AS w (id, token, worker_id, max_attempts, deadline)
            ), locked AS MATERIALIZED (
                SELECT r.id, r.started_at FROM operation_runs r
                WHERE r.id = ANY($1) AND " is_of_type!(postgres "r") " AND " status!() " = 'queued' AND "
            is_claimable!() " AND " has_own_id!(postgres "r")
            of_group!(postgres $of " AND " in_group!("r.workspace_id", "$11", "$12"))
            " AND (r.tenant_id = ANY($10)) IS NOT TRUE AND ($9 OR " is_small!("r.context")
            ") ORDER BY r.id FOR NO KEY UPDATE SKIP LOCKED
            ), history AS (
                SELECT l.id, h.*, h.spent >= w.max_attempts OR h.failed >= $6 AS exhausted,
                       h.spent + 1 >= w.max_attempts AND h.lost > 0 AS last_chance
                FROM locked l JOIN wanted w USING (id) CROSS JOIN LATERAL (
                    SELECT coalesce(max(attempt), 0) AS last,
                           count(*) FILTER (WHERE NOT earlier) AS own,
                           count(*) FILTER (WHERE NOT earlier AND counted) AS spent,
                           count(*) FILTER (WHERE NOT earlier AND counted
                                                  AND end_reason = 'worker_lost') AS lost,
                           count(*) FILTER (WHERE ended_at IS NULL
                               OR NOT earlier AND (end_reason = 'completed' OR " is_before_start!(postgres "l")
            ")) AS other,
                           count(*) FILTER (WHERE " is_failed_completion!()
            ") AS failed, min(claimed_at) FILTER (WHERE NOT earlier) AS first_claimed_at
                    FROM verifyd.run_attempts a WHERE run_id = l.id
                ) h
            ), opened AS (
                INSERT INTO verifyd.run_attempts
                    (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at)
                SELECT h.id, h.last + 1, w.token, w.worker_id, NOT h.exhausted, c.at,
                       c.at + make_interval(secs => w.deadline)
                FROM history h JOIN wanted w USING (id) CROSS JOIN (SELECT clock_timestamp() AS at) c
                WHERE ($9 OR h.other = 0) AND ($8 OR NOT (h.exhausted OR h.last_chance))
                      AND (h.own = 0 OR NOT EXISTS (SELECT FROM verifyd.run_deliveries d
                                                    WHERE d.run_id = h.id AND d.not_before > c.at))
                RETURNING run_id, attempt, claimed_at
            ), taken AS (
            UPDATE operation_runs r SET status = 'running',
                started_at = CASE WHEN h.own > 0 THEN coalesce(r.started_at, now()) ELSE now() END
            FROM opened o JOIN history h ON h.id = o.run_id
            WHERE r.id = o.run_id AND " is_of_type!(postgres "r")
            " RETURNING r.id, r.workspace_id, r.tenant_id, r.created_at::timestamptz AS created_at,
                o.attempt, h.own + 1 AS own_attempt, o.claimed_at, h.spent, h.exhausted,
                CASE WHEN h.exhausted THEN (
                    SELECT a.result_refusal FROM verifyd.run_attempts a
                    WHERE a.run_id = r.id AND NOT a.earlier AND a.counted ORDER BY a.attempt DESC LIMIT 1
                ) END AS result_refusal, h.failed >= $6 AS forced_completion,
                coalesce(h.first_claimed_at, o.claimed_at) AS first_claimed_at, "
            context_state!("NOT $9", "$7")
            " )
            SELECT r.id, r.workspace_id, r.tenant_id, r.created_at, r.attempt, r.own_attempt, r.claimed_at, r.spent,
                r.exhausted, r.result_refusal, r.forced_completion, r.first_claimed_at, " context_columns!(postgres)
            " FROM opened o LEFT JOIN taken r ON r.id = o.run_id"
        )
    };
}

const CLAIM: Grouped<&str> = Grouped {
    all: claim!(all),
    in_group: claim!(group),
};

/// Of those that were not claimed: the ones that are still queued, and whether they are not due yet. `$of`: see
/// `of_group!` (`$2`, `$3`).
macro_rules! still_queued {
    ($of:ident) => {
        sql!(
            "SELECT r.id, EXISTS (SELECT FROM verifyd.run_attempts a WHERE a.run_id = r.id AND NOT a.earlier)
                    AND EXISTS (SELECT FROM verifyd.run_deliveries d
                                WHERE d.run_id = r.id AND d.not_before > now())
             FROM operation_runs r WHERE r.id = ANY($1) AND " is_of_type!(postgres "r") " AND " status!()
            " = 'queued' AND " is_claimable!() " AND " has_own_id!(postgres "r")
            of_group!(postgres $of " AND " in_group!("r.workspace_id", "$2", "$3"))
        )
    };
}

const STILL_QUEUED: Grouped<&str> = Grouped {
    all: still_queued!(all),
    in_group: still_queued!(group),
};

/// Whether a batch can read the context of the run, and its tenant.
const SIZE_AND_TENANT: &str = sql!(
    "SELECT " is_small!("r.context") ", r.tenant_id FROM operation_runs r
     WHERE r.id = $1 AND " is_of_type!(postgres "r")
);

/// Locks the run, unless another transaction does. `$of`: see `of_group!` (`$2`, `$3`).
macro_rules! lock_queued {
    ($of:ident) => {
        sql!(
            "SELECT 1 FROM operation_runs r WHERE r.id = $1 AND " is_of_type!(postgres "r")
            " AND r.status = 'queued'" of_group!(postgres $of " AND " in_group!("r.workspace_id", "$2", "$3"))
            " FOR NO KEY UPDATE SKIP LOCKED"
        )
    };
}

const LOCK_QUEUED: Grouped<&str> = Grouped {
    all: lock_queued!(all),
    in_group: lock_queued!(group),
};

/// Somebody put the run back to `queued` from outside while its lease was alive.
const SUPERSEDE: &str = "
    UPDATE verifyd.run_attempts SET ended_at = clock_timestamp(), end_reason = 'superseded'
    WHERE run_id = $1 AND ended_at IS NULL";

/// `$2`: largest context in bytes.
const CONTEXT: &str = sql!(
    "SELECT " context_columns!(postgres) " FROM (SELECT " context_state!("true", "$2")
    " FROM operation_runs r WHERE r.id = $1 AND " is_of_type!(postgres "r") " OFFSET 0) r"
);

impl BatchedCall<PostgresStore> for ClaimRequest {
    type Answer = ClaimAnswer;
    const NAME: &'static str = "claim";

    fn key(&self) -> i64 {
        self.run.0
    }

    fn batcher(store: &PostgresStore) -> &Batcher<Self, Self::Answer> {
        &store.in_process.claims
    }

    fn goes_by_itself(&self, store: &PostgresStore) -> bool {
        store.claims.sends_by_itself(self.run)
    }

    async fn permit(store: &PostgresStore) -> Result<Option<Permit>, StoreError> {
        store.claims.permit(Length::Short).await.map(Some)
    }

    async fn run(
        store: &PostgresStore,
        mut connection: PoolConnection<Postgres>,
        calls: Vec<Self>,
    ) -> BatchResult<PostgresStore, Self> {
        let mut tx = store.begin_batch(&mut connection).await?;
        let claimed = store.claim_batch(&mut tx, &calls).await;
        let answers = commit_or_roll_back(tx, claimed.map(End::Commit)).await?;
        Ok((answers, Some(connection)))
    }
}

#[async_trait]
impl ClaimByItself for PostgresStore {
    async fn claim_by_itself(&self, call: ClaimRequest) -> Result<ClaimAnswer, StoreError> {
        let found = self.rows(SIZE_AND_TENANT).bind(call.run.0);
        let found: Option<(bool, Option<i64>)> = self
            .transaction(async |tx| {
                self.limit_lock_waits(tx).await?;
                Ok::<_, StoreError>(found.fetch_optional(tx).await?)
            })
            .await?;
        let (is_small, tenant) = found.unzip();
        let claim = |sent| self.claim_in_transaction(call.clone(), sent);
        let is_claimed = |answer: &ClaimAnswer| matches!(answer, ClaimAnswer::Claimed(_));
        let of = RunCall {
            kind: CallKind::Claim,
            run: call.run,
            tenant: tenant.flatten().map(TenantId),
            is_large: is_small == Some(false),
        };
        let answer = self.claims.send(of, is_claimed, claim).await?;
        if matches!(answer, ClaimAnswer::Locked) {
            // A claim of another process may wait in a rule, as would the next batch here.
            self.claims.remember(call.run, Length::Short);
        }
        Ok(answer)
    }
}

impl PostgresStore {
    async fn claim_batch(
        &self,
        tx: &mut PgConnection,
        calls: &[ClaimRequest],
    ) -> Result<Vec<Option<ClaimAnswer>>, StoreError> {
        let mut claims = self.claim_runs(tx, calls, false).await?;
        claims::add_starting_points(&mut self.shared(&mut *tx), &mut claims).await?;
        let left = claims::unclaimed(calls, &claims);
        // Copies of hints, mostly. A run that is being given back just now is delivered again.
        let queued = self.still_queued_runs(tx, left).await?;
        Ok(claims::answers(calls, claims, |run| {
            queued.contains_key(&run)
        }))
    }

    /// Locks the run, unless another transaction does, and claims it.
    async fn claim_in_transaction(
        &self,
        call: ClaimRequest,
        sent: CallTry,
    ) -> Result<ClaimAnswer, StoreError> {
        let (run, isolated) = (call.run, call.policy.isolated);
        self.transaction_with_end(async |tx| {
            self.limit_lock_waits(tx).await?;
            sent.limit_statements(&mut self.shared(&mut *tx)).await?;
            let group = self.in_process.group.get();
            let lock = self.scalar::<i32>(LOCK_QUEUED.of(group));
            let lock = lock.bind(run.0);
            let lock = match group {
                Some(group) => lock.bind(&group.listed).bind(group.has_listed),
                None => lock,
            };
            if lock.fetch_optional(&mut *tx).await?.is_none() {
                let queued = self.still_queued_runs(tx, vec![run.0]).await?;
                return Ok(End::Rollback(match queued.get(&run.0) {
                    Some(false) => ClaimAnswer::Locked,
                    _ => ClaimAnswer::NotClaimable,
                }));
            }
            sent.record_lock();
            let Some(mut claim) = self.claim_locked(tx, call).await? else {
                let queued = self.still_queued_runs(tx, vec![run.0]).await?;
                return Ok(End::Rollback(match queued.get(&run.0) {
                    // Nothing else keeps the row of a run that is isolated.
                    Some(false) if isolated => return Err(claims::kept()),
                    Some(false) => ClaimAnswer::RequiresIsolation,
                    _ => ClaimAnswer::NotClaimable,
                }));
            };
            if !claim.forced_completion {
                (claim.run.request, claim.context) = self.read_context(tx, run).await?;
            }
            Ok(End::Commit(ClaimAnswer::Claimed(Box::new(claim))))
        })
        .await
    }

    /// Has the transaction wait for locks no longer than a batch does: a rule of the application may need one.
    async fn limit_lock_waits(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        self.sql(LOCK_TIMEOUT).execute(tx).await?;
        Ok(())
    }

    /// Ends or sets aside earlier attempts of a run that this transaction has locked, and claims it. Its
    /// context is left to be read.
    pub(super) async fn claim_locked(
        &self,
        tx: &mut PgConnection,
        call: ClaimRequest,
    ) -> Result<Option<Claim>, StoreError> {
        // These begin after the run was locked, so they see what was committed before.
        set_aside(&mut self.shared(&mut *tx), call.run).await?;
        let supersede = self.sql(SUPERSEDE).bind(call.run.0);
        supersede.execute(&mut *tx).await?;
        let claims = self.claim_runs(tx, &[call], true).await?;
        Ok(claims.into_iter().flatten().next())
    }

    /// Claims what can be claimed, in the order of the calls. Once each run is `prepared` (locked, and
    /// without other attempts) every case is decided; its context is left to be read.
    async fn claim_runs(
        &self,
        tx: &mut PgConnection,
        calls: &[ClaimRequest],
        prepared: bool,
    ) -> Result<Vec<Option<Claim>>, StoreError> {
        let tokens: Vec<Uuid> = calls.iter().map(|_| Uuid::new_v4()).collect();
        let column = |of: fn(&ClaimRequest) -> i64| calls.iter().map(of).collect::<Vec<i64>>();
        let workers: Vec<&str> = calls.iter().map(|c| c.worker.0.as_str()).collect();
        let deadlines = calls.iter().map(|c| seconds(c.policy.lease));
        // A run that is prepared was found to be of the group before.
        let group = self.in_process.group.get().filter(|_| !prepared);
        let skipped = match prepared {
            true => Vec::new(),
            false => self.claims.waiting_tenants(CallKind::Claim),
        };
        let claim = self.sql(CLAIM.of(group));
        let claim = claim
            .bind(column(|c| c.run.0))
            .bind(&tokens)
            .bind(workers)
            .bind(column(|c| i64::from(c.policy.max_attempts)))
            .bind(deadlines.collect::<Vec<f64>>())
            .bind(i64::from(MAX_FAILED_COMPLETIONS))
            .bind(self.in_process.context_bytes)
            .bind(calls.iter().all(|c| c.policy.isolated))
            .bind(prepared)
            .bind(skipped);
        let claim = match group {
            Some(group) => claim.bind(&group.listed).bind(group.has_listed),
            None => claim,
        };
        let rows = claim.fetch_all(tx).await?;
        let mut claims: Vec<Option<Claim>> = calls.iter().map(|_| None).collect();
        for row in &rows {
            if row.try_get::<Option<i64>, _>("id")?.is_none() {
                if prepared {
                    continue;
                }
                // The attempt would stay, and count once its lease has ended.
                return Err(claims::kept());
            }
            let run = TakenRow::from_row(row)?;
            let Some(place) = calls.iter().position(|call| call.run.0 == run.id) else {
                continue;
            };
            let (request, context) = match prepared {
                true => (RunRequest::default(), ContextSize::Unknown),
                false => ContextRow::from_row(row)?.read(self.in_process.context_bytes),
            };
            let count = |column: &str| -> sqlx::Result<u32> {
                Ok(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or(u32::MAX))
            };
            let spent = count("spent")?;
            let exhausted: bool = row.try_get("exhausted")?;
            claims[place] = Some(Claim {
                start: None,
                run: run.with(request),
                context,
                attempt: row.try_get("attempt")?,
                own_attempt: count("own_attempt")?,
                token: tokens[place],
                worker: calls[place].worker.clone(),
                counted_attempts: spent.saturating_add(u32::from(!exhausted)),
                exhausted,
                result_refusal: row.try_get("result_refusal")?,
                forced_completion: row.try_get("forced_completion")?,
                first_claimed_at: row.try_get("first_claimed_at")?,
                claimed_at: row.try_get("claimed_at")?,
            });
        }
        Ok(claims)
    }

    /// Which of these runs are queued, in the group, and whether they are not due yet.
    async fn still_queued_runs(
        &self,
        tx: &mut PgConnection,
        runs: Vec<i64>,
    ) -> Result<HashMap<i64, bool>, StoreError> {
        if runs.is_empty() {
            return Ok(HashMap::new());
        }
        let group = self.in_process.group.get();
        let queued = self.rows(STILL_QUEUED.of(group));
        let queued = queued.bind(runs);
        let queued = match group {
            Some(group) => queued.bind(&group.listed).bind(group.has_listed),
            None => queued,
        };
        let queued: Vec<(i64, bool)> = queued.fetch_all(tx).await?;
        Ok(queued.into_iter().collect())
    }

    /// Reads the context. What the server cannot produce is reported as such: the run must be completed.
    async fn read_context(
        &self,
        tx: &mut PgConnection,
        run: RunId,
    ) -> Result<(RunRequest, ContextSize), StoreError> {
        let mut inner = tx.begin().await?;
        let read: Result<ContextRow, StoreError> = self
            .rows(CONTEXT)
            .bind(run.0)
            .bind(self.in_process.context_bytes)
            .fetch_one(&mut *inner)
            .await
            .map_err(StoreError::from);
        match read {
            Ok(row) => {
                inner.commit().await?;
                Ok(row.read(self.in_process.context_bytes))
            }
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                inner.rollback().await?;
                log_limited!(warn, run = run.0, %error, "cannot read the context of the run; it ends blocked");
                Ok((claims::unreadable(), ContextSize::Large))
            }
        }
    }
}
