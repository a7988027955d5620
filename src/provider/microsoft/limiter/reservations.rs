//! Reservations: when runs that get no permit come again, one after another, as the budget has permits for them.
//!
//! Until then they wait in the database without a slot. The next run of a tenant that has a reservation comes after it:
//! else a run that was never released would get a permit before those that were. Where the permits of a minute do not
//! suffice for all, the others ask again within it: by then the rate has increased, or the limit may have ended.

use crate::domain::TenantId;
use crate::domain::pause::with_jitter;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Longest time from the next permit to a reservation.
const LONGEST: Duration = Duration::from_secs(60);

/// Tenants whose reservations are kept. With more, all are forgotten, and their next runs need not come after them.
const MAX_TENANTS: usize = 10_000;

/// The reservations of one application's runs.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    last: Option<Instant>,
    /// The last one of each tenant.
    of_tenants: HashMap<TenantId, Instant>,
}

impl Reservations {
    /// Returns whether a run of this tenant has a reservation.
    pub fn has(&self, tenant: TenantId, now: Instant) -> bool {
        self.of_tenants.get(&tenant).is_some_and(|at| now < *at)
    }

    /// Adds the next reservation: an interval after the last one, from `earliest` on for a minute at most.
    pub fn reserve(&mut self, tenant: TenantId, earliest: Instant, interval: Duration) -> Instant {
        let next = self.last.map_or(earliest, |last| last + interval);
        let wait = next.saturating_duration_since(earliest);
        let last = earliest + wait.min(LONGEST);
        self.last = Some(last);
        if self.of_tenants.len() >= MAX_TENANTS {
            self.of_tenants.clear();
        }
        self.of_tenants.insert(tenant, last);
        match wait <= LONGEST {
            true => last,
            // Not all at the same moment.
            false => earliest + with_jitter(LONGEST / 2, 1.0, LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn reservations_follow_one_another_up_to_a_bound() {
        let now = Instant::now();
        let mut reservations = Reservations::default();
        let mut reserve = |earliest: u64| {
            let earliest = now + seconds(earliest);
            reservations.reserve(TenantId(1), earliest, seconds(25)) - now
        };
        let within = [reserve(5), reserve(5), reserve(5)];
        assert_eq!(within, [5, 30, 55].map(seconds));
        let beyond = [reserve(5), reserve(5)];
        let bounds = seconds(35)..=seconds(65);
        assert!(
            beyond.iter().all(|wait| bounds.contains(wait)),
            "{beyond:?}"
        );
        assert_ne!(beyond[0], beyond[1]);
        // Where others have taken the permits until then.
        assert_eq!(reserve(100), seconds(100));
    }

    #[test]
    fn a_tenant_has_a_reservation_until_then_and_the_number_of_tenants_is_bounded() {
        let now = Instant::now();
        let mut reservations = Reservations::default();
        let earliest = now + seconds(5);
        reservations.reserve(TenantId(0), earliest, seconds(1));
        // Its run asks again before.
        reservations.reserve(TenantId(2), earliest, seconds(500));
        for (tenant, after, has) in [
            (0, 4, true),
            (0, 5, false),
            (1, 4, false),
            (2, 64, true),
            (2, 65, false),
        ] {
            let found = reservations.has(TenantId(tenant), now + seconds(after));
            assert_eq!(found, has, "{tenant} {after}");
        }
        for tenant in 1..=MAX_TENANTS as i64 {
            reservations.reserve(TenantId(tenant), earliest, seconds(1));
        }
        assert!(reservations.of_tenants.len() <= MAX_TENANTS);
    }
}
