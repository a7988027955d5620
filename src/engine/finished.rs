//! Runs that this process has completed lately: another hint for one of them needs no look at the
//! database.
//!
//! Hints come twice, and after their run had its turn. A completed run stays completed. It is
//! forgotten soon all the same: in a database that was restored an id may be given a second time.

use crate::domain::RunId;
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a run is remembered.
const LATELY: Duration = Duration::from_secs(60);

/// Most runs that are remembered.
const MOST: usize = 16_384;

#[derive(Debug, Default)]
pub struct Finished {
    runs: Mutex<Runs>,
}

#[derive(Debug, Default)]
struct Runs {
    /// Until when each is remembered, the oldest first.
    in_order: VecDeque<(Instant, RunId)>,
    known: HashSet<RunId>,
}

impl Runs {
    fn forget(&mut self, now: Instant) {
        while let Some((until, run)) = self.in_order.front()
            && (*until < now || self.in_order.len() > MOST)
        {
            self.known.remove(run);
            self.in_order.pop_front();
        }
    }
}

impl Finished {
    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run is completed.
    pub fn note(&self, run: RunId) {
        let mut runs = self.lock();
        let now = Instant::now();
        if runs.known.insert(run) {
            runs.in_order.push_back((now + LATELY, run));
        }
        runs.forget(now);
    }

    /// Whether it was completed here a short while ago.
    pub fn lately(&self, run: RunId) -> bool {
        let mut runs = self.lock();
        runs.forget(Instant::now());
        runs.known.contains(&run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_run_is_remembered_for_a_while() {
        let finished = Finished::default();
        assert!(!finished.lately(RunId(1)));
        finished.note(RunId(1));
        tokio::time::advance(LATELY / 2).await;
        finished.note(RunId(2));
        assert!(finished.lately(RunId(1)) && finished.lately(RunId(2)));
        tokio::time::advance(LATELY / 2 + Duration::from_secs(1)).await;
        assert!(!finished.lately(RunId(1)));
        assert!(finished.lately(RunId(2)));
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let finished = Finished::default();
        let most = i64::try_from(MOST).unwrap();
        for id in 0..most + 10 {
            finished.note(RunId(id));
        }
        assert_eq!(finished.lock().in_order.len(), MOST);
        assert_eq!(finished.lock().known.len(), MOST);
        assert!(!finished.lately(RunId(9)));
        assert!(finished.lately(RunId(10)));
    }
}
