//! Processes one run: [`claim`] → [`preflight`] → [`check`] → [`outcome`] → [`complete`].

mod check;
mod claim;
mod complete;
mod database;
mod hand_over;
mod outcome;
pub(crate) mod preflight;
mod traced;

use super::scheduling::isolation::PoisonRunIsolation;
use super::scheduling::refused_claims::RefusedClaims;
use super::schema::SchemaState;
use super::worker::WorkerState;
use crate::domain::completion::Completion;
use crate::domain::hint::Hint;
use crate::domain::reason::Reason;
use crate::domain::run::Outcome;
use crate::ports::log_throttle::log_limited;
use crate::ports::store::{AttemptEnd, Store, StoreError};
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use claim::Attempt;
use futures::FutureExt;
use hand_over::HandOvers;
use outcome::RunResult;
use preflight::Preflight;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;

/// How the processing of a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// Completed by this call.
    Completed(Outcome),
    /// Released; due again later.
    Released(AttemptEnd),
    /// Nothing to do here: not queued, not due, not verifyd's, or not there.
    NotClaimable,
    /// Another worker owns the run by now; the result was discarded.
    Discarded,
    /// It requires isolation and other such runs are before it; it is delivered again.
    Postponed,
    /// The database is unavailable, or this process may not work; the run is found again.
    Deferred,
    /// The database refuses the claim; the run is delivered again later.
    Refused,
    /// The claim failed, for this run at least, for a reason that may pass soon.
    Contended,
}

impl Processed {
    fn label(self) -> &'static str {
        match self {
            Self::Completed(outcome) => outcome.as_str(),
            Self::Released(_) => "released",
            Self::NotClaimable => "not_claimable",
            Self::Postponed => "postponed",
            Self::Discarded => "discarded",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::Contended => "contended",
        }
    }
}

/// The transition that ends an attempt.
enum Transition {
    Complete(Box<Completion>),
    /// Released, and not due again before this time has passed.
    Release(AttemptEnd, Option<Duration>),
}

/// Backoff between retries, up to a deadline.
struct Retries {
    pauses: ExponentialBackoff,
    until: Instant,
}

impl Retries {
    fn until(until: Instant) -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(2))
            .without_max_times()
            .build();
        Self { pauses, until }
    }

    /// Waits for the next retry. Returns false, at once, when there is no time left for one.
    async fn wait(&mut self) -> bool {
        let pause = self.pauses.next().unwrap_or_default();
        let in_time = Instant::now() + pause < self.until;
        if in_time {
            tokio::time::sleep(pause).await;
        }
        in_time
    }
}

/// Works on one run at a time per call, from claim to completion.
#[derive(Debug)]
pub struct Pipeline {
    store: Arc<dyn Store>,
    worker: Arc<WorkerState>,
    preflight: Preflight,
    hand_overs: HandOvers,
    /// Admits runs that may have killed their worker.
    pub isolation: PoisonRunIsolation,
    /// Slows claims down while the database refuses them.
    pub refused_claims: RefusedClaims,
}

impl Pipeline {
    /// Creates the pipeline of a worker.
    pub fn new(
        store: Arc<dyn Store>,
        worker: Arc<WorkerState>,
        preflight: Preflight,
        isolation: PoisonRunIsolation,
    ) -> Self {
        Self {
            hand_overs: HandOvers::new(Arc::clone(&store)),
            store,
            worker,
            preflight,
            isolation,
            refused_claims: RefusedClaims::default(),
        }
    }

    /// Processes the run that a hint names. Never fails: what cannot be done now is found again by the
    /// reconciler.
    pub async fn process(&self, hint: &Hint) -> Processed {
        let attempt = match self.claim(hint.operation_run_id).await {
            Ok(attempt) => attempt,
            Err(processed) => return processed,
        };
        let causes = traced::causes(&attempt, hint);
        let trace = traced::begin(&attempt, causes);
        let claim = &attempt.claim;
        let span = tracing::info_span!(
            "run",
            run = claim.run.id.0,
            tenant = claim.run.tenant_id.map(|t| t.0),
            connection = claim.run.request.provider_connection_id.map(|c| c.0),
            attempt = claim.own_attempt,
            trace_id = trace
                .trace()
                .or_else(|| causes.0.or(causes.1).map(|cause| cause.trace())),
        );
        let began = attempt.began;
        let work = self.process_claimed(&attempt).instrument(span);
        let processed = trace.scope(work).await;
        traced::end(trace, processed);
        drop(attempt);
        metrics::counter!("verifyd_runs_processed_total", "result" => processed.label())
            .increment(1);
        metrics::histogram!("verifyd_run_duration_seconds").record(began.elapsed().as_secs_f64());
        processed
    }

    /// Processes a claimed run, within the time that this process may.
    async fn process_claimed(&self, attempt: &Attempt<'_>) -> Processed {
        tracing::debug!("run claimed");
        // What was written by then stays; the guarded statements decide about the rest.
        let work = async {
            let checked = AssertUnwindSafe(self.check_and_write(attempt)).catch_unwind();
            match checked.await {
                Ok(processed) => processed,
                Err(_) => self.complete_after_panic(attempt).await,
            }
        };
        tokio::select! {
            biased;
            processed = work => processed,
            () = self.worker.lease.lost() => {
                log_limited!(warn, "heartbeat lost; abandoning the run");
                Processed::Discarded
            }
            () = self.worker.release_now.cancelled() => {
                self.release(attempt, AttemptEnd::Shutdown, None, None)
                    .await
            }
            // Whatever hangs: from here on the run is lost, and anyone may queue it again.
            () = tokio::time::sleep_until(attempt.ends) => {
                log_limited!(warn, "the attempt took too long; abandoning the run");
                Processed::Discarded
            }
        }
    }

    async fn check_and_write(&self, attempt: &Attempt<'_>) -> Processed {
        let mut retries = Retries::until(attempt.deadline);
        loop {
            let error = match self.check(attempt).await {
                Ok(Transition::Complete(completion)) => {
                    return self.complete(attempt, &completion).await;
                }
                Ok(Transition::Release(end, not_before)) => {
                    return self.release(attempt, end, not_before, None).await;
                }
                Err(error) => error,
            };
            // Only reads fail here, before the provider is called. A short outage of the database costs the
            // run no attempt.
            let schema = self.schema_after(&error).await;
            let retry = error.is_transient() || schema == Some(SchemaState::Changed);
            if retry && retries.wait().await {
                tracing::debug!(%error, "cannot read the data of the run; trying again");
                continue;
            }
            log_limited!(warn, %error, "cannot read the data of the run; releasing it");
            if schema == Some(SchemaState::Unfit) {
                return self.release_uncounted(attempt, retries).await;
            }
            return self.release_after_error(attempt, None).await;
        }
    }

    /// Completes a run whose check panicked: a defect ends the run and is not repeated.
    async fn complete_after_panic(&self, attempt: &Attempt<'_>) -> Processed {
        log_limited!(error, "the check panicked");
        metrics::counter!("verifyd_check_panics_total").increment(1);
        let run = &attempt.claim.run;
        let result = RunResult::Broken {
            reason: Reason::InternalError,
            evidence: Vec::new(),
        };
        let subject = self.preflight.unknown(run, &run.request);
        let completion = subject.conclude(result, None, self.preflight.now());
        self.complete(attempt, &completion).await
    }

    /// Returns whether the schema fits, after an error that says it does not. `None`: another error.
    async fn schema_after(&self, error: &StoreError) -> Option<SchemaState> {
        match error {
            StoreError::Schema(_) => Some(self.worker.schema.state(self.store.as_ref()).await),
            _ => None,
        }
    }
}
