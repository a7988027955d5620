//! Takes runs from the database directly while the queue is unavailable, too long, or its consumer has
//! stalled.

use crate::domain::RunId;
use crate::engine::pipeline::Processed;
use crate::engine::scheduling::Scheduler;
use crate::ports::store::{Store, StoreError};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The runs that were taken directly.
#[derive(Debug)]
pub(super) struct Polling {
    store: Arc<dyn Store>,
    scheduler: Arc<Scheduler>,
    /// Largest number of runs that are taken and not yet done.
    max_taken: usize,
    taken: JoinSet<()>,
    stop: CancellationToken,
}

impl Polling {
    pub fn new(
        store: Arc<dyn Store>,
        scheduler: Arc<Scheduler>,
        max_taken: usize,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            scheduler,
            max_taken,
            taken: JoinSet::new(),
            stop,
        }
    }

    /// Returns how many runs can be taken now. Beside the consumer of a queue that is full, that is what has
    /// a free slot: at least one, so that every sweep makes progress.
    pub fn capacity(&mut self, queue_is_full: bool) -> u32 {
        while self.taken.try_join_next().is_some() {}
        let mut capacity = self.max_taken.saturating_sub(self.taken.len());
        if queue_is_full {
            capacity = capacity.min(self.scheduler.free_slots()).max(1);
        }
        u32::try_from(capacity).unwrap_or(u32::MAX)
    }

    /// Has as many runs processed as it may take; the next sweep finds the others.
    pub async fn take(&mut self, mut due: Vec<RunId>) -> Result<(), StoreError> {
        let capacity = self.max_taken.saturating_sub(self.taken.len());
        let left = due.split_off(capacity.min(due.len()));
        for run in due {
            let (store, scheduler) = (Arc::clone(&self.store), Arc::clone(&self.scheduler));
            let stop = self.stop.clone();
            self.taken.spawn(async move {
                let processed = scheduler.process(run, &stop).await;
                if processed == Processed::Deferred
                    && let Err(error) = store.mark_undispatched(&[run]).await
                {
                    tracing::debug!(%error, "cannot mark the run as undispatched; a later sweep finds it");
                }
            });
        }
        if left.is_empty() {
            return Ok(());
        }
        self.store.mark_undispatched(&left).await
    }

    /// Waits for the runs that were taken.
    pub async fn join(&mut self) {
        while self.taken.join_next().await.is_some() {}
    }
}
