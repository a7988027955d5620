//! The runs that this process claims or processes. Other attempts that the database attributes to it are
//! orphans.

use crate::domain::{RunId, TenantId};
use parking_lot::Mutex;
use std::collections::HashMap;

/// The runs in flight. Two hints may name the same run, so each registration counts.
#[derive(Debug, Default)]
pub struct InFlightRuns(Mutex<Registrations>);

#[derive(Debug, Default)]
struct Registrations {
    next_key: u64,
    by_key: HashMap<u64, InFlight>,
}

#[derive(Debug)]
struct InFlight {
    run: RunId,
    claimed: bool,
    /// Known once the run has been claimed.
    tenant: Option<TenantId>,
}

/// Keeps a run in flight until it is dropped, with its task or before.
#[derive(Debug)]
pub struct InFlightGuard<'a> {
    all: &'a InFlightRuns,
    key: u64,
}

impl InFlightRuns {
    /// Registers a run. Call it before the claim is sent, so that every claim that is committed is known.
    pub fn register(&self, run: RunId) -> InFlightGuard<'_> {
        let mut all = self.0.lock();
        all.next_key += 1;
        let key = all.next_key;
        let registered = InFlight {
            run,
            claimed: false,
            tenant: None,
        };
        all.by_key.insert(key, registered);
        InFlightGuard { all: self, key }
    }

    /// Returns whether a run is in flight.
    pub fn contains(&self, run: RunId) -> bool {
        self.0.lock().by_key.values().any(|found| found.run == run)
    }

    /// Returns how many runs have been claimed and are worked on.
    pub fn claimed(&self) -> u32 {
        let all = self.0.lock();
        let claimed = all.by_key.values().filter(|found| found.claimed).count();
        u32::try_from(claimed).unwrap_or(u32::MAX)
    }

    /// Returns the tenants of the runs that are worked on, in any order.
    pub fn tenants(&self) -> Vec<TenantId> {
        let all = self.0.lock();
        all.by_key
            .values()
            .filter_map(|found| found.tenant)
            .collect()
    }
}

impl InFlightGuard<'_> {
    /// Records that the run, of this tenant, has been claimed.
    pub fn claimed(&self, tenant: Option<TenantId>) {
        if let Some(found) = self.all.0.lock().by_key.get_mut(&self.key) {
            found.claimed = true;
            found.tenant = tenant;
        }
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.all.0.lock().by_key.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_in_flight_until_its_last_guard_is_dropped() {
        let all = InFlightRuns::default();
        let (first, second) = (all.register(RunId(1)), all.register(RunId(1)));
        assert_eq!((all.claimed(), all.tenants()), (0, vec![]));
        first.claimed(None);
        second.claimed(Some(TenantId(7)));
        assert_eq!((all.claimed(), all.tenants()), (2, vec![TenantId(7)]));
        drop(first);
        assert!(all.contains(RunId(1)) && !all.contains(RunId(2)));
        drop(second);
        assert!(!all.contains(RunId(1)) && all.0.lock().by_key.is_empty());
    }
}
