//! Fair queuing: a tenant without a run in flight here does not wait behind thousands of runs of another one.
//!
//! Hints arrive in the order in which they were sent. While hints wait, the process asks the database every
//! 250 ms which tenants have queued runs. Of each tenant without a run in flight it chooses the oldest run,
//! which takes the next free slot before further hints do. The hint of such a run finds it completed later
//! (`recently_completed`).

use super::Scheduler;
use crate::domain::TenantId;
use crate::domain::hint::Hint;
use crate::engine::with_timeout;
use crate::engine::worker::{Worker, WorkerState};
use crate::ports::fair_queuing::OldestRun;
use crate::ports::queue::Queue;
use crate::ports::store::{Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// Time between two checks of the queue, and so between two queries.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Longest time for one query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest number of runs that one query returns. The next one follows when fewer than half as many are not done.
const MAX_FOUND: u32 = 64;

/// Chooses runs of tenants that wait, and has them processed.
#[derive(Debug)]
pub(in crate::engine) struct FairScheduler {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    worker: Arc<WorkerState>,
    scheduler: Arc<Scheduler>,
    /// Chosen runs, which wait for a slot or are processed, with their tenants.
    tasks: JoinSet<()>,
    chosen: HashMap<Id, TenantId>,
    /// Where the next query begins.
    after: Option<TenantId>,
}

impl FairScheduler {
    /// Creates a fair scheduler that has chosen nothing yet.
    pub fn new(worker: &Worker, scheduler: Arc<Scheduler>) -> Self {
        Self {
            store: Arc::clone(&worker.store),
            queue: Arc::clone(&worker.queue),
            worker: Arc::clone(&worker.state),
            scheduler,
            tasks: JoinSet::new(),
            chosen: HashMap::new(),
            after: None,
        }
    }

    /// Chooses runs until `stop`, then waits for those that are processed.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut waited = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
            self.forget_ended();
            // Twice in a row: a hint may wait for a short time between two checks.
            let wait = self.hints_wait().await;
            let is_due = wait && waited && self.chosen.len() < MAX_FOUND as usize / 2;
            waited = wait;
            if !is_due || !self.worker.lease.is_alive() {
                continue;
            }
            match self.next_runs().await {
                Ok(runs) => {
                    for run in runs {
                        self.spawn(run, &stop);
                    }
                }
                // The sweep logs it, too, as a warning.
                Err(error) => tracing::debug!(%error, "cannot read waiting tenants; trying again"),
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Returns whether runs may be waiting although this process is working. While the queue is unavailable
    /// all of them wait.
    async fn hints_wait(&self) -> bool {
        if self.worker.in_flight.claimed() == 0 && !self.is_refusing() {
            return false;
        }
        match tokio::time::timeout(CHECK_INTERVAL, self.queue.depth()).await {
            Ok(Ok(depth)) => depth > 0,
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// Reads the oldest run of each tenant that waits, from where the last query ended.
    async fn next_runs(&mut self) -> Result<Vec<OldestRun>, StoreError> {
        let served = self.served_tenants();
        if served.is_empty() && !self.is_refusing() {
            // Between two runs; a waiting hint is next.
            return Ok(Vec::new());
        }
        let found = self
            .store
            .oldest_run_of_each_tenant(self.after, &served, MAX_FOUND);
        let found = with_timeout(QUERY_TIMEOUT, found).await?;
        self.after = found.next;
        Ok(found.runs)
    }

    /// Returns whether slots pause because the database refuses claims. They hold hints up, though no run is in flight.
    fn is_refusing(&self) -> bool {
        self.scheduler.pipeline.refused_claims.is_refusing()
    }

    /// Returns the tenants that have a run in flight, or one that has been chosen.
    fn served_tenants(&self) -> Vec<TenantId> {
        let mut served = self.worker.in_flight.tenants();
        served.extend(self.chosen.values());
        served.sort_unstable();
        served.dedup();
        served
    }

    fn spawn(&mut self, next: OldestRun, stop: &CancellationToken) {
        let (scheduler, stop) = (Arc::clone(&self.scheduler), stop.clone());
        let task = self.tasks.spawn(async move {
            let slot = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                slot = scheduler.slots.acquire_fair() => slot,
            };
            metrics::counter!("verifyd_fair_queuing_runs_total").increment(1);
            let hint = Hint::new(next.run);
            scheduler.process_in_slot(&hint, &stop).await;
            drop(slot);
        });
        self.chosen.insert(task.id(), next.tenant);
    }

    fn forget_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
            self.chosen.remove(&id);
        }
    }
}
