//! Counts the requests that the provider has answered in the last ten seconds: a budget begins with their rate.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// What is older is forgotten.
const WINDOW: Duration = Duration::from_secs(10);

const SECOND: Duration = Duration::from_secs(1);

/// Answered requests by the second, the oldest first.
#[derive(Debug, Default)]
pub(super) struct AnsweredRequests(VecDeque<(Instant, u32)>);

impl AnsweredRequests {
    /// Counts one.
    pub fn count(&mut self, now: Instant) {
        match self.0.back_mut() {
            Some((began, count)) if now < *began + SECOND => *count = count.saturating_add(1),
            _ => {
                self.forget(now);
                self.0.push_back((now, 1));
            }
        }
    }

    /// Returns how many a minute were answered, when no more will be during `pause`. The provider has counted them
    /// over that pause, too.
    pub fn per_minute(&mut self, now: Instant, pause: Duration) -> u32 {
        self.forget(now);
        let count: u32 = self.0.iter().map(|(_, count)| count).sum();
        let began = self.0.front().map_or(now, |(began, _)| *began);
        let time = (now - began + pause).max(SECOND);
        (60.0 * f64::from(count) / time.as_secs_f64()) as u32
    }

    fn forget(&mut self, now: Instant) {
        while self
            .0
            .front()
            .is_some_and(|(began, _)| *began + WINDOW < now)
        {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_rate_is_that_of_the_providers_window_however_short_the_burst() {
        let start = Instant::now();
        let mut answered = AnsweredRequests::default();
        assert_eq!(answered.per_minute(start, Duration::ZERO), 0);
        // A hundred within two seconds, of a window of ten.
        for tenth in 0..100 {
            answered.count(start + after(f64::from(tenth) * 0.02));
        }
        let now = start + after(2.0);
        assert_eq!(answered.per_minute(now, after(8.0)), 600);
        // For the whole window nothing older counts.
        for second in 2..22 {
            answered.count(start + after(f64::from(second)));
        }
        assert_eq!(answered.per_minute(start + after(21.0), Duration::ZERO), 66);
        assert!(answered.0.len() <= 12);
    }
}
