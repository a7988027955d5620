//! Turns: a tenant none of whose runs is in work here does not wait behind thousands of another one.
//!
//! Hints come in the order in which they were sent. While more of them wait than are taken, the
//! database is asked every now and then which tenants wait; of each that has nothing in work in this
//! process the oldest run is taken ahead of the hints. Whoever takes a hint takes such a run first, and a
//! few places besides those for hints are kept for them, in case all are taken by runs that are slow. The
//! hint of a run that had its turn finds nothing to do (`finished`).

use super::Engine;
use super::process::Processed;
use crate::domain::job::Hint;
use crate::domain::{RunId, TenantId};
use crate::ports::queue::Queue;
use crate::ports::store::StoreError;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Between two looks at the queue, and so between two at the database.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Longest time for one look.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// Most turns that are known at a time.
const MOST: u32 = 64;

/// Which tenants are in work here, and whose turn comes next.
#[derive(Debug)]
pub struct Turns {
    next: Mutex<VecDeque<RunId>>,
    in_work: Mutex<HashMap<TenantId, u32>>,
    places: Arc<Semaphore>,
}

/// Keeps a tenant noted as in work, also when its task is dropped.
#[derive(Debug)]
pub struct Working<'a> {
    turns: &'a Turns,
    tenant: Option<TenantId>,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let Some(tenant) = self.tenant else { return };
        let mut in_work = lock(&self.turns.in_work);
        if let Some(count) = in_work.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                in_work.remove(&tenant);
            }
        }
    }
}

impl Turns {
    /// For a process that works on so many hints at a time.
    pub fn new(concurrency: usize) -> Self {
        Self {
            next: Mutex::default(),
            in_work: Mutex::default(),
            places: Arc::new(Semaphore::new((concurrency / 8).max(1))),
        }
    }

    /// To be held while a run of this tenant is in work.
    pub fn working(&self, tenant: Option<TenantId>) -> Working<'_> {
        if let Some(tenant) = tenant {
            *lock(&self.in_work).entry(tenant).or_default() += 1;
        }
        Working {
            turns: self,
            tenant,
        }
    }

    /// The run whose turn it is. Each is given out once.
    pub fn take(&self) -> Option<RunId> {
        let run = lock(&self.next).pop_front()?;
        metrics::counter!("verifyd_turns_total").increment(1);
        Some(run)
    }

    fn known(&self) -> usize {
        lock(&self.next).len()
    }

    /// As many as are of use, taken.
    fn free_places(&self) -> Vec<OwnedSemaphorePermit> {
        (0..self.known())
            .map_while(|_| Arc::clone(&self.places).try_acquire_owned().ok())
            .collect()
    }

    fn tenants_in_work(&self) -> Vec<TenantId> {
        lock(&self.in_work).keys().copied().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Works on the run whose turn it is, if there is one and nobody has said `stop`, and then on the
    /// one that the hint names.
    pub async fn process_in_turn(&self, hint: &Hint, stop: &CancellationToken) -> Processed {
        if !stop.is_cancelled()
            && let Some(run) = self.turns.take()
        {
            self.process(&Hint::new(run)).await;
        }
        let run = hint.operation_run_id;
        if self.finished.lately(run) && !self.finished.is_queued_again(&self.store, run).await {
            metrics::counter!("verifyd_hints_without_claim_total").increment(1);
            return Processed::NotClaimable;
        }
        self.process(hint).await
    }
}

/// Finds out whose turn it is until `stop`, then waits for the runs that it took itself.
pub(super) async fn keep(engine: Engine, queue: Arc<dyn Queue>, stop: CancellationToken) {
    let mut taken = JoinSet::new();
    let mut waited = false;
    let mut last = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        while taken.try_join_next().is_some() {}
        // Twice in a row: between two looks anything may wait for a moment.
        let waits = hints_wait(&engine, queue.as_ref()).await;
        let looks = waits && waited && engine.turns.known() < MOST as usize / 2;
        waited = waits;
        if !looks || !engine.lease.is_alive() {
            continue;
        }
        match look(&engine, last).await {
            Ok(tenant) => last = tenant,
            // The sweep says so, too, and more loudly.
            Err(error) => tracing::debug!(%error, "whose turn it is cannot be read"),
        }
        for place in engine.turns.free_places() {
            let (engine, stop) = (engine.clone(), stop.clone());
            taken.spawn(async move {
                while !stop.is_cancelled()
                    && let Some(run) = engine.turns.take()
                {
                    engine.process(&Hint::new(run)).await;
                }
                drop(place);
            });
        }
    }
    while taken.join_next().await.is_some() {}
}

/// Whether runs may wait though this process is at work. A queue that is away has them all wait.
async fn hints_wait(engine: &Engine, queue: &dyn Queue) -> bool {
    if engine.in_flight.load(Ordering::Relaxed) == 0 {
        return false;
    }
    match tokio::time::timeout(LOOK_INTERVAL, queue.depth()).await {
        Ok(Ok(depth)) => depth > 0,
        Ok(Err(_)) | Err(_) => true,
    }
}

/// Asks whose turn it is, beginning after a tenant; answers where to begin the next time.
async fn look(engine: &Engine, after: Option<TenantId>) -> Result<Option<TenantId>, StoreError> {
    let except = engine.turns.tenants_in_work();
    if except.is_empty() {
        // Between two runs; whoever waits is next.
        return Ok(after);
    }
    let found = engine.store.oldest_run_of_each_tenant(after, &except, MOST);
    let found = tokio::time::timeout(LOOK_PATIENCE, found)
        .await
        .map_err(|_| StoreError::Unavailable("no answer in time".into()))??;
    let last = found
        .last()
        .filter(|_| found.len() >= MOST as usize)
        .map(|turn| turn.tenant);
    *lock(&engine.turns.next) = found.into_iter().map(|turn| turn.run).collect();
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_in_work_until_its_last_run_is_done() {
        let turns = Turns::new(64);
        let first = turns.working(Some(TenantId(1)));
        let second = turns.working(Some(TenantId(1)));
        let none = turns.working(None);
        drop(first);
        assert_eq!(turns.tenants_in_work(), [TenantId(1)]);
        drop(second);
        drop(none);
        assert_eq!(turns.tenants_in_work(), []);
        assert_eq!(turns.take(), None);
    }

    #[test]
    fn places_are_taken_for_runs_that_wait_and_no_more_than_there_are() {
        let turns = Turns::new(64);
        assert_eq!(turns.free_places().len(), 0);
        lock(&turns.next).extend((0..3).map(RunId));
        assert_eq!(turns.free_places().len(), 3);
        lock(&turns.next).extend((3..50).map(RunId));
        let all = turns.free_places();
        assert_eq!((all.len(), turns.free_places().len()), (8, 0));
        drop(all);
        assert_eq!(turns.free_places().len(), 8);
        assert_eq!(turns.take(), Some(RunId(0)));
    }
}
