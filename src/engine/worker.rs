//! A worker process: consumes hints, beats, sweeps, and stops gracefully.

use super::Engine;
use super::lease;
use super::process::Processed;
use super::reconciler::{Reconciler, ReconcilerState};
use super::settings::ReconcilerSettings;
use crate::domain::job::Hint;
use crate::ports::queue::{Handled, HintHandler, Queue, QueueError};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Before a run that could not be claimed is tried again; doubles from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The parts of a worker process.
#[derive(Debug)]
pub struct Worker {
    pub engine: Engine,
    pub queue: Arc<dyn Queue>,
    pub reconciler: ReconcilerSettings,
    pub reconciler_state: Arc<ReconcilerState>,
}

struct Handler {
    engine: Engine,
    /// How long a hint is held while its run cannot be claimed; after that the sweep finds it.
    patience: Duration,
    stop: CancellationToken,
}

#[async_trait]
impl HintHandler for Handler {
    /// Holds on to the hint while the database is away: fetching more would only lose more.
    async fn handle(&self, hint: Hint) -> Handled {
        let until = Instant::now() + self.patience;
        let mut pause = FIRST_PAUSE;
        while self.engine.process(&hint).await == Processed::Deferred
            && Instant::now() + pause < until
        {
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
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
                Arc::new(Handler {
                    engine: engine.clone(),
                    patience: self.reconciler.redeliver_after,
                    stop: stop.clone(),
                }),
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
