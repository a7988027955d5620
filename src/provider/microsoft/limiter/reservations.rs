//! Reservations: when runs that get no permit come again, one after another, as the budget has permits for them.
//!
//! Until then they wait in the database without a slot. The next run of a tenant that has a reservation comes after it:
//! else a run that was never released would get a permit before those that were.

use crate::domain::TenantId;
use crate::domain::pause::MAX_DEFERRAL;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

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

    /// Adds the next reservation: an interval after the last one, not before `earliest`, and where possible no further
    /// away than a run is deferred.
    pub fn reserve(
        &mut self,
        tenant: TenantId,
        now: Instant,
        earliest: Instant,
        interval: Duration,
    ) -> Instant {
        let next = self.last.map_or(earliest, |last| last + interval);
        let next = next.min(now + MAX_DEFERRAL).max(earliest);
        self.last = Some(next);
        if self.of_tenants.len() >= MAX_TENANTS {
            self.of_tenants.clear();
        }
        self.of_tenants.insert(tenant, next);
        next
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
            let reserved = reservations.reserve(TenantId(1), now, earliest, seconds(250));
            (reserved - now).as_secs()
        };
        assert_eq!([reserve(5), reserve(5), reserve(5)], [5, 255, 505]);
        assert_eq!([reserve(5), reserve(5)], [600, 600]);
        // Where others have taken the permits until then.
        assert_eq!(reserve(900), 900);
    }

    #[test]
    fn a_tenant_has_a_reservation_until_then_and_the_number_of_tenants_is_bounded() {
        let now = Instant::now();
        let mut reservations = Reservations::default();
        let earliest = now + seconds(5);
        reservations.reserve(TenantId(0), now, earliest, seconds(1));
        for (tenant, after, has) in [(0, 4, true), (0, 5, false), (1, 4, false)] {
            let found = reservations.has(TenantId(tenant), now + seconds(after));
            assert_eq!(found, has, "{tenant} {after}");
        }
        for tenant in 1..=MAX_TENANTS as i64 {
            reservations.reserve(TenantId(tenant), now, earliest, seconds(1));
        }
        assert!(reservations.of_tenants.len() <= MAX_TENANTS);
    }
}
