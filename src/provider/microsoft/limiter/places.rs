//! When checks that get no permit come again: one after another, as the budget has permits for them.
//!
//! Their runs wait in the database without a slot. While any do, the next check of a tenant that has had its turn comes
//! after them: else a run that was never released would get a permit before those that were.

use crate::domain::TenantId;
use crate::domain::budget::MAX_PAUSE;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// The places of one application's checks.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The last one that was taken.
    last: Option<Instant>,
    /// Tenants that have had their turn since the first of these places was taken: they have begun a check or have a
    /// place.
    served: HashSet<TenantId>,
}

impl Places {
    /// Returns whether the next check of this tenant comes after those that have a place.
    pub fn is_behind(&mut self, tenant: TenantId, now: Instant) -> bool {
        self.forget_past(now);
        self.served.contains(&tenant)
    }

    /// Notes that a check of this tenant has begun.
    pub fn serve(&mut self, tenant: TenantId, now: Instant) {
        self.forget_past(now);
        if self.last.is_some() {
            self.served.insert(tenant);
        }
    }

    /// Takes the next place: an interval after the last one, and not before `earliest`. None is further away than a
    /// pause may be, because by then the rate is another one.
    pub fn take(
        &mut self,
        tenant: TenantId,
        now: Instant,
        earliest: Instant,
        interval: Duration,
    ) -> Instant {
        self.forget_past(now);
        self.served.insert(tenant);
        let next = self.last.map_or(earliest, |last| last + interval);
        let place = next.min(now + MAX_PAUSE).max(earliest);
        self.last = Some(place);
        place
    }

    /// Forgets everything when the last place is over.
    fn forget_past(&mut self, now: Instant) {
        if self.last.is_some_and(|last| last <= now) {
            *self = Self::default();
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
    fn places_follow_one_another_up_to_a_bound() {
        let now = Instant::now();
        let mut places = Places::default();
        let mut take = |earliest: u64| {
            let place = places.take(TenantId(1), now, now + seconds(earliest), seconds(20));
            (place - now).as_secs()
        };
        assert_eq!([take(5), take(5), take(5)], [5, 25, 45]);
        assert_eq!([take(5), take(5)], [60, 60]);
        // Where others have taken the permits until then.
        assert_eq!(take(90), 90);
    }

    #[test]
    fn a_tenant_that_has_had_its_turn_is_behind_those_that_wait() {
        let now = Instant::now();
        let mut places = Places::default();
        // Nobody waits.
        places.serve(TenantId(1), now);
        assert!(!places.is_behind(TenantId(1), now));
        places.take(TenantId(2), now, now + seconds(5), seconds(1));
        places.serve(TenantId(3), now);
        let is_behind = |places: &mut Places, after: u64| {
            [1, 2, 3].map(|tenant| places.is_behind(TenantId(tenant), now + seconds(after)))
        };
        assert_eq!(is_behind(&mut places, 4), [false, true, true]);
        assert_eq!(is_behind(&mut places, 5), [false; 3]);
    }
}
