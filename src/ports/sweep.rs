//! The sweep: its policy, its cursor and its result.

use crate::domain::RunId;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::time::Duration;

/// How the reconciler sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepPolicy {
    /// Time without a heartbeat after which a worker is dead, and its leases with it.
    pub worker_dead_after: Duration,
    /// A queued run whose last delivery is older than this is delivered again...
    pub redeliver_after: Duration,
    /// ...if this is set (the queue is short, so the hint is most likely lost).
    pub redeliver: bool,
    /// Largest number of runs to reclaim, and to deliver, in one sweep.
    pub batch: u32,
    /// Largest number of queued runs ahead of `from`, and behind it, that one sweep reads to find the
    /// undispatched ones.
    pub window: u32,
    pub from: SweepCursor,
}

/// Where sweeps look for undispatched queued runs, a window at a time, so that a sweep costs the same however
/// many dispatched runs wait. Ids grow, so new runs are ahead. A run whose transaction took long is behind,
/// and a second window that moves round and round finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepCursor {
    /// Queued runs up to this id were looked at.
    pub up_to: RunId,
    /// The window behind `up_to` continues after this id.
    pub again_after: RunId,
}

impl SweepCursor {
    /// Before all runs: ids are positive, and a hint cannot name any other id.
    pub const START: Self = Self {
        up_to: RunId(0),
        again_after: RunId(0),
    };
}

impl Default for SweepCursor {
    fn default() -> Self {
        Self::START
    }
}

impl SweepPolicy {
    /// Returns the cursor after a sweep that found `due`, in the order of the ids. `ahead` and `behind` say
    /// where it stopped if there may be more. A sweep that found as many as it may has left out what follows
    /// the last of them.
    pub fn after(&self, due: &[i64], ahead: Option<i64>, behind: Option<i64>) -> SweepCursor {
        let last = due
            .last()
            .filter(|_| due.len() as u64 >= u64::from(self.batch));
        let seen = |end: i64| RunId(last.map_or(end, |last| end.min(*last)));
        let SweepCursor { up_to, again_after } = self.from;
        SweepCursor {
            up_to: ahead.map_or(up_to, |end| seen(end).max(up_to)),
            again_after: match behind {
                Some(end) => seen(end).max(again_after),
                None if last.is_some() => again_after,
                None => SweepCursor::START.again_after,
            },
        }
    }
}

/// The result of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Runs whose lease was dead: their attempt is ended and they are queued again.
    pub reclaimed: Vec<RunId>,
    /// Runs that are due and now marked as delivered: the caller sends the hints.
    pub due: Vec<RunId>,
    /// The cursor of the next sweep.
    pub next: SweepCursor,
    /// Whether there are queued runs ahead of `next` that were not read, or left out.
    pub more: bool,
}

/// Finds runs that no worker processes.
#[async_trait]
pub trait SweepStore: Send + Sync {
    /// Reclaims dead leases and finds due runs. `None`: another replica sweeps. One at a time saves work; no transition
    /// depends on it.
    async fn sweep(&self, policy: &SweepPolicy) -> Result<Option<Swept>, StoreError>;

    /// Takes back the mark of delivery: the hints could not be sent.
    async fn mark_undispatched(&self, runs: &[RunId]) -> Result<(), StoreError>;
}
