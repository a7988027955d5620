//! Poison-run isolation: runs that may have killed their worker are processed one at a time in a process,
//! so that none of them uses up the last attempt of another.

use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

/// The one slot for such a run, and the slots to wait for it.
#[derive(Debug)]
pub struct PoisonRunIsolation {
    slot: Semaphore,
    /// Fewer than there are concurrency slots: those that wait must not block all other runs.
    waiting: Semaphore,
    timeout: Duration,
}

/// Why a run was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// Others are before it, for longer than it may wait.
    Busy,
    /// The process is about to end.
    Stopping,
}

impl PoisonRunIsolation {
    /// Creates the isolation of a process with so many slots. `timeout`: longest time to wait.
    pub fn new(slots: usize, timeout: Duration) -> Self {
        Self {
            slot: Semaphore::new(1),
            waiting: Semaphore::new((slots / 4).max(1)),
            timeout,
        }
    }

    /// Waits for the slot, in the order of arrival. Call it while holding nothing that the run in the
    /// slot may need.
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, NotAdmitted> {
        match self.slot.try_acquire() {
            Ok(slot) => return Ok(slot),
            Err(TryAcquireError::Closed) => return Err(NotAdmitted::Stopping),
            Err(TryAcquireError::NoPermits) => {}
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(NotAdmitted::Busy);
        };
        match tokio::time::timeout(self.timeout, self.slot.acquire()).await {
            Ok(entered) => entered.map_err(|_| NotAdmitted::Stopping),
            Err(_) => Err(NotAdmitted::Busy),
        }
    }

    /// Admits no further run; those that wait are refused at once. The run in the slot stays.
    pub fn close(&self) {
        self.slot.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_a_few_that_wait() {
        let isolation = PoisonRunIsolation::new(8, Duration::from_secs(30));
        let first = isolation.enter().await.unwrap();
        let (second, third, fourth) = tokio::join!(
            async {
                let slot = isolation.enter().await.unwrap();
                tokio::time::sleep(Duration::from_secs(40)).await;
                drop(slot);
            },
            isolation.enter(),
            async {
                let refused = isolation.enter().await.err();
                drop(first);
                refused
            }
        );
        let () = second;
        assert_eq!(third.err(), Some(NotAdmitted::Busy));
        assert_eq!(fourth, Some(NotAdmitted::Busy));
        assert!(isolation.enter().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn no_run_waits_for_a_process_that_stops() {
        let isolation = PoisonRunIsolation::new(8, Duration::from_secs(30));
        let first = isolation.enter().await.unwrap();
        let (second, ()) = tokio::join!(isolation.enter(), async { isolation.close() });
        assert_eq!(second.err(), Some(NotAdmitted::Stopping));
        drop(first);
        assert_eq!(isolation.enter().await.err(), Some(NotAdmitted::Stopping));
    }
}
