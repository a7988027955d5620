//! When a request may be sent again.

use crate::outbound::retry_after::MAX_RETRY_AFTER;
use rand::Rng;
use std::time::Duration;

/// Waits that double from `base` up to `max`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The wait after the given failed attempt (the first is 1), with up to half of it added at
    /// random so that many workers do not come back at once.
    pub fn after_attempt(&self, attempt: u32) -> Duration {
        let factor = 1u32 << attempt.saturating_sub(1).min(16);
        let wait = self.base.saturating_mul(factor).min(self.max);
        wait.mul_f64(rand::rng().random_range(1.0..1.5))
    }
}

/// Converts seconds to a wait, up to the longest plausible one.
pub(in super::super) fn bounded_wait(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(MAX_RETRY_AFTER)
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
            assert!((least..=least * 3 / 2).contains(&wait), "{attempt}: {wait}");
        }
    }
}
