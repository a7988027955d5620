//! Pauses between starts of a fetcher.

use rand::Rng;
use std::time::Duration;

/// Doubles from the least to the most, with jitter, so that replicas do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most,
            next: least,
        }
    }

    /// The next pause: between half of the current length and all of it.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = self.next.saturating_mul(2).min(self.most);
        pause
    }

    /// It went well for a while.
    pub fn reset(&mut self) {
        self.next = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_bound_and_start_over() {
        let least = Duration::from_millis(200);
        let most = Duration::from_secs(10);
        let mut backoff = Backoff::new(least, most);
        let mut length = least;
        for _ in 0..12 {
            let pause = backoff.pause();
            assert!(
                pause >= length / 2 && pause <= length,
                "{pause:?} {length:?}"
            );
            length = (length * 2).min(most);
        }
        assert_eq!(length, most);
        backoff.reset();
        assert!(backoff.pause() <= least);
    }
}
