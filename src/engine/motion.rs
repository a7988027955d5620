//! Signs that a loop of this process still turns, whether or not what it does succeeds.

use std::sync::{Mutex, PoisonError};
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
