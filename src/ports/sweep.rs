//! What a sweep is to look for, and what it found.

use crate::domain::RunId;
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use std::time::Duration;

/// How the reconciler sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepPolicy {
    /// A worker that has not beaten for so long is dead, and its leases with it.
    pub worker_dead_after: Duration,
    /// A queued run whose last delivery is older than this is delivered again...
    pub redeliver_after: Duration,
    /// ...if this is set (the queue is short, so that the hint is most likely gone).
    pub redeliver: bool,
    /// Most runs to reclaim, and most to deliver, in one sweep.
    pub batch: u32,
    /// Most queued runs ahead of `from`, and most behind it, that one sweep looks at to find those that
    /// are undispatched.
    pub window: u32,
    pub from: SweepCursor,
}

/// Where sweeps look for undispatched queued runs, a window at a time, so that a sweep costs
/// the same however many wait that were delivered. Ids grow, so what is new lies ahead; a run whose
/// transaction took long lies behind, and is found by a look that goes round and round there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepCursor {
    /// Queued runs up to this id were looked at.
    pub up_to: RunId,
    /// The look behind `up_to` goes on after this id.
    pub again_after: RunId,
}

impl SweepCursor {
    /// Before all runs: ids are positive, and what is not is no run that can be named in a hint.
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
    /// Where the next sweep is to look, after one that found `due`, in the order of the ids: `ahead` and
    /// `behind` say where it left off if there may be more. One that found as many as it may has left out
    /// what comes after the last of them.
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

/// What a sweep found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Runs whose lease was dead: their attempt is ended, they are queued again.
    pub reclaimed: Vec<RunId>,
    /// Runs that are due and now marked as delivered: the caller sends the hints.
    pub due: Vec<RunId>,
    /// Where the next sweep is to look.
    pub next: SweepCursor,
    /// Whether there are queued runs ahead of `next` that were not looked at, or left out.
    pub more: bool,
}

/// Finds what has to be done for runs that nobody works on.
#[async_trait]
pub trait SweepStore: Send + Sync {
    /// Reclaims dead leases and finds what is due, under a lock that only one replica gets at a
    /// time. None: another replica is at it.
    async fn sweep(&self, policy: &SweepPolicy) -> Result<Option<Swept>, StoreError>;

    /// Takes back the mark of delivery: the hints could not be sent.
    async fn mark_undispatched(&self, runs: &[RunId]) -> Result<(), StoreError>;
}
