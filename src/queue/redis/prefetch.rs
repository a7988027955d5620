//! The backend of a fetcher's worker: apalis-redis' own, except that it prefetches several deliveries.
//!
//! As shipped, a delivery that has been fetched and not yet started keeps a worker from heartbeats and
//! acknowledgements, so a worker must fetch one by one. That costs a round trip per delivery and limits the
//! rate under load. Here `RedisStorage` registers, sends heartbeats and acknowledges, and never fetches.
//! [`fetch`] brings as many deliveries as there are free concurrency slots, and [`PrefetchBackend`] keeps
//! them until the worker takes them. Redis lists all of them as held by this worker: when it ends, orphan
//! recovery returns them to the queue.

use super::fetch::{Fetched, fetch};
use super::fetch_signal::FetchSignal;
use super::keys::Keys;
use super::observed::ObservedConnection;
use apalis_core::backend::future::BoxSyncFuture;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::worker::context::WorkerContext;
use apalis_redis::{Config, Error, RedisStorage, RedisTask};
use futures::FutureExt;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Largest number of deliveries in one fetch. More save hardly anything, and other idle processes should get their
/// share of a burst.
const MAX_FETCHED: usize = 16;

type Storage = RedisStorage<Vec<u8>, ObservedConnection>;

/// The concurrency slot of one delivery. It is acquired before the delivery is fetched, so that none
/// waits in this process while another fetcher has a slot that it does not need.
#[derive(Clone, Debug)]
pub(super) struct ConcurrencySlot(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl ConcurrencySlot {
    fn new(permit: Option<OwnedSemaphorePermit>) -> Self {
        Self(Arc::new(Mutex::new(permit)))
    }

    /// Takes the permit. The handler keeps it while it works, also when its worker ends before it.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.0.lock().take()
    }
}

/// Acquires at least one slot, and as many as are free up to [`MAX_FETCHED`].
async fn acquire_slots(slots: Arc<Semaphore>) -> OwnedSemaphorePermit {
    #[expect(clippy::expect_used, reason = "nobody closes this semaphore")]
    let mut first = Arc::clone(&slots)
        .acquire_owned()
        .await
        .expect("an open semaphore");
    let free = slots.available_permits().min(MAX_FETCHED - 1);
    if let Ok(free) = slots.try_acquire_many_owned(u32::try_from(free).unwrap_or(0)) {
        first.merge(free);
    }
    first
}

/// The backend of one worker.
pub(super) struct PrefetchBackend {
    storage: Storage,
    connection: ObservedConnection,
    keys: Keys,
    signal: Arc<FetchSignal>,
    /// One permit for each delivery that is fetched or handled, over all workers of the consumer.
    slots: Arc<Semaphore>,
    prefetched: VecDeque<RedisTask>,
    /// Whether the queue may hold more: the last fetch was full, or there was none yet.
    more: bool,
    fetching: Option<BoxSyncFuture<Result<Fetched, Error>>>,
}

impl PrefetchBackend {
    /// Creates the backend of a worker that is about to start.
    pub fn new(
        config: Config,
        keys: Keys,
        connection: ObservedConnection,
        signal: Arc<FetchSignal>,
        slots: Arc<Semaphore>,
    ) -> Self {
        // Bounds the batches of acknowledgements only.
        let config = config.batch_size(MAX_FETCHED);
        Self {
            storage: RedisStorage::new(connection.clone()).with_config(config),
            connection,
            keys,
            signal,
            slots,
            prefetched: VecDeque::new(),
            more: true,
            fetching: None,
        }
    }

    fn start_fetch(&self, worker: &WorkerContext) -> BoxSyncFuture<Result<Fetched, Error>> {
        let (slots, signal) = (Arc::clone(&self.slots), Arc::clone(&self.signal));
        let (keys, worker) = (self.keys.clone(), worker.name().to_owned());
        let mut connection = self.connection.clone();
        async move {
            // Also while no slot is free.
            connection.set_works(true);
            let mut slots = acquire_slots(slots).await;
            signal.clear();
            connection.set_works(false);
            let mut fetched = fetch(&mut connection, &keys, &worker, slots.num_permits()).await?;
            connection.set_works(true);
            connection.consumer.activity.touch();
            for delivery in &mut fetched.deliveries {
                delivery.inject_data(ConcurrencySlot::new(slots.split(1)));
            }
            Ok(fetched)
        }
        .boxed()
        .into()
    }
}

impl Backend for PrefetchBackend {
    type Task = RedisTask;
    type Error = Error;

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), Error>> {
        self.storage.poll_ready(cx, worker)
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<RedisTask, Error>>> {
        loop {
            if let Some(next) = self.prefetched.pop_front() {
                return Poll::Ready(Some(Ok(next)));
            }
            let mut fetching = match self.fetching.take() {
                Some(fetching) => fetching,
                None if self.more || self.signal.is_set(cx) => self.start_fetch(worker),
                None => return Poll::Pending,
            };
            let Poll::Ready(fetched) = fetching.poll_unpin(cx) else {
                self.fetching = Some(fetching);
                return Poll::Pending;
            };
            match fetched {
                Ok(fetched) => {
                    self.prefetched = fetched.deliveries.into();
                    self.more = fetched.is_full;
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Closes the storage only: the fetcher returns what was prefetched, or is still being fetched, to
    /// the queue.
    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), Error>> {
        self.storage.poll_close(cx, worker)
    }
}

impl BackendConfig for PrefetchBackend {
    type Args = <Storage as BackendConfig>::Args;
    type Id = <Storage as BackendConfig>::Id;
    type Kind = <Storage as BackendConfig>::Kind;
    type Config = <Storage as BackendConfig>::Config;
    type Layer = <Storage as BackendConfig>::Layer;

    fn config(&self) -> &Config {
        self.storage.config()
    }

    fn middleware(&mut self, worker: &mut WorkerContext) -> Self::Layer {
        self.storage.middleware(worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fetch_acquires_the_slots_that_are_free_and_one_at_least() {
        let slots = Arc::new(Semaphore::new(20));
        let many = acquire_slots(Arc::clone(&slots)).await;
        assert_eq!(many.num_permits(), MAX_FETCHED);
        let rest = acquire_slots(Arc::clone(&slots)).await;
        assert_eq!(rest.num_permits(), 4);
        let none = acquire_slots(Arc::clone(&slots));
        tokio::pin!(none);
        assert!(futures::poll!(none.as_mut()).is_pending());
        drop(rest);
        assert_eq!(none.await.num_permits(), 4);
    }

    #[test]
    fn a_slot_is_free_when_whoever_has_taken_it_has_ended() {
        let slots = Arc::new(Semaphore::new(2));
        let mut permits = Arc::clone(&slots).try_acquire_many_owned(2).unwrap();
        let taken = ConcurrencySlot::new(permits.split(1));
        let never_taken = ConcurrencySlot::new(Some(permits));
        let held = taken.take().unwrap();
        assert!(taken.take().is_none(), "only once");
        drop(taken);
        assert_eq!(slots.available_permits(), 0);
        drop(held);
        assert_eq!(slots.available_permits(), 1);
        drop(never_taken);
        assert_eq!(slots.available_permits(), 2);
    }
}
