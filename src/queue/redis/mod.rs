//! The queue in Redis, on apalis 1.0 and apalis-redis 1.0.
//!
//! At least once, and only a hint: it may be lost with the server, come twice, or come late. The
//! database decides.
//!
//! A delivery's way: `contracts/enqueue.lua` writes it (`enqueue`) and publishes → the `Listener`
//! rings the `Bell` of every `Fetcher` → its worker fetches as many as the consumer has places
//! (`Ahead`, `next`) → `Work` decodes and calls the handler → acknowledged into `done`, or into `dead`
//! when it was no hint → the `Cleaner` removes it. What a worker held when it ended goes back
//! (`custody`).
//!
//! What apalis and apalis-redis 1.0.0 do as shipped, and what is done about it:
//!
//! | as shipped | here |
//! |---|---|
//! | `push` sends every job through a sorted set that wedges the queue at 8,000 due entries, and so do retries | the script appends to the list of waiting ids; a handler's error is always an `AbortError`, never a retry |
//! | any error ends the worker; nothing, or a loop without pause, starts it again | `Fetcher`: pause with jitter, fresh name, fresh connection, deliveries handed back |
//! | a prefetched job stops heartbeats and acknowledgements | handlers in tasks of their own, several fetchers, and `Ahead`: what was fetched waits outside of apalis' own state |
//! | polling by interval loses wake-ups; without it an idle worker waits for its heartbeat | `BellOrTick`, and `Ahead` for rings during a fetch |
//! | a payload that does not decode ends the worker and comes back | `RawBytes`; `Work` decodes |
//! | 500 ms to answer | `Link`'s own limits |
//! | a name that was seen lately is refused; a stopped worker is left on the list | a fresh name at every start; `custody::hand_back` removes it |
//! | a stopping worker sends no heartbeats, so that others take its jobs | `custody::keep_alive` while the last handlers run |
//! | the crash of `task-tracking` | that feature is off |
//! | nothing is ever removed | `Cleaner` |
//! | attempts are not counted where a job ends its process | attempts and leases are in the database |
//! | defaults that differ from their documentation | every setting is given |
//! | an id that was used before is dropped silently | a new UUIDv7 for each delivery |
//! | an entry without data or meta, or an id that is read as a number or ULID and written back differently (`007`), ends every worker that gets it | refused by the script; of other writers, repaired or removed when it is fetched (`next`) |
//! | payloads and metas of any size are fetched | `next` looks at the length first: what is longer than any hint is removed unread |
//! | 8,000 entries that are due in the sorted set wedge the queue | `next` moves 500 at a time |
//! | the bound on concurrency counts only jobs whose worker lives | the permit is held by the handler's own task |
//! | the text of a panic is stored as the job's result | a fixed text |
//! | a Redis Cluster is not served | one primary for each queue |

mod address;
mod ahead;
mod backoff;
mod bell;
mod cause;
mod cleaner;
mod custody;
mod enqueue;
mod fetcher;
mod keys;
mod link;
mod next;
mod observed;
mod probe;
mod quiet;
mod rejected;
mod removal;
mod settings;
mod work;

pub use address::problem as address_problem;
pub use removal::{RemovalError, remove_queue, try_queue};
pub use settings::{RedisSettings, RedisSettingsError};

use crate::domain::job::Hint;
use crate::domain::notice::Notice;
use crate::ports::queue::{HintHandler, Queue, QueueError, QueueHealth, RejectedHint};
use crate::queue::pulse::Vitals;
use async_trait::async_trait;
use bell::{Bell, Listener};
use cleaner::Cleaner;
use fetcher::Fetcher;
use keys::Keys;
use link::Link;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use work::Work;

/// Between two probes of the listening connection.
const PROBE: Duration = Duration::from_secs(5);

/// A queue of one Redis server.
#[derive(Debug)]
pub struct RedisQueue {
    settings: RedisSettings,
    host: String,
    keys: Keys,
    link: Arc<Link>,
    vitals: Arc<Vitals>,
}

impl RedisQueue {
    /// A queue that connects when it is first used: the server need not be there yet. `host` is
    /// part of the fetchers' names in Redis.
    ///
    /// Fails only for settings that can never work. Call it within a Tokio runtime.
    pub fn connect(
        settings: &RedisSettings,
        host: &str,
    ) -> Result<Arc<dyn Queue>, RedisSettingsError> {
        settings.validate()?;
        let vitals = Arc::new(Vitals::new(false));
        let link = Link::new(settings, Arc::clone(&vitals))?;
        Ok(Arc::new(Self {
            settings: settings.clone(),
            host: host.to_owned(),
            keys: Keys::new(&settings.queue),
            link: Arc::new(link),
            vitals,
        }))
    }

    fn fetcher(
        &self,
        bell: &Arc<Bell>,
        slots: &Arc<Semaphore>,
        work: &Work,
        stop: &CancellationToken,
    ) -> Fetcher {
        Fetcher {
            link: Arc::clone(&self.link),
            keys: self.keys.clone(),
            settings: self.settings.clone(),
            host: self.host.clone(),
            bell: Arc::clone(bell),
            vitals: Arc::clone(&self.vitals),
            slots: Arc::clone(slots),
            work: work.clone(),
            stop: stop.clone(),
        }
    }
}

#[async_trait]
impl Queue for RedisQueue {
    fn kind(&self) -> &'static str {
        "redis"
    }

    async fn send(&self, hints: &[Hint]) -> Result<(), QueueError> {
        enqueue::send(&self.link, &self.keys, hints).await
    }

    async fn depth(&self) -> Result<u64, QueueError> {
        let mut length = redis::cmd("LLEN");
        length.arg(&self.keys.active);
        self.link
            .call(async |connection| length.query_async(connection).await)
            .await
    }

    async fn consume(
        &self,
        handler: Arc<dyn HintHandler>,
        concurrency: usize,
        stop: CancellationToken,
    ) -> Result<(), QueueError> {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let slots = Arc::new(Semaphore::new(concurrency));
        let work = Work::new(handler, Arc::clone(&self.vitals));
        // More of them than places would only wait for each other.
        let bells: Vec<Arc<Bell>> = (0..self.settings.fetchers.min(concurrency))
            .map(|_| Arc::new(Bell::default()))
            .collect();

        let beside = CancellationToken::new();
        let _guard = beside.clone().drop_guard();
        let mut companions = JoinSet::new();
        let listener = Listener {
            link: Arc::clone(&self.link),
            keys: self.keys.clone(),
            bells: bells.clone(),
            patience: PROBE.min(self.settings.response_timeout),
        };
        companions.spawn(listener.run(beside.clone()));
        let cleaner = Cleaner::new(Arc::clone(&self.link), self.keys.clone(), &self.settings);
        companions.spawn(cleaner.run(beside.clone()));
        companions.spawn(say_what_is_wrong(Arc::clone(&self.link), beside.clone()));

        let mut fetchers = JoinSet::new();
        for bell in &bells {
            fetchers.spawn(self.fetcher(bell, &slots, &work, &stop).run());
        }
        tracing::info!(
            queue = self.settings.queue,
            fetchers = bells.len(),
            concurrency,
            "consuming hints"
        );
        while let Some(ended) = fetchers.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
                && let Some(bell) = bells.first()
            {
                tracing::error!("a fetcher's supervisor panicked; it is started again");
                fetchers.spawn(self.fetcher(bell, &slots, &work, &stop).run());
            }
        }
        // Handlers of workers that ended early still run.
        let all = u32::try_from(concurrency).unwrap_or(u32::MAX);
        let _all = slots.acquire_many(all).await;
        beside.cancel();
        while companions.join_next().await.is_some() {}
        tracing::info!(queue = self.settings.queue, "no longer consuming hints");
        Ok(())
    }

    async fn announce(&self, notices: &[Notice]) -> Result<(), QueueError> {
        let mut pipeline = redis::pipe();
        for notice in notices {
            if let Ok(payload) = serde_json::to_string(notice) {
                pipeline
                    .cmd("PUBLISH")
                    .arg(&self.keys.completed)
                    .arg(payload)
                    .ignore();
            }
        }
        self.link
            .call(async |connection| pipeline.query_async::<()>(connection).await)
            .await
    }

    async fn try_sending(&self) -> Result<(), QueueError> {
        probe::put_and_take_back(&self.link, &self.keys).await
    }

    fn health(&self) -> QueueHealth {
        self.vitals.health()
    }

    async fn rejected(&self, most: u32) -> Result<(u64, Vec<RejectedHint>), QueueError> {
        rejected::look(&self.link, &self.keys, most).await
    }

    async fn ping(&self) -> Result<(), QueueError> {
        let ping = redis::cmd("PING");
        self.link
            .call(async |connection| ping.query_async::<()>(connection).await)
            .await
    }
}

/// Logs at once why the server cannot be used when the consumer starts. The fetchers retry, and say so
/// only after their last attempt.
async fn say_what_is_wrong(link: Arc<Link>, stop: CancellationToken) {
    let contact = tokio::select! {
        () = stop.cancelled() => return,
        contact = link.first_contact() => contact,
    };
    if let Err(error) = contact {
        tracing::warn!(%error, "no hints arrive; runs are taken from the database until the queue can be used");
    }
}
