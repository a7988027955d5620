//! Ends an attempt: completes the run, or releases it.

use super::claim::Attempt;
use super::{Pipeline, Processed, Retries};
use crate::domain::completion::Completion;
use crate::engine::scheduling::in_flight::Phase;
use crate::engine::schema::SchemaState;
use crate::engine::with_timeout;
use crate::ports::claims::Claim;
use crate::ports::log_throttle::log_limited;
use crate::ports::store::{AttemptEnd, StoreError};
use crate::ports::traces::TraceSpan;
use std::borrow::Cow;
use std::time::Duration;
use tokio::time::Instant;

/// A try that fails within this time waited for nothing. A lock or a statement that takes long may be the database's
/// trouble, which passes: a trigger that raises the same error does so at once.
const PROMPT: Duration = Duration::from_millis(500);

/// Tries after which a completion is given up that the database answers with an error at once. Their pauses take some
/// five seconds: a serialization failure has passed by then.
const MAX_TRIES: u32 = 8;

/// The same, less than a second, where the attempt only has to complete the run: it has no result to lose, and holds the
/// isolation.
const MAX_TRIES_WITHOUT_RESULT: u32 = 5;

/// Tries that take place even after half of the time until the deadline. The rest is left for the run's release, or for
/// what a forced completion drops.
const MIN_TRIES: u32 = 3;

/// Doublings of the pause after an error: up to a minute, and up to an hour after a forced completion, which the database
/// has refused in every form by then.
const MAX_DOUBLINGS: u32 = 6;
const MAX_DOUBLINGS_OF_FORCED: u32 = 12;

/// Longest time for recording that a result was refused, which keeps the slot.
const NOTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits the tries of a completion that the database answers at once with an error which may pass.
struct TryLimit {
    made: u32,
    most: u32,
    half_time: Instant,
}

impl TryLimit {
    fn new(has_result: bool, deadline: Instant) -> Self {
        let now = Instant::now();
        Self {
            made: 0,
            most: match has_result {
                true => MAX_TRIES,
                false => MAX_TRIES_WITHOUT_RESULT,
            },
            half_time: now + deadline.saturating_duration_since(now) / 2,
        }
    }

    /// Counts a try that failed. Returns whether another one may follow.
    fn allows_another(&mut self) -> bool {
        self.made = self.made.saturating_add(1);
        let in_time = self.made < MIN_TRIES || Instant::now() < self.half_time;
        self.made < self.most && in_time
    }
}

/// Returns the pause after an error, from a second, doubled with each attempt.
fn pause_after_error(own_attempt: u32, forced_completion: bool) -> Duration {
    let most = match forced_completion {
        true => MAX_DOUBLINGS_OF_FORCED,
        false => MAX_DOUBLINGS,
    };
    Duration::from_secs(1 << own_attempt.saturating_sub(1).min(most))
}

/// Makes a call again, as long as retries may wait, while it is not sent because others that wait for an answer have all
/// connections for its kind: that says nothing of the run. A call that waits for its turn is given up at their end.
async fn until_sent<T, F>(
    retries: &mut Retries,
    mut call: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        let left = retries.until.saturating_duration_since(Instant::now());
        match with_timeout(left, call()).await {
            Err(error @ StoreError::TooManyCalls) => {
                log_limited!(warn, %error, "cannot write to the run yet; trying again");
                if !retries.wait().await {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}

/// Releases a run, and tries again as long as retries may wait.
async fn until_released<F>(mut retries: Retries, release: impl Fn() -> F) -> Processed
where
    F: Future<Output = Processed>,
{
    loop {
        match release().await {
            Processed::Deferred if retries.wait().await => {}
            released => return released,
        }
    }
}

impl Pipeline {
    /// Writes the completion. Retries until the completion's deadline while the database does not answer, cannot be
    /// written, or lets tries wait, also for a connection, and a few times where it answers at once with an error that may
    /// pass. An answer that does not pass, whatever its code, may come from a rule of the application: then a forced
    /// completion keeps less of the context, and in the end the run is released. So it is at the deadline.
    pub(super) async fn complete(
        &self,
        attempt: &Attempt<'_>,
        completion: &Completion,
    ) -> Processed {
        attempt.in_flight.enter(Phase::Completion);
        let _phase = TraceSpan::phase("completion");
        let mut claim = Cow::Borrowed(attempt.claim.as_ref());
        let deadline = attempt.completion_deadline;
        let mut retries = Retries::until(deadline);
        let mut limit = TryLimit::new(!claim.exhausted, deadline);
        // With what the last try was refused that the database has answered.
        let mut refusal = None;
        loop {
            let current: &Claim = &claim;
            let mut began = Instant::now();
            let completed = until_sent(&mut retries, || {
                began = Instant::now();
                self.store.complete(current, completion)
            });
            let error = match completed.await {
                Ok(true) => {
                    self.worker.refusals.completions.ended();
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
            if error.is_answer() == Some(true) {
                refusal = error.is_refusal().then(|| error.refusal());
            }
            let refusal = refusal.as_deref();
            let has_waited = began.elapsed() >= PROMPT || Instant::now() >= deadline;
            let may_pass = match self.schema_after(&error).await {
                Some(SchemaState::Unfit) => return self.release_uncounted(attempt, retries).await,
                Some(SchemaState::Changed) => true,
                _ if !error.is_transient() => false,
                _ => has_waited || !self.database_answers().await || limit.allows_another(),
            };
            if may_pass {
                if !retries.wait().await {
                    log_limited!(
                        warn,
                        "the result was not written in time; releasing the run"
                    );
                    // What keeps the one from being written, such as the last try in the database, may keep the other
                    // waiting.
                    let until = attempt.ends;
                    return self.release_unwritten(attempt, refusal, until).await;
                }
                continue;
            }
            // Before the forced completion the cause may be another one, which may end.
            let reduced = claim.context.reduced();
            let Some(context) = reduced.filter(|_| claim.forced_completion) else {
                if !error.is_transient() {
                    self.worker.refusals.completions.failed();
                }
                if claim.forced_completion {
                    log_limited!(
                        error,
                        "the database refuses even the smallest completion of the run; trying again less and less often"
                    );
                }
                let once = Instant::now();
                return self.release_unwritten(attempt, refusal, once).await;
            };
            claim.to_mut().context = context;
        }
    }

    /// Releases a run that this attempt could not complete, and tries again `until` then. `refusal`: with what the database
    /// refused the result.
    async fn release_unwritten(
        &self,
        attempt: &Attempt<'_>,
        refusal: Option<&str>,
        until: Instant,
    ) -> Processed {
        if refusal.is_some() {
            metrics::counter!("verifyd_completions_refused_total").increment(1);
        }
        let release = || self.release_or_note(attempt, refusal);
        until_released(Retries::until(until), release).await
    }

    /// Releases a run. The release may be refused, too: then what refused the result is recorded without it.
    async fn release_or_note(&self, attempt: &Attempt<'_>, refusal: Option<&str>) -> Processed {
        let released = self.release_after_error(attempt, refusal).await;
        if let (Processed::Deferred, Some(refusal)) = (&released, refusal) {
            self.note_refused(&attempt.claim, refusal).await;
        }
        released
    }

    async fn note_refused(&self, claim: &Claim, refusal: &str) {
        let note = self.store.note_refused_result(claim, refusal);
        if let Err(error) = with_timeout(NOTE_TIMEOUT, note).await {
            log_limited!(warn, %error, "cannot record that the database refuses the result");
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
        retries: Retries,
    ) -> Processed {
        let release = || self.release(attempt, AttemptEnd::Shutdown, None, None);
        until_released(retries, release).await
    }

    /// Releases a run whose attempt failed because of an error, with a longer delay each time.
    pub(super) async fn release_after_error(
        &self,
        attempt: &Attempt<'_>,
        refusal: Option<&str>,
    ) -> Processed {
        let claim = &attempt.claim;
        let pause = pause_after_error(claim.own_attempt, claim.forced_completion);
        self.release(attempt, AttemptEnd::Error, Some(pause), refusal)
            .await
    }

    /// Releases a run; due again after `not_before`. Waits for a connection until the attempt ends. A process that ends
    /// needs none of those for releases.
    pub(super) async fn release(
        &self,
        attempt: &Attempt<'_>,
        end: AttemptEnd,
        not_before: Option<Duration>,
        refusal: Option<&str>,
    ) -> Processed {
        attempt.in_flight.enter(Phase::Completion);
        let _phase = TraceSpan::phase("release");
        // Asked again before each try: one may wait for a connection when the process begins to end.
        let at_stop = || self.worker.release_now.is_cancelled();
        let mut retries = Retries::until(attempt.ends);
        let claim: &Claim = &attempt.claim;
        let released = until_sent(&mut retries, || {
            self.store
                .release(claim, end, not_before, refusal, at_stop())
        });
        match released.await {
            Ok(true) => {
                tracing::debug!(why = %end, "run released");
                Processed::Released(end)
            }
            Ok(false) => Processed::Discarded,
            Err(error) => {
                log_limited!(warn, %error, "cannot release the run; a later sweep finds it");
                Processed::Deferred
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_after_a_refused_forced_completion_grows_further() {
        let pauses = |forced| [1, 7, 9, 99].map(|own| pause_after_error(own, forced).as_secs());
        assert_eq!(pauses(false), [1, 64, 64, 64]);
        assert_eq!(pauses(true), [1, 64, 256, 4096]);
    }

    /// Returns after how many calls it ended, where so many find no connection.
    async fn calls_until_sent(deadline: Duration, unsent: u32) -> (u32, bool) {
        let mut retries = Retries::until(Instant::now() + deadline);
        let mut calls = 0;
        let answer: Result<(), StoreError> = until_sent(&mut retries, || {
            calls += 1;
            std::future::ready(Err(match calls <= unsent {
                true => StoreError::TooManyCalls,
                false => StoreError::Contended("a lock".into()),
            }))
        })
        .await;
        (calls, matches!(answer, Err(StoreError::TooManyCalls)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_sent_is_made_until_the_deadline() {
        let more_than_tries = 4 * MAX_TRIES;
        let sent = calls_until_sent(Duration::from_secs(600), more_than_tries).await;
        assert_eq!(sent, (more_than_tries + 1, false));
        let (calls, is_unsent) = calls_until_sent(Duration::from_secs(60), u32::MAX).await;
        assert!(calls > MAX_TRIES && is_unsent, "{calls}");
        assert_eq!(calls_until_sent(Duration::ZERO, 1).await, (1, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_is_given_up_at_the_deadline() {
        let left = Duration::from_secs(60);
        let mut retries = Retries::until(Instant::now() + left);
        let waiting = std::future::pending::<Result<(), StoreError>>;
        let answer = tokio::time::timeout(2 * left, until_sent(&mut retries, waiting)).await;
        let error = answer.expect("it is given up").unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn tries_are_limited_by_their_number_and_by_half_of_the_time() {
        let left = Duration::from_secs(60);
        for (has_result, most) in [(true, MAX_TRIES), (false, MAX_TRIES_WITHOUT_RESULT)] {
            let mut limit = TryLimit::new(has_result, Instant::now() + left);
            let retries = (0..99).take_while(|_| limit.allows_another()).count();
            assert_eq!(retries + 1, most as usize);
        }
        let mut limit = TryLimit::new(true, Instant::now() + left);
        tokio::time::advance(left / 2).await;
        assert_eq!(
            [(); 3].map(|()| limit.allows_another()),
            [true, true, false]
        );
    }
}
