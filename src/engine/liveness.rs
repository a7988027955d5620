//! Measures whether the parts of this process make progress, and for how long a condition has held.

use crate::domain::RunId;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The time of a loop's last iteration.
#[derive(Debug)]
pub struct LoopActivity(Mutex<Instant>);

impl Default for LoopActivity {
    /// Starts as if there had been an iteration just now.
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl LoopActivity {
    /// Records an iteration.
    pub fn touch(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Returns the time since the last iteration.
    pub fn age(&self) -> Duration {
        self.0.lock().elapsed()
    }
}

/// Measures for how long a condition has held without interruption, as far as it was observed.
#[derive(Debug, Default)]
pub struct ConditionTimer(Mutex<Option<Instant>>);

impl ConditionTimer {
    /// Records whether the condition holds now.
    pub fn set(&self, holds: bool) {
        let mut since = self.0.lock();
        *since = holds.then(|| since.unwrap_or_else(Instant::now));
    }

    /// Returns the time for which the condition has held; zero when it does not hold.
    pub fn lasted(&self) -> Duration {
        self.0.lock().map_or(Duration::ZERO, |at| at.elapsed())
    }
}

/// Measures for how long attempts have failed without a success between them. A single failure may be long ago, so that
/// it counts from the second one on.
#[derive(Debug, Default)]
pub struct RepeatedFailure {
    has_failed: AtomicBool,
    repeated: ConditionTimer,
}

impl RepeatedFailure {
    /// Records a failure.
    pub fn failed(&self) {
        let again = self.has_failed.swap(true, Ordering::Relaxed);
        self.repeated.set(again);
    }

    /// Records a success, or that nothing is to be tried.
    pub fn ended(&self) {
        self.has_failed.store(false, Ordering::Relaxed);
        self.repeated.set(false);
    }

    /// Returns the time since the second failure; zero where there was a success since.
    pub fn lasted(&self) -> Duration {
        self.repeated.lasted()
    }
}

/// For how long the database has refused claims, or completions, with an error that does not pass, and accepted none
/// between. Whether it refuses all of them is for a test to say.
#[derive(Debug, Default)]
pub struct Refusals {
    pub claims: RepeatedFailure,
    pub completions: RepeatedFailure,
}

impl Refusals {
    /// Returns whether either has lasted for longer than this.
    pub fn last_longer_than(&self, period: Duration) -> bool {
        self.claims.lasted() > period || self.completions.lasted() > period
    }

    /// Records that the test was made: the next one follows when refusals have lasted as long again.
    pub fn tested(&self) {
        self.claims.ended();
        self.completions.ended();
    }
}

/// Failures further apart than this say nothing about the time between them, in which little was tried.
const MAX_GAP: Duration = Duration::from_secs(300);

/// Measures for how long every attempt has failed. A single failing run is not a failure of the process, and
/// nothing is concluded while nothing is tried.
#[derive(Debug, Default)]
pub struct FailureStreak(Mutex<Option<Streak>>);

#[derive(Debug)]
struct Streak {
    first: Instant,
    last: Instant,
    run: RunId,
    several_runs: bool,
}

impl FailureStreak {
    /// Records a failure with this run.
    pub fn failed(&self, run: RunId) {
        let now = Instant::now();
        let mut streak = self.0.lock();
        match streak.as_mut().filter(|s| s.last.elapsed() < MAX_GAP) {
            Some(streak) => {
                streak.last = now;
                streak.several_runs |= streak.run != run;
            }
            None => {
                *streak = Some(Streak {
                    first: now,
                    last: now,
                    run,
                    several_runs: false,
                });
            }
        }
    }

    /// Records an answer, which ends the streak.
    pub fn answered(&self) {
        *self.0.lock() = None;
    }

    /// Returns the time from the first failure to the latest one; zero where there was an answer since.
    pub fn lasted(&self) -> Duration {
        let streak = self.0.lock();
        let streak = streak
            .as_ref()
            .filter(|s| s.several_runs && s.last.elapsed() < MAX_GAP);
        streak.map_or(Duration::ZERO, |s| s.last - s.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_lasts_until_it_is_interrupted() {
        let second = Duration::from_secs(1);
        let condition = ConditionTimer::default();
        tokio::time::advance(second).await;
        assert_eq!(condition.lasted(), Duration::ZERO);
        condition.set(true);
        tokio::time::advance(second).await;
        condition.set(true);
        tokio::time::advance(second).await;
        assert_eq!(condition.lasted(), 2 * second);
        condition.set(false);
        tokio::time::advance(second).await;
        assert_eq!(condition.lasted(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_lasts_from_the_second_one_to_a_success() {
        let second = Duration::from_secs(1);
        let failure = RepeatedFailure::default();
        failure.failed();
        tokio::time::advance(second).await;
        assert_eq!(failure.lasted(), Duration::ZERO);
        failure.failed();
        tokio::time::advance(second).await;
        failure.failed();
        assert_eq!(failure.lasted(), second);
        failure.ended();
        failure.failed();
        tokio::time::advance(second).await;
        assert_eq!(failure.lasted(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_streak_lasts_while_every_attempt_with_several_runs_fails() {
        let second = Duration::from_secs(1);
        let (failures, some, other) = (FailureStreak::default(), RunId(1), RunId(2));
        failures.failed(some);
        tokio::time::advance(second).await;
        failures.failed(some);
        assert_eq!(failures.lasted(), Duration::ZERO, "one run only");
        tokio::time::advance(second).await;
        failures.failed(other);
        assert_eq!(failures.lasted(), 2 * second);
        tokio::time::advance(60 * second).await;
        assert_eq!(failures.lasted(), 2 * second, "nothing was tried since");
        failures.failed(some);
        assert_eq!(failures.lasted(), 62 * second);
        failures.answered();
        assert_eq!(failures.lasted(), Duration::ZERO);
        failures.failed(some);
        tokio::time::advance(MAX_GAP).await;
        failures.failed(other);
        assert_eq!(failures.lasted(), Duration::ZERO, "they are unrelated");
        tokio::time::advance(second).await;
        failures.failed(some);
        assert_eq!(failures.lasted(), second);
        tokio::time::advance(MAX_GAP).await;
        assert_eq!(failures.lasted(), Duration::ZERO);
    }
}
