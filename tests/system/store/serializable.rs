//! PostgreSQL where every conflict is an error: one call wins, the others are told so or told to come
//! again, and none fails otherwise.

use crate::store::bed::Bed;
use crate::store::fixtures::{ISOLATED, at_once, failed, succeeded, worker};
use std::sync::Arc;
use verifyd::domain::RunStatus;
use verifyd::ports::store::{Claim, ClaimAnswer, Store, StoreError};

const CALLS: usize = 50;
const ROUNDS: usize = 6;

/// Two replicas whose transactions are all serializable.
async fn serializable(bed: &Bed) -> [Arc<dyn Store>; 2] {
    bed.set("default_transaction_isolation = 'serializable'")
        .await;
    [bed.replica().await, bed.replica().await]
}

/// How many were told to come again. Nothing else may go wrong.
fn contended<T>(answers: &[Result<T, StoreError>]) -> usize {
    let errors = answers.iter().filter_map(|answer| answer.as_ref().err());
    errors
        .inspect(|error| assert!(matches!(error, StoreError::Contended(_)), "{error}"))
        .count()
}

/// Calls that are sent separately, as those of one process for one run would otherwise come one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_race_for_a_run_and_fifty_to_complete_it() {
    let bed = Bed::postgres().await;
    let stores = serializable(&bed).await;
    let mut conflicts = 0;
    for round in 0..ROUNDS {
        let run = bed.queued().await;
        let answers = at_once(&stores, CALLS, |store, n| async move {
            store.claim(run, &worker(&format!("w{n}")), &ISOLATED).await
        })
        .await;
        // A claim skips a run that another one holds, and conflicts with it only after that one's commit.
        let locked = answers
            .iter()
            .filter(|answer| matches!(answer, Ok(ClaimAnswer::Locked)));
        conflicts += contended(&answers) + locked.count();
        let won: Vec<Claim> = answers
            .into_iter()
            .filter_map(|answer| answer.ok()?.claimed())
            .collect();
        assert_eq!(won.len(), 1, "round {round}");
        assert_eq!(bed.attempts(run).await.len(), 1);

        let held = Arc::new(won.into_iter().next().unwrap());
        let answers = at_once(&stores, CALLS, |store, n| {
            let held = held.clone();
            let completion = if n % 3 == 0 { failed() } else { succeeded() };
            async move { store.complete(&held, &completion).await }
        })
        .await;
        conflicts += contended(&answers);
        let wrote = answers.iter().filter(|answer| matches!(answer, Ok(true)));
        assert_eq!(wrote.count(), 1, "round {round}");
        let stored = bed.run(run).await;
        assert_eq!(stored.status, RunStatus::Completed);
    }
    assert!(conflicts > 0, "nobody met anybody");
}
