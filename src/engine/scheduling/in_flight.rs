//! The runs that this process claims or works on. What the database takes it to work on beyond these is
//! an orphan.

use crate::domain::{RunId, TenantId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;

/// The runs in flight. Two hints may name the same run, so each is counted.
#[derive(Debug, Default)]
pub struct InFlightRuns(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    runs: HashMap<RunId, u32>,
    claimed: u32,
    tenants: HashMap<TenantId, u32>,
}

/// Keeps a run in flight until it is dropped, with its task or before.
#[derive(Debug)]
pub struct InFlightGuard<'a> {
    all: &'a InFlightRuns,
    run: RunId,
    claimed: Option<Option<TenantId>>,
}

impl InFlightRuns {
    /// Registers a run. Call it before the claim is sent, so that every claim that is committed is known.
    pub fn register(&self, run: RunId) -> InFlightGuard<'_> {
        *self.0.lock().runs.entry(run).or_default() += 1;
        InFlightGuard {
            all: self,
            run,
            claimed: None,
        }
    }

    /// Returns whether a run is in flight.
    pub fn contains(&self, run: RunId) -> bool {
        self.0.lock().runs.contains_key(&run)
    }

    /// Returns how many runs have been claimed and are worked on.
    pub fn claimed(&self) -> u32 {
        self.0.lock().claimed
    }

    /// Returns the tenants of the runs that are worked on.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.0.lock().tenants.keys().copied().collect()
    }
}

impl InFlightGuard<'_> {
    /// Records that the run, of this tenant, has been claimed.
    pub fn claimed(&mut self, tenant: Option<TenantId>) {
        let mut counts = self.all.0.lock();
        counts.claimed += 1;
        if let Some(tenant) = tenant {
            *counts.tenants.entry(tenant).or_default() += 1;
        }
        self.claimed = Some(tenant);
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock();
        decrement(&mut counts.runs, self.run);
        if let Some(tenant) = self.claimed {
            counts.claimed -= 1;
            if let Some(tenant) = tenant {
                decrement(&mut counts.tenants, tenant);
            }
        }
    }
}

fn decrement<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_and_its_tenant_are_in_flight_until_the_last_guard_is_dropped() {
        let all = InFlightRuns::default();
        let mut first = all.register(RunId(1));
        let mut second = all.register(RunId(1));
        let mut other = all.register(RunId(2));
        assert_eq!((all.claimed(), all.tenants()), (0, vec![]));
        first.claimed(Some(TenantId(7)));
        second.claimed(Some(TenantId(7)));
        other.claimed(None);
        assert_eq!((all.claimed(), all.tenants()), (3, vec![TenantId(7)]));
        drop((first, other));
        assert!(all.contains(RunId(1)) && !all.contains(RunId(2)));
        assert_eq!((all.claimed(), all.tenants()), (1, vec![TenantId(7)]));
        drop(second);
        assert!(!all.contains(RunId(1)));
        assert_eq!((all.claimed(), all.tenants()), (0, vec![]));
        assert!(all.0.lock().runs.is_empty());
    }
}
