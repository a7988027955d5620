//! The budget of an application: how many requests a minute it may send once its provider has throttled it.
//!
//! The rate decreases by a factor and increases by a constant: each throttling leaves seven tenths, and each second
//! without one adds a hundredth of what was left. A budget that was not lowered for ten minutes is over, and the
//! application has no limit again.

use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;
use uuid::Uuid;

/// What throttling leaves of the rate.
const KEPT: f64 = 0.7;

/// Time in which a rate increases by as much as was left of it.
const INCREASE_TIME: f64 = 100.0;

/// Time after the last decrease for which a budget lasts.
const LIFETIME: TimeDelta = TimeDelta::minutes(10);

/// The lowest and the highest rate, in requests per minute.
const MIN_RATE: f64 = 60.0;
const MAX_RATE: f64 = 6_000_000.0;

/// The longest pause that all requests of an application make. Microsoft counts them over 10 and 20 seconds; what asks
/// for more is one directory, whose run waits by itself.
pub const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Time after the pause in which refusals may arrive of requests that were sent before it.
pub const SETTLING_TIME: Duration = Duration::from_secs(1);

/// Permits further ahead than this were taken by another clock.
const MAX_AHEAD: TimeDelta = TimeDelta::minutes(2);

const MINUTE: Duration = Duration::from_secs(60);

/// An application in one cloud, which its provider may throttle across its directories.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetKey {
    pub cloud: String,
    pub client_id: Uuid,
}

/// A throttling of an application as one process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttling {
    /// Requests per minute of this process that were answered without a permit until then: no budget counts them yet.
    pub unpermitted_per_minute: u32,
    /// How long the provider asks to wait.
    pub pause: Duration,
}

/// The recorded budget of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests per minute right after the last decrease.
    pub per_minute: u32,
    pub decreased_at: DateTime<Utc>,
    /// Refusals until then belong to the last decrease.
    pub settled_at: DateTime<Utc>,
    /// The permits until then are taken.
    pub taken_until: DateTime<Utc>,
}

/// Permits that a process has taken: one request each, at equal intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits {
    pub count: u32,
    /// Time until the first one, and none before it.
    pub starts_in: Duration,
    /// As much of it as the provider has asked to wait.
    pub pause: Duration,
    /// Requests per minute of all replicas together.
    pub per_minute: u32,
    /// Replicas that share the budget.
    pub replicas: u32,
}

impl Permits {
    /// Returns the time from one permit to the next.
    pub fn interval(&self) -> Duration {
        MINUTE / self.per_minute.max(1)
    }

    /// Returns the same for one replica where each uses an equal share.
    pub fn interval_of_share(&self) -> Duration {
        self.interval().saturating_mul(self.replicas.max(1))
    }
}

impl Budget {
    /// Returns the budget after a throttling. `before`: the budget until then, if there was one. It adds up to what all
    /// replicas have sent: each notes its first refusal itself.
    pub fn after(before: Option<Self>, throttling: Throttling, now: DateTime<Utc>) -> Self {
        let paused_until = now + throttling.pause.min(MAX_PAUSE);
        let before = before.filter(|budget| !budget.is_over(now));
        let taken_until = before.map_or(now, |budget| budget.taken_until);
        let taken_until = taken_until.max(paused_until);
        let unpermitted = f64::from(throttling.unpermitted_per_minute);
        let rate = match before {
            Some(budget) if now < budget.settled_at => {
                let rate = f64::from(budget.per_minute) + KEPT * unpermitted;
                return Self {
                    per_minute: bounded(rate) as u32,
                    taken_until,
                    ..budget
                };
            }
            Some(budget) => budget.rate(now) + unpermitted,
            None => unpermitted,
        };
        Self {
            per_minute: bounded(KEPT * rate) as u32,
            decreased_at: now,
            settled_at: paused_until + SETTLING_TIME,
            taken_until,
        }
    }

    /// Returns whether the application has no limit any more. A decrease in the future is an error of a clock.
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        let age = now - self.decreased_at;
        age >= LIFETIME || age < -MAX_AHEAD
    }

    /// Returns the present rate in requests per minute.
    pub fn per_minute_at(&self, now: DateTime<Utc>) -> u32 {
        self.rate(now) as u32
    }

    fn rate(&self, now: DateTime<Utc>) -> f64 {
        let age = (now - self.decreased_at).to_std().unwrap_or_default();
        bounded(f64::from(self.per_minute) * (1.0 + age.as_secs_f64() / INCREASE_TIME))
    }

    /// Takes permits: as many as are wanted, and no more than one replica's share of a second, so that no other one
    /// waits for long.
    pub fn take(&mut self, wanted: u32, replicas: u32, now: DateTime<Utc>) -> Permits {
        let rate = self.rate(now);
        let share = (rate / 60.0 / f64::from(replicas.max(1))) as u32;
        let count = wanted.min(share.max(1));
        let starts = self.taken_until.clamp(now, now + MAX_AHEAD);
        self.taken_until = starts + MINUTE.mul_f64(f64::from(count) / rate);
        let starts_in = (starts - now).to_std().unwrap_or_default();
        let pause = self.settled_at - SETTLING_TIME - now;
        Permits {
            count,
            starts_in,
            pause: pause.to_std().unwrap_or_default().min(starts_in),
            per_minute: rate as u32,
            replicas,
        }
    }
}

fn bounded(rate: f64) -> f64 {
    rate.clamp(MIN_RATE, MAX_RATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn throttling(unpermitted_per_minute: u32, pause: u64) -> Throttling {
        Throttling {
            unpermitted_per_minute,
            pause: seconds(pause),
        }
    }

    const START: DateTime<Utc> = DateTime::<Utc>::UNIX_EPOCH;

    #[test]
    fn the_first_budget_is_seven_tenths_of_what_all_replicas_have_sent() {
        let budget = Budget::after(None, throttling(3_000, 10), START);
        assert_eq!(budget.per_minute, 2_100);
        assert_eq!(budget.taken_until, START + seconds(10));
        let both = Budget::after(Some(budget), throttling(1_000, 9), START + seconds(1));
        assert_eq!((both.per_minute, both.decreased_at), (2_800, START));
        // One that has had no refusal until now.
        let third = Budget::after(Some(both), throttling(1_000, 9), START + seconds(100));
        assert_eq!(third.per_minute, 4_620);
        // An application of which another program has used up everything.
        let budget = Budget::after(None, throttling(0, 0), START);
        assert_eq!(budget.per_minute, 60);
    }

    #[test]
    fn a_rate_increases_slowly_and_the_budget_ends() {
        let budget = Budget::after(None, throttling(1_000, 10), START);
        for (after, rate) in [(0, 700), (50, 1_050), (100, 1_400), (599, 4_893)] {
            let now = START + seconds(after);
            assert!(budget.per_minute_at(now).abs_diff(rate) <= 1, "{after}");
            assert!(!budget.is_over(now), "{after}");
        }
        assert!(budget.is_over(START + seconds(600)));
        // A server with another clock.
        assert!(budget.is_over(START - seconds(3_600)));
        let next = Budget::after(Some(budget), throttling(600, 1), START + seconds(900));
        assert_eq!(next.per_minute, 420);
    }

    /// Requests of both replicas are under way when the limit is reached.
    #[test]
    fn refusals_of_one_moment_decrease_the_rate_once() {
        let first = Budget::after(None, throttling(1_000, 10), START);
        let late = START + seconds(10);
        let second = Budget::after(Some(first), throttling(0, 3), late);
        assert_eq!(
            (second.per_minute, second.decreased_at),
            (first.per_minute, START)
        );
        // The pause is kept all the same.
        assert_eq!(second.taken_until, late + seconds(3));
        let next = Budget::after(Some(second), throttling(0, 3), START + seconds(11));
        assert_eq!(next.per_minute, 543);
        assert_eq!(next.decreased_at, START + seconds(11));
    }

    #[test]
    fn replicas_take_permits_one_after_another() {
        let mut budget = Budget::after(None, throttling(2_000, 0), START);
        assert_eq!(budget.per_minute, 1_400);
        let first = budget.take(100, 2, START);
        assert_eq!((first.count, first.starts_in), (11, Duration::ZERO));
        assert_eq!(first.interval(), MINUTE / 1_400);
        assert_eq!(first.interval_of_share(), 2 * (MINUTE / 1_400));
        let second = budget.take(100, 2, START);
        assert_eq!(second.count, 11);
        let taken = 11 * first.interval();
        assert!(second.starts_in.abs_diff(taken) < Duration::from_micros(1));
        // What nobody took in time is gone.
        let late = budget.take(3, 2, START + seconds(30));
        assert_eq!((late.count, late.starts_in), (3, Duration::ZERO));
        assert!(late.per_minute.abs_diff(1_820) <= 1);
    }

    #[test]
    fn a_second_has_at_least_one_permit_and_a_pause_is_bounded() {
        let mut budget = Budget::after(None, throttling(1, 3_600), START);
        let permits = budget.take(5, 9, START);
        assert_eq!((permits.count, permits.starts_in), (1, MAX_PAUSE));
        assert_eq!(permits.pause, MAX_PAUSE);
        assert_eq!(permits.interval(), seconds(1));
        // Only to learn how long the pause is.
        let behind = budget.take(0, 9, START);
        assert_eq!((behind.count, behind.pause), (0, MAX_PAUSE));
        assert_eq!(behind.starts_in, MAX_PAUSE + seconds(1));
        budget.taken_until = START + seconds(86_400);
        assert_eq!(budget.take(1, 1, START).starts_in, seconds(120));
    }
}
