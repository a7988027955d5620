//! Finds what the queue lost: due runs without a delivery, and runs whose lease is dead.
//!
//! It runs in every replica; the database lets one at a time sweep. While the queue is away, it
//! hands due runs to this process directly.

use super::Engine;
use super::motion::Motion;
use super::process::Processed;
use super::settings::ReconcilerSettings;
use crate::domain::RunId;
use crate::domain::job::Hint;
use crate::ports::queue::Queue;
use crate::ports::store::{StoreError, SweepPolicy};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longest time for one sweep.
const SWEEP_PATIENCE: Duration = Duration::from_secs(60);

/// What readiness wants to know of the reconciler.
#[derive(Debug, Default)]
pub struct ReconcilerState {
    /// Set while the queue is away and runs are taken from the database directly.
    pub polling: AtomicBool,
    /// Milliseconds since the process began at the last sweep that the database answered; -1
    /// before the first.
    last_sweep_ms: AtomicI64,
    /// Of the loop that sweeps.
    pub motion: Motion,
}

impl ReconcilerState {
    /// Before the first sweep.
    pub fn new() -> Self {
        Self {
            polling: AtomicBool::new(false),
            last_sweep_ms: AtomicI64::new(-1),
            motion: Motion::default(),
        }
    }

    /// Milliseconds on the scale of `now_ms` at the last answered sweep.
    pub fn last_sweep_ms(&self) -> Option<i64> {
        Some(self.last_sweep_ms.load(Ordering::Relaxed)).filter(|ms| *ms >= 0)
    }
}

/// Sweeps, delivers, and polls when the queue is away.
#[derive(Debug)]
pub struct Reconciler {
    pub engine: Engine,
    pub queue: Arc<dyn Queue>,
    pub settings: ReconcilerSettings,
    pub state: Arc<ReconcilerState>,
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
            slots,
            began: tokio::time::Instant::now(),
        }
    }

    /// Sweeps until `stop`, then waits for the runs that it took itself.
    pub async fn run(&self, stop: CancellationToken) {
        let mut direct = JoinSet::new();
        let mut failing = false;
        loop {
            self.state.motion.moved();
            while direct.try_join_next().is_some() {}
            match self.sweep_in_time(&mut direct).await {
                Ok(more) => {
                    failing = false;
                    let now = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
                    self.state.last_sweep_ms.store(now, Ordering::Relaxed);
                    if more && !stop.is_cancelled() {
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
            }
        }
        while direct.join_next().await.is_some() {}
    }

    /// One sweep, given up when there is no answer for long: of a server that is cut off nobody
    /// hears that a connection is dead. Dropped halfway it leaves nothing behind but marks of
    /// delivery, which age.
    async fn sweep_in_time(&self, direct: &mut JoinSet<()>) -> Result<bool, StoreError> {
        tokio::time::timeout(SWEEP_PATIENCE, self.sweep(direct))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())))
    }

    /// One sweep. True when there is more to deliver right away.
    async fn sweep(&self, direct: &mut JoinSet<()>) -> Result<bool, StoreError> {
        let polling = self.state.polling.load(Ordering::Relaxed);
        let depth = if polling {
            self.queue_is_back().await
        } else {
            self.queue.depth().await.ok()
        };
        let free = self.slots.available_permits();
        let batch = match depth {
            Some(_) => self.settings.batch,
            None => u32::try_from(free)
                .unwrap_or(u32::MAX)
                .min(self.settings.batch),
        };
        let policy = SweepPolicy {
            worker_dead_after: self.engine.settings.dead_after,
            redeliver_after: self.settings.redeliver_after,
            redeliver: depth.is_none_or(|d| d < self.settings.redeliver_below),
            batch,
        };
        let Some(swept) = self.engine.store.sweep(&policy).await? else {
            return Ok(false);
        };
        if !swept.reclaimed.is_empty() {
            metrics::counter!("verifyd_runs_reclaimed_total")
                .increment(swept.reclaimed.len() as u64);
            tracing::warn!(runs = ?ids(&swept.reclaimed), "reclaimed from lost workers");
        }
        if swept.due.is_empty() {
            return Ok(false);
        }
        metrics::counter!("verifyd_deliveries_by_sweep_total").increment(swept.due.len() as u64);
        if depth.is_some() {
            match self.queue.send_runs(&swept.due).await {
                Ok(()) => return Ok(swept.due.len() as u64 >= u64::from(batch)),
                Err(error) => self.note_polling(true, &error.to_string()),
            }
        } else {
            self.note_polling(true, "no answer");
        }
        self.take_directly(swept.due, direct).await?;
        Ok(false)
    }

    /// The queue's depth when it answers again.
    async fn queue_is_back(&self) -> Option<u64> {
        let depth = self.queue.depth().await.ok()?;
        self.note_polling(false, "");
        Some(depth)
    }

    fn note_polling(&self, polling: bool, why: &str) {
        if self.state.polling.swap(polling, Ordering::Relaxed) == polling {
            return;
        }
        metrics::gauge!("verifyd_polling").set(f64::from(u8::from(polling)));
        if polling {
            tracing::warn!(why, "the queue is away, runs are taken from the database");
        } else {
            tracing::info!("the queue is back");
        }
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
