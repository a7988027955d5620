//! Whether hints come from producers, or only from this process's own sweeps.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// So long after a hint of somebody else's more of them are expected.
const EXPECTED_FOR: Duration = Duration::from_secs(10);

/// Most hints that are still expected back: others take them, too.
const MOST_OWN: usize = 1_000;

/// Hints that arrived and were not sent from here. Of several replicas each takes the others' for a
/// producer's; the one that has sent them knows better, and so none of them waits in vain.
#[derive(Debug, Default)]
pub struct Hinted {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Sent from here, and not come back yet.
    own: usize,
    foreign_at: Option<Instant>,
}

impl Hinted {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sweep sends so many.
    pub fn sent(&self, hints: usize) {
        let mut seen = self.lock();
        seen.own = (seen.own + hints).min(MOST_OWN);
    }

    /// One has arrived.
    pub fn arrived(&self) {
        let mut seen = self.lock();
        if seen.own > 0 {
            seen.own -= 1;
        } else {
            seen.foreign_at = Some(Instant::now());
        }
    }

    /// Whether one that was not sent from here has arrived lately.
    pub fn lately(&self) -> bool {
        self.lock()
            .foreign_at
            .is_some_and(|at| at.elapsed() < EXPECTED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn own_hints_are_told_from_those_of_producers() {
        let hinted = Hinted::default();
        hinted.sent(2);
        hinted.arrived();
        hinted.arrived();
        assert!(!hinted.lately(), "both were sent from here");
        hinted.arrived();
        assert!(hinted.lately());
        tokio::time::advance(EXPECTED_FOR).await;
        assert!(!hinted.lately(), "too long ago");
    }
}
