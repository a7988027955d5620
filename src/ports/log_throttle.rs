//! Limits log lines that others cause: a producer, or a failing database, must not be able to fill the log.
//!
//! A run has one line of its own, `run completed`. Whatever else is said of each of many runs is at most one line a
//! minute of each kind (`log_limited`), or DEBUG where it is part of the normal course. That holds for sweeps, too, which
//! producers can have find or fail something each time.

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

    /// Counts so many more as left out: those of a line that was due and not written.
    pub fn leave_out(&self, lines: u64) {
        let mut state = self.state.lock();
        state.1 = state.1.saturating_add(lines);
    }
}

/// Logs at this level at most once a minute for each place in the code, with the number of lines that were left out
/// since the last one; those are DEBUG.
macro_rules! log_limited {
    ($level:ident, $($fields:tt)+) => {{
        static LIMIT: $crate::ports::log_throttle::LogThrottle =
            $crate::ports::log_throttle::LogThrottle::new();
        match LIMIT.line() {
            Some(left_out) => tracing::$level!(left_out, $($fields)+),
            None => tracing::debug!($($fields)+),
        }
    }};
}
pub(crate) use log_limited;

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
