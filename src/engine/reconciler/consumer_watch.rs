//! Watches whether the consumer of hints has stalled.

use crate::engine::liveness::ConditionTimer;
use crate::engine::worker::WorkerState;
use crate::ports::queue::Queue;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The consumer of hints has stalled, and restarting it has not helped.
#[derive(Debug, thiserror::Error)]
#[error(
    "the consumer of hints has stalled: no activity for {seconds} s although the queue takes hints, \
     after {restarts} restarts"
)]
pub struct ConsumerStalled {
    seconds: u64,
    restarts: u64,
}

/// Compares the time since a consumer's last activity with the allowed time.
#[derive(Debug)]
pub(super) struct ConsumerWatch {
    queue: Arc<dyn Queue>,
    worker: Arc<WorkerState>,
    /// The consumer has stalled although the queue takes hints.
    stalled: ConditionTimer,
    began: Instant,
}

impl ConsumerWatch {
    pub fn new(queue: Arc<dyn Queue>, worker: Arc<WorkerState>) -> Self {
        Self {
            queue,
            worker,
            stalled: ConditionTimer::default(),
            began: Instant::now(),
        }
    }

    fn idle_for(&self) -> Duration {
        let age = self.queue.health().last_activity;
        age.unwrap_or_else(|| self.began.elapsed())
    }

    /// Returns whether the consumer is not relied on: runs are taken from the database.
    pub fn is_stalled(&self) -> bool {
        self.idle_for() > self.worker.settings.consumer_stalled_after()
    }

    /// Records whether the consumer has stalled although the queue takes hints.
    pub fn record(&self, stalled: bool) {
        self.stalled.set(stalled);
    }

    /// Fails when the consumer has been inactive for too long, and the queue was available for half of that time.
    pub fn give_up_if_dead(&self) -> Result<(), ConsumerStalled> {
        let dead_after = self.worker.settings.consumer_dead_after();
        let idle = self.idle_for();
        if idle > dead_after && self.stalled.lasted() > dead_after / 2 {
            return Err(ConsumerStalled {
                seconds: idle.as_secs(),
                restarts: self.queue.health().restarts,
            });
        }
        Ok(())
    }
}
