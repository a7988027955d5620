//! Signs that this process still turns, whether or not what it does succeeds, and for how long
//! something has been amiss.

use crate::domain::RunId;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// When a loop last turned.
#[derive(Debug)]
pub struct Motion {
    last: Mutex<Instant>,
}

impl Default for Motion {
    /// As if it had turned just now.
    fn default() -> Self {
        Self {
            last: Mutex::new(Instant::now()),
        }
    }
}

/// Since when something holds without a break, as far as anybody has looked.
#[derive(Debug, Default)]
pub struct Since {
    at: Mutex<Option<Instant>>,
}

impl Since {
    /// It holds, or does not, at this moment.
    pub fn note(&self, holds: bool) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        *at = holds.then(|| at.unwrap_or_else(Instant::now));
    }

    /// Time for which it has held; zero when it does not.
    pub fn lasted(&self) -> Duration {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.map_or(Duration::ZERO, |at| at.elapsed())
    }
}

/// Failures further apart than this say nothing of the time between them: little was tried in it.
const APART: Duration = Duration::from_secs(300);

/// For how long everything that was tried has failed. A single run that fails is that run's trouble, and
/// where nothing is tried nothing is said.
#[derive(Debug, Default)]
pub struct Failing {
    streak: Mutex<Option<Streak>>,
}

#[derive(Debug)]
struct Streak {
    first: Instant,
    last: Instant,
    run: RunId,
    several: bool,
}

impl Failing {
    /// It was tried with this run, and failed.
    pub fn failed(&self, run: RunId) {
        let now = Instant::now();
        let mut streak = self.lock();
        match streak.as_mut().filter(|s| s.last.elapsed() < APART) {
            Some(streak) => {
                streak.last = now;
                streak.several |= streak.run != run;
            }
            None => {
                *streak = Some(Streak {
                    first: now,
                    last: now,
                    run,
                    several: false,
                });
            }
        }
    }

    /// It was tried, and answered.
    pub fn answered(&self) {
        *self.lock() = None;
    }

    /// Time from the first failure to the latest one; zero where there was an answer since.
    pub fn lasted(&self) -> Duration {
        let streak = self.lock();
        let streak = streak
            .as_ref()
            .filter(|s| s.several && s.last.elapsed() < APART);
        streak.map_or(Duration::ZERO, |s| s.last - s.first)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Streak>> {
        self.streak.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Motion {
    /// It turns.
    pub fn moved(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since it last turned.
    pub fn still_for(&self) -> Duration {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_holds_lasts_until_it_is_interrupted() {
        let second = Duration::from_secs(1);
        let since = Since::default();
        tokio::time::advance(second).await;
        assert_eq!(since.lasted(), Duration::ZERO);
        since.note(true);
        tokio::time::advance(second).await;
        since.note(true);
        tokio::time::advance(second).await;
        assert_eq!(since.lasted(), 2 * second);
        since.note(false);
        tokio::time::advance(second).await;
        assert_eq!(since.lasted(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_last_while_nothing_else_comes_of_what_is_tried() {
        let second = Duration::from_secs(1);
        let (failing, some, other) = (Failing::default(), RunId(1), RunId(2));
        failing.failed(some);
        tokio::time::advance(second).await;
        failing.failed(some);
        assert_eq!(failing.lasted(), Duration::ZERO, "one run only");
        tokio::time::advance(second).await;
        failing.failed(other);
        assert_eq!(failing.lasted(), 2 * second);
        tokio::time::advance(60 * second).await;
        assert_eq!(failing.lasted(), 2 * second, "nothing was tried since");
        failing.failed(some);
        assert_eq!(failing.lasted(), 62 * second);
        failing.answered();
        assert_eq!(failing.lasted(), Duration::ZERO);
        failing.failed(some);
        tokio::time::advance(APART).await;
        failing.failed(other);
        assert_eq!(
            failing.lasted(),
            Duration::ZERO,
            "they have nothing to do with each other"
        );
        tokio::time::advance(second).await;
        failing.failed(some);
        assert_eq!(failing.lasted(), second);
        tokio::time::advance(APART).await;
        assert_eq!(failing.lasted(), Duration::ZERO);
    }
}
