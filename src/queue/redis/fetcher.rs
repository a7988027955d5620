//! One fetcher: a worker of the queue that is restarted whenever it ends.
//!
//! As shipped, any error of the server ends a worker for good. Here every start has a fresh name (a recently
//! used one is refused) and a fresh connection (the old one may lead to a former primary), comes after an
//! exponential backoff with jitter, and first returns the messages that the ended workers held.

use super::connections::Connections;
use super::delivery::{DeliveryHandler, RawBytes};
use super::error;
use super::fetch_signal::{FetchSignal, FetchStrategy};
use super::key_types::remove_misfits;
use super::observed::ObservedConnection;
use super::prefetch::{ConcurrencySlot, PrefetchBackend};
use super::settings::MISSED_HEARTBEATS;
use super::{RedisQueue, orphan_recovery, remedy};
use crate::domain::WorkerId;
use crate::queue::consumer_health::LastActivity;
use apalis::layers::catch_panic::CatchPanicLayer;
use apalis_core::backend::ext::BackendExt;
use apalis_core::backend::finalize::DurableError;
use apalis_core::error::{AbortError, WorkerError};
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use apalis_core::worker::ext::event_listener::EventListenerExt;
use apalis_core::worker::ext::parallelize::ParallelizeExt;
use apalis_redis::Config;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::FutureExt;
use futures::future::BoxFuture;
use redis::aio::ConnectionManager;
use redis::{RedisError, RedisResult};
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Ended workers that are remembered until their deliveries are returned; other processes return them,
/// too, later.
const MAX_ENDED: usize = 32;

/// First pause before a fetcher that ended is started again; it doubles each time.
const MIN_RESTART_DELAY: Duration = Duration::from_millis(200);

/// Time for a stopping worker to end while the server is unavailable.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How a worker ended.
enum End {
    /// Stopped on request, with no handler left.
    Stopped,
    Failed(Failure),
}

/// What apalis makes of an error of the backend, and of a delivery that cannot be decoded.
type BackendError = DurableError<apalis_redis::Error, Infallible>;

/// Why a worker ended.
enum Failure {
    /// An error of Redis or of the way to it, in the words that it has everywhere.
    Redis(String),
    /// Nothing that changes Redis mends it.
    Worker(String),
}

/// Returns the error of Redis that ended a worker.
fn error_of_redis(error: &WorkerError) -> Option<&RedisError> {
    let WorkerError::BackendError(source) = error else {
        return None;
    };
    match source.downcast_ref::<BackendError>() {
        Some(DurableError::PollNextError(apalis_redis::Error::Database(error))) => Some(error),
        _ => None,
    }
}

impl Failure {
    fn of(error: &WorkerError) -> Self {
        match error_of_redis(error) {
            Some(error) => error.into(),
            None => Self::Worker(error.to_string()),
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::Redis(reason) | Self::Worker(reason) => reason,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Redis(reason) => Some(remedy(reason)),
            Self::Worker(_) => None,
        }
    }
}

impl From<&RedisError> for Failure {
    fn from(error: &RedisError) -> Self {
        Self::Redis(error::describe(error))
    }
}

/// Keeps one worker of the queue running.
pub(super) struct Fetcher {
    pub queue: RedisQueue,
    pub signal: Arc<FetchSignal>,
    /// One permit for each hint that is fetched or handled, over all fetchers of the consumer.
    pub slots: Arc<Semaphore>,
    pub deliveries: DeliveryHandler,
    pub stop: CancellationToken,
}

impl Fetcher {
    /// Fetches until `stop`.
    pub async fn run(&self) {
        let settings = &self.queue.settings;
        let longest = settings.consumer.max_restart_delay();
        let mut pauses = self.backoff();
        let mut ended: Vec<String> = Vec::new();
        while !self.stop.is_cancelled() {
            let started = Instant::now();
            let name = WorkerId::fresh(&self.queue.host).0;
            let end = self.start(&name, &mut ended).await;
            let failure = match end {
                End::Stopped => break,
                End::Failed(failure) => failure,
            };
            let reason = failure.reason();
            if started.elapsed() > longest {
                pauses = self.backoff();
            }
            let pause = pauses.next().unwrap_or(longest);
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            // A server may be unavailable for hours.
            if let Some(left_out) = self.queue.fetcher_log.line() {
                tracing::warn!(
                    worker = name,
                    remedy = failure.remedy(),
                    reason,
                    pause_ms,
                    left_out,
                    "fetcher failed; restarting it"
                );
            } else {
                tracing::debug!(
                    worker = name,
                    reason,
                    pause_ms,
                    "fetcher failed again; restarting it"
                );
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {
                    self.queue.health.restarts.fetch_add(1, Ordering::Relaxed);
                    metrics::counter!("verifyd_queue_restarts_total").increment(1);
                }
            }
        }
        if !ended.is_empty()
            && self.connected()
            && let Ok(mut connection) = self.connections().fresh().await
        {
            // Within a timeout: other consumers return them, too, later.
            let timeout = settings.call_timeout();
            let recovered = self.recover_orphans(&mut connection, &mut ended);
            let _ = tokio::time::timeout(timeout, recovered).await;
        }
    }

    fn connections(&self) -> &Connections {
        &self.queue.connections
    }

    /// Returns pauses that double up to the longest one. Jitter adds up to the length of a pause.
    fn backoff(&self) -> ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(MIN_RESTART_DELAY / 2)
            .with_max_delay(self.queue.settings.consumer.max_restart_delay() / 2)
            .with_jitter()
            .without_max_times()
            .build()
    }

    fn connected(&self) -> bool {
        self.queue.health.connected.load(Ordering::Relaxed)
    }

    /// Recovers the orphans of the workers before, then runs one.
    async fn start(&self, name: &str, ended: &mut Vec<String>) -> End {
        let unusable = |reason: String| {
            self.queue.health.connected.store(false, Ordering::Relaxed);
            End::Failed(Failure::Redis(reason))
        };
        let fresh = tokio::select! {
            () = self.stop.cancelled() => return End::Stopped,
            fresh = self.connections().fresh() => fresh,
        };
        let mut connection = match fresh {
            Ok(connection) => connection,
            Err(reason) => return unusable(reason),
        };
        if !ended.is_empty() {
            let recovered = tokio::select! {
                () = self.stop.cancelled() => return End::Stopped,
                recovered = self.recover_orphans(&mut connection, ended) => recovered,
            };
            if let Err(error) = recovered {
                return unusable(self.connections().describe(&error).await);
            }
        }
        ended.push(name.to_owned());
        let end = self.run_worker(name, connection.clone()).await;
        if let End::Stopped = end
            && self.connected()
        {
            // Over the same connection, after a fetch that may still be under way.
            let timeout = self.queue.settings.call_timeout();
            let recovered = self.recover_orphans(&mut connection, ended);
            if !matches!(tokio::time::timeout(timeout, recovered).await, Ok(Ok(()))) {
                tracing::debug!(
                    worker = name,
                    "cannot return the worker's deliveries to the queue; its heartbeat has to expire first"
                );
            }
        }
        if ended.len() > MAX_ENDED {
            ended.remove(0);
        }
        end
    }

    async fn recover_orphans(
        &self,
        connection: &mut ConnectionManager,
        ended: &mut Vec<String>,
    ) -> RedisResult<()> {
        let keys = &self.queue.keys;
        // First: nothing can be returned to a list that is none.
        if !self.stop.is_cancelled() {
            remove_misfits(connection, keys, ended).await?;
        }
        while let Some(worker) = ended.last() {
            orphan_recovery::return_held(connection, keys, worker).await?;
            ended.pop();
        }
        Ok(())
    }

    async fn failure(&self, error: &WorkerError) -> Failure {
        match error_of_redis(error) {
            Some(error) => Failure::Redis(self.connections().describe(error).await),
            None => Failure::of(error),
        }
    }

    /// Runs one worker, from its registration to its end.
    async fn run_worker(&self, name: &str, mut connection: ConnectionManager) -> End {
        let settings = &self.queue.settings;
        let activity = Arc::new(LastActivity::default());
        activity.touch();
        let observed = ObservedConnection {
            connection: connection.clone(),
            worker: Arc::clone(&activity),
            consumer: Arc::clone(&self.queue.health),
            works: Arc::default(),
        };
        let context = WorkerContext::new(name);
        let run = AssertUnwindSafe(self.worker(&context, observed)).catch_unwind();
        tokio::pin!(run);
        let half_a_beat = settings.consumer.heartbeat_interval / 2;
        let mut watch = tokio::time::interval(half_a_beat.min(Duration::from_secs(1)));
        let mut stopping = false;
        let mut beat = Instant::now();
        let mut idle_since = None;
        loop {
            tokio::select! {
                biased;
                end = &mut run => return match end {
                    // While stopping, what could not be acknowledged is returned to the queue.
                    Ok(_) if stopping => End::Stopped,
                    Ok(Ok(())) => End::Failed(Failure::Worker("the worker ended unexpectedly".into())),
                    Ok(Err(error)) => End::Failed(self.failure(&error).await),
                    Err(_) => End::Failed(Failure::Worker("the worker panicked".into())),
                },
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    if context.stop().is_err() {
                        // It had not even started.
                        return End::Stopped;
                    }
                }
                _ = watch.tick() => {
                    if !stopping {
                        let limit = settings.stalled_after();
                        if activity.age().is_some_and(|age| age > limit) {
                            let reason = format!("stalled: no sign of life for {limit:?}");
                            return End::Failed(Failure::Redis(reason));
                        }
                        continue;
                    }
                    if self.deliveries.in_flight() == 0 {
                        let since = *idle_since.get_or_insert_with(Instant::now);
                        let timeout = match self.connected() {
                            true => settings.call_timeout(),
                            false => STOP_TIMEOUT,
                        };
                        if since.elapsed() > timeout {
                            return End::Stopped;
                        }
                    }
                    if beat.elapsed() >= half_a_beat {
                        beat = Instant::now();
                        let sent = orphan_recovery::send_heartbeat(
                            &mut connection,
                            &self.queue.keys,
                            name,
                        );
                        let _ = tokio::time::timeout(settings.response_timeout, sent).await;
                    }
                }
            }
        }
    }

    /// Builds apalis' worker with settings under which nothing it does can stop the queue.
    fn worker(
        &self,
        context: &WorkerContext,
        connection: ObservedConnection,
    ) -> BoxFuture<'static, Result<(), WorkerError>> {
        let settings = &self.queue.settings;
        let config = Config::default()
            .queue(&settings.queue)
            .heartbeat_interval(settings.consumer.heartbeat_interval)
            .missed_heartbeats(MISSED_HEARTBEATS as usize)
            // Leases are in the database.
            .lock_tasks(false)
            // Without it nothing is ever acknowledged.
            .persist_results(true)
            .emit_events(false)
            .idempotency_ttl(Some(Duration::from_secs(3600)));
        let signal = || Arc::clone(&self.signal);
        let (keys, slots) = (self.queue.keys.clone(), Arc::clone(&self.slots));
        let backend = PrefetchBackend::new(config, keys, connection, signal(), slots)
            .with_codec(RawBytes)
            .poll_with_strategy(FetchStrategy::new(
                signal(),
                settings.consumer.poll_interval,
            ));
        let deliveries = self.deliveries.clone();
        WorkerBuilder::new(context)
            .backend(backend)
            .parallelize(tokio::spawn)
            // The text of a panic may contain anything, and the queue stores the error's text.
            .layer(CatchPanicLayer::with_panic_handler(
                |_: &Box<dyn std::any::Any + Send>| {
                    metrics::counter!("verifyd_hint_panics_total").increment(1);
                    tracing::error!("the handler of a hint panicked");
                    AbortError::new("the handler panicked")
                },
            ))
            .on_event(|_, event| tracing::trace!(?event, "worker event"))
            .build(move |payload: Vec<u8>, slot: Data<ConcurrencySlot>| {
                let deliveries = deliveries.clone();
                async move {
                    let _slot = slot.take();
                    deliveries.handle(&payload).await
                }
            })
            .run()
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apalis_core::error::WorkerStateError;
    use redis::ErrorKind;

    #[test]
    fn only_what_redis_says_has_a_remedy_of_redis() {
        let refused = RedisError::from((ErrorKind::Io, "connection refused"));
        let failure = Failure::of(&WorkerError::BackendError(
            BackendError::PollNextError(apalis_redis::Error::Database(refused)).into(),
        ));
        assert!(failure.remedy().is_some(), "{}", failure.reason());
        for error in [
            WorkerError::PanicError("at REDIS".into()),
            WorkerError::StateError(WorkerStateError::NotRunning),
            WorkerError::BackendError("no JSON".into()),
        ] {
            let failure = Failure::of(&error);
            assert_eq!(failure.remedy(), None, "{error}");
            assert_eq!(failure.reason(), error.to_string());
        }
    }
}
