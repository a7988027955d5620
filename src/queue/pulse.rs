//! Signs of life of a consumer.

use crate::ports::queue::QueueHealth;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When something last moved.
#[derive(Debug)]
pub(super) struct Pulse {
    origin: Instant,
    /// Milliseconds from the origin, plus one; zero: never.
    last: AtomicU64,
}

impl Pulse {
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// It moves.
    pub fn beat(&self) {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.last
            .fetch_max(now.saturating_add(1), Ordering::Relaxed);
    }

    /// Time since it last moved; null before the first time.
    pub fn age(&self) -> Option<Duration> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            last => Some(
                self.origin
                    .elapsed()
                    .saturating_sub(Duration::from_millis(last - 1)),
            ),
        }
    }
}

/// What `Queue::health` tells.
#[derive(Debug)]
pub(super) struct Vitals {
    pub pulse: Pulse,
    pub connected: AtomicBool,
    pub restarts: AtomicU64,
    pub rejected: AtomicU64,
}

impl Vitals {
    pub fn new(connected: bool) -> Self {
        Self {
            pulse: Pulse::new(),
            connected: AtomicBool::new(connected),
            restarts: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        }
    }

    /// Counts a payload that is put aside.
    pub fn reject(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("verifyd_hints_rejected_total").increment(1);
    }

    pub fn health(&self) -> QueueHealth {
        QueueHealth {
            last_tick: self.pulse.age(),
            connected: self.connected.load(Ordering::Relaxed),
            restarts: self.restarts.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_has_no_age_before_its_first_beat() {
        let pulse = Pulse::new();
        assert_eq!(pulse.age(), None);
        pulse.beat();
        assert!(pulse.age().is_some());
    }

    #[test]
    fn the_age_grows_until_the_next_beat() {
        let pulse = Pulse::new();
        pulse.beat();
        std::thread::sleep(Duration::from_millis(30));
        let old = pulse.age().unwrap();
        assert!(old >= Duration::from_millis(29), "{old:?}");
        pulse.beat();
        assert!(pulse.age().unwrap() < old);
    }
}
