//! Finds what the queue lost: due runs without a delivery, and runs whose lease is dead. And what
//! this process lost: attempts that look alive because it beats, and that it does not work on.
//!
//! It runs in every replica; the database lets one at a time sweep. While the queue is away, it
//! hands due runs to this process directly.

use super::Engine;
use super::hinted::Hinted;
use super::invalid::InvalidRuns;
use super::motion::{Motion, Since};
use super::process::Processed;
use super::settings::ReconcilerSettings;
use crate::domain::RunId;
use crate::domain::job::Hint;
use crate::ports::queue::Queue;
use crate::ports::store::{OpenAttempt, StoreError, SweepCursor, SweepPolicy};
use crate::ports::wake::WakeSignal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longest time for one sweep.
const SWEEP_PATIENCE: Duration = Duration::from_secs(60);

/// Most queued runs that a sweep looks at ahead of where the last one left off, and behind it: a few
/// milliseconds each.
pub const LOOK_AT: u32 = 2_048;

/// Between two sweeps, however often the signal rings.
const BETWEEN_RINGS: Duration = Duration::from_millis(50);

/// Where producers send hints, what they have just recorded has so long to be claimed before a sweep
/// sends another hint for it.
const HINTS_LEAD: Duration = Duration::from_millis(25);

/// Between two looks at a queue that was too long to be given more.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// What readiness wants to know of the reconciler.
#[derive(Debug, Default)]
pub struct ReconcilerState {
    /// Set while the queue is away and runs are taken from the database directly.
    pub polling: AtomicBool,
    /// Of the loop that sweeps.
    pub motion: Motion,
    /// Rung when a sweep may find something before its time.
    pub signal: WakeSignal,
    /// Hints wait, and this process has neither taken nor finished one.
    pub untaken: Since,
    /// Hints that arrive here and were not sent from here.
    pub hinted: Hinted,
    /// Sweeps get no answer, though the heartbeat gets through.
    pub cut_off: Since,
    /// The queue takes hints, and this process's consumer shows no sign of life.
    deaf: Since,
}

/// The consumer of hints cannot be revived.
#[derive(Debug, thiserror::Error)]
#[error(
    "the consumer of hints has shown no sign of life for {seconds} s, though the queue takes \
     hints, and was started again {restarts} times"
)]
pub struct Deaf {
    seconds: u64,
    restarts: u64,
}

/// What comes after a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing, for the usual time.
    Pause,
    /// There may be more to deliver right away.
    More,
    /// There is more, once the queue is shorter.
    MoreLater,
}

/// Sweeps, delivers, and polls when the queue is away.
#[derive(Debug)]
pub struct Reconciler {
    pub engine: Engine,
    pub queue: Arc<dyn Queue>,
    pub settings: ReconcilerSettings,
    pub state: Arc<ReconcilerState>,
    /// A run that was due lately. Its hint is sent once more to find out whether the queue takes
    /// hints; that one tells its length means little: a full server does, and takes nothing.
    sample: Mutex<Option<RunId>>,
    /// Where the next sweep looks.
    cursor: Mutex<SweepCursor>,
    /// Payloads that were no hints, as of the last look.
    rejected: AtomicU64,
    /// Bounds the runs that are taken from the database directly.
    slots: Arc<Semaphore>,
    began: tokio::time::Instant,
}

impl Reconciler {
    /// A reconciler that has not swept yet.
    pub fn new(
        engine: Engine,
        queue: Arc<dyn Queue>,
        settings: ReconcilerSettings,
        state: Arc<ReconcilerState>,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(engine.settings.concurrency));
        Self {
            engine,
            queue,
            settings,
            state,
            sample: Mutex::new(None),
            cursor: Mutex::default(),
            rejected: AtomicU64::new(0),
            slots,
            began: tokio::time::Instant::now(),
        }
    }

    /// Sweeps until `stop`, then waits for the runs that it took itself. Fires `stop`, and fails,
    /// when the consumer cannot be revived.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), Deaf> {
        let mut direct = JoinSet::new();
        let listening = self.listen(stop.clone());
        let mut failing = false;
        let mut gave_up = Ok(());
        let mut look_at = self.began;
        let mut invalid_runs = InvalidRuns::default();
        loop {
            self.state.motion.moved();
            let swept_at = tokio::time::Instant::now();
            while direct.try_join_next().is_some() {}
            let looks = tokio::time::Instant::now() >= look_at;
            if looks || !self.engine.schema.fits() {
                self.look_at_schema().await;
                self.state.motion.moved();
            }
            if !self.engine.schema.fits() {
                // Nothing is claimed, so nothing of what waits is amiss.
                self.state.untaken.note(false);
                self.state.cut_off.note(false);
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(self.settings.interval) => continue,
                }
            }
            if looks {
                look_at = tokio::time::Instant::now() + self.engine.settings.beat_interval;
                self.disown_in_time().await;
                self.state.motion.moved();
            }
            let swept = self.sweep_in_time(&mut direct).await;
            if matches!(swept, Err(StoreError::Schema(_))) {
                self.look_at_schema().await;
            }
            let unanswered = matches!(swept, Err(StoreError::Unavailable(_)));
            let cut_off = unanswered && self.engine.lease.is_alive();
            self.state.cut_off.note(cut_off);
            if swept.is_ok() {
                invalid_runs.look(&*self.engine.store).await;
            }
            if let Some(deaf) = self.beyond_revival() {
                gave_up = Err(deaf);
                stop.cancel();
                break;
            }
            let mut queue_is_long = false;
            match swept {
                Ok(next) => {
                    failing = false;
                    queue_is_long = next == Next::MoreLater;
                    if next == Next::More && !stop.is_cancelled() {
                        tokio::task::yield_now().await;
                        continue;
                    }
                }
                Err(error) => {
                    metrics::counter!("verifyd_sweep_failures_total").increment(1);
                    if !failing {
                        tracing::warn!(%error, "the sweep failed");
                    }
                    failing = true;
                }
            }
            // Replicas drift apart, so that they do not all ask at the same moment.
            let pause = self
                .settings
                .interval
                .mul_f64(0.8 + 0.4 * rand::random::<f64>());
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
                () = self.rung_in_moderation(swept_at), if !queue_is_long => {}
                () = self.queue_is_shorter(), if queue_is_long => {}
            }
        }
        let _ = listening.await;
        while direct.join_next().await.is_some() {}
        gave_up
    }

    /// Whether the schema fits. Where it was changed, ids may have begun anew, behind where sweeps have looked.
    async fn look_at_schema(&self) {
        let schema = &self.engine.schema;
        let before = schema.changed_at();
        let looked = schema.look(self.engine.store.as_ref());
        match tokio::time::timeout(SWEEP_PATIENCE, looked).await {
            Ok(Ok(())) => {}
            // The sweep says so, too, and more loudly.
            Ok(Err(error)) => tracing::debug!(%error, "the schema cannot be looked at"),
            Err(_) => tracing::debug!("no answer in time about the schema"),
        }
        if schema.changed_at() != before {
            *self.cursor() = SweepCursor::START;
        }
    }

    /// Lets go of what this process has lost sight of: a claim whose answer was lost, a run that was
    /// dropped while the heartbeat did not get through. Given up when there is no answer for long.
    async fn disown_in_time(&self) {
        let disowned = tokio::time::timeout(SWEEP_PATIENCE, self.disown_lost())
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())));
        match disowned {
            Ok(runs) if runs.is_empty() => {}
            Ok(runs) => {
                metrics::counter!("verifyd_runs_disowned_total").increment(runs.len() as u64);
                tracing::warn!(runs = ?ids(&runs), "not in work here any more, queued again");
            }
            // The sweep says so, too, and more loudly.
            Err(error) => tracing::debug!(%error, "open attempts cannot be looked at"),
        }
    }

    /// The database is looked at first: what is open there was noted as in work before its claim
    /// was sent. What is not noted afterwards is ended, or was lost.
    async fn disown_lost(&self) -> Result<Vec<RunId>, StoreError> {
        let engine = &self.engine;
        let open = engine.store.open_attempts(&engine.worker).await?;
        let lost: Vec<OpenAttempt> = open
            .into_iter()
            .filter(|attempt| !engine.in_work.has(attempt.run))
            .collect();
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        engine.store.disown(&engine.worker, &lost).await
    }

    /// Has the signal rung by bare INSERTs. Nothing depends on it but latency.
    fn listen(&self, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
        let store = Arc::clone(&self.engine.store);
        let state = Arc::clone(&self.state);
        tokio::spawn(async move { store.listen(&state.signal, stop).await })
    }

    /// Waits for a ring: the first after a silence counts at once, of a storm one now and then. Where
    /// hints come by themselves they have the lead.
    async fn rung_in_moderation(&self, swept_at: tokio::time::Instant) {
        self.state.signal.woken().await;
        let lead = match self.state.hinted.lately() {
            true => HINTS_LEAD,
            false => Duration::ZERO,
        };
        let soonest = tokio::time::Instant::now() + lead;
        tokio::time::sleep_until(soonest.max(swept_at + BETWEEN_RINGS)).await;
    }

    /// Waits until the queue may be given more. One that says nothing is the next sweep's to find out.
    async fn queue_is_shorter(&self) {
        loop {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            match self.queue.depth().await {
                Ok(depth) if depth >= self.settings.deliver_below => {}
                _ => return,
            }
        }
    }

    /// One sweep, given up when there is no answer for long: of a server that is cut off nobody
    /// hears that a connection is dead. Dropped halfway it leaves nothing behind but marks of
    /// delivery, which age.
    async fn sweep_in_time(&self, direct: &mut JoinSet<()>) -> Result<Next, StoreError> {
        tokio::time::timeout(SWEEP_PATIENCE, self.sweep(direct))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())))
    }

    /// One sweep.
    async fn sweep(&self, direct: &mut JoinSet<()>) -> Result<Next, StoreError> {
        let polling = self.state.polling.load(Ordering::Relaxed);
        let deaf = self.consumer_silent_for() > self.engine.settings.consumer_silent_after();
        let answered = if polling || deaf {
            self.queue_takes_hints().await
        } else {
            self.queue.depth().await.ok()
        };
        self.state.deaf.note(deaf && answered.is_some());
        let depth = answered.filter(|_| !deaf);
        if polling && depth.is_some() {
            self.end_polling();
        } else if answered.is_none() {
            // Also while nothing is due: readiness goes by it.
            self.begin_polling("no answer");
        }
        let waiting = depth.is_some_and(|depth| depth > 0);
        // What is no hint never reaches a handler.
        let rejected = self.queue.health().dead_letters;
        let moved = self.rejected.swap(rejected, Ordering::Relaxed) != rejected;
        let untaken = waiting && !moved && self.engine.lease.is_alive();
        self.state.untaken.note(untaken);
        let full = depth.is_some_and(|depth| depth >= self.settings.deliver_below);
        let batch = match depth {
            Some(_) if !full => self.settings.batch,
            _ => self.places(full).min(self.settings.batch),
        };
        let policy = SweepPolicy {
            worker_dead_after: self.engine.settings.dead_after,
            redeliver_after: self.settings.redeliver_after,
            redeliver: depth.is_none_or(|d| d < self.settings.redeliver_below),
            batch,
            window: LOOK_AT.max(batch),
            from: *self.cursor(),
        };
        let Some(swept) = self.engine.store.sweep(&policy).await? else {
            return Ok(Next::Pause);
        };
        *self.cursor() = swept.next;
        if !swept.reclaimed.is_empty() {
            metrics::counter!("verifyd_runs_reclaimed_total")
                .increment(swept.reclaimed.len() as u64);
            tracing::warn!(runs = ?ids(&swept.reclaimed), "reclaimed from lost workers");
        }
        if swept.due.is_empty() {
            return Ok(match swept.more {
                true => Next::More,
                false => Next::Pause,
            });
        }
        let is_all = (swept.due.len() as u64) < u64::from(batch) && !swept.more;
        metrics::counter!("verifyd_deliveries_by_sweep_total").increment(swept.due.len() as u64);
        *self.sample() = swept.due.first().copied();
        if full {
            tracing::debug!(depth, "the queue is long, nothing is added to it");
        } else if depth.is_some() {
            self.state.hinted.sent(swept.due.len());
            match self.queue.send_runs(&swept.due).await {
                Ok(()) if is_all => return Ok(Next::Pause),
                Ok(()) => return Ok(Next::More),
                Err(error) => self.begin_polling(&error.to_string()),
            }
        } else {
            // Without an answer it has begun above.
            self.begin_polling("its consumer shows no sign of life");
        }
        self.take_directly(swept.due, direct).await?;
        Ok(match full && !is_all {
            true => Next::MoreLater,
            false => Next::Pause,
        })
    }

    /// How many runs this process can take from the database at once. While its consumer works on
    /// a full queue, that is what the two leave free together: at least one, so that every sweep
    /// gets somewhere.
    fn places(&self, full: bool) -> u32 {
        let free = u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX);
        if !full {
            return free;
        }
        let all = u32::try_from(self.engine.settings.concurrency).unwrap_or(u32::MAX);
        let left = all.saturating_sub(self.engine.in_flight.load(Ordering::Relaxed));
        free.min(left).max(1)
    }

    fn consumer_silent_for(&self) -> Duration {
        let tick = self.queue.health().last_activity;
        tick.unwrap_or_else(|| self.began.elapsed())
    }

    /// The consumer was silent for too long, and its queue not away for half of that time.
    fn beyond_revival(&self) -> Option<Deaf> {
        let settings = &self.engine.settings;
        let silent = self.consumer_silent_for();
        let lasted = self.state.deaf.lasted();
        (silent > settings.consumer_dead_after && lasted > settings.consumer_dead_after / 2).then(
            || Deaf {
                seconds: silent.as_secs(),
                restarts: self.queue.health().restarts,
            },
        )
    }

    /// The queue's depth if it takes hints: one for a run that is worked on or completed by now
    /// does no harm.
    async fn queue_takes_hints(&self) -> Option<u64> {
        let depth = self.queue.depth().await.ok()?;
        let sample = *self.sample();
        if let Some(run) = sample {
            self.queue.send_runs(&[run]).await.ok()?;
        }
        Some(depth)
    }

    fn begin_polling(&self, why: &str) {
        if !self.state.polling.swap(true, Ordering::Relaxed) {
            metrics::gauge!("verifyd_polling").set(1.0);
            tracing::warn!(why, "the queue is away, runs are taken from the database");
        }
    }

    fn end_polling(&self) {
        self.state.polling.store(false, Ordering::Relaxed);
        metrics::gauge!("verifyd_polling").set(0.0);
        tracing::info!("the queue is back");
    }

    fn sample(&self) -> MutexGuard<'_, Option<RunId>> {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cursor(&self) -> MutexGuard<'_, SweepCursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on as many as there are slots for; the others are found by the next sweep.
    async fn take_directly(
        &self,
        due: Vec<RunId>,
        direct: &mut JoinSet<()>,
    ) -> Result<(), StoreError> {
        let mut left = Vec::new();
        for run in due {
            match Arc::clone(&self.slots).try_acquire_owned() {
                Ok(slot) => {
                    let engine = self.engine.clone();
                    direct.spawn(async move {
                        let processed = engine.process(&Hint::new(run)).await;
                        drop(slot);
                        if processed == Processed::Deferred
                            && let Err(error) = engine.store.undeliver(&[run]).await
                        {
                            tracing::debug!(%error, "a later sweep finds the run");
                        }
                    });
                }
                Err(_) => left.push(run),
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        self.engine.store.undeliver(&left).await
    }
}

fn ids(runs: &[RunId]) -> Vec<i64> {
    runs.iter().take(20).map(|r| r.0).collect()
}
