//! Ends an attempt: completes the run, or releases it.

use super::claim::Attempt;
use super::{Pipeline, Processed, Retries};
use crate::domain::completion::Completion;
use crate::engine::scheduling::in_flight::Phase;
use crate::engine::schema::SchemaState;
use crate::ports::log_throttle::log_limited;
use crate::ports::store::AttemptEnd;
use std::time::Duration;

impl Pipeline {
    /// Writes the completion, and retries while the database is unavailable for a short time.
    pub(super) async fn complete(
        &self,
        attempt: &Attempt<'_>,
        completion: &Completion,
    ) -> Processed {
        attempt.in_flight.enter(Phase::Completion);
        let mut retries = Retries::until(attempt.deadline);
        loop {
            let error = match self.store.complete(&attempt.claim, completion).await {
                Ok(true) => {
                    tracing::info!(
                        outcome = %completion.outcome,
                        overall = completion.overall,
                        reason = completion.failure_summary.first().map(|f| f.reason_code.code()),
                        "run completed"
                    );
                    self.keep_facts(completion).await;
                    return Processed::Completed(completion.outcome);
                }
                Ok(false) => {
                    tracing::debug!("the attempt has lost its run; discarding the result");
                    return Processed::Discarded;
                }
                Err(error) => error,
            };
            log_limited!(warn, %error, "cannot write the result of the run");
            match self.schema_after(&error).await {
                Some(SchemaState::Unfit) => return self.release_uncounted(attempt, retries).await,
                Some(SchemaState::Changed) => {}
                _ if error.is_transient() => {}
                _ => return self.release_after_error(attempt).await,
            }
            if !retries.wait().await {
                return Processed::Deferred;
            }
        }
    }

    /// Keeps new facts about the connection. Nothing depends on it: a fact that is lost is found out again.
    async fn keep_facts(&self, completion: &Completion) {
        if let Some(facts) = &completion.facts
            && let Err(error) = self.store.keep_facts(facts).await
        {
            log_limited!(warn, %error, "cannot store facts about the connection; the next check tries again");
        }
    }

    /// Releases a run whose attempt failed because the schema was changed. It uses up no attempt, and may
    /// have to wait until the schema fits.
    pub(super) async fn release_uncounted(
        &self,
        attempt: &Attempt<'_>,
        mut retries: Retries,
    ) -> Processed {
        loop {
            match self.release(attempt, AttemptEnd::Shutdown, None).await {
                Processed::Deferred if retries.wait().await => {}
                released => return released,
            }
        }
    }

    /// Releases a run whose attempt failed because of an error in verifyd, with a longer delay each time.
    pub(super) async fn release_after_error(&self, attempt: &Attempt<'_>) -> Processed {
        let doublings = attempt.claim.own_attempt.saturating_sub(1).min(6);
        let pause = Duration::from_secs(1 << doublings);
        self.release(attempt, AttemptEnd::Error, Some(pause)).await
    }

    /// Releases a run; due again after `not_before`.
    pub(super) async fn release(
        &self,
        attempt: &Attempt<'_>,
        end: AttemptEnd,
        not_before: Option<Duration>,
    ) -> Processed {
        attempt.in_flight.enter(Phase::Completion);
        match self.store.release(&attempt.claim, end, not_before).await {
            Ok(true) => {
                tracing::debug!(why = %end, "run released");
                Processed::Released(end)
            }
            Ok(false) => Processed::Discarded,
            Err(error) => {
                log_limited!(warn, %error, "cannot release the run; its lease will end");
                Processed::Deferred
            }
        }
    }
}
