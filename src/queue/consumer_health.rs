//! What `Queue::health` reports about a consumer.

use crate::ports::queue::QueueHealth;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time of a consumer's last sign of life.
#[derive(Debug)]
pub(super) struct LastActivity {
    origin: Instant,
    /// Milliseconds from the origin, plus one; zero: never.
    at: AtomicU64,
}

impl LastActivity {
    /// Creates a record without any activity.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            at: AtomicU64::new(0),
        }
    }

    /// Records activity at this moment.
    pub fn touch(&self) {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.at.fetch_max(now.saturating_add(1), Ordering::Relaxed);
    }

    /// Returns the time since the last activity; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        let at = self.at.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.origin
                .elapsed()
                .saturating_sub(Duration::from_millis(at)),
        )
    }
}

/// The health of one consumer, updated by its parts.
#[derive(Debug)]
pub(super) struct ConsumerHealth {
    pub activity: LastActivity,
    pub connected: AtomicBool,
    pub restarts: AtomicU64,
    dead_letters: AtomicU64,
}

impl ConsumerHealth {
    /// Creates the health of a consumer that has done nothing yet.
    pub fn new(connected: bool) -> Self {
        Self {
            activity: LastActivity::new(),
            connected: AtomicBool::new(connected),
            restarts: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
        }
    }

    /// Counts a payload that becomes a dead letter.
    pub fn count_dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("verifyd_hints_rejected_total").increment(1);
    }

    /// Returns the values as the port reports them.
    pub fn report(&self) -> QueueHealth {
        QueueHealth {
            last_activity: self.activity.age(),
            connected: self.connected.load(Ordering::Relaxed),
            restarts: self.restarts.load(Ordering::Relaxed),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_grows_from_the_first_activity_until_the_next() {
        let activity = LastActivity::new();
        assert_eq!(activity.age(), None);
        activity.touch();
        std::thread::sleep(Duration::from_millis(30));
        let old = activity.age().unwrap();
        assert!(old >= Duration::from_millis(29), "{old:?}");
        activity.touch();
        assert!(activity.age().unwrap() < old);
    }
}
