//! `queued` → `running` and back.

use super::bounds::context_columns;
use super::together::ClaimRequest;
use super::{SqliteStore, commit, futile, later, now, now_moved_by, rollback, run_type};
use crate::domain::run::RunRequest;
use crate::domain::{RunId, WorkerId};
use crate::ports::store::{
    AttemptEnd, Claim, ClaimAnswer, ClaimPolicy, ContextSize, MAX_FUTILE_ATTEMPTS, StoreError,
};
use crate::store::claims::{ContextRow, TakenRow};
use crate::store::from_row::from_row;
use crate::store::together::together;
use chrono::{DateTime, Utc};
use sqlx::{FromRow as _, Row as _};
use std::time::Duration;
use uuid::Uuid;

/// Whether the run has attempts: those of an earlier run of its id are not its own.
macro_rules! has_attempts {
    () => {
        "EXISTS (SELECT 1 FROM verifyd_run_attempts o \
                 WHERE o.run_id = operation_runs.id AND NOT o.earlier)"
    };
}

/// `readable` is false when reading the run's context has led to nothing `$2` times.
const TAKE_RUN: &str = concat!(
    "UPDATE operation_runs SET status = 'running', started_at = CASE WHEN ",
    has_attempts!(),
    " THEN coalesce(started_at, ",
    now!(),
    ") ELSE ",
    now!(),
    " END WHERE id = $1 AND type = ",
    run_type!(),
    " AND status = 'queued' AND outcome IS NULL AND completed_at IS NULL AND id > 0 \
      AND NOT (",
    has_attempts!(),
    " AND EXISTS (SELECT 1 FROM verifyd_run_deliveries d \
                  WHERE d.run_id = operation_runs.id AND d.not_before > ",
    now!(),
    ")) RETURNING id, workspace_id, tenant_id, created_at, \
       (SELECT count(*) < $2 FROM verifyd_run_attempts a WHERE a.run_id = operation_runs.id AND ",
    futile!(),
    ") AS readable"
);

/// `$2`: most bytes of the context.
const CONTEXT: &str = concat!(
    "SELECT ",
    context_columns!("$2"),
    " FROM operation_runs WHERE id = $1"
);

/// Somebody put the run back to `queued` from outside while its lease was alive.
const SUPERSEDE: &str = concat!(
    "UPDATE verifyd_run_attempts SET ended_at = ",
    now!(),
    ", end_reason = 'superseded' WHERE run_id = $1 AND ended_at IS NULL"
);

const HISTORY: &str = concat!(
    "SELECT coalesce(max(attempt), 0) AS last, count(*) FILTER (WHERE counted AND NOT earlier) AS spent, \
            count(*) FILTER (WHERE counted AND NOT earlier AND end_reason = 'worker_lost') AS lost, \
            count(*) FILTER (WHERE ",
    futile!(),
    ") AS futile, min(claimed_at) FILTER (WHERE NOT earlier) AS first_claimed_at \
     FROM verifyd_run_attempts WHERE run_id = $1"
);

const OPEN_ATTEMPT: &str = concat!(
    "INSERT INTO verifyd_run_attempts \
        (run_id, attempt, token, worker_id, counted, claimed_at, deadline_at) \
     VALUES ($1, $2, $3, $4, $5, ",
    now!(),
    ", ",
    now_moved_by!("$6"),
    ") RETURNING claimed_at"
);

const END_ATTEMPT: &str = concat!(
    "UPDATE verifyd_run_attempts SET ended_at = ",
    now!(),
    ", end_reason = $4, counted = counted AND $5 \
     WHERE run_id = $1 AND attempt = $2 AND token = $3 AND ended_at IS NULL"
);

const REQUEUE: &str = concat!(
    "UPDATE operation_runs SET status = 'queued' WHERE id = $1 AND type = ",
    run_type!(),
    " AND status = 'running'"
);

const DUE_AGAIN: &str = concat!(
    "INSERT INTO verifyd_run_deliveries (run_id, delivered_at, not_before) VALUES ($1, NULL, ",
    now_moved_by!("$2"),
    ") ON CONFLICT (run_id) DO UPDATE SET delivered_at = NULL, not_before = excluded.not_before"
);

from_row! {
    struct History {
        last: i32,
        spent: i64,
        lost: i64,
        futile: i64,
        first_claimed_at: Option<DateTime<Utc>>,
    }
}

impl SqliteStore {
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
        self.claim_alone(run, worker, policy).await
    }

    async fn claim_alone(
        &self,
        run: RunId,
        worker: &WorkerId,
        policy: &ClaimPolicy,
    ) -> Result<ClaimAnswer, StoreError> {
        let token = Uuid::new_v4();
        let mut tx = self.begin().await?;
        self.set_aside(&mut tx, run).await?;
        let taken = sqlx::query(TAKE_RUN)
            .bind(run.0)
            .bind(MAX_FUTILE_ATTEMPTS)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(taken) = taken else {
            rollback(tx).await?;
            return Ok(ClaimAnswer::NotClaimable);
        };
        let readable: bool = taken.try_get("readable")?;
        let taken = TakenRow::from_row(&taken)?;
        sqlx::query(SUPERSEDE).bind(run.0).execute(&mut *tx).await?;
        let history: History = sqlx::query_as(HISTORY)
            .bind(run.0)
            .fetch_one(&mut *tx)
            .await?;
        let attempt = history.last + 1;
        let limit = i64::from(policy.max_attempts);
        let last_resort = history.futile >= i64::from(MAX_FUTILE_ATTEMPTS);
        let exhausted = history.spent >= limit || last_resort;
        let last_chance = history.spent + 1 >= limit && history.lost > 0;
        if (exhausted || last_chance) && !policy.alone {
            rollback(tx).await?;
            return Ok(ClaimAnswer::NeedsToBeAlone);
        }
        let claimed_at: DateTime<Utc> = sqlx::query_scalar(OPEN_ATTEMPT)
            .bind(run.0)
            .bind(attempt)
            .bind(token.to_string())
            .bind(&worker.0)
            .bind(!exhausted)
            .bind(later(policy.run_deadline))
            .fetch_one(&mut *tx)
            .await?;
        let (request, context) = match readable {
            false => (RunRequest::default(), ContextSize::Unknown),
            true => {
                let row: ContextRow = sqlx::query_as(CONTEXT)
                    .bind(run.0)
                    .bind(self.context_bytes)
                    .fetch_one(&mut *tx)
                    .await?;
                row.read(self.context_bytes)
            }
        };
        commit(tx).await?;
        let spent = u32::try_from(history.spent).unwrap_or(u32::MAX);
        Ok(ClaimAnswer::Claimed(Box::new(Claim {
            start: None,
            run: taken.with(request),
            context,
            attempt,
            token,
            worker: worker.clone(),
            counted_attempts: spent.saturating_add(u32::from(!exhausted)),
            exhausted,
            last_resort,
            first_claimed_at: history.first_claimed_at.unwrap_or(claimed_at),
            claimed_at,
        })))
    }

    /// Ends the attempt that holds this token. False: it is not the current one.
    pub(super) async fn end_attempt(
        &self,
        tx: &mut super::Tx,
        claim: &Claim,
        end: AttemptEnd,
    ) -> Result<bool, StoreError> {
        let ended = sqlx::query(END_ATTEMPT)
            .bind(claim.run.id.0)
            .bind(claim.attempt)
            .bind(claim.token.to_string())
            .bind(end.as_str())
            .bind(end.counts())
            .execute(&mut **tx)
            .await?
            .rows_affected();
        Ok(ended > 0)
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
        if !self.end_attempt(&mut tx, claim, end).await? {
            rollback(tx).await?;
            return Ok(false);
        }
        let queued = sqlx::query(REQUEUE)
            .bind(claim.run.id.0)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        if queued == 0 {
            rollback(tx).await?;
            return Ok(false);
        }
        sqlx::query(DUE_AGAIN)
            .bind(claim.run.id.0)
            .bind(not_before.map(later))
            .execute(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(true)
    }
}
