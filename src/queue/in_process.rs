//! The queue of the embedded default: bounded, and gone with the process. The reconciler finds what
//! it loses.

use crate::domain::RunId;
use crate::domain::job::Hint;
use crate::ports::queue::{Handled, HintHandler, Queue, QueueError, QueueHealth};
use crate::queue::pulse::Vitals;
use async_trait::async_trait;
use futures::FutureExt;
use serde::Deserialize;
use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The section `[in_process_queue]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InProcessSettings {
    /// Hints that may wait: at least 1. One hint takes about 200 bytes.
    pub capacity: usize,
}

/// How often an idle consumer shows that it lives.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Waiting {
    hints: VecDeque<Hint>,
    runs: HashSet<RunId>,
}

/// A queue within this process. A run that waits already is not queued twice.
#[derive(Debug)]
pub struct InProcessQueue {
    capacity: usize,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    vitals: Arc<Vitals>,
}

impl InProcessQueue {
    /// An empty queue.
    pub fn open(settings: &InProcessSettings) -> Arc<dyn Queue> {
        Arc::new(Self {
            capacity: settings.capacity.max(1),
            waiting: Mutex::new(Waiting::default()),
            arrived: Notify::new(),
            vitals: Arc::new(Vitals::new(true)),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Hint> {
        let mut waiting = self.waiting();
        let hint = waiting.hints.pop_front()?;
        waiting.runs.remove(&hint.operation_run_id);
        Some(hint)
    }

    /// The next hint, as soon as there is one.
    async fn next(&self) -> Hint {
        let mut tick = tokio::time::interval(TICK);
        loop {
            // Before looking, so that what arrives in between is not missed.
            let arrived = self.arrived.notified();
            if let Some(hint) = self.take() {
                self.vitals.pulse.beat();
                return hint;
            }
            tokio::select! {
                () = arrived => {}
                _ = tick.tick() => self.vitals.pulse.beat(),
            }
        }
    }

    /// A free place for a hint in work.
    async fn slot(&self, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let mut tick = tokio::time::interval(TICK);
        let acquire = Arc::clone(slots).acquire_owned();
        tokio::pin!(acquire);
        loop {
            tokio::select! {
                biased;
                permit = &mut acquire => return permit.ok(),
                _ = tick.tick() => self.vitals.pulse.beat(),
            }
        }
    }
}

/// Runs the handler in a task of its own; a panic there ends nothing else.
fn work(
    handler: Arc<dyn HintHandler>,
    hint: Hint,
    vitals: Arc<Vitals>,
    slot: OwnedSemaphorePermit,
) {
    tokio::spawn(async move {
        let run = hint.operation_run_id;
        match AssertUnwindSafe(handler.handle(hint)).catch_unwind().await {
            Ok(Handled::Done) => {}
            Ok(Handled::Rejected) => {
                vitals.reject();
                tracing::warn!(operation_run_id = run.0, "put aside a hint");
            }
            Err(_) => {
                metrics::counter!("verifyd_hint_panics_total").increment(1);
                tracing::error!("the handler of a hint panicked");
            }
        }
        drop(slot);
    });
}

#[async_trait]
impl Queue for InProcessQueue {
    fn kind(&self) -> &'static str {
        "in_process"
    }

    async fn send(&self, hints: &[Hint]) -> Result<(), QueueError> {
        for hint in hints {
            {
                let mut waiting = self.waiting();
                if waiting.runs.contains(&hint.operation_run_id) {
                    continue;
                }
                if waiting.hints.len() >= self.capacity {
                    return Err(QueueError::Full {
                        capacity: self.capacity,
                    });
                }
                waiting.runs.insert(hint.operation_run_id);
                waiting.hints.push_back(hint.clone());
            }
            self.arrived.notify_one();
            metrics::counter!("verifyd_hints_sent_total").increment(1);
        }
        Ok(())
    }

    async fn depth(&self) -> Result<u64, QueueError> {
        Ok(self.waiting().hints.len() as u64)
    }

    async fn consume(
        &self,
        handler: Arc<dyn HintHandler>,
        concurrency: usize,
        stop: CancellationToken,
    ) -> Result<(), QueueError> {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let slots = Arc::new(Semaphore::new(concurrency));
        loop {
            // The place first: what is not being worked on stays in the queue.
            let slot = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                slot = self.slot(&slots) => slot,
            };
            let Some(slot) = slot else { break };
            let hint = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                hint = self.next() => hint,
            };
            work(Arc::clone(&handler), hint, Arc::clone(&self.vitals), slot);
        }
        // Another consumer may have been passed over for the wake-up that this one had.
        self.arrived.notify_one();
        let all = u32::try_from(concurrency).unwrap_or(u32::MAX);
        let _all = slots.acquire_many(all).await;
        Ok(())
    }

    fn health(&self) -> QueueHealth {
        self.vitals.health()
    }

    async fn ping(&self) -> Result<(), QueueError> {
        Ok(())
    }
}
