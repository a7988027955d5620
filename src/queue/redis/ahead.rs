//! The backend of a fetcher's worker: apalis' own, but that it fetches more than one delivery at a time.
//!
//! As shipped, a delivery that has been fetched and not yet started keeps a worker from heartbeats and
//! acknowledgements, so it would have to fetch one by one. That costs a round trip for each, and is the
//! limit under load. So fetching is apart here: `RedisStorage` registers, beats and acknowledges and is
//! never asked for a delivery; a script of verifyd's (`next`) brings as many as there are places, and
//! what comes beyond the first waits here. The server has noted all of them as held by this worker: when
//! it ends, they go back with the others (`custody`).

use super::bell::Bell;
use super::keys::Keys;
use super::next;
use super::observed::Observed;
use apalis_core::backend::future::BoxSyncFuture;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::worker::context::WorkerContext;
use apalis_redis::{Config, Error, RedisStorage, RedisTask};
use futures::FutureExt;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most deliveries in one answer. More would hardly save anything, and the other processes that are
/// free at the same time shall have their share of a burst.
const MOST: usize = 16;

type Storage = RedisStorage<Vec<u8>, Observed>;

/// The place of one delivery. It is there before the delivery is fetched, so that none waits in this
/// process while an idle fetcher has a place that it does not need.
#[derive(Clone, Debug)]
pub(super) struct Place(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Place {
    /// For the handler, which keeps it as long as it works, also when its worker ends before.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// At least one place, and as many as are free, up to `MOST`.
async fn places(slots: Arc<Semaphore>) -> OwnedSemaphorePermit {
    #[expect(clippy::expect_used, reason = "nobody closes this semaphore")]
    let mut first = Arc::clone(&slots)
        .acquire_owned()
        .await
        .expect("an open semaphore");
    let free = slots.available_permits().min(MOST - 1);
    if let Ok(free) = slots.try_acquire_many_owned(u32::try_from(free).unwrap_or(0)) {
        first.merge(free);
    }
    first
}

struct Fetched {
    deliveries: VecDeque<RedisTask>,
    /// As many as were asked for.
    is_full: bool,
}

/// The backend of one worker.
pub(super) struct Ahead {
    storage: Storage,
    connection: Observed,
    keys: Keys,
    bell: Arc<Bell>,
    /// One permit for each delivery that is fetched or in work, over all workers of the consumer.
    slots: Arc<Semaphore>,
    waiting: VecDeque<RedisTask>,
    /// There may be more: the last fetch was full, or there was none yet. If not, the bell tells.
    more: bool,
    fetch: Option<BoxSyncFuture<Result<Fetched, Error>>>,
}

impl Ahead {
    pub fn new(
        config: Config,
        keys: Keys,
        connection: Observed,
        bell: Arc<Bell>,
        slots: Arc<Semaphore>,
    ) -> Self {
        // Its batches are those of acknowledgements only.
        let config = config.batch_size(MOST);
        Self {
            storage: RedisStorage::new(connection.clone()).with_config(config),
            connection,
            keys,
            bell,
            slots,
            waiting: VecDeque::new(),
            more: true,
            fetch: None,
        }
    }

    fn fetch(&self, worker: &WorkerContext) -> BoxSyncFuture<Result<Fetched, Error>> {
        let (slots, bell) = (Arc::clone(&self.slots), Arc::clone(&self.bell));
        let (keys, worker) = (self.keys.clone(), worker.name().to_owned());
        let mut connection = self.connection.clone();
        async move {
            let mut places = places(slots).await;
            bell.silence();
            let most = places.num_permits();
            let next = next::fetch(&mut connection, &keys, &worker, most).await?;
            let is_full = next.looked_at == most;
            let placed = next.deliveries.into_iter().map(|mut delivery| {
                let place = Place(Arc::new(Mutex::new(places.split(1))));
                delivery.inject_data(place);
                delivery
            });
            Ok(Fetched {
                deliveries: placed.collect(),
                is_full,
            })
        }
        .boxed()
        .into()
    }
}

impl Backend for Ahead {
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
            if let Some(next) = self.waiting.pop_front() {
                return Poll::Ready(Some(Ok(next)));
            }
            let mut fetch = match self.fetch.take() {
                Some(fetch) => fetch,
                None if self.more || self.bell.has_rung(cx) => self.fetch(worker),
                None => return Poll::Pending,
            };
            let Poll::Ready(fetched) = fetch.poll_unpin(cx) else {
                self.fetch = Some(fetch);
                return Poll::Pending;
            };
            match fetched {
                Ok(fetched) => {
                    self.waiting = fetched.deliveries;
                    self.more = fetched.is_full;
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// What waits here, and what a fetch still brings, is handed back by whoever ended the worker.
    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), Error>> {
        self.storage.poll_close(cx, worker)
    }
}

impl BackendConfig for Ahead {
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
    async fn a_fetch_has_as_many_places_as_are_free_and_one_at_least() {
        let slots = Arc::new(Semaphore::new(20));
        let many = places(Arc::clone(&slots)).await;
        assert_eq!(many.num_permits(), MOST);
        let rest = places(Arc::clone(&slots)).await;
        assert_eq!(rest.num_permits(), 4);
        let none = places(Arc::clone(&slots));
        tokio::pin!(none);
        assert!(futures::poll!(none.as_mut()).is_pending());
        drop(rest);
        assert_eq!(none.await.num_permits(), 4);
    }

    #[test]
    fn a_place_is_free_when_whoever_has_taken_it_has_ended() {
        let slots = Arc::new(Semaphore::new(2));
        let mut places = Arc::clone(&slots).try_acquire_many_owned(2).unwrap();
        let taken = Place(Arc::new(Mutex::new(places.split(1))));
        let never_taken = Place(Arc::new(Mutex::new(Some(places))));
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
