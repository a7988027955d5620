//! Limits the rate of requests of a token, or of an address without one.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// Callers with a bucket of their own. Further ones share one.
const CALLERS: usize = 10_000;
/// Shortest time between two clean-ups, which visit every caller.
const CLEARING: Duration = Duration::from_secs(1);

/// Token buckets, one for each caller. Its memory is bounded.
#[derive(Debug)]
pub struct RateLimiter<K> {
    burst: f64,
    per_second: f64,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    buckets: HashMap<K, Bucket>,
    overflow: Bucket,
    cleared_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Eq + Hash> RateLimiter<K> {
    /// So many requests a minute, and as many of them at once.
    pub fn per_minute(requests: u32) -> Self {
        let burst = f64::from(requests.max(1));
        Self {
            burst,
            per_second: burst / 60.0,
            state: Mutex::new(State {
                buckets: HashMap::new(),
                overflow: Bucket {
                    left: burst,
                    at: Instant::now(),
                },
                cleared_at: None,
            }),
        }
    }

    /// Counts a request. `Err`: one too many; the next one is allowed after this time.
    pub fn take(&self, caller: K) -> Result<(), Duration> {
        let now = Instant::now();
        let state = &mut *self.state.lock();
        let full = Bucket {
            left: self.burst,
            at: now,
        };
        if state.buckets.len() >= CALLERS
            && !state.buckets.contains_key(&caller)
            && state.cleared_at.is_none_or(|at| now - at >= CLEARING)
        {
            state.cleared_at = Some(now);
            state.buckets.retain(|_, b| self.level(b, now) < self.burst);
        }
        let known = state.buckets.len();
        let bucket = match state.buckets.entry(caller) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) if known < CALLERS => entry.insert(full),
            Entry::Vacant(_) => &mut state.overflow,
        };
        let level = self.level(bucket, now);
        *bucket = Bucket {
            left: level,
            at: now,
        };
        if level < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - level) / self.per_second));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Gives a token back for a request that turned out not to count.
    pub fn give_back(&self, caller: &K) {
        let state = &mut *self.state.lock();
        let bucket = state.buckets.get_mut(caller).unwrap_or(&mut state.overflow);
        bucket.left = (bucket.left + 1.0).min(self.burst);
    }

    fn level(&self, bucket: &Bucket, now: Instant) -> f64 {
        let since = (now - bucket.at).as_secs_f64();
        (bucket.left + since * self.per_second).min(self.burst)
    }
}

/// A time to wait in whole seconds, never too early.
pub fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_as_told_is_let_in() {
        let limiter = RateLimiter::per_minute(30);
        for _ in 0..30 {
            assert_eq!(limiter.take("a"), Ok(()));
        }
        let wait = limiter.take("a").unwrap_err();
        assert_eq!(limiter.take("b"), Ok(()), "another caller");
        tokio::time::advance(wait + Duration::from_millis(1)).await;
        assert_eq!(limiter.take("a"), Ok(()));
        assert!(limiter.take("a").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_may_be_taken_again() {
        let limiter = RateLimiter::per_minute(2);
        for _ in 0..10 {
            assert_eq!(limiter.take("a"), Ok(()));
            limiter.give_back(&"a");
        }
        limiter.give_back(&"a");
        assert_eq!(limiter.take("a"), Ok(()));
        assert_eq!(limiter.take("a"), Ok(()));
        assert!(limiter.take("a").is_err(), "never more than the burst");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_newcomers_share() {
        let limiter = RateLimiter::per_minute(2);
        for caller in 0..CALLERS {
            assert_eq!(limiter.take(caller), Ok(()));
        }
        let beyond = CALLERS..CALLERS + 100;
        let let_in = beyond.filter(|c| limiter.take(*c).is_ok()).count();
        assert_eq!(let_in, 2);
        let callers = || limiter.state.lock().buckets.len();
        assert_eq!(callers(), CALLERS);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(limiter.take(CALLERS), Ok(()));
        assert_eq!(callers(), 1, "whoever has not called for long is forgotten");
    }
}
