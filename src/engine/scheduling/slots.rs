//! The concurrency slots of this process. A run is processed while it has one.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The slots for all runs, and a few besides those for fair queuing.
#[derive(Debug)]
pub struct Slots {
    all: Semaphore,
    /// In case slow runs take all others.
    fair: Semaphore,
}

impl Slots {
    /// Creates `concurrency` slots, and an eighth of that for fair queuing.
    pub fn new(concurrency: usize) -> Self {
        let concurrency = concurrency.min(Semaphore::MAX_PERMITS);
        Self {
            all: Semaphore::new(concurrency),
            fair: Semaphore::new((concurrency / 8).max(1)),
        }
    }

    /// Returns the number of free slots, without those for fair queuing.
    pub fn free(&self) -> usize {
        self.all.available_permits()
    }

    /// Waits for a slot, in the order of arrival. `None`: there will be none.
    pub async fn acquire(&self) -> Option<SemaphorePermit<'_>> {
        self.all.acquire().await.ok()
    }

    /// Waits for a slot for fair queuing, or for any other, whichever is free first.
    pub async fn acquire_fair(&self) -> Option<SemaphorePermit<'_>> {
        tokio::select! {
            biased;
            slot = self.fair.acquire() => slot.ok(),
            slot = self.acquire() => slot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;

    #[tokio::test]
    async fn a_chosen_run_has_a_slot_besides_the_others_or_the_next_one() {
        let slots = Slots::new(8);
        let mut hints = Vec::new();
        for _ in 0..8 {
            hints.push(slots.acquire().await.unwrap());
        }
        assert_eq!(slots.free(), 0);
        let _besides = slots.acquire_fair().await.unwrap();
        let mut chosen = std::pin::pin!(slots.acquire_fair());
        assert!(poll!(chosen.as_mut()).is_pending());
        let mut hint = std::pin::pin!(slots.acquire());
        assert!(poll!(hint.as_mut()).is_pending());
        hints.pop();
        assert!(poll!(hint.as_mut()).is_pending(), "it came later");
        assert!(poll!(chosen.as_mut()).is_ready());
        hints.pop();
        assert!(poll!(hint.as_mut()).is_ready());
    }
}
