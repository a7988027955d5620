//! Runs that the database refuses to queue again: a trigger or a constraint of the application may refuse some
//! rows of a sweep. These are left out for a while, so that they cost the others nothing.

use super::claims::kept;
use crate::ports::log_throttle::LogThrottle;
use crate::ports::store_error::StoreError;
use parking_lot::Mutex;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Time for which sweeps leave a refused run out.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Time after which a run is no longer counted, in a process that has not swept since or knows very many.
const FORGET_AFTER: Duration = RETRY_AFTER.saturating_mul(5);

/// Time after which no more runs are queued one by one, but for a few, and no transaction that a run has ended is
/// repeated with others: a rule of the application may have each wait.
pub(super) const REQUEUE_TIME: Duration = Duration::from_secs(1);

/// Tries that queue runs again whatever time they take. A sweep finds more runs that end its transaction than it tries
/// again, so that it passes all of them in the end.
const MIN_TRIES: u32 = 4;

/// Refused runs that a sweep tries again.
pub(super) const RETRIED_AT_A_TIME: u32 = 1;

/// Runs that a sweep waits for in vain, one by one: more than are tried again, so that sweeps pass any number of them.
pub(super) const MAX_WAITS: usize = RETRIED_AT_A_TIME as usize + 1;

// The first try may only find that one of several runs ends the transaction.
const _: () = assert!(MIN_TRIES > RETRIED_AT_A_TIME + 1);

/// Conflicts after which no more runs are queued one by one: where the transaction itself cannot be serialized, all of
/// them fail.
const MAX_CONFLICTS: usize = 8;

static LOG: LogThrottle = LogThrottle::new();

/// A run that sweeps leave out.
struct LeftOut {
    since: Instant,
    /// Whether a rule has refused it, and no lock or timeout outside of one.
    is_refused: bool,
}

/// The runs that this process could not queue again.
#[derive(Default)]
pub(super) struct RefusedRequeues {
    runs: Mutex<HashMap<i64, LeftOut>>,
    /// Those that a rule refused and that are not recorded on their attempts yet, by what refused them.
    unrecorded: Mutex<BTreeMap<String, BTreeSet<i64>>>,
    /// Whether runs are queued one by one, in all statements until a transaction gets through: one of a batch has ended
    /// it.
    pub one_by_one: AtomicBool,
}

impl RefusedRequeues {
    /// Leaves a run out, and logs the first one of a minute.
    pub fn note(&self, run: i64, why: impl Borrow<StoreError>) {
        let why = why.borrow();
        let (since, is_refused) = (Instant::now(), why.is_refusal());
        let left_out = LeftOut { since, is_refused };
        let before = self.runs.lock().insert(run, left_out);
        if is_refused && !before.as_ref().is_some_and(|before| before.is_refused) {
            self.put_back(why.refusal(), [run]);
        }
        if before.is_some() {
            return;
        }
        match LOG.line() {
            Some(left_out) => {
                tracing::warn!(run, %why, left_out, "cannot queue the run again; leaving it out for a while");
            }
            None => tracing::debug!(run, %why, "cannot queue the run again"),
        }
    }

    /// Leaves a run out whose row stays as it is, unless it is known why.
    fn note_kept(&self, run: i64) {
        let is_known = self.runs.lock().contains_key(&run);
        if !is_known {
            self.note(run, kept());
        }
    }

    /// Forgets at most so many of the runs that were left out for long enough, the longest first: they are tried
    /// again.
    pub fn forget(&self, most: u32) {
        let mut runs = self.runs.lock();
        let left_out = runs.iter().map(|(run, left_out)| (left_out.since, *run));
        let mut waited: Vec<(Instant, i64)> = left_out
            .filter(|(since, _)| since.elapsed() >= RETRY_AFTER)
            .collect();
        waited.sort_unstable();
        for (_, run) in waited.into_iter().take(most as usize) {
            runs.remove(&run);
        }
    }

    /// Returns a refusal that is not recorded yet, and its runs. The caller records it, or puts it back.
    pub fn take_unrecorded(&self) -> Option<(String, Vec<i64>)> {
        let (refusal, runs) = self.unrecorded.lock().pop_first()?;
        Some((refusal, runs.into_iter().collect()))
    }

    pub fn put_back(&self, refusal: String, runs: impl IntoIterator<Item = i64>) {
        self.unrecorded
            .lock()
            .entry(refusal)
            .or_default()
            .extend(runs);
    }

    /// Forgets a run that is not running any more.
    pub fn remove(&self, run: i64) {
        self.runs.lock().remove(&run);
    }

    /// Returns the runs that are left out.
    pub fn left_out(&self) -> Vec<i64> {
        self.runs.lock().keys().copied().collect()
    }

    /// Publishes how many of them a rule refuses.
    pub fn measure(&self) {
        metrics::gauge!("verifyd_runs_requeue_refused").set(self.refused() as f64);
    }

    fn refused(&self) -> usize {
        let mut runs = self.runs.lock();
        runs.retain(|_, left_out| left_out.since.elapsed() < FORGET_AFTER);
        runs.values().filter(|left_out| left_out.is_refused).count()
    }
}

/// What the statements of one transaction have spent on runs that cannot be queued again.
#[derive(Default)]
pub(super) struct Spent {
    /// Whether runs are queued one by one: a statement for many has failed.
    pub is_one_by_one: bool,
    /// Runs that were waited for in vain, one by one.
    pub waits: usize,
    /// Runs that met a conflict, and the error.
    pub conflicts: Vec<(i64, StoreError)>,
}

impl Spent {
    /// Whether one more run may be tried.
    pub fn allows_another(&self) -> bool {
        self.conflicts.len() < MAX_CONFLICTS && self.waits < MAX_WAITS
    }

    /// Leaves a run out that was tried and is still lost, in a transaction that goes on.
    pub fn leave_out(&self, run: i64, refused: &RefusedRequeues) {
        match self.conflicts.iter().find(|(met, _)| *met == run) {
            Some((_, conflict)) => refused.note(run, conflict),
            None => refused.note_kept(run),
        }
    }
}

/// Why a transaction that queues runs again has failed.
pub(super) enum RequeueError {
    /// A run has ended it, as `RAISE(ROLLBACK)` in SQLite does, or a trigger that ends its session in PostgreSQL. The
    /// next try leaves the run out, or finds it.
    EndedByRun(StoreError),
    Store(StoreError),
}

impl From<StoreError> for RequeueError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RequeueError> for StoreError {
    fn from(error: RequeueError) -> Self {
        match error {
            RequeueError::EndedByRun(error) | RequeueError::Store(error) => error,
        }
    }
}

/// Whether it is known only later whether the transaction is lost: a rule of the application that raises these codes loses
/// none.
pub(super) fn is_conflict(error: &StoreError) -> bool {
    // serialization_failure, deadlock_detected
    matches!(error.sqlstate(), Some("40001" | "40P01"))
}

/// Whether a run may have ended the transaction: a rule of the application can end the session, too. Where the server
/// ended it for a reason of its own, the next try finds out.
pub(super) fn may_be_of_run(error: &StoreError) -> bool {
    !error.is_transient() || error.sqlstate().is_some()
}

/// Tries of a transaction that queues runs again: each one that a run ends is followed by another one.
pub(super) struct RequeueTries {
    begun: Instant,
    ended: u32,
}

impl RequeueTries {
    pub fn begin() -> Self {
        Self {
            begun: Instant::now(),
            ended: 0,
        }
    }

    /// Returns the result of a try, or `None` where a run has ended it, so that another one follows.
    pub fn result_of<T>(
        &mut self,
        tried: Result<T, RequeueError>,
        refused: &RefusedRequeues,
    ) -> Option<Result<T, StoreError>> {
        match tried {
            Err(RequeueError::EndedByRun(_)) => {
                self.ended += 1;
                None
            }
            tried => {
                refused.one_by_one.store(false, Ordering::Relaxed);
                Some(tried.map_err(StoreError::from))
            }
        }
    }

    pub fn is_first(&self) -> bool {
        self.ended == 0
    }

    /// Whether this try queues runs. The last one does not where more of them end the transaction than there is time
    /// for, so that it does the rest.
    pub fn requeues(&self) -> bool {
        self.ended < MIN_TRIES || self.begun.elapsed() <= REQUEUE_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::store_error::{Detail, Origin};

    #[tokio::test(start_paused = true)]
    async fn a_refused_run_is_tried_again_after_a_minute() {
        let refused = RefusedRequeues::default();
        refused.note(7, StoreError::Refused("not today".into()));
        tokio::time::advance(RETRY_AFTER / 2).await;
        refused.note(8, StoreError::Refused("not today".into()));
        refused.forget(9);
        let mut left_out = refused.left_out();
        left_out.sort_unstable();
        assert_eq!(left_out, [7, 8]);
        tokio::time::advance(RETRY_AFTER / 2).await;
        refused.forget(9);
        assert_eq!(refused.left_out(), [8]);
        // However many there are, a sweep tries a few of them.
        tokio::time::advance(RETRY_AFTER).await;
        refused.note(9, StoreError::Refused("not today".into()));
        tokio::time::advance(RETRY_AFTER).await;
        refused.forget(1);
        assert_eq!(refused.left_out(), [9]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_a_rule_refuses_is_recorded() {
        let refused = RefusedRequeues::default();
        let lock = || StoreError::Contended("a lock".into());
        refused.note(7, lock());
        refused.note(8, StoreError::Refused("not today".into()));
        assert_eq!(refused.take_unrecorded(), Some(("refused".into(), vec![8])));
        assert_eq!(refused.take_unrecorded(), None);
        assert_eq!(refused.refused(), 1);
        // The code of a lock, raised by a rule.
        let by_rule = Detail {
            origin: Some(Origin::Function),
            ..Detail::from("not today")
        };
        refused.note(7, StoreError::Contended(by_rule));
        let recorded = refused.take_unrecorded();
        assert_eq!(recorded, Some(("contended".into(), vec![7])));
        assert_eq!(refused.refused(), 2);
        refused.note(8, lock());
        assert_eq!(refused.refused(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_met_a_lock_or_conflict_is_not_taken_for_a_kept_one() {
        let refused = RefusedRequeues::default();
        let contended = || StoreError::Contended("not by a rule".into());
        let spent = Spent {
            conflicts: vec![(7, contended())],
            ..Spent::default()
        };
        refused.note(8, contended());
        for run in [7, 8, 9] {
            spent.leave_out(run, &refused);
        }
        let mut left_out = refused.left_out();
        left_out.sort_unstable();
        assert_eq!(left_out, [7, 8, 9]);
        assert_eq!(refused.take_unrecorded(), Some((kept().refusal(), vec![9])));
        assert_eq!(refused.take_unrecorded(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn tries_end_by_number_and_time() {
        let mut tries = RequeueTries::begin();
        assert!(tries.is_first());
        tokio::time::advance(REQUEUE_TIME * 2).await;
        let refused = RefusedRequeues::default();
        for _ in 0..MIN_TRIES {
            assert!(tries.requeues());
            let ended = RequeueError::EndedByRun(StoreError::TooManyCalls);
            assert!(tries.result_of(Err::<(), _>(ended), &refused).is_none());
        }
        assert!(!tries.requeues() && !tries.is_first());
    }
}
