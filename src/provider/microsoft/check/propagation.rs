//! Exponential backoff for a change that has not reached every part of the provider yet: a new credential, a consent.

use crate::ports::clock::Clock;
use crate::ports::provider::Target;
use chrono::TimeDelta;
use std::time::Duration;
use tokio::time::Instant;

/// Time after a change in which it may be unknown to parts of the provider.
const RECENT: TimeDelta = TimeDelta::minutes(10);

/// Time after which a change has most likely arrived, where it had not during this check.
pub(super) const AGAIN_AFTER: TimeDelta = TimeDelta::minutes(5);

/// Waits for a new credential.
const CREDENTIAL_WAITS: u32 = 5;
/// Waits for a consent that the token shows to have been given.
const CONSENT_WAITS: u32 = 7;
/// Waits for a consent that only the age of the connection suggests.
const NEW_CONNECTION_WAITS: u32 = 3;

/// Waits that double, from a fifth of the longest one on, as far as the deadline allows.
pub(super) struct PropagationBackoff {
    longest: Duration,
    deadline: Instant,
    waits: u32,
}

impl PropagationBackoff {
    /// `longest` is the longest of the waits.
    pub fn new(longest: Duration, deadline: Instant) -> Self {
        Self {
            longest,
            deadline,
            waits: 0,
        }
    }

    /// How often it was tried, the time before the first wait included.
    pub fn attempts(&self) -> u32 {
        self.waits + 1
    }

    /// Waits for a credential; false, at once, when there is no use or no time.
    pub async fn wait_for_credential(&mut self) -> bool {
        self.wait(CREDENTIAL_WAITS).await
    }

    /// Waits for a consent; `seen`: whether the token shows it.
    pub async fn wait_for_consent(&mut self, seen: bool) -> bool {
        self.wait(match seen {
            true => CONSENT_WAITS,
            false => NEW_CONNECTION_WAITS,
        })
        .await
    }

    async fn wait(&mut self, most: u32) -> bool {
        let wait = self.next();
        if self.waits >= most || Instant::now() + 2 * wait >= self.deadline {
            return false;
        }
        tracing::debug!(
            attempt = self.attempts(),
            "a change may not have replicated yet; trying again"
        );
        self.waits += 1;
        tokio::time::sleep(wait).await;
        true
    }

    fn next(&self) -> Duration {
        let factor = 1u32 << self.waits.min(8);
        (self.longest / 5).saturating_mul(factor).min(self.longest)
    }
}

/// Whether the credential was replaced a short while ago.
pub(super) fn is_credential_new(target: &Target, clock: &dyn Clock) -> bool {
    let changed = target.credential_changed_at;
    changed.is_some_and(|at| clock.now() - at < RECENT)
}

/// Whether the connection, or its credential, is so new that a consent may be, too.
pub(super) fn is_connection_new(target: &Target, clock: &dyn Clock) -> bool {
    let created = target.connection.created_at;
    is_credential_new(target, clock) || created.is_some_and(|at| clock.now() - at < RECENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_longest() {
        let began = Instant::now();
        let mut backoff = PropagationBackoff::new(LONGEST, began + Duration::from_secs(600));
        let mut passed = Vec::new();
        while backoff.wait_for_consent(true).await {
            passed.push(began.elapsed().as_secs());
        }
        assert_eq!(passed, [1, 3, 7, 12, 17, 22, 27]);
        assert_eq!(backoff.attempts(), 8);
        let mut backoff = PropagationBackoff::new(LONGEST, began + Duration::from_secs(600));
        while backoff.wait_for_consent(false).await {}
        assert_eq!(backoff.attempts(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_leaves_room_for_what_comes_after() {
        let began = Instant::now();
        let mut backoff = PropagationBackoff::new(LONGEST, began + Duration::from_secs(10));
        while backoff.wait_for_credential().await {}
        // One second and two; four would end at seven, with less than four left.
        assert_eq!(began.elapsed(), Duration::from_secs(3));
        let mut late = PropagationBackoff::new(LONGEST, Instant::now());
        assert!(!late.wait_for_credential().await);
    }
}
