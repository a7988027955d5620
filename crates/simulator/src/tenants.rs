//! What the simulator remembers of each tenant: calls, faults already shown, use of the limits.

use super::calls::{Calls, Endpoint};
use super::options::RateLimit;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// Beyond this many tenants the one seen first is forgotten.
const REMEMBERED_TENANTS: usize = 50_000;
/// Longer ids than this (in bytes) are nobody's and are not remembered.
const LONGEST_ID: usize = 64;
/// Beyond this many apps in one tenant, or in all of them, their windows start anew.
const REMEMBERED_APPS: usize = 32;

#[derive(Default)]
struct Tenant {
    calls: Calls,
    /// How often the fault of the scenario was shown.
    shown: u32,
    windows: HashMap<(String, bool), Window>,
}

struct Window {
    start: Instant,
    calls: u32,
}

impl Window {
    fn new(start: Instant) -> Self {
        Self { start, calls: 0 }
    }

    /// Counts a call against the limit. When it is above, the time until the next window.
    fn spend(&mut self, limit: RateLimit, now: Instant) -> Option<Duration> {
        if now.duration_since(self.start) >= limit.window {
            *self = Self::new(now);
        }
        if self.calls >= limit.calls {
            let age = now.duration_since(self.start);
            return Some(limit.window.saturating_sub(age));
        }
        self.calls += 1;
        None
    }
}

/// All tenants, bounded.
pub(crate) struct Tenants {
    by_id: HashMap<String, Tenant>,
    order: VecDeque<String>,
    capacity: usize,
    /// Calls of each app in all tenants.
    apps: HashMap<String, Window>,
    /// Calls that were above a limit.
    throttled: u64,
}

impl Default for Tenants {
    fn default() -> Self {
        Self {
            by_id: HashMap::new(),
            order: VecDeque::new(),
            capacity: REMEMBERED_TENANTS,
            apps: HashMap::new(),
            throttled: 0,
        }
    }
}

impl Tenants {
    fn tenant(&mut self, id: &str) -> &mut Tenant {
        if !self.by_id.contains_key(id) {
            if self.by_id.len() >= self.capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_id.remove(&oldest);
            }
            self.order.push_back(id.to_owned());
        }
        self.by_id.entry(id.to_owned()).or_default()
    }

    pub(crate) fn count(&mut self, id: &str, endpoint: Endpoint) {
        if id.len() <= LONGEST_ID {
            self.tenant(id).calls.count(endpoint);
        }
    }

    pub(crate) fn calls(&self, id: &str) -> Calls {
        self.by_id
            .get(id)
            .map(|tenant| tenant.calls.clone())
            .unwrap_or_default()
    }

    /// Whether the fault is still to be shown to this tenant; counts it as shown.
    pub(crate) fn show(&mut self, id: &str, times: u32) -> bool {
        let shown = &mut self.tenant(id).shown;
        let is_due = *shown < times;
        *shown += u32::from(is_due);
        is_due
    }

    /// Counts a call against the limit of its app in this tenant. When it is above, the time until
    /// the next window.
    pub(crate) fn spend(
        &mut self,
        id: &str,
        app: &str,
        intune: bool,
        limit: RateLimit,
        now: Instant,
    ) -> Option<Duration> {
        let windows = &mut self.tenant(id).windows;
        let wait = spend(windows, (app.to_owned(), intune), limit, now);
        self.throttled += u64::from(wait.is_some());
        wait
    }

    /// Counts a call against the limit of its app in all tenants.
    pub(crate) fn spend_in_all(
        &mut self,
        app: &str,
        limit: RateLimit,
        now: Instant,
    ) -> Option<Duration> {
        let wait = spend(&mut self.apps, app.to_owned(), limit, now);
        self.throttled += u64::from(wait.is_some());
        wait
    }

    /// How many calls were above a limit.
    pub(crate) fn throttled(&self) -> u64 {
        self.throttled
    }
}

fn spend<K: Eq + Hash>(
    windows: &mut HashMap<K, Window>,
    key: K,
    limit: RateLimit,
    now: Instant,
) -> Option<Duration> {
    if windows.len() >= REMEMBERED_APPS && !windows.contains_key(&key) {
        windows.clear();
    }
    let window = windows.entry(key).or_insert_with(|| Window::new(now));
    window.spend(limit, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_seen_first_is_forgotten() {
        let mut tenants = Tenants {
            capacity: 2,
            ..Tenants::default()
        };
        for id in ["a", "b", "a", "c"] {
            tenants.count(id, Endpoint::Token);
        }
        assert_eq!(tenants.calls("a").total, 0);
        assert_eq!(tenants.calls("b").total, 1);
        assert_eq!(tenants.calls("c").total, 1);
        assert_eq!((tenants.by_id.len(), tenants.order.len()), (2, 2));
    }

    #[test]
    fn long_ids_are_not_remembered() {
        let mut tenants = Tenants::default();
        let id = "x".repeat(LONGEST_ID + 1);
        tenants.count(&id, Endpoint::Token);
        assert_eq!((tenants.calls(&id).total, tenants.by_id.len()), (0, 0));
    }

    #[test]
    fn a_fault_is_shown_as_often_as_it_should_be_and_per_tenant() {
        let mut tenants = Tenants::default();
        for (id, times, is_due) in [
            ("a", 1, true),
            ("a", 1, false),
            ("a", 2, true),
            ("b", 1, true),
        ] {
            assert_eq!(tenants.show(id, times), is_due, "{id} {times}");
        }
    }

    #[test]
    fn a_limit_holds_within_its_window_for_each_app_and_service() {
        let mut tenants = Tenants::default();
        let limit = RateLimit {
            calls: 2,
            window: Duration::from_secs(10),
        };
        let start = Instant::now();
        let mut spend = |app: &str, intune: bool, after: u64| {
            tenants.spend("t", app, intune, limit, start + Duration::from_secs(after))
        };
        assert_eq!(spend("a", false, 0), None);
        assert_eq!(spend("a", false, 4), None);
        assert_eq!(spend("a", false, 4), Some(Duration::from_secs(6)));
        assert_eq!(spend("a", true, 4), None);
        assert_eq!(spend("b", false, 4), None);
        assert_eq!(spend("a", false, 10), None);
    }
}
