//! A worker process: consumes hints, beats, sweeps, and stops gracefully.

use super::Engine;
use super::lease;
use super::reconciler::{Reconciler, ReconcilerState};
use super::settings::ReconcilerSettings;
use crate::domain::job::Hint;
use crate::ports::queue::{Handled, HintHandler, Queue, QueueError};
use async_trait::async_trait;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The parts of a worker process.
#[derive(Debug)]
pub struct Worker {
    pub engine: Engine,
    pub queue: Arc<dyn Queue>,
    pub reconciler: ReconcilerSettings,
    pub reconciler_state: Arc<ReconcilerState>,
}

struct Handler(Engine);

#[async_trait]
impl HintHandler for Handler {
    async fn handle(&self, hint: Hint) -> Handled {
        self.0.process(&hint).await;
        Handled::Done
    }
}

impl Worker {
    /// Works until `stop` fires, then drains: nothing more is fetched, what is in work has the
    /// grace period to finish, the rest goes back to the queue uncounted. Ends with an error when
    /// the consumer cannot be kept alive.
    pub async fn run(self, stop: CancellationToken) -> Result<(), QueueError> {
        let engine = &self.engine;
        let beating = CancellationToken::new();
        let beats = {
            let engine = engine.clone();
            let beating = beating.clone();
            tokio::spawn(async move {
                lease::keep_beating(
                    engine.store.as_ref(),
                    &engine.lease,
                    &engine.worker,
                    &engine.settings,
                    &engine.in_flight,
                    beating,
                )
                .await;
            })
        };
        let sweeps = {
            let reconciler = Reconciler::new(
                engine.clone(),
                Arc::clone(&self.queue),
                self.reconciler.clone(),
                Arc::clone(&self.reconciler_state),
            );
            let stop = stop.clone();
            tokio::spawn(async move { reconciler.run(stop).await })
        };
        let grace = {
            let stop = stop.clone();
            let release_now = engine.release_now.clone();
            let period = engine.settings.grace_period;
            tokio::spawn(async move {
                stop.cancelled().await;
                tokio::time::sleep(period).await;
                tracing::warn!("the grace period is over, what is in work is released");
                release_now.cancel();
            })
        };

        let consumed = self
            .queue
            .consume(
                Arc::new(Handler(engine.clone())),
                engine.settings.concurrency,
                stop.clone(),
            )
            .await;
        // Also when the consumer gave up by itself.
        stop.cancel();
        if let Err(error) = sweeps.await {
            tracing::error!(%error, "the reconciler ended badly");
        }
        grace.abort();
        beating.cancel();
        if let Err(error) = beats.await {
            tracing::error!(%error, "the heartbeat ended badly");
        }
        if let Err(error) = engine.store.retire(&engine.worker).await {
            tracing::debug!(%error, "the worker could not be taken off the list");
        }
        consumed
    }
}
