//! The queue in Redis, on apalis 1.0 and apalis-redis 1.0.
//!
//! Delivery is at least once, and a delivery is only a hint: it may be lost with the server, come twice
//! or come late. The database decides.
//!
//! The way of a delivery: `contracts/enqueue.lua` writes it (`enqueue`) and publishes a message → the
//! `Listener` sets the `FetchSignal` of every `Fetcher` → the fetcher's worker prefetches as many as the
//! consumer has free concurrency slots (`PrefetchBackend`, `fetch`) → `DeliveryHandler` decodes it and
//! calls the handler → it is acknowledged into `done`, or into `dead` when it is no hint → the `Cleaner`
//! removes it. What a worker held when it ended is returned to the queue (`orphan_recovery`).
//!
//! What apalis and apalis-redis 1.0.0 do as shipped, and what is done about it:
//!
//! | as shipped | here |
//! |---|---|
//! | `push` sends every job through a sorted set that wedges the queue at 8,000 due entries, and so do retries | the script appends to the list of waiting ids; a handler's error is always an `AbortError`, never a retry |
//! | any error ends the worker; nothing, or a loop without pause, starts it again | `Fetcher`: backoff with jitter, fresh name, fresh connection, orphan recovery |
//! | a prefetched job stops heartbeats and acknowledgements | handlers in tasks of their own, several fetchers, and `PrefetchBackend`: what was fetched waits outside of apalis' own state |
//! | polling by interval loses wake-ups; without it an idle worker waits for its heartbeat | `FetchStrategy`, and `PrefetchBackend` for wake-ups during a fetch |
//! | a payload that does not decode ends the worker and comes back | `RawBytes`; `DeliveryHandler` decodes |
//! | 500 ms to answer | timeouts of `Connections` |
//! | a name that was seen recently is refused; a stopped worker is left on the list | a fresh name at every start; `orphan_recovery::return_held` removes it |
//! | a stopping worker sends no heartbeats, so that others take its jobs | `orphan_recovery::send_heartbeat` while the last handlers run |
//! | jobs of a dead consumer are returned by the other consumers, after six missed heartbeats | kept as it is; an ended worker of a live process returns them at once (`orphan_recovery`) |
//! | the crash of `task-tracking` | that feature is off |
//! | nothing is ever removed | `Cleaner` |
//! | attempts are not counted where a job ends its process | attempts and leases are in the database |
//! | defaults that differ from their documentation | every setting is given |
//! | an id that was used before is dropped silently | a new UUIDv7 for each delivery |
//! | an entry without data or meta, or an id that is read as a number or ULID and written back differently (`007`), ends every worker that gets it | refused by the script; of other writers, repaired or removed when it is fetched (`fetch`) |
//! | a key of another type ends every worker at each of its starts | `key_types` removes it; meanwhile `depth` fails |
//! | payloads and metas of any size are fetched | `fetch` looks at the length first: what is longer than any hint is removed unread |
//! | 8,000 entries that are due in the sorted set wedge the queue | `fetch` moves 500 at a time |
//! | the bound on concurrency counts only jobs whose worker lives | the permit is held by the handler's own task |
//! | the text of a panic is stored as the job's result | a fixed text |
//! | a Redis Cluster is not served | one primary for each queue, which Sentinel may name (`primary`) |

mod address;
mod cleaner;
mod connections;
mod dead_letters;
mod delivery;
mod enqueue;
mod error;
mod fetch;
mod fetch_signal;
mod fetcher;
mod key_types;
mod keys;
mod observed;
mod orphan_recovery;
mod prefetch;
mod primary;
mod probe;
mod remedy;
mod removal;
mod settings;

pub use address::{SCHEMES, problem as address_problem};
pub use remedy::{remedy, sentinel_remedy};
pub use removal::{RemovalError, remove_queue, try_queue};
pub use settings::{ConsumerSettings, MAX_QUEUE_NAME, RedisSettings, RedisSettingsError};

use crate::domain::WorkspaceId;
use crate::domain::completion_event::CompletionEvent;
use crate::domain::groups::{DEFAULT_GROUP, WorkspaceGroups};
use crate::domain::hint::Hint;
use crate::ports::log_throttle::LogThrottle;
use crate::ports::queue::{DeadLetter, HintHandler, Queue, QueueError, QueueHealth};
use crate::queue::consumer_health::ConsumerHealth;
use async_trait::async_trait;
use cleaner::Cleaner;
use connections::Connections;
use delivery::DeliveryHandler;
use fetch_signal::{FetchSignal, Listener};
use fetcher::Fetcher;
use futures::FutureExt;
use keys::Keys;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longest interval between two probes of the listening connection.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// The queues of all groups.
#[derive(Debug)]
struct GroupQueues {
    groups: WorkspaceGroups,
    /// By the group's name.
    keys: HashMap<String, Keys>,
}

/// A queue of one Redis server.
#[derive(Clone, Debug)]
pub struct RedisQueue {
    settings: Arc<RedisSettings>,
    host: String,
    keys: Keys,
    groups: Arc<GroupQueues>,
    connections: Arc<Connections>,
    health: Arc<ConsumerHealth>,
    /// Of fetchers that failed.
    fetcher_log: Arc<LogThrottle>,
}

impl RedisQueue {
    /// Creates a queue that connects when it is first used: the server need not be there yet. `host` is
    /// part of the fetchers' names in Redis.
    ///
    /// Fails only for settings that can never work. Call it within a Tokio runtime.
    pub fn connect(
        settings: &RedisSettings,
        host: &str,
    ) -> Result<Arc<dyn Queue>, RedisSettingsError> {
        Self::connect_in_group(settings, host, &WorkspaceGroups::default(), DEFAULT_GROUP)
    }

    /// The same for the queue of a group, which also sends hints to the queues of the others. Completion events of all
    /// groups have one channel.
    pub fn connect_in_group(
        settings: &RedisSettings,
        host: &str,
        groups: &WorkspaceGroups,
        group: &str,
    ) -> Result<Arc<dyn Queue>, RedisSettingsError> {
        let mut own = settings.clone();
        own.queue = settings.queue_of(group);
        own.validate()?;
        let health = Arc::new(ConsumerHealth::new(false));
        let connections = Connections::new(&own, Arc::clone(&health))?;
        let keys_of = |group: &str| Keys::of_group(&settings.queue_of(group), &settings.queue);
        Ok(Arc::new(Self {
            settings: Arc::new(own),
            host: host.to_owned(),
            keys: keys_of(group),
            groups: Arc::new(GroupQueues {
                groups: groups.clone(),
                keys: groups
                    .names()
                    .map(|name| (name.to_owned(), keys_of(name)))
                    .collect(),
            }),
            connections: Arc::new(connections),
            health,
            fetcher_log: Arc::new(LogThrottle::new()),
        }))
    }

    /// Runs a fetcher until its `stop`, also after a panic of it.
    async fn keep_fetching(fetcher: Fetcher) {
        while AssertUnwindSafe(fetcher.run())
            .catch_unwind()
            .await
            .is_err()
        {
            tracing::error!("fetcher panicked; restarting it");
        }
    }
}

#[async_trait]
impl Queue for RedisQueue {
    fn kind(&self) -> &'static str {
        "redis"
    }

    async fn send(&self, hints: &[Hint]) -> Result<(), QueueError> {
        enqueue::send(&self.connections, &self.keys, hints).await
    }

    async fn send_for(&self, workspace: WorkspaceId, hints: &[Hint]) -> Result<(), QueueError> {
        let GroupQueues { groups, keys } = &*self.groups;
        let keys = keys.get(groups.of(workspace)).unwrap_or(&self.keys);
        enqueue::send(&self.connections, keys, hints).await
    }

    async fn depth(&self) -> Result<u64, QueueError> {
        let mut length = redis::cmd("LLEN");
        length.arg(&self.keys.active);
        let depth = self
            .connections
            .call(async |connection| {
                // With a key of another type there may be a length, and yet nothing be fetched.
                match key_types::misfit(connection, &self.keys).await? {
                    Some(misfit) => Ok(Err(misfit)),
                    None => length.query_async(connection).await.map(Ok),
                }
            })
            .await?;
        depth.map_err(QueueError::Unavailable)
    }

    async fn consume(
        &self,
        handler: Arc<dyn HintHandler>,
        concurrency: usize,
        stop: CancellationToken,
    ) -> Result<(), QueueError> {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let slots = Arc::new(Semaphore::new(concurrency));
        let deliveries = DeliveryHandler::new(handler, Arc::clone(&self.health));
        // More fetchers than slots would only wait for each other.
        let signals: Vec<Arc<FetchSignal>> = (0..self.settings.consumer.fetchers.min(concurrency))
            .map(|_| Arc::default())
            .collect();

        let consumed = CancellationToken::new();
        let _guard = consumed.clone().drop_guard();
        let mut companions = JoinSet::new();
        let listener = Listener {
            connections: Arc::clone(&self.connections),
            keys: self.keys.clone(),
            signals: signals.clone(),
            interval: PROBE_INTERVAL.min(self.settings.response_timeout),
        };
        companions.spawn(listener.run(consumed.clone()));
        let connections = || Arc::clone(&self.connections);
        let cleaner = Cleaner::new(connections(), self.keys.clone(), &self.settings.consumer);
        companions.spawn(cleaner.run(consumed.clone()));
        companions.spawn(log_first_failure(connections(), consumed.clone()));

        let mut fetchers = JoinSet::new();
        for signal in signals {
            fetchers.spawn(Self::keep_fetching(Fetcher {
                queue: self.clone(),
                signal,
                slots: Arc::clone(&slots),
                deliveries: deliveries.clone(),
                stop: stop.clone(),
            }));
        }
        tracing::info!(
            queue = self.settings.queue,
            fetchers = fetchers.len(),
            concurrency,
            "consuming hints"
        );
        while fetchers.join_next().await.is_some() {}
        // Handlers of workers that ended early still run.
        let all = u32::try_from(concurrency).unwrap_or(u32::MAX);
        let _all = slots.acquire_many(all).await;
        consumed.cancel();
        while companions.join_next().await.is_some() {}
        tracing::info!(queue = self.settings.queue, "no longer consuming hints");
        Ok(())
    }

    async fn publish_completions(&self, events: &[CompletionEvent]) -> Result<(), QueueError> {
        let mut pipeline = redis::pipe();
        for event in events {
            if let Ok(payload) = serde_json::to_string(event) {
                pipeline
                    .cmd("PUBLISH")
                    .arg(&self.keys.completed)
                    .arg(payload)
                    .ignore();
            }
        }
        self.connections
            .call(async |connection| pipeline.query_async::<()>(connection).await)
            .await
    }

    async fn try_sending(&self) -> Result<(), QueueError> {
        probe::put_and_take_back(&self.connections, &self.keys).await
    }

    async fn try_consuming(&self) -> Result<(), QueueError> {
        probe::try_consuming(&self.connections, &self.keys).await
    }

    fn health(&self) -> QueueHealth {
        self.health.report()
    }

    async fn dead_letters(&self, max: u32) -> Result<(u64, Vec<DeadLetter>), QueueError> {
        dead_letters::read(&self.connections, &self.keys, max).await
    }

    async fn server_version(&self) -> Result<Option<String>, QueueError> {
        // INFO takes a right that nothing else needs.
        let hello = redis::cmd("HELLO");
        let mut reply: HashMap<String, redis::Value> = self
            .connections
            .call(async |connection| hello.query_async(connection).await)
            .await?;
        let version = reply.remove("version");
        Ok(version.and_then(|version| redis::from_redis_value(version).ok()))
    }

    fn remedy(&self, error: &QueueError) -> Option<String> {
        Some(remedy(&error.to_string()))
    }

    async fn unusable_sentinels(&self) -> Vec<String> {
        self.connections.unusable_sentinels().await
    }

    async fn ping(&self) -> Result<(), QueueError> {
        let ping = redis::cmd("PING");
        self.connections
            .call(async |connection| ping.query_async::<()>(connection).await)
            .await
    }
}

/// Logs at once why the server cannot be used when the consumer starts. The fetchers retry, and log a
/// failure only after their last attempt.
async fn log_first_failure(connections: Arc<Connections>, stop: CancellationToken) {
    let contact = tokio::select! {
        () = stop.cancelled() => return,
        contact = connections.first_contact() => contact,
    };
    if let Err(error) = contact {
        let remedy = remedy(&error.to_string());
        tracing::warn!(
            %error,
            remedy,
            "the queue is unavailable; taking runs from the database until it can be used"
        );
    }
}
