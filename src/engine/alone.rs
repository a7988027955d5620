//! Runs that may kill their worker are worked on one at a time in a process, so that one of them
//! never takes the last chance of another.

use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

/// The one place for such a run, and the places to wait for it.
#[derive(Debug)]
pub struct Alone {
    place: Semaphore,
    /// Fewer than there are slots: those that wait must not keep the others from being worked on.
    waiting: Semaphore,
    patience: Duration,
}

/// Why a run was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAlone {
    /// Others are before it, for longer than it may wait.
    Busy,
    /// The process is about to end.
    Stopping,
}

impl Alone {
    /// For a process with so many slots. `patience`: longest time to wait.
    pub fn new(slots: usize, patience: Duration) -> Self {
        Self {
            place: Semaphore::new(1),
            waiting: Semaphore::new((slots / 4).max(1)),
            patience,
        }
    }

    /// Waits for the place, in the order of coming. To be called with nothing in hand that whoever
    /// has the place may need.
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, NotAlone> {
        match self.place.try_acquire() {
            Ok(place) => return Ok(place),
            Err(TryAcquireError::Closed) => return Err(NotAlone::Stopping),
            Err(TryAcquireError::NoPermits) => {}
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(NotAlone::Busy);
        };
        match tokio::time::timeout(self.patience, self.place.acquire()).await {
            Ok(entered) => entered.map_err(|_| NotAlone::Stopping),
            Err(_) => Err(NotAlone::Busy),
        }
    }

    /// Lets nobody in any more; those that wait are told at once. Whoever is in stays in.
    pub fn close(&self) {
        self.place.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_a_few_that_wait() {
        let alone = Alone::new(8, Duration::from_secs(30));
        let first = alone.enter().await.unwrap();
        let (second, third, fourth) = tokio::join!(
            async {
                let place = alone.enter().await.unwrap();
                tokio::time::sleep(Duration::from_secs(40)).await;
                drop(place);
            },
            alone.enter(),
            async {
                let turned_away = alone.enter().await.err();
                drop(first);
                turned_away
            }
        );
        let () = second;
        assert_eq!(third.err(), Some(NotAlone::Busy));
        assert_eq!(fourth, Some(NotAlone::Busy));
        assert!(alone.enter().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_process_that_stops() {
        let alone = Alone::new(8, Duration::from_secs(30));
        let first = alone.enter().await.unwrap();
        let (second, ()) = tokio::join!(alone.enter(), async { alone.close() });
        assert_eq!(second.err(), Some(NotAlone::Stopping));
        drop(first);
        assert_eq!(alone.enter().await.err(), Some(NotAlone::Stopping));
    }
}
