//! Runs that this process has completed lately: another hint for one of them needs no claim.
//!
//! Hints come twice, and after their run had its turn. A completed run stays completed, but its id may be
//! given to another run: after TRUNCATE, in a database that was restored. So the hints of a few moments
//! share one question to the database, whether any of these runs is queued; that costs a fraction of a claim.

use crate::domain::RunId;
use crate::ports::store::Store;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a run is remembered.
const LATELY: Duration = Duration::from_secs(60);

/// Most runs that are remembered.
const MOST: usize = 16_384;

/// How long hints are gathered for one question.
const GATHERED_FOR: Duration = Duration::from_millis(25);

#[derive(Debug, Default)]
pub struct Finished {
    runs: Mutex<Runs>,
    /// The question that is about to be asked.
    question: Arc<Mutex<Option<Question>>>,
}

/// Which of these runs are queued.
#[derive(Debug)]
struct Question {
    runs: Arc<Mutex<Vec<RunId>>>,
    answer: Answer,
}

/// Those that are, for all who have asked.
type Answer = Shared<BoxFuture<'static, Arc<HashSet<RunId>>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        lock(&self.runs)
    }

    /// Whether a run of this id is queued once more. Without an answer of the database it is left to the
    /// claim.
    pub async fn is_queued_again(&self, store: &Arc<dyn Store>, run: RunId) -> bool {
        self.ask(store, run).await.contains(&run)
    }

    fn ask(&self, store: &Arc<dyn Store>, run: RunId) -> Answer {
        let mut question = lock(&self.question);
        if let Some(question) = question.as_ref() {
            lock(&question.runs).push(run);
            return question.answer.clone();
        }
        let runs = Arc::new(Mutex::new(vec![run]));
        let answer = answer(
            Arc::clone(store),
            Arc::clone(&self.question),
            Arc::clone(&runs),
        );
        let answer = answer.boxed().shared();
        *question = Some(Question {
            runs,
            answer: answer.clone(),
        });
        answer
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

/// Gathers, then asks. Whoever comes after that makes up the next question.
async fn answer(
    store: Arc<dyn Store>,
    question: Arc<Mutex<Option<Question>>>,
    runs: Arc<Mutex<Vec<RunId>>>,
) -> Arc<HashSet<RunId>> {
    tokio::time::sleep(GATHERED_FOR).await;
    // Dropped after the lock.
    let asked = lock(&question).take();
    let runs = std::mem::take(&mut *lock(&runs));
    let queued = store.still_queued(&runs).await.unwrap_or(runs);
    drop(asked);
    Arc::new(queued.into_iter().collect())
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
