//! When a request may be sent again.

use chrono::{DateTime, Utc};
use rand::Rng;
use std::time::Duration;

/// The longest wait that is believed: longer ones are cut to it.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Waits that double from `base` up to `max`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The wait after the given failed attempt (the first is 1), with up to half of it added at
    /// random so that many workers do not come back at once.
    pub fn after_attempt(&self, attempt: u32) -> Duration {
        let factor = 1u32 << attempt.saturating_sub(1).min(16);
        let wait = self.base.saturating_mul(factor).min(self.max);
        wait.mul_f64(rand::rng().random_range(1.0..1.5))
    }
}

/// Seconds as a wait, cut to what is believed.
pub(in super::super) fn bounded_wait(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(LONGEST_WAIT)
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3). Null when it is neither.
pub(super) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are longer than anything believed.
        return Some(bounded_wait(value.parse().unwrap_or(u64::MAX)));
    }
    let date = DateTime::parse_from_rfc2822(value).ok()?;
    let wait = date.with_timezone(&Utc) - now;
    Some(wait.to_std().unwrap_or_default().min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> DateTime<Utc> {
        "2026-10-21T07:28:00Z".parse().unwrap()
    }

    #[test]
    fn seconds_and_dates_are_understood() {
        for (text, seconds) in [
            ("0", 0),
            ("7", 7),
            (" 120 ", 120),
            ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
            ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
            ("99999999999999999999999999", 24 * 3600),
            ("Fri, 31 Dec 2100 23:59:59 GMT", 24 * 3600),
        ] {
            assert_eq!(
                retry_after(text, now()),
                Some(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in ["", "-1", "1.5", "soon", "2026-10-21T07:28:30Z"] {
            assert_eq!(retry_after(text, now()), None, "{text}");
        }
    }

    #[test]
    fn waits_grow_to_their_limit() {
        let backoff = Backoff {
            base: Duration::from_millis(100),
            max: Duration::from_millis(350),
        };
        for (attempt, least) in [(1, 100), (2, 200), (3, 350), (60, 350)] {
            let wait = backoff.after_attempt(attempt).as_millis();
            assert!((least..=least * 3 / 2).contains(&wait), "{attempt}: {wait}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,60}") {
            let _ = retry_after(&text, now());
        }
    }
}
