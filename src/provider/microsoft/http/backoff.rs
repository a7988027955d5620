//! When a request may be sent again.

use crate::domain::pause::with_jitter;
use std::time::Duration;

/// Largest random part of a wait, as a share of it: many workers must not come back at once.
const JITTER: f64 = 0.5;

/// Waits that double from `base` up to `max`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The wait after the given failed attempt (the first is 1), with jitter.
    pub fn after_attempt(&self, attempt: u32) -> Duration {
        let factor = 1u32 << attempt.saturating_sub(1).min(16);
        with_jitter(self.base.saturating_mul(factor), JITTER, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit() {
        let backoff = Backoff {
            base: Duration::from_millis(100),
            max: Duration::from_millis(350),
        };
        for (attempt, least) in [(1, 100), (2, 200), (3, 350), (60, 350)] {
            let wait = backoff.after_attempt(attempt).as_millis();
            let most = (least * 3 / 2).min(350);
            assert!((least..=most).contains(&wait), "{attempt}: {wait}");
        }
    }
}
