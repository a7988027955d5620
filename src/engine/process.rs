//! One run: claim, preflight, check, complete.

use super::Engine;
use super::alone::NotAlone;
use super::in_work::Noted;
use super::outcome::Ending;
use super::preflight::Verdict;
use super::schema::SchemaState;
use crate::domain::RunId;
use crate::domain::completion::Completion;
use crate::domain::connection_facts::KeptFacts;
use crate::domain::job::Hint;
use crate::domain::reason::Reason;
use crate::domain::run::{Outcome, RunRequest};
use crate::ports::provider::{Disposition, Target};
use crate::ports::store::{AttemptEnd, Claim, ClaimAnswer, ClaimPolicy, StoreError};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

/// What became of a run that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// Completed by this call.
    Completed(Outcome),
    /// Given back; due again later.
    Released(AttemptEnd),
    /// Nothing to do here: not queued, not due, not verifyd's, or not there.
    NotClaimable,
    /// Somebody else owns the run by now; the result was discarded.
    Discarded,
    /// It needs to be alone and other such runs are in work here; it is delivered again.
    Postponed,
    /// The database cannot be reached, or this process may not work; the run is found again.
    Deferred,
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
        }
    }
}

/// What the work on a claimed run led to.
enum Work {
    Complete(Box<Completion>),
    Release(AttemptEnd, Option<Duration>),
}

/// Longer and longer pauses, until a moment that is not passed.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    fn until(until: Instant) -> Self {
        Self {
            until,
            pause: Duration::from_millis(50),
        }
    }

    /// Waits; false, at once, when there is no time left to.
    async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause >= self.until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(2));
        true
    }
}

/// Counts a run as long as it is in work, also when its task is dropped.
struct InFlight<'a>(&'a AtomicU32);

impl<'a> InFlight<'a> {
    fn one_more(counter: &'a AtomicU32) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A run that this process may work on, with what it holds until it is done.
struct Taken<'a> {
    claim: Box<Claim>,
    /// Just before the claim was sent.
    began: Instant,
    _noted: Noted<'a>,
    _alone: Option<SemaphorePermit<'a>>,
}

impl Engine {
    /// Works on the run that a hint names, from claim to completion. Never fails: what cannot be
    /// done now is found again by the reconciler.
    pub async fn process(&self, hint: &Hint) -> Processed {
        let taken = match self.take(hint.operation_run_id).await {
            Ok(taken) => taken,
            Err(processed) => return processed,
        };
        let (claim, began) = (&taken.claim, taken.began);
        let request = &claim.run.request;
        let span = tracing::info_span!(
            "run",
            run = claim.run.id.0,
            tenant = claim.run.tenant_id.map(|t| t.0),
            connection = request.provider_connection_id.map(|c| c.0),
            attempt = claim.attempt,
            trace_id = hint.traceparent.as_deref().and_then(|t| t.get(3..35)),
        );
        let in_flight = InFlight::one_more(&self.in_flight);
        let working = self.turns.working(claim.run.tenant_id);
        let processed = self.work_claimed(claim, began).instrument(span).await;
        if let Processed::Completed(_) = processed {
            self.finished.note(claim.run.id);
        }
        drop(working);
        drop(in_flight);
        drop(taken);
        metrics::counter!("verifyd_runs_processed_total", "result" => processed.label())
            .increment(1);
        metrics::histogram!("verifyd_run_duration_seconds").record(began.elapsed().as_secs_f64());
        processed
    }

    /// Claims a run; where it needs to be alone, as soon as it is.
    async fn take(&self, run: RunId) -> Result<Taken<'_>, Processed> {
        let mut alone = None;
        loop {
            if !self.lease.is_alive() || self.release_now.is_cancelled() || !self.schema.fits() {
                return Err(Processed::Deferred);
            }
            let began = Instant::now();
            let policy = ClaimPolicy {
                max_attempts: self.settings.max_attempts,
                run_deadline: self.settings.run_deadline,
                alone: alone.is_some(),
            };
            let noted = self.in_work.note(run);
            let answer = self.store.claim(run, &self.worker, &policy).await;
            match &answer {
                Ok(_) | Err(StoreError::Schema(_)) => self.unclaimed.answered(),
                Err(_) => self.unclaimed.failed(run),
            }
            match answer {
                Ok(ClaimAnswer::Claimed(claim)) => {
                    return Ok(Taken {
                        claim,
                        began,
                        _noted: noted,
                        _alone: alone,
                    });
                }
                Ok(ClaimAnswer::NotClaimable) => {
                    metrics::counter!("verifyd_hints_without_claim_total").increment(1);
                    return Err(Processed::NotClaimable);
                }
                Ok(ClaimAnswer::NeedsToBeAlone) => {}
                Err(error) => {
                    tracing::warn!(run = run.0, %error, "the run cannot be claimed now");
                    self.schema_after(&error).await;
                    return Err(Processed::Deferred);
                }
            }
            // While it waits nothing is claimed, and the database is not at work for it.
            drop(noted);
            alone = match self.alone.enter().await {
                Ok(place) => Some(place),
                Err(NotAlone::Stopping) => return Err(Processed::Deferred),
                Err(NotAlone::Busy) => {
                    metrics::counter!("verifyd_runs_postponed_total").increment(1);
                    tracing::info!(
                        run = run.0,
                        "other runs that need to be alone are before it"
                    );
                    return Err(Processed::Postponed);
                }
            };
        }
    }

    async fn work_claimed(&self, claim: &Claim, began: Instant) -> Processed {
        tracing::debug!("claimed");
        // What has been written by then is written; the guarded statements see to the rest.
        let work = AssertUnwindSafe(self.work_and_write(claim, began)).catch_unwind();
        tokio::select! {
            biased;
            result = work => match result {
                Ok(processed) => processed,
                Err(_) => self.after_panic(claim, began).await,
            },
            () = self.lease.lost() => {
                tracing::warn!("the heartbeat is lost, the run is left to the others");
                Processed::Discarded
            }
            () = self.release_now.cancelled() => {
                self.give_back(claim, AttemptEnd::Shutdown, None).await
            }
            // Whatever hangs: from here on the run belongs to the others.
            () = tokio::time::sleep_until(began + self.settings.run_deadline) => {
                tracing::warn!("the deadline has passed, the run is left to the others");
                Processed::Discarded
            }
        }
    }

    async fn work_and_write(&self, claim: &Claim, began: Instant) -> Processed {
        let mut patience = Patience::until(began + self.settings.run_deadline);
        loop {
            let error = match self.work(claim, began).await {
                Ok(Work::Complete(completion)) => {
                    return self.write(claim, &completion, began).await;
                }
                Ok(Work::Release(end, not_before)) => {
                    return self.give_back(claim, end, not_before).await;
                }
                Err(error) => error,
            };
            // Nothing but reading fails here, and that comes before the provider is asked. The
            // database being away for a moment costs the run no attempt.
            let schema = self.schema_after(&error).await;
            let again = error.is_transient() || schema == Some(SchemaState::Changed);
            if again && patience.wait().await {
                tracing::debug!(%error, "what the run needs is read again");
                continue;
            }
            tracing::warn!(%error, "the run is left for later");
            if schema == Some(SchemaState::Unfit) {
                return self.give_back_uncounted(claim, patience).await;
            }
            return self.give_back_after_error(claim).await;
        }
    }

    /// A defect must end the run, not repeat for ever.
    async fn after_panic(&self, claim: &Claim, began: Instant) -> Processed {
        tracing::error!("the check panicked");
        metrics::counter!("verifyd_panics_total").increment(1);
        let request = &claim.run.request;
        let surveyed = self.unsurveyed(&claim.run, request);
        let completion = self.conclude(
            &claim.run,
            request,
            &surveyed,
            None,
            None,
            Ending::Broken {
                reason: Reason::InternalError,
                evidence: Vec::new(),
            },
        );
        self.write(claim, &completion, began).await
    }

    /// The end of a run whose completion has failed again and again, made from its id and nothing
    /// that was recorded with it.
    fn last_resort(&self, claim: &Claim) -> Completion {
        tracing::error!("completing the run has failed repeatedly: nothing of it is read any more");
        metrics::counter!("verifyd_last_resorts_total").increment(1);
        let request = RunRequest::default();
        let surveyed = self.unsurveyed(&claim.run, &request);
        let ending = Self::worker_lost(claim.counted_attempts);
        self.conclude(&claim.run, &request, &surveyed, None, None, ending)
    }

    async fn work(&self, claim: &Claim, began: Instant) -> Result<Work, StoreError> {
        if claim.last_resort {
            return Ok(Work::Complete(Box::new(self.last_resort(claim))));
        }
        let run = &claim.run;
        let request = &run.request;
        let stored = match request.provider_connection_id {
            Some(_) if claim.start.is_some() => claim.start.clone(),
            Some(id) => match self.store.starting_point(id).await {
                Ok(stored) => stored,
                // Preflight ends at the tenant, before it looks at the connection.
                Err(StoreError::Corrupt { .. }) if run.tenant_id.is_none() => None,
                Err(StoreError::Corrupt {
                    table, column, why, ..
                }) => {
                    tracing::error!(table, column, %why, "the connection cannot be read");
                    // What was found stays untold: it may be a stranger's.
                    let allowed = why.split_once("allowed: ").map(|(_, allowed)| allowed);
                    let allowed = allowed.unwrap_or("a value that is not NULL");
                    let column = format!("{table}.{column}");
                    let surveyed = self.unreadable_connection(run, &column, allowed);
                    let ending = match claim.exhausted {
                        true => Self::worker_lost(claim.counted_attempts),
                        false => Ending::Blocked(Reason::ConnectionMalformed),
                    };
                    let completion = self.conclude(run, request, &surveyed, None, None, ending);
                    return Ok(Work::Complete(Box::new(completion)));
                }
                Err(error) => return Err(error),
            },
            None => None,
        };
        let (stored, latest_run, kept) = match stored {
            Some(start) => {
                let stored = (start.connection, start.credential);
                (Some(stored), start.latest_run, start.facts)
            }
            None => (None, None, None),
        };
        let surveyed = self.preflight(run, request, stored, kept);
        // Of a stranger's connection nothing is told.
        let previous = latest_run.filter(|id| surveyed.connection.is_some() && *id != run.id);
        let conclude = |credential, ending| {
            Work::Complete(Box::new(
                self.conclude(run, request, &surveyed, credential, previous, ending),
            ))
        };
        if claim.exhausted {
            return Ok(conclude(None, Self::worker_lost(claim.counted_attempts)));
        }
        let (credential, changed_at, expires_at, entra_tenant_id) = match &surveyed.verdict {
            Verdict::Blocked(reason) => return Ok(conclude(None, Ending::Blocked(*reason))),
            Verdict::Ready {
                credential,
                credential_changed_at,
                credential_expires_at,
                entra_tenant_id,
            } => (
                credential,
                *credential_changed_at,
                *credential_expires_at,
                entra_tenant_id,
            ),
        };
        let (Some(connection), Some(provider), Some(module)) =
            (&surveyed.connection, &surveyed.provider, &surveyed.module)
        else {
            unreachable!("preflight is ready only with connection, provider and module");
        };

        let deadline = began + self.settings.run_deadline - self.settings.completion_reserve();
        let target = Target {
            run_id: run.id,
            connection: connection.clone(),
            credential: credential.clone(),
            credential_changed_at: changed_at,
            credential_expires_at: expires_at,
            known: surveyed.known.clone(),
            entra_tenant_id: entra_tenant_id.clone(),
            module: module.clone(),
            links: surveyed.links.clone(),
            deadline,
            correlation_id: Uuid::new_v4(),
        };
        let ending = match tokio::time::timeout_at(deadline, provider.check(&target)).await {
            Err(_) => Ending::Broken {
                reason: Reason::DeadlineExceeded,
                evidence: Vec::new(),
            },
            Ok(findings) => {
                if let Some(wait) = self.pause(claim, findings.disposition) {
                    tracing::info!(
                        seconds = wait.as_secs_f64(),
                        "the provider asks to wait, the run goes back to the queue"
                    );
                    return Ok(Work::Release(AttemptEnd::Throttled, Some(wait)));
                }
                Ending::Checked(Box::new(findings))
            }
        };
        let learnt = match &ending {
            Ending::Checked(findings) => findings.facts.clone().or(&surveyed.known),
            _ => surveyed.known.clone(),
        };
        let mut work = conclude(Some(credential), ending);
        if let Work::Complete(completion) = &mut work
            && learnt != surveyed.known
        {
            completion.facts = Some(KeptFacts::of(connection, changed_at, learnt));
        }
        Ok(work)
    }

    /// Keeps what the check has learnt, where it is new. Nothing depends on it: what is not kept is learnt
    /// again.
    async fn keep_facts(&self, completion: &Completion) {
        if let Some(facts) = &completion.facts
            && let Err(error) = self.store.keep_facts(facts).await
        {
            tracing::warn!(%error, "what the check has learnt is not kept; the next one tries again");
        }
    }

    /// For how long the run goes back to the queue; `None` where its total deadline leaves no room for the
    /// wait and one more attempt.
    fn pause(&self, claim: &Claim, disposition: Disposition) -> Option<Duration> {
        let spent = (claim.claimed_at - claim.first_claimed_at)
            .to_std()
            .unwrap_or_default();
        let room = (self.settings.total_deadline)
            .checked_sub(spent + self.settings.run_deadline)
            .unwrap_or_default();
        pause(disposition, spent, room)
    }

    /// Writes the result; the database being away for a moment does not lose it.
    async fn write(&self, claim: &Claim, completion: &Completion, began: Instant) -> Processed {
        let mut patience = Patience::until(began + self.settings.run_deadline);
        loop {
            let error = match self.store.complete(claim, completion).await {
                Ok(true) => {
                    tracing::info!(
                        outcome = %completion.outcome,
                        overall = completion.overall,
                        reason = completion.failure_summary.first().map(|f| f.reason_code.code()),
                        "completed"
                    );
                    self.keep_facts(completion).await;
                    return Processed::Completed(completion.outcome);
                }
                Ok(false) => {
                    tracing::info!("somebody else owns the run, the result is discarded");
                    return Processed::Discarded;
                }
                Err(error) => error,
            };
            tracing::warn!(%error, "the result cannot be written");
            match self.schema_after(&error).await {
                Some(SchemaState::Unfit) => return self.give_back_uncounted(claim, patience).await,
                Some(SchemaState::Changed) => {}
                _ if error.is_transient() => {}
                _ => return self.give_back_after_error(claim).await,
            }
            if !patience.wait().await {
                return Processed::Deferred;
            }
        }
    }

    /// Whether the schema fits, after an error that says it does not. None: another error.
    async fn schema_after(&self, error: &StoreError) -> Option<SchemaState> {
        match error {
            StoreError::Schema(_) => Some(self.schema.state(self.store.as_ref()).await),
            _ => None,
        }
    }

    /// What failed because the schema was changed uses up no attempt. Giving back may have to wait until
    /// the schema fits.
    async fn give_back_uncounted(&self, claim: &Claim, mut patience: Patience) -> Processed {
        loop {
            let released = self.store.release(claim, AttemptEnd::Shutdown, None).await;
            match released {
                Ok(true) => {
                    tracing::info!("released: the schema does not fit");
                    return Processed::Released(AttemptEnd::Shutdown);
                }
                Ok(false) => return Processed::Discarded,
                Err(error) => {
                    tracing::debug!(%error, "the run cannot be released yet");
                }
            }
            if !patience.wait().await {
                return Processed::Deferred;
            }
        }
    }

    /// What failed for a reason of our own is tried again later and later.
    async fn give_back_after_error(&self, claim: &Claim) -> Processed {
        let doublings = u32::try_from(claim.attempt - 1).unwrap_or(0).min(6);
        let pause = Duration::from_secs(1 << doublings);
        self.give_back(claim, AttemptEnd::Error, Some(pause)).await
    }

    async fn give_back(
        &self,
        claim: &Claim,
        end: AttemptEnd,
        not_before: Option<Duration>,
    ) -> Processed {
        match self.store.release(claim, end, not_before).await {
            Ok(true) => {
                tracing::info!(why = %end, "released");
                Processed::Released(end)
            }
            Ok(false) => Processed::Discarded,
            Err(error) => {
                tracing::warn!(%error, "the run cannot be released, its lease will end");
                Processed::Deferred
            }
        }
    }
}

/// The longest pause that is chosen here.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// The wait that the provider named, or one as long as the run has taken so far: each pause doubles that.
/// `room`: what is left for it.
fn pause(disposition: Disposition, spent: Duration, room: Duration) -> Option<Duration> {
    match disposition {
        Disposition::Finished => None,
        Disposition::Later(wait) => (wait <= room).then_some(wait),
        Disposition::Backoff(least) => {
            let wait = least.max(spent.min(LONGEST_PAUSE));
            (least <= room).then(|| wait.min(room))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_provider_that_names_no_time_is_asked_less_and_less_often() {
        let total = seconds(840);
        let (mut spent, mut pauses) = (Duration::ZERO, Vec::new());
        while let Some(wait) = pause(Disposition::Backoff(seconds(5)), spent, total - spent) {
            pauses.push(wait.as_secs());
            spent += wait;
        }
        assert_eq!(pauses, [5, 5, 10, 20, 40, 80, 160, 320, 200]);
        let late = pause(
            Disposition::Backoff(seconds(5)),
            seconds(90_000),
            seconds(90_000),
        );
        assert_eq!(late, Some(LONGEST_PAUSE));
    }

    #[test]
    fn a_time_that_the_provider_names_is_kept() {
        let room = seconds(60);
        for spent in [0, 600] {
            let named = pause(Disposition::Later(seconds(30)), seconds(spent), room);
            assert_eq!(named, Some(seconds(30)));
        }
        assert_eq!(
            pause(Disposition::Later(seconds(61)), seconds(0), room),
            None
        );
        assert_eq!(pause(Disposition::Finished, seconds(0), room), None);
    }
}
