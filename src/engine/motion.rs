//! Signs that this process still turns, whether or not what it does succeeds, and for how long
//! something has been amiss.

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
}
