//! `queued` → `running` and back, as far as it is the same in both databases.

use super::batching::{BatchedCall, Batching, submit};
use super::dialect::{clock, each, own, postgres_only};
use super::from_row::from_row;
use super::repeated_ids::{has_own_id, is_of_type};
use super::shares::{CallKind, CallTry, Length, RunCall};
use super::sql::both;
use super::sql_store::{SqlConnection, SqlStore, transaction, within};
use super::starting_point::starting_points;
use super::statement::{Sql, Value};
use super::tolerant_decoding::{Request, Text, Time};
use crate::domain::attempt::AttemptEnd;
use crate::domain::run::{ClaimedRun, ContextProblem, RunRequest};
use crate::domain::{RunId, TenantId, WorkerId, WorkspaceId};
use crate::ports::claims::{Claim, ClaimAnswer, ClaimPolicy, ClaimStore, ContextSize};
use crate::ports::starting_point::StartingPoint;
use crate::ports::store_error::{Code, Detail, StoreError};
use async_trait::async_trait;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// A call of `claim`.
#[derive(Clone)]
pub(super) struct ClaimRequest {
    pub run: RunId,
    pub worker: WorkerId,
    pub policy: ClaimPolicy,
}

/// How each database claims a run that no batch has decided about. Each part of the call has a limit.
#[async_trait]
pub(super) trait ClaimByItself {
    async fn claim_by_itself(&self, call: ClaimRequest) -> Result<ClaimAnswer, StoreError>;
}

/// Locks the run if it is still running, and has its id for itself. Whatever follows in this transaction sees everything
/// that an earlier holder of the lock committed.
const LOCK_RUNNING: Sql = both!(
    "SELECT 1 FROM operation_runs r WHERE r.id = $1 AND " is_of_type!("r")
    " AND r.status = 'running' AND " has_own_id!("r") postgres_only!(" FOR NO KEY UPDATE")
);

const END_ATTEMPT: Sql = both!(
    "UPDATE " own!(run_attempts) " SET ended_at = " clock!() ", end_reason = $4,
        counted = counted AND $5, result_refusal = coalesce($6, result_refusal)
     WHERE run_id = $1 AND attempt = $2 AND CAST(token AS text) = $3 AND ended_at IS NULL"
);

const REQUEUE_RELEASED: Sql = both!(
    "UPDATE operation_runs AS r SET status = 'queued' WHERE r.id = $1 AND " is_of_type!("r")
    " AND r.status = 'running'"
);

const DUE_AGAIN: Sql = both!(
    "INSERT INTO " own!(run_deliveries) " (run_id, delivered_at, not_before) VALUES ($1, NULL, "
    each!(
        "clock_timestamp() + make_interval(secs => $2)",
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $2)"
    )
    ") ON CONFLICT (run_id) DO UPDATE SET delivered_at = NULL, not_before = excluded.not_before"
);

#[async_trait]
impl<S> ClaimStore for S
where
    S: SqlStore + Batching + ClaimByItself,
    ClaimRequest: BatchedCall<S, Answer = ClaimAnswer>,
{
    async fn claim(
        &self,
        run: RunId,
        worker: &WorkerId,
        policy: &ClaimPolicy,
    ) -> Result<ClaimAnswer, StoreError> {
        let request = || ClaimRequest {
            run,
            worker: worker.clone(),
            policy: *policy,
        };
        let timeout = self.in_process().call_timeout;
        let by_itself = || self.claim_by_itself(request());
        if policy.isolated {
            return by_itself().await;
        }
        answer_of_either(timeout, submit(self, request()), by_itself).await
    }

    async fn release(
        &self,
        claim: &Claim,
        end: AttemptEnd,
        not_before: Option<Duration>,
        refusal: Option<&str>,
        at_stop: bool,
    ) -> Result<bool, StoreError> {
        if end == AttemptEnd::Completed {
            return Err(StoreError::Refused(
                "a run that is released has not been completed".into(),
            ));
        }
        let release = |sent| release_in_transaction(self, claim, end, not_before, refusal, sent);
        match self.release_share() {
            // A worker that stops keeps no connection for anything else.
            Some(share) if !at_stop => {
                let run = claim.run.id;
                let goes_by_itself = share.sends_by_itself(run);
                // What had the completion wait may let it through.
                share.begin_short(run);
                let call = RunCall {
                    kind: CallKind::Release,
                    run,
                    tenant: claim.run.tenant_id,
                    is_large: false,
                };
                let released = share.send(call, |released| *released, release).await;
                if goes_by_itself {
                    // No completion has got through: in a batch the next one would be refused with others.
                    share.remember(run, Length::Short);
                }
                released
            }
            _ => release(CallTry::of(Length::Long)).await,
        }
    }
}

/// Returns the answer of the batch or, where it has none, that of the call by itself. The limit is that of the batch;
/// the other call has its own. Otherwise a batch that the server cancels would leave it no time for an answer, and a
/// trigger that waits would look like a server that does not answer.
pub(super) async fn answer_of_either<T, F>(
    timeout: Option<Duration>,
    batch: impl Future<Output = Option<T>>,
    by_itself: impl FnOnce() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let batched = async { Ok::<_, StoreError>(batch.await) };
    match within(timeout, batched).await? {
        Some(answer) => Ok(answer),
        None => by_itself().await,
    }
}

async fn release_in_transaction(
    store: &impl SqlStore,
    claim: &Claim,
    end: AttemptEnd,
    not_before: Option<Duration>,
    refusal: Option<&str>,
    sent: CallTry,
) -> Result<bool, StoreError> {
    transaction(store, async |tx| {
        sent.limit_statements(tx).await?;
        if !lock_running(tx, claim.run.id).await? {
            return Ok(false);
        }
        sent.record_lock();
        release_locked(tx, claim, end, not_before, refusal).await
    })
    .await
}

/// Releases a run that this transaction has locked. False: the token is not the current one.
pub(super) async fn release_locked(
    tx: &mut dyn SqlConnection,
    claim: &Claim,
    end: AttemptEnd,
    not_before: Option<Duration>,
    refusal: Option<&str>,
) -> Result<bool, StoreError> {
    let run = claim.run.id;
    let end_attempt = END_ATTEMPT
        .bind(run.0)
        .bind(claim.attempt)
        .bind(claim.token.to_string())
        .bind(end.as_str())
        .bind(end.counts())
        .bind(refusal);
    if end_attempt.execute(tx).await? == 0 {
        return Ok(false);
    }
    // A trigger of the application may have kept the run as it was.
    if REQUEUE_RELEASED.bind(run.0).execute(tx).await? == 0 {
        return Ok(false);
    }
    let due = DUE_AGAIN.bind(run.0).bind(Value::Later(not_before));
    due.execute(tx).await?;
    Ok(true)
}

/// See [`LOCK_RUNNING`]. Returns whether the run is running.
pub(super) async fn lock_running(
    tx: &mut dyn SqlConnection,
    run: RunId,
) -> Result<bool, StoreError> {
    let locked: Option<(i32,)> = LOCK_RUNNING.bind(run.0).fetch_optional(tx).await?;
    Ok(locked.is_some())
}

/// Adds the starting points of the checks, read on the connection of the claim. Where one could not be read
/// the check reads it, and reports the error.
pub(super) async fn add_starting_points(
    tx: &mut dyn SqlConnection,
    claims: &mut [Option<Claim>],
) -> Result<(), StoreError> {
    let requests = claims.iter().flatten().map(|claim| &claim.run.request);
    let wanted = requests.filter_map(|request| Some(request.provider_connection_id?.0));
    let wanted: BTreeSet<i64> = wanted.collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let found: HashMap<i64, StartingPoint> = starting_points(tx, wanted.into_iter().collect())
        .await?
        .into_iter()
        .flatten()
        .map(|start| (start.connection.id.0, start))
        .collect();
    for claim in claims.iter_mut().flatten() {
        let id = claim.run.request.provider_connection_id;
        claim.start = id.and_then(|id| found.get(&id.0).cloned());
    }
    Ok(())
}

/// Returns the runs that were not claimed.
pub(super) fn unclaimed(calls: &[ClaimRequest], claims: &[Option<Claim>]) -> Vec<i64> {
    let unclaimed = calls.iter().zip(claims).filter(|(_, c)| c.is_none());
    unclaimed.map(|(call, _)| call.run.0).collect()
}

/// Returns the answers to the calls of a batch. One whose run is not claimed, and `may_be_claimed`, is left
/// undecided.
pub(super) fn answers(
    calls: &[ClaimRequest],
    claims: Vec<Option<Claim>>,
    may_be_claimed: impl Fn(i64) -> bool,
) -> Vec<Option<ClaimAnswer>> {
    let answers = calls.iter().zip(claims).map(|(call, claim)| match claim {
        Some(claim) => Some(ClaimAnswer::Claimed(Box::new(claim))),
        None if may_be_claimed(call.run.0) => None,
        None => Some(ClaimAnswer::NotClaimable),
    });
    answers.collect()
}

from_row! {
    /// A run that was taken. Its context is not among it: see [`ContextRow`].
    #[derive(Debug)]
    pub(super) struct TakenRow {
        pub id: i64,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        created_at: Option<Time>,
    }
}

from_row! {
    /// The context of a run, as far as it fits. Its state is `fits`, `null`, `deep`, `large` or `huge`; a small
    /// one can be read and written in a batch.
    #[derive(Debug)]
    pub(super) struct ContextRow {
        context: Option<Request>,
        context_state: Text,
        context_is_small: bool,
    }
}

impl TakenRow {
    pub fn with(self, request: RunRequest) -> ClaimedRun {
        ClaimedRun {
            id: RunId(self.id),
            workspace_id: self.workspace_id.map(WorkspaceId),
            tenant_id: self.tenant_id.map(TenantId),
            request,
            created_at: self.created_at.and_then(Time::known),
        }
    }
}

impl ContextRow {
    /// Returns the request, and how the completion treats the context. `limit`: largest size in bytes.
    pub fn read(self, limit: i64) -> (RunRequest, ContextSize) {
        let too_large = |dropped| {
            RunRequest::unreadable(ContextProblem::TooLarge {
                limit: limit.unsigned_abs(),
                dropped,
            })
        };
        let size = match self.context_is_small {
            true => ContextSize::Small,
            false => ContextSize::Large,
        };
        match (self.context_state.0.as_str(), self.context) {
            ("huge", _) => (too_large(true), ContextSize::Huge),
            ("large", _) => (too_large(false), size),
            ("fits", Some(context)) => (context.0, size),
            ("null", _) => {
                let null = ContextProblem::NotAnObject("null");
                (RunRequest::unreadable(null), size)
            }
            _ => (unreadable(), size),
        }
    }
}

/// The error of a run whose row a trigger, or row-level security, keeps as it is.
pub(super) fn kept() -> StoreError {
    let why = "row-level security or a trigger keeps the row of operation_runs as it is";
    StoreError::Refused(Detail::new(why, Some(Code::Trigger)))
}

/// A context that the database cannot show.
pub(super) fn unreadable() -> RunRequest {
    RunRequest::unreadable(ContextProblem::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const SECOND: Duration = Duration::from_secs(1);

    /// The answer after these seconds of a batch, which may take 20, and of the call by itself. The clock is moved on
    /// where all wait.
    async fn answer(batch: (u32, Option<i32>), by_itself: u32) -> Result<i32, StoreError> {
        let batched = async {
            sleep(batch.0 * SECOND).await;
            batch.1
        };
        let by_itself = || async move {
            sleep(by_itself * SECOND).await;
            Err(StoreError::Contended("cancelled".into()))
        };
        answer_of_either(Some(20 * SECOND), batched, by_itself).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_by_itself_has_a_limit_of_its_own() {
        for by_itself in [15, 25] {
            let cancelled = answer((15, None), by_itself).await;
            assert!(matches!(cancelled, Err(StoreError::Contended(_))));
        }
        assert_eq!(answer((15, Some(7)), 0).await.ok(), Some(7));
        let late = answer((25, None), 0).await;
        assert!(matches!(late, Err(StoreError::Unavailable(_))));
    }
}
