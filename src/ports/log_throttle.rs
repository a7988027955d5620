//! Limits log lines that others cause: a producer, or a failing database, must not be able to fill the log.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(60);

/// Limits one kind of log line.
#[derive(Debug)]
pub struct LogThrottle(Mutex<(Option<Instant>, u64)>);

impl LogThrottle {
    pub const fn new() -> Self {
        Self(parking_lot::const_mutex((None, 0)))
    }

    /// Returns how many lines were left out since the last one if a line is due, else `None`.
    pub fn line(&self) -> Option<u64> {
        let mut state = self.0.lock();
        let now = Instant::now();
        if state.0.is_some_and(|last| now < last + INTERVAL) {
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
        tokio::time::advance(INTERVAL).await;
        assert_eq!(quiet.line(), Some(1_000));
        assert_eq!(quiet.line(), None);
    }
}
