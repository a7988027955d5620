//! A worker process: runs heartbeat, reconciler, fair queuing and the consumer of hints, and drains them.

use super::heartbeats::ConfirmedHeartbeats;
use super::lease::{self, Lease};
use super::liveness::{FailureStreak, Refusals};
use super::pipeline::Pipeline;
use super::reconciler::{ConsumerStalled, Reconciler, ReconcilerState};
use super::scheduling::Scheduler;
use super::scheduling::fair::FairScheduler;
use super::scheduling::hints::HintedRuns;
use super::scheduling::in_flight::InFlightRuns;
use super::scheduling::slots::Slots;
use super::schema::SchemaWatch;
use super::settings::{ReconcilerSettings, WorkerSettings};
use crate::domain::WorkerId;
use crate::ports::queue::{Queue, QueueError};
use crate::ports::store::Store;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Who this worker is, whether it may work, and on what it works: shared by its parts, and read by the
/// health endpoints.
#[derive(Debug)]
pub struct WorkerState {
    pub id: WorkerId,
    pub settings: WorkerSettings,
    pub lease: Lease,
    pub heartbeats: ConfirmedHeartbeats,
    pub schema: SchemaWatch,
    pub slots: Arc<Slots>,
    pub in_flight: InFlightRuns,
    /// For how long no claim has been answered.
    pub claim_failures: FailureStreak,
    pub refusals: Refusals,
    /// Fires at the signal to stop.
    pub stopping: CancellationToken,
    /// Fires at the end of the grace period: runs in flight are released.
    pub release_now: CancellationToken,
}

impl WorkerState {
    /// Creates a worker whose lease is dead until its first heartbeat.
    pub fn new(id: WorkerId, settings: WorkerSettings) -> Self {
        Self {
            id,
            lease: Lease::new(settings.self_fence_after()),
            heartbeats: ConfirmedHeartbeats::default(),
            slots: Arc::new(Slots::new(settings.concurrency)),
            settings,
            schema: SchemaWatch::default(),
            in_flight: InFlightRuns::default(),
            claim_failures: FailureStreak::default(),
            refusals: Refusals::default(),
            stopping: CancellationToken::new(),
            release_now: CancellationToken::new(),
        }
    }

    /// Returns whether this process may claim runs.
    pub fn may_claim(&self) -> bool {
        self.lease.is_alive() && !self.release_now.is_cancelled() && self.schema.fits()
    }

    /// Waits until a claim that is sent now is given up: some time after it was sent and after the signal to stop.
    pub async fn claim_is_overdue(&self) {
        self.stopping.cancelled().await;
        tokio::time::sleep(CLAIM_TIMEOUT).await;
    }

    /// Waits until a stop takes too long, because a server passes nothing.
    pub async fn stop_is_overdue(&self, stop: &CancellationToken) {
        stop.cancelled().await;
        tokio::time::sleep(self.settings.grace_period + RELEASE_TIMEOUT).await;
    }
}

/// Why a worker ended without being stopped.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The consumer of hints cannot be kept alive.
    #[error("the consumer of hints ended: {0}")]
    Consumer(QueueError),
    /// The consumer of hints is there, and does nothing.
    #[error(transparent)]
    Stalled(#[from] ConsumerStalled),
    /// A part that must run as long as the process ended; its own error is in the log.
    #[error("the {0} ended unexpectedly")]
    Part(&'static str),
    /// A part did not stop, not even after the grace period.
    #[error("the stop took too long")]
    Overdue,
}

/// Time after `stop` for a claim: longer than a statement of a batch may take by default, so that hardly any batch is
/// given up that is committed later. Its attempts would count as lost.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(6);

/// Time after the grace period for releasing what is still in flight, and for all parts to end. `docs/guides/deploy.md`
/// adds it, and what `cli/serve.rs` needs afterwards, to the grace period.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A part that must not end before the worker is stopped.
struct Part {
    name: &'static str,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Part {
    /// Starts a part that ends after `until`. When it ends before that, also by a panic, the whole worker
    /// stops: a process without that part would look healthy and do nothing.
    fn start(
        name: &'static str,
        until: &CancellationToken,
        stop: &CancellationToken,
        part: impl Future<Output = Result<(), WorkerError>> + Send + 'static,
    ) -> Self {
        let (until, stop) = (until.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let error = match AssertUnwindSafe(part).catch_unwind().await {
                Ok(Ok(())) if until.is_cancelled() => return Ok(()),
                Ok(Err(error)) => error,
                Ok(Ok(())) | Err(_) => WorkerError::Part(name),
            };
            tracing::error!(%error, "a part of the worker ended; stopping");
            stop.cancel();
            Err(error)
        });
        Self { name, task }
    }

    async fn join(self) -> Result<(), WorkerError> {
        self.task.await.unwrap_or(Err(WorkerError::Part(self.name)))
    }
}

/// A worker that has not started yet.
#[derive(Debug)]
pub struct Worker {
    pub state: Arc<WorkerState>,
    pub store: Arc<dyn Store>,
    pub queue: Arc<dyn Queue>,
    pub pipeline: Arc<Pipeline>,
    pub reconciler: ReconcilerSettings,
    pub reconciler_state: Arc<ReconcilerState>,
}

impl Worker {
    /// Works until `stop` fires, then drains: no more hints are fetched, runs in flight have the grace period
    /// to finish, and the rest is released uncounted. Drains and fails, too, when a part cannot be kept
    /// alive.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        let scheduler = Arc::new(Scheduler::new(
            Arc::clone(&self.pipeline),
            Arc::clone(&self.store),
            Arc::clone(&self.state.slots),
        ));
        let drained = CancellationToken::new();
        let heartbeat = {
            let (store, state) = (Arc::clone(&self.store), Arc::clone(&self.state));
            let until = drained.clone();
            Part::start("heartbeat", &drained, &stop, async move {
                lease::send_heartbeats(store.as_ref(), &state, until).await;
                Ok(())
            })
        };
        let reconciler = Reconciler::new(&self, Arc::clone(&scheduler), stop.clone());
        let until = stop.clone();
        let reconciler = Part::start("reconciler", &stop, &stop, async move {
            Ok(reconciler.run(until).await?)
        });
        let fair = FairScheduler::new(&self, Arc::clone(&scheduler));
        let until = stop.clone();
        let fair = Part::start("fair scheduler", &stop, &stop, async move {
            fair.run(until).await;
            Ok(())
        });
        let grace_period = tokio::spawn(end_grace_period(
            Arc::clone(&self.state),
            Arc::clone(&self.pipeline),
            stop.clone(),
        ));

        let consumed = self.consume(scheduler, &stop).await;
        // Also when the consumer gave up by itself.
        stop.cancel();
        let reconciled = reconciler.join().await;
        let scheduled = fair.join().await;
        grace_period.abort();
        drained.cancel();
        let beaten = heartbeat.join().await;
        if let Err(error) = self.store.retire(&self.state.id).await {
            tracing::debug!(%error, "cannot remove the worker from the list");
        }
        // What made it stop comes first.
        match reconciled {
            Err(error @ WorkerError::Stalled(_)) => Err(error),
            reconciled => consumed.and(reconciled).and(scheduled).and(beaten),
        }
    }

    /// Consumes hints until `stop`.
    async fn consume(
        &self,
        scheduler: Arc<Scheduler>,
        stop: &CancellationToken,
    ) -> Result<(), WorkerError> {
        let settings = &self.state.settings;
        let handler = Arc::new(HintedRuns {
            scheduler,
            held_for: self.reconciler.redeliver_after,
            state: Arc::clone(&self.reconciler_state),
            stop: stop.clone(),
        });
        let consuming = self
            .queue
            .consume(handler, settings.concurrency, stop.clone());
        match AssertUnwindSafe(consuming).catch_unwind().await {
            Ok(Ok(())) if stop.is_cancelled() => Ok(()),
            Ok(Ok(())) | Err(_) => Err(WorkerError::Part("consumer of hints")),
            Ok(Err(error)) => Err(WorkerError::Consumer(error)),
        }
    }
}

/// After `stop`, admits no run to isolation, and has claims that wait given up; after the grace period, has all runs
/// released.
async fn end_grace_period(
    state: Arc<WorkerState>,
    pipeline: Arc<Pipeline>,
    stop: CancellationToken,
) {
    stop.cancelled().await;
    pipeline.isolation.close();
    state.stopping.cancel();
    tokio::time::sleep(state.settings.grace_period).await;
    tracing::warn!("the grace period is over; releasing what is in flight");
    state.release_now.cancel();
}
