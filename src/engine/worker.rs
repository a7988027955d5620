//! A worker process: consumes hints, beats, sweeps, and stops gracefully.

use super::Engine;
use super::lease;
use super::process::Processed;
use super::reconciler::{Deaf, Reconciler, ReconcilerState};
use super::settings::ReconcilerSettings;
use super::turns;
use crate::domain::job::Hint;
use crate::ports::queue::{HintHandler, Queue, QueueError};
use async_trait::async_trait;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Before a run that could not be claimed is tried again; doubles from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why a worker ended without having been told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The consumer of hints cannot be kept alive.
    #[error("the consumer of hints ended: {0}")]
    Consumer(QueueError),
    /// The consumer of hints is there, and does nothing.
    #[error(transparent)]
    Deaf(#[from] Deaf),
    /// A part that must run for as long as the process is gone; what it said stands in the log.
    #[error("the {0} ended by itself")]
    Part(&'static str),
    /// It was told to stop, and did not even after the grace period.
    #[error("the consumer of hints does not stop")]
    Overdue,
}

/// What is given back after the grace period has so long to be written.
const OVERTIME: Duration = Duration::from_secs(60);

/// Returns when a consumer that was told to stop should have done so long ago.
async fn overdue(stop: &CancellationToken, grace_period: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(grace_period + OVERTIME).await;
}

/// Runs a part that must not end before `until` is cancelled. When it does, by a panic too, the
/// whole worker is stopped: a process that goes on without it would look healthy and do nothing.
fn supervised(
    name: &'static str,
    part: impl Future<Output = Result<(), WorkerError>> + Send + 'static,
    until: CancellationToken,
    stop: CancellationToken,
) -> JoinHandle<Result<(), WorkerError>> {
    tokio::spawn(async move {
        let ended = AssertUnwindSafe(part).catch_unwind().await;
        let error = match ended {
            Ok(Ok(())) if until.is_cancelled() => return Ok(()),
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => WorkerError::Part(name),
        };
        stop.cancel();
        Err(error)
    })
}

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
    state: Arc<ReconcilerState>,
    stop: CancellationToken,
}

#[async_trait]
impl HintHandler for Handler {
    /// Holds on to the hint while the database is away: fetching more would only lose more.
    async fn handle(&self, hint: Hint) {
        self.state.untaken.note(false);
        self.state.hinted.arrived();
        let until = Instant::now() + self.patience;
        let mut pause = FIRST_PAUSE;
        let mut processed = self.engine.process_in_turn(&hint, &self.stop).await;
        while processed == Processed::Deferred && Instant::now() + pause < until {
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            processed = self.engine.process(&hint).await;
        }
        self.state.untaken.note(false);
    }
}

impl Worker {
    /// Works until `stop` fires, then drains: nothing more is fetched, what is in work has the
    /// grace period to finish, the rest goes back to the queue uncounted. Drains and ends with an
    /// error, too, when consumer, reconciler or heartbeat cannot be kept alive.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        let engine = &self.engine;
        let beating = CancellationToken::new();
        let beats = {
            let engine = engine.clone();
            let until = beating.clone();
            let part = async move {
                lease::keep_beating(
                    engine.store.as_ref(),
                    &engine.lease,
                    &engine.worker,
                    &engine.settings,
                    &engine.in_flight,
                    until,
                )
                .await;
                Ok(())
            };
            supervised("heartbeat", part, beating.clone(), stop.clone())
        };
        let sweeps = {
            let reconciler = Reconciler::new(
                engine.clone(),
                Arc::clone(&self.queue),
                self.reconciler.clone(),
                Arc::clone(&self.reconciler_state),
            );
            let until = stop.clone();
            let part = async move { Ok(reconciler.run(until).await?) };
            supervised("reconciler", part, stop.clone(), stop.clone())
        };
        let turns = {
            let keeping = turns::keep(engine.clone(), Arc::clone(&self.queue), stop.clone());
            let part = async move {
                keeping.await;
                Ok(())
            };
            supervised("keeper of turns", part, stop.clone(), stop.clone())
        };
        let grace = {
            let stop = stop.clone();
            let release_now = engine.release_now.clone();
            let alone = Arc::clone(&engine.alone);
            let period = engine.settings.grace_period;
            tokio::spawn(async move {
                stop.cancelled().await;
                alone.close();
                tokio::time::sleep(period).await;
                tracing::warn!("the grace period is over, what is in work is released");
                release_now.cancel();
            })
        };

        let handler = Arc::new(Handler {
            engine: engine.clone(),
            patience: self.reconciler.redeliver_after,
            state: Arc::clone(&self.reconciler_state),
            stop: stop.clone(),
        });
        let consuming = self
            .queue
            .consume(handler, engine.settings.concurrency, stop.clone());
        let consuming = AssertUnwindSafe(consuming).catch_unwind();
        let consumed = tokio::select! {
            ended = consuming => match ended {
                Ok(Ok(())) if stop.is_cancelled() => Ok(()),
                Ok(Ok(())) | Err(_) => Err(WorkerError::Part("consumer of hints")),
                Ok(Err(error)) => Err(WorkerError::Consumer(error)),
            },
            () = overdue(&stop, engine.settings.grace_period) => Err(WorkerError::Overdue),
        };
        // Also when the consumer gave up by itself.
        stop.cancel();
        let swept = joined("reconciler", sweeps).await;
        let kept = joined("keeper of turns", turns).await;
        grace.abort();
        beating.cancel();
        let beaten = joined("heartbeat", beats).await;
        if let Err(error) = engine.store.retire(&engine.worker).await {
            tracing::debug!(%error, "the worker could not be taken off the list");
        }
        // What made it stop comes first.
        match swept {
            Err(error @ WorkerError::Deaf(_)) => Err(error),
            swept => consumed.and(swept).and(kept).and(beaten),
        }
    }
}

async fn joined(
    name: &'static str,
    part: JoinHandle<Result<(), WorkerError>>,
) -> Result<(), WorkerError> {
    part.await.unwrap_or(Err(WorkerError::Part(name)))
}
