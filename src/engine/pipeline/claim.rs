//! Claims a run. A run that requires isolation waits for the isolation first.

use super::{Pipeline, Processed};
use crate::domain::RunId;
use crate::engine::scheduling::in_flight::{ClaimedAttempt, InFlightGuard, Phase};
use crate::engine::scheduling::isolation::NotAdmitted;
use crate::engine::schema::SchemaState;
use crate::ports::log_throttle::log_limited;
use crate::ports::open_calls::OpenCalls;
use crate::ports::store::{Claim, ClaimAnswer, ClaimPolicy, StoreError};
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

/// Time in which the holder of a locked run has most likely committed: another worker that claims it, as a rule.
const LOCKED_PAUSE: Duration = Duration::from_millis(50);

/// A claim that takes this long to fail waits for more than a short conflict. Tried again at once, it would keep its
/// slot as long again.
const SLOW_CLAIM: Duration = Duration::from_secs(5);

/// A claimed run, with what this process holds until the attempt ends.
pub(super) struct Attempt<'a> {
    pub claim: Box<Claim>,
    /// Just before the claim was sent.
    pub began: Instant,
    /// When its check must have ended.
    pub deadline: Instant,
    /// When its completion must have ended. The rest of the time is for the run's release.
    pub completion_deadline: Instant,
    /// When this process gives the attempt up, whatever hangs: no later than its lease ends.
    pub ends: Instant,
    /// Calls of its check without a result.
    pub calls: OpenCalls,
    pub in_flight: InFlightGuard<'a>,
    _isolation: Option<SemaphorePermit<'a>>,
}

impl Pipeline {
    pub(super) async fn claim(&self, run: RunId) -> Result<Attempt<'_>, Processed> {
        let mut isolation = None;
        let mut was_locked = false;
        let in_flight = self.worker.in_flight.register(run);
        loop {
            if !self.worker.may_claim() {
                return Err(Processed::Deferred);
            }
            let began = Instant::now();
            let policy = ClaimPolicy {
                max_attempts: self.worker.settings.max_attempts,
                lease: self.worker.settings.lease(),
                isolated: isolation.is_some(),
            };
            in_flight.enter(Phase::Claim);
            let claim = self.store.claim(run, &self.worker.id, &policy);
            let answered = tokio::select! {
                biased;
                answered = claim => answered,
                // A claim whose commit is under way may be granted: its attempt ends with this worker's lease.
                () = self.worker.claim_is_overdue() => return Err(Processed::Deferred),
            };
            let answer = match answered {
                Ok(answer) => answer,
                Err(error) => return Err(self.after_failed_claim(run, began, &error).await),
            };
            if !matches!(answer, ClaimAnswer::Locked) {
                self.worker.claim_failures.answered();
            }
            match answer {
                ClaimAnswer::Claimed(claim) => {
                    self.refused_claims.granted();
                    self.worker.refusals.claims.ended();
                    let settings = &self.worker.settings;
                    let deadline = began + settings.run_deadline;
                    let completion_deadline = match claim.exhausted {
                        // It has no result to lose, and holds the isolation.
                        true => deadline,
                        false => began + settings.lease() - settings.run_deadline,
                    };
                    let ends = completion_deadline + settings.run_deadline;
                    let calls = OpenCalls::default();
                    in_flight.claimed(ClaimedAttempt {
                        tenant: claim.run.tenant_id,
                        connection: claim.run.request.provider_connection_id,
                        number: claim.attempt,
                        lease_ends: ends,
                        calls: calls.clone(),
                    });
                    return Ok(Attempt {
                        claim,
                        began,
                        deadline,
                        completion_deadline,
                        ends,
                        calls,
                        in_flight,
                        _isolation: isolation,
                    });
                }
                ClaimAnswer::NotClaimable => {
                    match self.is_handed_over(run).await {
                        true => metrics::counter!("verifyd_hints_handed_over_total").increment(1),
                        false => {
                            metrics::counter!("verifyd_hints_without_claim_total").increment(1);
                        }
                    }
                    return Err(Processed::NotClaimable);
                }
                ClaimAnswer::Locked if !was_locked => {
                    was_locked = true;
                    tokio::time::sleep(LOCKED_PAUSE).await;
                    continue;
                }
                ClaimAnswer::Locked => {
                    let error = StoreError::LockedRun;
                    return Err(self.after_failed_claim(run, began, &error).await);
                }
                ClaimAnswer::RequiresIsolation => {}
            }
            // Nothing is claimed, and no transaction is open, while it waits.
            in_flight.enter(Phase::Isolation);
            isolation = match self.isolation.enter().await {
                Ok(slot) => Some(slot),
                Err(NotAdmitted::Stopping) => return Err(Processed::Deferred),
                Err(NotAdmitted::Busy) => {
                    metrics::counter!("verifyd_isolation_hints_dropped_total").increment(1);
                    tracing::debug!(
                        run = run.0,
                        "other runs that require isolation are first; dropping the hint"
                    );
                    return Err(Processed::Postponed);
                }
            };
        }
    }

    /// Leaves a run of another group to that group. Where there are no groups, the database is not asked.
    async fn is_handed_over(&self, run: RunId) -> bool {
        !self.worker.settings.groups.is_empty() && self.hand_overs.hand_over(run).await
    }

    /// Logs a failed claim, and returns how it goes on. Only while no claim can succeed is the hint held: what fails
    /// for one run, whatever the reason, must not keep a slot from the others. A trigger can fail a claim with any code,
    /// end its session, or wait.
    async fn after_failed_claim(
        &self,
        run: RunId,
        began: Instant,
        error: &StoreError,
    ) -> Processed {
        let may_succeed_soon = error.is_transient() && began.elapsed() < SLOW_CLAIM;
        log_limited!(warn, run = run.0, %error, "cannot claim the run; a later sweep finds it");
        let is_lost = matches!(error, StoreError::Unavailable(_));
        let is_unavailable = is_lost && !self.database_answers().await;
        match error.is_answer() {
            // An answer to this claim, while the database answers others, is the run's: a restart would not change it.
            Some(true) if !is_unavailable => self.worker.claim_failures.answered(),
            Some(_) => self.worker.claim_failures.failed(run),
            None => {}
        }
        if is_unavailable {
            return Processed::Deferred;
        }
        if let Some(SchemaState::Unfit | SchemaState::Changed) = self.schema_after(error).await {
            return Processed::Deferred;
        }
        match error {
            // Nobody has refused it.
            StoreError::TooManyCalls => metrics::counter!("verifyd_claims_unsent_total"),
            _ => metrics::counter!("verifyd_claims_refused_total", "class" => error.class()),
        }
        .increment(1);
        self.refused_claims.refused();
        if !error.is_transient() {
            self.worker.refusals.claims.failed();
        }
        match may_succeed_soon {
            true => Processed::Contended,
            false => Processed::Refused,
        }
    }
}
