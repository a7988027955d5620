//! Runs that the database refuses to queue again: a trigger or a constraint of the application may refuse some
//! rows of a sweep. These are left out for a while, so that they cost the others nothing.

use crate::ports::log_throttle::LogThrottle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::Instant;

/// Time for which sweeps leave a refused run out.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Time after which a run is no longer counted, in a process that has not swept since or knows very many.
const FORGET_AFTER: Duration = RETRY_AFTER.saturating_mul(5);

static LOG: LogThrottle = LogThrottle::new();

/// The runs that were refused to this process, and when.
#[derive(Default)]
pub(super) struct RefusedRequeues {
    runs: Mutex<HashMap<i64, Instant>>,
    /// Whether runs are queued one by one from the beginning: one of a batch has ended the transaction, as
    /// `RAISE(ROLLBACK)` in SQLite does.
    pub one_by_one: AtomicBool,
}

impl RefusedRequeues {
    /// Records a refused run, and logs the first one of a minute.
    pub fn note(&self, run: i64, why: impl Display) {
        if self.runs.lock().insert(run, Instant::now()).is_some() {
            return;
        }
        match LOG.line() {
            Some(left_out) => {
                tracing::warn!(run, %why, left_out, "cannot queue the run again; leaving it out for a while");
            }
            None => tracing::debug!(run, %why, "cannot queue the run again"),
        }
    }

    /// Forgets at most so many of the runs that were left out for long enough, the longest first: they are tried
    /// again.
    pub fn forget(&self, most: u32) {
        let mut runs = self.runs.lock();
        let waited = runs.iter().filter(|(_, at)| at.elapsed() >= RETRY_AFTER);
        let mut waited: Vec<(Instant, i64)> = waited.map(|(run, at)| (*at, *run)).collect();
        waited.sort_unstable();
        for (_, run) in waited.into_iter().take(most as usize) {
            runs.remove(&run);
        }
    }

    /// Returns the runs that are left out.
    pub fn left_out(&self) -> Vec<i64> {
        self.runs.lock().keys().copied().collect()
    }

    /// Publishes how many they are.
    pub fn measure(&self) {
        let mut runs = self.runs.lock();
        runs.retain(|_, at| at.elapsed() < FORGET_AFTER);
        metrics::gauge!("verifyd_runs_requeue_refused").set(runs.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refused_run_is_tried_again_after_a_minute() {
        let refused = RefusedRequeues::default();
        refused.note(7, "not today");
        tokio::time::advance(RETRY_AFTER / 2).await;
        refused.note(8, "not today");
        refused.forget(9);
        let mut left_out = refused.left_out();
        left_out.sort_unstable();
        assert_eq!(left_out, [7, 8]);
        tokio::time::advance(RETRY_AFTER / 2).await;
        refused.forget(9);
        assert_eq!(refused.left_out(), [8]);
        // However many there are, a sweep tries a few of them.
        tokio::time::advance(RETRY_AFTER).await;
        refused.note(9, "not today");
        tokio::time::advance(RETRY_AFTER).await;
        refused.forget(1);
        assert_eq!(refused.left_out(), [9]);
    }
}
