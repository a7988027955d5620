//! Runs preflight and the provider's check of a claimed run.

use super::claim::Attempt;
use super::outcome::RunResult;
use super::preflight::{PreflightResult, RunSubject};
use super::{Pipeline, Transition};
use crate::domain::completion::Completion;
use crate::domain::connection_facts::KeptFacts;
use crate::domain::reason::Reason;
use crate::domain::run::RunRequest;
use crate::engine::scheduling::in_flight::Phase;
use crate::ports::log_throttle::log_limited;
use crate::ports::provider::{Disposition, Target};
use crate::ports::store::{AttemptEnd, Claim, StartingPoint, StoreError};
use crate::ports::traces::TraceSpan;
use std::time::Duration;
use uuid::Uuid;

impl Pipeline {
    /// Finds the transition that ends an attempt. Only reading what the check starts from may fail.
    pub(super) async fn check(&self, attempt: &Attempt<'_>) -> Result<Transition, StoreError> {
        let claim = &attempt.claim;
        if claim.forced_completion {
            return Ok(complete(self.forced_completion(claim)));
        }
        let run = &claim.run;
        let phase = TraceSpan::phase("preflight");
        let start = match self.starting_point(claim).await {
            Err(StoreError::Corrupt {
                table, column, why, ..
            }) => {
                log_limited!(error, table, column, %why, "the connection's row is invalid; the run ends blocked");
                // The value is not reported: the row may belong to another tenant.
                let allowed = why.split_once("allowed: ").map(|(_, allowed)| allowed);
                let allowed = allowed.unwrap_or("a value that is not NULL");
                let column = format!("{table}.{column}");
                let subject = self.preflight.unreadable_connection(run, &column, allowed);
                let result = RunResult::Blocked(Reason::ConnectionMalformed);
                return Ok(self.end(claim, &subject, result));
            }
            start => start?,
        };
        let (subject, result) = self.preflight.check(run, start);
        drop(phase);
        let ready = match result {
            PreflightResult::Ready(ready) if !claim.exhausted => ready,
            PreflightResult::Ready(_) => {
                return Ok(self.end(claim, &subject, RunResult::exhausted(claim)));
            }
            PreflightResult::Blocked(reason) => {
                return Ok(self.end(claim, &subject, RunResult::Blocked(reason)));
            }
        };

        let deadline = attempt.deadline;
        let target = Target {
            run_id: run.id,
            is_repeated: claim.own_attempt > 1,
            connection: ready.connection,
            credential: ready.credential,
            credential_changed_at: ready.credential_changed_at,
            credential_expiry: ready.credential_expiry,
            known: subject.known.clone(),
            entra_tenant_id: ready.entra_tenant_id,
            module: ready.module,
            links: subject.links.clone(),
            deadline,
            correlation_id: Uuid::new_v4(),
            calls: attempt.calls.clone(),
        };
        attempt.in_flight.enter(Phase::Check);
        let phase = TraceSpan::phase("check");
        let checking = phase.scope(ready.provider.check(&target));
        let checked = tokio::time::timeout_at(deadline, checking).await;
        if checked.is_err() {
            phase.fail(Reason::DeadlineExceeded.code());
        }
        drop(phase);
        let result = match checked {
            Err(_) => RunResult::Broken {
                reason: Reason::DeadlineExceeded,
                evidence: Vec::new(),
            },
            Ok(findings) => {
                if let Some(wait) = self.pause(claim, findings.disposition) {
                    let seconds = wait.as_secs_f64();
                    tracing::debug!(seconds, "the provider throttles; releasing the run");
                    return Ok(Transition::Release(AttemptEnd::Throttled, Some(wait)));
                }
                RunResult::Checked(Box::new(findings))
            }
        };
        let facts = match &result {
            RunResult::Checked(findings) => findings.facts.clone().or(&subject.known),
            _ => subject.known.clone(),
        };
        let mut completion =
            subject.conclude(result, Some(&target.credential), self.preflight.now());
        if facts != subject.known {
            let changed_at = target.credential_changed_at;
            completion.facts = Some(KeptFacts::of(&target.connection, changed_at, facts));
        }
        Ok(complete(completion))
    }

    /// Reads what the check starts from, where the claim has not brought it.
    async fn starting_point(&self, claim: &Claim) -> Result<Option<StartingPoint>, StoreError> {
        let Some(id) = claim.run.request.provider_connection_id else {
            return Ok(None);
        };
        if claim.start.is_some() {
            return Ok(claim.start.clone());
        }
        match self.store.starting_point(id).await {
            // Preflight ends at the tenant, before it looks at the connection.
            Err(StoreError::Corrupt { .. }) if claim.run.tenant_id.is_none() => Ok(None),
            start => start,
        }
    }

    /// Completes a run without a check. That its attempts are spent comes first.
    fn end(&self, claim: &Claim, subject: &RunSubject<'_>, result: RunResult) -> Transition {
        let result = match claim.exhausted {
            true => RunResult::exhausted(claim),
            false => result,
        };
        complete(subject.conclude(result, None, self.preflight.now()))
    }

    /// Completes a run whose completion has failed repeatedly, from its id alone. Nothing else of the run is
    /// read.
    fn forced_completion(&self, claim: &Claim) -> Completion {
        log_limited!(
            error,
            "completing the run has failed repeatedly; completing it from its id alone"
        );
        metrics::counter!("verifyd_forced_completions_total").increment(1);
        let request = RunRequest::default();
        let subject = self.preflight.unknown(&claim.run, &request);
        subject.conclude(RunResult::exhausted(claim), None, self.preflight.now())
    }

    /// Returns how long the run waits in the queue before the next attempt; `None` where its total
    /// deadline leaves no time for the wait and one more attempt.
    fn pause(&self, claim: &Claim, disposition: Disposition) -> Option<Duration> {
        let spent = (claim.claimed_at - claim.first_claimed_at)
            .to_std()
            .unwrap_or_default();
        let settings = &self.worker.settings;
        let room = (settings.total_deadline)
            .checked_sub(spent + settings.run_deadline)
            .unwrap_or_default();
        pause(disposition, spent, room)
    }
}

fn complete(completion: Completion) -> Transition {
    Transition::Complete(Box::new(completion))
}

/// The longest pause that is chosen here.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Returns the wait that the provider or its limiter named, or one as long as the run has taken so far, which doubles each
/// pause. `room`: the longest possible wait.
fn pause(disposition: Disposition, spent: Duration, room: Duration) -> Option<Duration> {
    match disposition {
        Disposition::Finished => None,
        Disposition::Later(wait) => (wait <= room).then_some(wait),
        Disposition::Backoff(least) => {
            let wait = least.max(spent.min(LONGEST_PAUSE));
            (least <= room).then(|| wait.min(room))
        }
        // Without jitter: the limiter spreads these times.
        Disposition::Budget(wait) => (!room.is_zero()).then(|| wait.min(room)),
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
    fn a_wait_for_a_budget_ends_with_the_total_deadline() {
        for (room, wait) in [
            (seconds(90), Some(seconds(50))),
            (seconds(9), Some(seconds(9))),
            (Duration::ZERO, None),
        ] {
            let last = pause(Disposition::Budget(seconds(50)), seconds(600), room);
            assert_eq!(last, wait);
        }
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
