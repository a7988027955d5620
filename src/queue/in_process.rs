//! The queue of the embedded default: bounded, and lost with the process. The reconciler finds lost hints.

use crate::domain::RunId;
use crate::domain::hint::Hint;
use crate::ports::queue::{HintHandler, Queue, QueueError, QueueHealth};
use crate::queue::consumer_health::ConsumerHealth;
use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Hints that wait in a process at most: about 20 MB of memory. The reconciler finds the runs of further ones.
pub const CAPACITY: usize = 100_000;

/// Interval at which an idle consumer records activity.
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
    health: ConsumerHealth,
}

impl InProcessQueue {
    /// Opens an empty queue for at most `capacity` hints, at least one.
    pub fn open(capacity: usize) -> Arc<dyn Queue> {
        Arc::new(Self {
            capacity: capacity.max(1),
            waiting: Mutex::default(),
            arrived: Notify::new(),
            health: ConsumerHealth::new(true),
        })
    }

    fn full(&self) -> QueueError {
        QueueError::Full {
            capacity: self.capacity,
        }
    }

    fn take(&self) -> Option<Hint> {
        let mut waiting = self.waiting.lock();
        let hint = waiting.hints.pop_front()?;
        waiting.runs.remove(&hint.operation_run_id);
        Some(hint)
    }

    /// Waits for the next hint.
    async fn next(&self) -> Hint {
        loop {
            // Before looking, so that what arrives in between is not missed.
            let arrived = self.arrived.notified();
            if let Some(hint) = self.take() {
                return hint;
            }
            arrived.await;
        }
    }

    /// Waits for `event`, recording activity meanwhile. `None` once `stop` has fired.
    async fn wait_for<T>(
        &self,
        event: impl Future<Output = T>,
        stop: &CancellationToken,
    ) -> Option<T> {
        let mut tick = tokio::time::interval(TICK);
        tokio::pin!(event);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                output = &mut event => return Some(output),
                _ = tick.tick() => self.health.activity.touch(),
            }
        }
    }
}

/// Runs the handler in a task of its own; a panic there ends nothing else.
fn spawn(handler: Arc<dyn HintHandler>, hint: Hint, slot: OwnedSemaphorePermit) {
    tokio::spawn(async move {
        let handled = AssertUnwindSafe(handler.handle(hint)).catch_unwind().await;
        if handled.is_err() {
            metrics::counter!("verifyd_hint_panics_total").increment(1);
            tracing::error!("the handler of a hint panicked");
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
                let mut waiting = self.waiting.lock();
                if waiting.runs.contains(&hint.operation_run_id) {
                    continue;
                }
                if waiting.hints.len() >= self.capacity {
                    return Err(self.full());
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
        Ok(self.waiting.lock().hints.len() as u64)
    }

    async fn try_sending(&self) -> Result<(), QueueError> {
        match self.waiting.lock().hints.len() < self.capacity {
            true => Ok(()),
            false => Err(self.full()),
        }
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
            // The slot first: what no handler works on stays in the queue.
            let slot = self.wait_for(Arc::clone(&slots).acquire_owned(), &stop);
            let Some(Ok(slot)) = slot.await else { break };
            let Some(hint) = self.wait_for(self.next(), &stop).await else {
                break;
            };
            self.health.activity.touch();
            spawn(Arc::clone(&handler), hint, slot);
        }
        // Another consumer may have been passed over for the wake-up that this one had.
        self.arrived.notify_one();
        let all = u32::try_from(concurrency).unwrap_or(u32::MAX);
        let _all = slots.acquire_many(all).await;
        Ok(())
    }

    fn health(&self) -> QueueHealth {
        self.health.report()
    }

    async fn ping(&self) -> Result<(), QueueError> {
        Ok(())
    }
}
