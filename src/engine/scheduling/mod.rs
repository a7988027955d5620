//! Decides which run is next, and gives it a concurrency slot.
//!
//! Three sources offer runs: hints from the queue ([`hints`]), fair queuing ([`fair`]), and the reconciler
//! while the queue is unavailable. All of them go through [`Scheduler`] and wait for a slot in the order in
//! which they came, so a run that fair queuing has chosen takes the next free slot even while thousands of
//! hints wait.

pub(crate) mod fair;
pub(crate) mod hints;
pub(crate) mod in_flight;
pub(crate) mod isolation;
mod recently_completed;
pub(crate) mod refused_claims;
pub(crate) mod slots;

use super::pipeline::{Pipeline, Processed};
use crate::domain::RunId;
use crate::domain::hint::Hint;
use crate::ports::store::Store;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use recently_completed::RecentlyCompleted;
use slots::Slots;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pauses after a claim that may succeed soon, some two seconds in all, whether or not other claims are granted:
/// exponential backoff with jitter.
const CONTENDED_BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_jitter()
    .with_max_times(4);

/// Gives runs a concurrency slot and passes them to the pipeline.
#[derive(Debug)]
pub struct Scheduler {
    pipeline: Arc<Pipeline>,
    slots: Arc<Slots>,
    completed: RecentlyCompleted,
}

impl Scheduler {
    /// Creates a scheduler that gives these slots.
    pub fn new(pipeline: Arc<Pipeline>, store: Arc<dyn Store>, slots: Arc<Slots>) -> Self {
        Self {
            pipeline,
            slots,
            completed: RecentlyCompleted::new(store),
        }
    }

    /// Returns the number of free slots.
    pub fn free_slots(&self) -> usize {
        self.slots.free()
    }

    /// Processes a run as soon as there is a slot; after `stop`, none that still waits for one.
    pub async fn process(&self, run: RunId, stop: &CancellationToken) -> Processed {
        let _slot = tokio::select! {
            biased;
            () = stop.cancelled() => return Processed::Deferred,
            slot = self.slots.acquire() => slot,
        };
        self.process_in_slot(&Hint::new(run), stop).await
    }

    /// Processes a run. The caller holds a slot. A claim that may succeed soon is tried again a few times. Where
    /// the database refuses the claim, the slot pauses first, and tries once more if another claim is granted
    /// meanwhile: the cause may be gone.
    async fn process_in_slot(&self, hint: &Hint, stop: &CancellationToken) -> Processed {
        let mut processed = self.pipeline.process(hint).await;
        for pause in CONTENDED_BACKOFF.build() {
            if processed != Processed::Contended {
                break;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return processed,
                () = tokio::time::sleep(pause) => {}
            }
            processed = self.pipeline.process(hint).await;
        }
        if matches!(processed, Processed::Refused | Processed::Contended) {
            let granted = tokio::select! {
                biased;
                () = stop.cancelled() => false,
                granted = self.pipeline.refused_claims.pause() => granted,
            };
            if granted {
                processed = self.pipeline.process(hint).await;
            }
        }
        if let Processed::Completed(_) = processed {
            self.completed.insert(hint.operation_run_id).await;
        }
        processed
    }
}
