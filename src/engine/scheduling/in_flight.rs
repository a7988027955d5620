//! The runs that this process claims or processes, and what it does with each. Other attempts that the database
//! attributes to it are orphans.

use crate::domain::{ConnectionId, RunId, TenantId};
use crate::ports::open_calls::{OpenCall, OpenCalls};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tokio::time::Instant;

/// What is done with a run at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The claim is sent.
    Claim,
    /// Other runs that require isolation are first; nothing is claimed meanwhile.
    Isolation,
    /// The data of the run is read, and the prerequisites are tested.
    Preflight,
    /// The provider is called.
    Check,
    /// The result is written, or the run is released.
    Completion,
}

impl Phase {
    /// The name in logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Isolation => "isolation",
            Self::Preflight => "preflight",
            Self::Check => "check",
            Self::Completion => "completion",
        }
    }
}

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
    began: Instant,
    phase: Phase,
    phase_began: Instant,
    /// Known once the run has been claimed.
    claimed: Option<ClaimedAttempt>,
}

/// A claimed attempt, as far as others in this process look at it.
#[derive(Debug)]
pub struct ClaimedAttempt {
    pub tenant: Option<TenantId>,
    pub connection: Option<ConnectionId>,
    pub number: i32,
    /// When its lease ends.
    pub lease_ends: Instant,
    pub calls: OpenCalls,
}

/// A run in flight, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InFlightRun {
    pub run: RunId,
    pub phase: Phase,
    /// Since this phase began.
    pub phase_seconds: f64,
    /// Since the run took its slot.
    pub seconds: f64,
    /// As the producer named it.
    pub connection: Option<ConnectionId>,
    /// `None` until the run is claimed.
    pub attempt: Option<i32>,
    /// Until the attempt's lease ends.
    pub lease_seconds: Option<f64>,
    /// Calls of the provider without a result.
    pub calls: Vec<OpenCall>,
}

impl From<&InFlight> for InFlightRun {
    fn from(found: &InFlight) -> Self {
        let claimed = found.claimed.as_ref();
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        Self {
            run: found.run,
            phase: found.phase,
            phase_seconds: found.phase_began.elapsed().as_secs_f64(),
            seconds: found.began.elapsed().as_secs_f64(),
            connection: claimed.and_then(|attempt| attempt.connection),
            attempt: claimed.map(|attempt| attempt.number),
            lease_seconds: claimed.map(|attempt| left(attempt.lease_ends).as_secs_f64()),
            calls: claimed.map_or_else(Vec::new, |attempt| attempt.calls.list()),
        }
    }
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
        let began = Instant::now();
        let registered = InFlight {
            run,
            began,
            phase: Phase::Claim,
            phase_began: began,
            claimed: None,
        };
        let mut all = self.0.lock();
        all.next_key += 1;
        let key = all.next_key;
        all.by_key.insert(key, registered);
        InFlightGuard { all: self, key }
    }

    /// Returns whether a run is in flight. One that waits for isolation is not: it is claimed afterwards.
    pub fn contains(&self, run: RunId) -> bool {
        let all = self.0.lock();
        let mut of_run = all.by_key.values().filter(|found| found.run == run);
        of_run.any(|found| found.phase != Phase::Isolation)
    }

    /// Returns how many runs have been claimed and are worked on.
    pub fn claimed(&self) -> u32 {
        let all = self.0.lock();
        let claimed = all.by_key.values().filter(|found| found.claimed.is_some());
        u32::try_from(claimed.count()).unwrap_or(u32::MAX)
    }

    /// Returns the tenants of the runs that are worked on, in any order.
    pub fn tenants(&self) -> Vec<TenantId> {
        let all = self.0.lock();
        all.by_key
            .values()
            .filter_map(|found| found.claimed.as_ref()?.tenant)
            .collect()
    }

    /// Returns all runs with what is done with them, the oldest first.
    pub fn list(&self) -> Vec<InFlightRun> {
        let all = self.0.lock();
        let mut runs: Vec<InFlightRun> = all.by_key.values().map(InFlightRun::from).collect();
        drop(all);
        runs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        runs
    }
}

impl InFlightGuard<'_> {
    /// Records what is done with the run from now on.
    pub fn enter(&self, phase: Phase) {
        self.change(|found| {
            found.phase = phase;
            found.phase_began = Instant::now();
        });
    }

    /// Records that the run has been claimed by this attempt.
    pub fn claimed(&self, attempt: ClaimedAttempt) {
        self.change(|found| found.claimed = Some(attempt));
        self.enter(Phase::Preflight);
    }

    fn change(&self, change: impl FnOnce(&mut InFlight)) {
        if let Some(found) = self.all.0.lock().by_key.get_mut(&self.key) {
            change(found);
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
    use std::time::Duration;

    fn attempt(tenant: Option<i64>) -> ClaimedAttempt {
        ClaimedAttempt {
            tenant: tenant.map(TenantId),
            connection: Some(ConnectionId(3)),
            number: 2,
            lease_ends: Instant::now() + Duration::from_secs(60),
            calls: OpenCalls::default(),
        }
    }

    #[test]
    fn a_run_is_in_flight_until_its_last_guard_is_dropped() {
        let all = InFlightRuns::default();
        let (first, second) = (all.register(RunId(1)), all.register(RunId(1)));
        assert_eq!((all.claimed(), all.tenants()), (0, vec![]));
        first.claimed(attempt(None));
        second.claimed(attempt(Some(7)));
        assert_eq!((all.claimed(), all.tenants()), (2, vec![TenantId(7)]));
        drop(first);
        assert!(all.contains(RunId(1)) && !all.contains(RunId(2)));
        drop(second);
        assert!(!all.contains(RunId(1)) && all.0.lock().by_key.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_listed_with_its_phase_and_its_open_calls() {
        let second = Duration::from_secs(1);
        let all = InFlightRuns::default();
        let waiting = all.register(RunId(1));
        waiting.enter(Phase::Isolation);
        assert!(!all.contains(RunId(1)), "nothing is claimed while it waits");
        tokio::time::advance(second).await;
        let checked = all.register(RunId(2));
        let attempt = attempt(Some(7));
        let calls = attempt.calls.clone();
        checked.claimed(attempt);
        tokio::time::advance(second).await;
        checked.enter(Phase::Check);
        let _token = calls.begin("token");
        tokio::time::advance(second).await;
        let runs = all.list();
        let [oldest, run] = &runs[..] else {
            panic!("{runs:?}")
        };
        assert_eq!((oldest.run, oldest.phase), (RunId(1), Phase::Isolation));
        assert_eq!((oldest.attempt, oldest.lease_seconds), (None, None));
        assert_eq!((run.run, run.phase), (RunId(2), Phase::Check));
        assert_eq!((run.phase_seconds, run.seconds), (1.0, 2.0));
        assert_eq!(run.connection, Some(ConnectionId(3)));
        assert_eq!((run.attempt, run.lease_seconds), (Some(2), Some(58.0)));
        assert_eq!((run.calls.len(), run.calls[0].seconds), (1, 1.0));
    }
}
