//! Measures the health of a consumer, for `Queue::health`.

use crate::ports::queue::QueueHealth;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time of a consumer's last activity.
#[derive(Debug, Default)]
pub(super) struct LastActivity(Mutex<Option<Instant>>);

impl LastActivity {
    /// Records activity now.
    pub fn touch(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Returns the time since the last activity; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().map(|at| at.elapsed())
    }
}

/// The health of one consumer, updated by its parts.
#[derive(Debug, Default)]
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
            connected: AtomicBool::new(connected),
            ..Self::default()
        }
    }

    /// Counts a payload that becomes a dead letter.
    pub fn count_dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("verifyd_dead_letters_total").increment(1);
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
