//! Handles the hints that the queue delivers.

use super::Scheduler;
use crate::domain::hint::Hint;
use crate::engine::pipeline::Processed;
use crate::engine::reconciler::ReconcilerState;
use crate::ports::queue::HintHandler;
use async_trait::async_trait;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pauses between attempts to claim a run: exponential backoff with jitter.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(10))
    .with_max_delay(Duration::from_secs(1))
    .with_jitter()
    .without_max_times();

/// Processes the run that a hint names.
pub(in crate::engine) struct HintedRuns {
    pub scheduler: Arc<Scheduler>,
    /// How long a hint is held while its run cannot be claimed; after that the sweep finds the run.
    pub held_for: Duration,
    pub state: Arc<ReconcilerState>,
    pub stop: CancellationToken,
}

#[async_trait]
impl HintHandler for HintedRuns {
    /// Holds on to the hint while the database is unavailable: fetching more would only lose more.
    async fn handle(&self, hint: Hint) {
        self.state.hints_untaken.set(false);
        let scheduler = &self.scheduler;
        if scheduler
            .completed
            .needs_no_claim(hint.operation_run_id)
            .await
        {
            metrics::counter!("verifyd_hints_without_claim_total").increment(1);
            return;
        }
        let _slot = scheduler.slots.acquire().await;
        let until = Instant::now() + self.held_for;
        for pause in BACKOFF.build() {
            let processed = scheduler.process_in_slot(&hint, &self.stop).await;
            if processed != Processed::Deferred || Instant::now() + pause >= until {
                break;
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.state.hints_untaken.set(false);
    }
}
