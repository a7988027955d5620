//! Runs that the database refuses to queue again: a trigger or a constraint of the application may refuse some
//! rows of a sweep. These are left out for a while, so that they cost the others nothing.

use crate::ports::log_throttle::LogThrottle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;
use tokio::time::Instant;

/// Time for which sweeps leave a refused run out.
const RETRY_AFTER: Duration = Duration::from_secs(60);

static LOG: LogThrottle = LogThrottle::new();

/// The runs that were refused to this process, and when.
#[derive(Default)]
pub(super) struct RefusedRequeues(Mutex<HashMap<i64, Instant>>);

impl RefusedRequeues {
    /// Records a refused run, and logs the first one of a minute.
    pub fn note(&self, run: i64, why: impl Display) {
        if self.0.lock().insert(run, Instant::now()).is_some() {
            return;
        }
        match LOG.line() {
            Some(left_out) => {
                tracing::warn!(run, %why, left_out, "cannot queue the run again; leaving it out for a minute");
            }
            None => tracing::debug!(run, %why, "cannot queue the run again"),
        }
    }

    /// Returns the runs that are left out, and forgets the others, which are tried again.
    pub fn left_out(&self) -> Vec<i64> {
        let mut runs = self.0.lock();
        runs.retain(|_, at| at.elapsed() < RETRY_AFTER);
        runs.keys().copied().collect()
    }

    /// Publishes how many they are.
    pub fn measure(&self) {
        metrics::gauge!("verifyd_runs_requeue_refused").set(self.left_out().len() as f64);
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
        let mut left_out = refused.left_out();
        left_out.sort_unstable();
        assert_eq!(left_out, [7, 8]);
        tokio::time::advance(RETRY_AFTER / 2).await;
        assert_eq!(refused.left_out(), [8]);
    }
}
