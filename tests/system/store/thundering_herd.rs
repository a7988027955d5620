//! Everything at once: whatever the order, each run is completed once, and nobody deadlocks.

use crate::store::bed::Bed;
use crate::store::fixtures::{POLICY, SWEEP, failed, heartbeat, refresh, succeeded, worker};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use verifyd::domain::{ConnectionId, RunId, RunStatus};
use verifyd::ports::store::{AttemptEnd, ClaimPolicy, Store, SweepPolicy};

const RUNS: usize = 120;

/// Attempts enough that none of them is spent.
const PATIENT: ClaimPolicy = ClaimPolicy {
    max_attempts: 10_000,
    ..POLICY
};

/// Every delivery is repeated at every sweep.
const EAGER: SweepPolicy = SweepPolicy {
    redeliver_after: Duration::ZERO,
    redeliver: true,
    batch: 50,
    ..SWEEP
};

/// A linear congruential generator: the same throws in every run of the test.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 40
    }
}

/// Works on what `runs` names, in an order of its own, sometimes giving back, until all are done.
/// A worker without heartbeats loses its runs to the sweep all the time.
async fn work(store: Arc<dyn Store>, name: String, runs: Vec<RunId>, completed: Arc<AtomicUsize>) {
    let me = worker(&name);
    let mut dice = Dice(name.len() as u64);
    while completed.load(Ordering::SeqCst) < RUNS {
        for run in &runs {
            let Some(claim) = store.claim(*run, &me, &PATIENT).await.unwrap().claimed() else {
                continue;
            };
            let thrown = dice.throw();
            if thrown.is_multiple_of(3) {
                store
                    .release(&claim, AttemptEnd::Shutdown, None, None, true)
                    .await
                    .unwrap();
                continue;
            }
            let mut completion = if thrown.is_multiple_of(2) {
                succeeded()
            } else {
                failed()
            };
            let granted = thrown % 4 < 2;
            completion.inventory = Some(refresh(
                run.0 % 3,
                &[("A.Read", granted), ("B.Read", !granted), ("C.Read", true)],
            ));
            completion.connection = Some(ConnectionId(run.0 % 5));
            if store.complete(&claim, &completion).await.unwrap() {
                completed.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

async fn sweep(store: Arc<dyn Store>, completed: Arc<AtomicUsize>) {
    while completed.load(Ordering::SeqCst) < RUNS {
        if let Some(swept) = store.sweep(&EAGER).await.unwrap() {
            store.mark_undispatched(&swept.due).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn a_thundering_herd_completes_every_run_once(bed: &Bed) {
    let stores = [bed.store.clone(), bed.replica().await];
    let runs = bed.many_queued(RUNS).await;
    let completed = Arc::new(AtomicUsize::new(0));
    // Dropped, it ends the others: one that failed must not leave them working for ever.
    let mut tasks = JoinSet::new();
    for n in 0..6 {
        let name = format!("w{}", "x".repeat(n));
        if n > 0 {
            bed.store.heartbeat(&heartbeat(&name)).await.unwrap();
        }
        let mut order = runs.clone();
        order.rotate_left(n * RUNS / 12);
        let store = stores[n % 2].clone();
        tasks.spawn(work(store, name, order, completed.clone()));
    }
    for store in &stores {
        tasks.spawn(sweep(store.clone(), completed.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no call fails, not even as contended");
    }
    assert_eq!(completed.load(Ordering::SeqCst), RUNS);
    for run in runs {
        let stored = bed.run(run).await;
        assert_eq!(stored.status, RunStatus::Completed);
        let attempts = bed.attempts(run).await;
        let ends: Vec<_> = attempts.iter().map(|a| a.end_reason).collect();
        let done = ends
            .iter()
            .filter(|end| **end == Some(AttemptEnd::Completed));
        assert_eq!(done.count(), 1, "{ends:?}");
        assert_eq!(ends.last(), Some(&Some(AttemptEnd::Completed)), "{ends:?}");
        assert!(!ends.contains(&None), "{ends:?}");
    }
}
