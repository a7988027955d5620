//! `queued` → `running` and back.
//!
//! Every transition locks the run first, then its attempt.

use super::bounds::{context_columns, is_claimable, is_small};
use super::together::ClaimRequest;
use super::{PostgresStore, Tx, commit, futile, rollback, run_type, seconds};
use crate::domain::run::RunRequest;
use crate::domain::{RunId, WorkerId};
use crate::ports::store::{
    AttemptEnd, Claim, ClaimAnswer, ClaimPolicy, ContextSize, MAX_FUTILE_ATTEMPTS, StoreError,
};
use crate::store::claims::{self, ContextRow, TakenRow};
use crate::store::from_row::from_row;
use crate::store::together::together;
use chrono::{DateTime, Utc};
use sqlx::{Connection as _, FromRow as _, Row as _};
use std::time::Duration;
use uuid::Uuid;

/// Whether the context of the run can be read beside others.
const IS_SMALL: &str = concat!(
    "SELECT ",
    is_small!("r.context"),
    " FROM operation_runs r WHERE r.id = $1 AND r.type = ",
    run_type!()
);

/// Waits for whoever holds the run.
const LOCK_QUEUED: &str = concat!(
    "SELECT 1 FROM operation_runs WHERE id = $1 AND type = ",
    run_type!(),
    " AND status = 'queued' FOR NO KEY UPDATE"
);

/// Takes the run, which is locked. `not_before` is tested again below. `readable` is false when reading
/// the run's context has led to nothing `$2` times.
const TAKE_RUN: &str = concat!(
    "UPDATE operation_runs r SET status = 'running', \
         started_at = CASE WHEN h.own > 0 THEN coalesce(r.started_at, now()) ELSE now() END \
     FROM (SELECT count(*) FILTER (WHERE ",
    futile!(),
    ") < $2 AS readable, count(*) FILTER (WHERE NOT earlier) AS own \
           FROM verifyd.run_attempts WHERE run_id = $1) h WHERE r.id = $1 AND r.type = ",
    run_type!(),
    " AND r.status = 'queued' AND ",
    is_claimable!(),
    " AND (h.own = 0 OR NOT EXISTS (SELECT FROM verifyd.run_deliveries d \
                                    WHERE d.run_id = r.id AND d.not_before > now())) \
     RETURNING r.id, r.workspace_id, r.tenant_id, r.created_at::timestamptz AS created_at, h.readable"
);

/// `$2`: most bytes of the context.
const CONTEXT: &str = concat!(
    "SELECT ",
    context_columns!("$2"),
    " FROM operation_runs r WHERE r.id = $1"
);

/// Somebody put the run back to `queued` from outside while its lease was alive.
const SUPERSEDE: &str = "UPDATE verifyd.run_attempts SET ended_at = clock_timestamp(), end_reason = 'superseded' \
     WHERE run_id = $1 AND ended_at IS NULL";

/// `$4`: attempts that count, at most; `$6`: futile ones; `$7`: whether the run would be alone.
const OPEN_ATTEMPT: &str = concat!(
    "WITH history AS ( \
        SELECT clock_timestamp() AS at, coalesce(max(attempt), 0) AS last, \
               count(*) FILTER (WHERE NOT earlier) AS own, \
               count(*) FILTER (WHERE NOT earlier AND counted) AS spent, \
               count(*) FILTER (WHERE NOT earlier AND counted \
                                      AND end_reason = 'worker_lost') AS lost, \
               count(*) FILTER (WHERE ",
    futile!(),
    ") AS futile, min(claimed_at) FILTER (WHERE NOT earlier) AS first_claimed_at \
        FROM verifyd.run_attempts WHERE run_id = $1 \
    ), judged AS ( \
        SELECT h.*, h.spent >= $4 OR h.futile >= $6 AS exhausted, \
               h.own > 0 AND EXISTS (SELECT FROM verifyd.run_deliveries d \
                                     WHERE d.run_id = $1 AND d.not_before > h.at) AS waits \
        FROM history h \
    ), opened AS ( \
        INSERT INTO verifyd.run_attempts \
            (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at) \
        SELECT $1, j.last + 1, $2, $3, NOT j.exhausted, j.at, j.at + make_interval(secs => $5) \
        FROM judged j \
        WHERE NOT j.waits \
          AND ($7 OR NOT (j.exhausted OR j.spent + 1 >= $4 AND j.lost > 0)) \
        RETURNING attempt, claimed_at \
    ) \
    SELECT o.attempt, o.claimed_at, j.waits, j.exhausted, j.futile >= $6 AS last_resort, j.spent, \
           coalesce(j.first_claimed_at, o.claimed_at) AS first_claimed_at \
    FROM judged j LEFT JOIN opened o ON true"
);

const LOCK_RUNNING: &str = concat!(
    "SELECT 1 FROM operation_runs WHERE id = $1 AND type = ",
    run_type!(),
    " AND status = 'running' FOR NO KEY UPDATE"
);

/// The token is tested on the row that the statement changes.
const RELEASE: &str = concat!(
    "WITH ended AS ( \
        UPDATE verifyd.run_attempts \
        SET ended_at = clock_timestamp(), end_reason = $4, counted = counted AND $5 \
        WHERE run_id = $1 AND attempt = $2 AND token = $3 AND ended_at IS NULL RETURNING run_id \
    ) \
    UPDATE operation_runs r SET status = 'queued' FROM ended \
    WHERE r.id = ended.run_id AND r.type = ",
    run_type!(),
    " AND r.status = 'running'"
);

const DUE_AGAIN: &str = "\
    INSERT INTO verifyd.run_deliveries (run_id, delivered_at, not_before) \
    VALUES ($1, NULL, clock_timestamp() + make_interval(secs => $2)) \
    ON CONFLICT (run_id) DO UPDATE SET delivered_at = NULL, not_before = excluded.not_before";

from_row! {
    /// `attempt` and `claimed_at` are null where none was opened.
    struct Judged {
        attempt: Option<i32>,
        claimed_at: Option<DateTime<Utc>>,
        waits: bool,
        exhausted: bool,
        last_resort: bool,
        spent: i64,
        first_claimed_at: Option<DateTime<Utc>>,
    }
}

impl PostgresStore {
    pub(super) async fn claim_run(
        &self,
        run: RunId,
        worker: &WorkerId,
        policy: &ClaimPolicy,
    ) -> Result<ClaimAnswer, StoreError> {
        if !policy.alone {
            let request = ClaimRequest {
                run,
                worker: worker.clone(),
                policy: *policy,
            };
            if let Some(answer) = together(self, request).await {
                return Ok(answer);
            }
        }
        // Rarely needed, and thirty times as large as the rest: not to be carried by every call.
        Box::pin(self.claim_alone(run, worker, policy)).await
    }

    async fn claim_alone(
        &self,
        run: RunId,
        worker: &WorkerId,
        policy: &ClaimPolicy,
    ) -> Result<ClaimAnswer, StoreError> {
        let token = Uuid::new_v4();
        let _one_at_a_time = match self.is_small(run).await? {
            false => Some(self.large_contexts.lock().await),
            true => None,
        };
        let mut tx = self.begin().await?;
        let locked = self
            .scalar::<i32>(LOCK_QUEUED)
            .bind(run.0)
            .fetch_optional(&mut *tx)
            .await?;
        if locked.is_none() {
            rollback(tx).await?;
            return Ok(ClaimAnswer::NotClaimable);
        }
        // These begin after the run was locked, so they see what was committed before.
        self.set_aside(&mut tx, run).await?;
        let taken = self
            .sql(TAKE_RUN)
            .bind(run.0)
            .bind(i64::from(MAX_FUTILE_ATTEMPTS))
            .fetch_optional(&mut *tx)
            .await?;
        let Some(taken) = taken else {
            rollback(tx).await?;
            return Ok(ClaimAnswer::NotClaimable);
        };
        let readable: bool = taken.try_get("readable")?;
        let taken = TakenRow::from_row(&taken)?;
        self.sql(SUPERSEDE).bind(run.0).execute(&mut *tx).await?;
        let judged: Judged = self
            .rows(OPEN_ATTEMPT)
            .bind(run.0)
            .bind(token)
            .bind(&worker.0)
            .bind(i64::from(policy.max_attempts))
            .bind(seconds(policy.run_deadline))
            .bind(i64::from(MAX_FUTILE_ATTEMPTS))
            .bind(policy.alone)
            .fetch_one(&mut *tx)
            .await?;
        let (Some(attempt), Some(claimed_at)) = (judged.attempt, judged.claimed_at) else {
            rollback(tx).await?;
            return Ok(if judged.waits {
                ClaimAnswer::NotClaimable
            } else {
                ClaimAnswer::NeedsToBeAlone
            });
        };
        let (request, context) = match readable {
            true => self.read_context(&mut tx, run).await?,
            false => (RunRequest::default(), ContextSize::Unknown),
        };
        commit(tx).await?;
        let spent = u32::try_from(judged.spent).unwrap_or(u32::MAX);
        Ok(ClaimAnswer::Claimed(Box::new(Claim {
            start: None,
            run: taken.with(request),
            context,
            attempt,
            token,
            worker: worker.clone(),
            counted_attempts: spent.saturating_add(u32::from(!judged.exhausted)),
            exhausted: judged.exhausted,
            last_resort: judged.last_resort,
            first_claimed_at: judged.first_claimed_at.unwrap_or(claimed_at),
            claimed_at,
        })))
    }

    /// True where there is no such run, too.
    async fn is_small(&self, run: RunId) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let small: Option<bool> = self
            .scalar(IS_SMALL)
            .bind(run.0)
            .fetch_optional(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(small.unwrap_or(true))
    }

    /// What the server cannot show is told as such: the run must come to its end.
    async fn read_context(
        &self,
        tx: &mut Tx,
        run: RunId,
    ) -> Result<(RunRequest, ContextSize), StoreError> {
        let mut inner = tx.begin().await?;
        let read: Result<ContextRow, StoreError> = self
            .rows(CONTEXT)
            .bind(run.0)
            .bind(self.context_bytes)
            .fetch_one(&mut *inner)
            .await
            .map_err(StoreError::from);
        match read {
            Ok(row) => {
                commit(inner).await?;
                Ok(row.read(self.context_bytes))
            }
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                rollback(inner).await?;
                tracing::warn!(run = run.0, %error, "the context of a run cannot be read");
                Ok((claims::unreadable(), ContextSize::Large))
            }
        }
    }

    /// Locks the run if it is still running. Whatever follows in this transaction sees everything
    /// that an earlier holder of the lock committed.
    pub(super) async fn lock_running(&self, tx: &mut Tx, run: RunId) -> Result<bool, StoreError> {
        let locked = self
            .scalar::<i32>(LOCK_RUNNING)
            .bind(run.0)
            .fetch_optional(&mut **tx)
            .await?;
        Ok(locked.is_some())
    }

    pub(super) async fn release_run(
        &self,
        claim: &Claim,
        end: AttemptEnd,
        not_before: Option<Duration>,
    ) -> Result<bool, StoreError> {
        if end == AttemptEnd::Completed {
            return Err(StoreError::Refused(
                "a run that is given back has not been completed".into(),
            ));
        }
        let mut tx = self.begin().await?;
        if !self.lock_running(&mut tx, claim.run.id).await? {
            rollback(tx).await?;
            return Ok(false);
        }
        let released = self
            .sql(RELEASE)
            .bind(claim.run.id.0)
            .bind(claim.attempt)
            .bind(claim.token)
            .bind(end.as_str())
            .bind(end.counts())
            .execute(&mut *tx)
            .await?
            .rows_affected();
        if released == 0 {
            rollback(tx).await?;
            return Ok(false);
        }
        self.sql(DUE_AGAIN)
            .bind(claim.run.id.0)
            .bind(not_before.map(seconds))
            .execute(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(true)
    }
}
