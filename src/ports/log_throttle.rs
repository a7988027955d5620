//! Limits log lines that others cause: a producer, or a failing database, must not be able to fill the log.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Limits one kind of log line.
#[derive(Debug)]
pub struct LogThrottle {
    /// Time between two lines.
    interval: Duration,
    /// When the last line was due, and how many were left out since.
    state: Mutex<(Option<Instant>, u64)>,
}

impl LogThrottle {
    /// One line a minute.
    pub const fn new() -> Self {
        Self::every(Duration::from_secs(60))
    }

    pub const fn every(interval: Duration) -> Self {
        Self {
            interval,
            state: parking_lot::const_mutex((None, 0)),
        }
    }

    /// Returns how many lines were left out since the last one if a line is due, else `None`.
    pub fn line(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if state.0.is_some_and(|last| now < last + self.interval) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_minute_says_how_many_were_left_out() {
        let quiet = LogThrottle::new();
        assert_eq!(quiet.line(), Some(0));
        for _ in 0..1_000 {
            assert_eq!(quiet.line(), None);
        }
        tokio::time::advance(quiet.interval).await;
        assert_eq!(quiet.line(), Some(1_000));
        assert_eq!(quiet.line(), None);
    }
}
