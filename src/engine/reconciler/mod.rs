//! Finds what was lost: due runs without a delivery, runs whose lease is dead, and orphans of this process,
//! attempts that it does not process although its heartbeat keeps them alive.
//!
//! It runs in every replica; the database lets one replica at a time sweep, to save work.

mod consumer_watch;
pub(crate) mod invalid_runs;
mod orphans;
mod polling;
mod sweep;

pub use consumer_watch::ConsumerStalled;
pub use sweep::SWEEP_WINDOW;

use super::liveness::{ConditionTimer, LoopActivity, RepeatedFailure};
use super::scheduling::Scheduler;
use super::settings::ReconcilerSettings;
use super::with_timeout;
use super::worker::{Worker, WorkerState};
use crate::ports::log_throttle::log_limited;
use crate::ports::queue::Queue;
use crate::ports::store::{Store, StoreError, SweepCursor};
use crate::ports::wake::WakeSignal;
use consumer_watch::ConsumerWatch;
use invalid_runs::InvalidRunLog;
use polling::Polling;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Longest time for one sweep, and for each of the other checks of the database.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time that sweeps wait for a check of the schema. It takes longer where triggers of the application have the
/// writes wait that it tries; claims that are not refused do not wait for it either.
const SCHEMA_CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Debounce of wake-ups: time for what a producer has just recorded to be claimed by its own hint before a
/// sweep sends another one. Half as much again at random at most, so that of the replicas that one producer wakes
/// not always the same one gets the lock of the sweep.
const WAKE_DEBOUNCE: Duration = Duration::from_millis(25);

/// Least time between two sweeps, however many wake-ups come.
const MIN_SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// Hints waiting in the queue at which no sweep sends more: their runs stay in the database until the queue is
/// shorter, or a process has a slot for them. It keeps some seconds of work in the queue.
const DELIVER_BELOW: u64 = 250;

/// Time between two checks of a queue that was too long for more hints.
const QUEUE_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// What the health endpoints read of the reconciler.
#[derive(Debug, Default)]
pub struct ReconcilerState {
    /// Set while the queue is unavailable and runs are taken from the database directly.
    pub polling: AtomicBool,
    pub activity: LoopActivity,
    /// Hints wait, and this process has free slots and has neither taken nor finished one.
    pub hints_untaken: ConditionTimer,
    /// Sweeps get no answer, though the heartbeat does.
    pub cut_off: ConditionTimer,
    /// Sweeps meet locks or conflicts, and none got through.
    pub contended: RepeatedFailure,
    /// The database refuses sweeps, and none got through.
    pub refused: RepeatedFailure,
}

impl ReconcilerState {
    /// A sweep got through, or none is to.
    fn forget_failures(&self) {
        self.contended.ended();
        self.refused.ended();
    }
}

/// What comes after a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The next sweep after the usual time, or at a wake-up.
    Pause,
    /// The next sweep at once: there may be more to deliver.
    Sweep,
    /// The next sweep when the queue is shorter, or after the usual time.
    AwaitShorterQueue,
    /// A check of the schema after the usual time; no sweep before it fits.
    AwaitSchema,
    /// The next sweep soon: another replica sweeps, perhaps for another group.
    AwaitLock,
}

/// Sweeps, delivers, and polls while the queue is unavailable.
#[derive(Debug)]
pub struct Reconciler {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    worker: Arc<WorkerState>,
    settings: ReconcilerSettings,
    state: Arc<ReconcilerState>,
    consumer: ConsumerWatch,
    polling: Polling,
    /// Where the next sweep begins.
    cursor: SweepCursor,
    /// Dead letters as of the last sweep.
    dead_letters: u64,
    invalid_runs: InvalidRunLog,
    /// When schema and orphans are checked next.
    next_check: Instant,
    /// A check of the schema that takes long.
    schema_check: Option<AbortOnDropHandle<()>>,
    /// When the schema was seen to change before the last check.
    schema_changed_at: Option<Instant>,
}

impl Reconciler {
    /// Creates a reconciler that has not swept yet.
    pub fn new(worker: &Worker, scheduler: Arc<Scheduler>, stop: CancellationToken) -> Self {
        let (store, queue) = (Arc::clone(&worker.store), Arc::clone(&worker.queue));
        let max_taken = worker.state.settings.concurrency;
        Self {
            consumer: ConsumerWatch::new(Arc::clone(&queue), Arc::clone(&worker.state)),
            polling: Polling::new(Arc::clone(&store), scheduler, max_taken, stop),
            store,
            queue,
            worker: Arc::clone(&worker.state),
            settings: worker.reconciler.clone(),
            state: Arc::clone(&worker.reconciler_state),
            cursor: SweepCursor::START,
            dead_letters: 0,
            invalid_runs: InvalidRunLog::default(),
            next_check: Instant::now(),
            schema_check: None,
            schema_changed_at: None,
        }
    }

    /// Sweeps until `stop`, then waits for the runs that it took itself. Fires `stop`, and fails, when the
    /// consumer of hints has stalled for good.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ConsumerStalled> {
        let wake = Arc::new(WakeSignal::default());
        let listening = {
            let (store, wake, stop) = (Arc::clone(&self.store), Arc::clone(&wake), stop.clone());
            tokio::spawn(async move { store.listen(&wake, stop).await })
        };
        let ended = loop {
            let swept_at = Instant::now();
            let next = match self.round().await {
                Ok(next) => next,
                Err(stalled) => {
                    stop.cancel();
                    break Err(stalled);
                }
            };
            if next == Next::Sweep && !stop.is_cancelled() {
                tokio::task::yield_now().await;
                continue;
            }
            let pause = match next {
                Next::AwaitSchema => self.settings.interval,
                Next::AwaitLock => MIN_SWEEP_INTERVAL.mul_f64(1.0 + rand::random::<f64>()),
                // Jitter, so that replicas do not sweep at the same moment.
                _ => self
                    .settings
                    .interval
                    .mul_f64(0.8 + 0.4 * rand::random::<f64>()),
            };
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                () = tokio::time::sleep(pause) => {}
                () = woken(&wake, swept_at), if next == Next::Pause => {}
                () = self.shorter_queue(), if next == Next::AwaitShorterQueue => {}
            }
        };
        self.schema_check = None;
        let _ = listening.await;
        self.polling.join().await;
        ended
    }

    /// Checks schema and orphans where it is time to, then sweeps.
    async fn round(&mut self) -> Result<Next, ConsumerStalled> {
        self.state.activity.touch();
        let is_due = Instant::now() >= self.next_check;
        if is_due || self.schema_check.is_some() || !self.worker.schema.fits() {
            self.check_schema().await;
            self.state.activity.touch();
        }
        if !self.worker.schema.fits() {
            // Nothing is claimed, so nothing is wrong with what waits.
            self.state.hints_untaken.set(false);
            self.state.cut_off.set(false);
            self.state.forget_failures();
            return Ok(Next::AwaitSchema);
        }
        if is_due {
            self.next_check = Instant::now() + self.worker.settings.heartbeat_interval;
            orphans::release(self.store.as_ref(), &self.worker).await;
            self.state.activity.touch();
        }
        let swept = with_timeout(SWEEP_TIMEOUT, self.sweep()).await;
        let unanswered = matches!(swept, Err(StoreError::Unavailable(_)));
        let cut_off = unanswered && self.worker.lease.is_alive();
        self.state.cut_off.set(cut_off);
        match &swept {
            Err(StoreError::Contended(_)) => self.state.contended.failed(),
            Err(error) if !error.is_transient() => self.state.refused.failed(),
            Ok(_) | Err(_) => {}
        }
        let next = match swept {
            Ok(next) => {
                self.invalid_runs.search(self.store.as_ref()).await;
                next
            }
            Err(error) => {
                metrics::counter!("verifyd_sweep_failures_total").increment(1);
                log_limited!(warn, %error, "the sweep failed; trying again at every interval");
                if matches!(error, StoreError::Schema(_)) {
                    // One that is under way began before.
                    self.schema_check = None;
                    self.check_schema().await;
                }
                Next::Pause
            }
        };
        self.consumer.give_up_if_dead()?;
        Ok(next)
    }

    /// Checks the schema, and goes on without the result where that takes long. When the schema was changed, ids may
    /// have restarted, behind the cursor.
    async fn check_schema(&mut self) {
        let (mut check, wait) = match self.schema_check.take() {
            Some(check) => (check, Duration::ZERO),
            None => (self.begin_schema_check(), SCHEMA_CHECK_TIMEOUT),
        };
        match tokio::time::timeout(wait, &mut check).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log_limited!(error, %error, "the check of the schema failed"),
            Err(_) => self.schema_check = Some(check),
        }
        let changed_at = self.worker.schema.changed_at();
        if changed_at != self.schema_changed_at {
            self.schema_changed_at = changed_at;
            self.cursor = SweepCursor::START;
        }
    }

    /// Begins to check whether the schema fits, also where runs have been refused for long.
    fn begin_schema_check(&self) -> AbortOnDropHandle<()> {
        let (store, worker) = (Arc::clone(&self.store), Arc::clone(&self.worker));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let refusals = &worker.refusals;
            let is_suspect = refusals.last_longer_than(worker.settings.dead_after);
            let check = worker.schema.check(store.as_ref(), is_suspect);
            let checked = with_timeout(SWEEP_TIMEOUT, check).await;
            if is_suspect {
                refusals.tested();
            }
            if let Err(error) = checked {
                // The sweep logs it, too, as a warning.
                tracing::debug!(%error, "cannot inspect the schema");
            }
        }))
    }

    /// Waits until the queue may be given more. Where it does not answer, the next sweep finds out why.
    async fn shorter_queue(&self) {
        loop {
            tokio::time::sleep(QUEUE_CHECK_INTERVAL).await;
            match self.queue.depth().await {
                Ok(depth) if depth >= DELIVER_BELOW => {}
                _ => return,
            }
        }
    }
}

/// Waits for a wake-up, debounced.
async fn woken(wake: &WakeSignal, swept_at: Instant) {
    wake.woken().await;
    let debounced = Instant::now() + WAKE_DEBOUNCE.mul_f64(1.0 + 0.5 * rand::random::<f64>());
    tokio::time::sleep_until(debounced.max(swept_at + MIN_SWEEP_INTERVAL)).await;
}
