//! One worker of the queue, started again whenever it ends.
//!
//! As shipped, any error of the server ends a worker for good. Here every end has a jittered pause,
//! a fresh name (a name that was seen lately is refused) and a fresh connection (the old one may
//! lead to a former primary), and what the worker held goes back into the queue.

use super::ahead::{Ahead, Place};
use super::backoff::Backoff;
use super::bell::{Bell, BellOrTick};
use super::cause;
use super::custody;
use super::keys::Keys;
use super::link::Link;
use super::observed::Observed;
use super::settings::RedisSettings;
use super::work::{RawBytes, Work};
use crate::domain::WorkerId;
use crate::queue::pulse::{Pulse, Vitals};
use apalis::layers::catch_panic::CatchPanicLayer;
use apalis_core::backend::ext::BackendExt;
use apalis_core::error::{AbortError, WorkerError};
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use apalis_core::worker::ext::event_listener::EventListenerExt;
use apalis_core::worker::ext::parallelize::ParallelizeExt;
use apalis_redis::Config;
use futures::FutureExt;
use futures::future::BoxFuture;
use redis::aio::ConnectionManager;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Workers whose deliveries could not be handed back yet; others take them back anyway.
const REMEMBERED: usize = 32;

/// How a worker ended.
#[derive(Debug)]
enum End {
    /// As asked, with nothing left in work.
    Stopped,
    Failed(String),
}

#[derive(Debug)]
pub(super) struct Fetcher {
    pub link: Arc<Link>,
    pub keys: Keys,
    pub settings: RedisSettings,
    pub host: String,
    pub bell: Arc<Bell>,
    pub vitals: Arc<Vitals>,
    /// One permit for each hint that is fetched or in work, over all fetchers of the consumer.
    pub slots: Arc<Semaphore>,
    pub work: Work,
    pub stop: CancellationToken,
}

impl Fetcher {
    /// Fetches until `stop`.
    pub async fn run(self) {
        let mut backoff = Backoff::new(
            self.settings.restart_backoff_min,
            self.settings.restart_backoff_max,
        );
        let mut held: Vec<String> = Vec::new();
        let mut first = true;
        let mut failing = false;
        while !self.stop.is_cancelled() {
            if !first {
                self.vitals.restarts.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("verifyd_queue_restarts_total").increment(1);
            }
            first = false;
            let started = Instant::now();
            let name = WorkerId::fresh(&self.host).0;
            let end = match self.start(&name, &mut held).await {
                Ok(end) => end,
                Err(error) => End::Failed(cause::words(&error)),
            };
            match end {
                End::Stopped => break,
                End::Failed(reason) => {
                    if started.elapsed() > self.settings.restart_backoff_max {
                        backoff.reset();
                        failing = false;
                    }
                    let pause = backoff.pause();
                    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                    // Said once: a server may be away for hours.
                    if failing {
                        tracing::debug!(worker = name, reason, pause_ms, "the fetcher ended again");
                    } else {
                        failing = true;
                        tracing::warn!(
                            worker = name,
                            reason,
                            pause_ms,
                            "the fetcher ended and will be started again"
                        );
                    }
                    tokio::select! {
                        () = self.stop.cancelled() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
        if !held.is_empty()
            && self.connected()
            && let Ok(mut connection) = self.link.fresh()
        {
            // Within a bound: others notice anyway, later.
            let bound = self.settings.call_timeout();
            let _ = tokio::time::timeout(bound, self.tidy(&mut connection, &mut held)).await;
        }
    }

    fn connected(&self) -> bool {
        self.vitals.connected.load(Ordering::Relaxed)
    }

    /// Tidies up after the workers before, then runs one.
    async fn start(&self, name: &str, held: &mut Vec<String>) -> redis::RedisResult<End> {
        let mut connection = self.link.fresh()?;
        if !held.is_empty() {
            let tidied = tokio::select! {
                () = self.stop.cancelled() => return Ok(End::Stopped),
                tidied = self.tidy(&mut connection, held) => tidied,
            };
            if let Err(error) = tidied {
                self.vitals.connected.store(false, Ordering::Relaxed);
                return Err(error);
            }
        }
        held.push(name.to_owned());
        let end = self.live(name, connection.clone()).await;
        if let End::Stopped = end
            && self.connected()
        {
            // Over the same connection, behind a fetch that may still be on its way.
            let bound = self.settings.call_timeout();
            let tidied = tokio::time::timeout(bound, self.tidy(&mut connection, held)).await;
            if !matches!(tidied, Ok(Ok(()))) {
                tracing::debug!(worker = name, "what the worker held was not handed back");
            }
        }
        if held.len() > REMEMBERED {
            held.remove(0);
        }
        Ok(end)
    }

    async fn tidy(
        &self,
        connection: &mut ConnectionManager,
        held: &mut Vec<String>,
    ) -> redis::RedisResult<()> {
        let mut found = custody::Custody::default();
        while let Some(worker) = held.last() {
            let back = custody::hand_back(connection, &self.keys, worker).await?;
            found.returned += back.returned;
            found.malformed.dropped += back.malformed.dropped;
            found.malformed.too_large += back.malformed.too_large;
            held.pop();
        }
        if !self.stop.is_cancelled() {
            found.malformed.keys += custody::heal(connection, &self.keys).await?;
        }
        found.malformed.note();
        if found.returned > 0 {
            tracing::info!(
                returned = found.returned,
                "deliveries of an ended worker wait again"
            );
        }
        Ok(())
    }

    /// One worker, from its registration to its end.
    async fn live(&self, name: &str, mut connection: ConnectionManager) -> End {
        let pulse = Arc::new(Pulse::new());
        pulse.beat();
        let observed = Observed {
            connection: connection.clone(),
            pulse: Arc::clone(&pulse),
            vitals: Arc::clone(&self.vitals),
        };
        let context = WorkerContext::new(name);
        let run = AssertUnwindSafe(self.worker(&context, observed)).catch_unwind();
        tokio::pin!(run);
        let half_a_beat = self.settings.heartbeat_interval / 2;
        let mut watch = tokio::time::interval(half_a_beat.min(Duration::from_secs(1)));
        let mut stopping = false;
        let mut beat = Instant::now();
        let mut idle_since = None;
        loop {
            tokio::select! {
                biased;
                end = &mut run => return match end {
                    // While stopping, what could not be acknowledged is handed back.
                    Ok(_) if stopping => End::Stopped,
                    Ok(Ok(())) => End::Failed("the worker ended by itself".into()),
                    Ok(Err(error)) => End::Failed(error.to_string()),
                    Err(_) => End::Failed("the worker panicked".into()),
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
                        let limit = self.settings.stalled_after();
                        if pulse.age().is_some_and(|age| age > limit) {
                            return End::Failed(format!("no sign of life for {limit:?}"));
                        }
                        continue;
                    }
                    if self.work.in_work() == 0 {
                        let since = *idle_since.get_or_insert_with(Instant::now);
                        let bound = if self.connected() {
                            self.settings.call_timeout()
                        } else {
                            // It only waits for a server that is away.
                            Duration::from_secs(1)
                        };
                        if since.elapsed() > bound {
                            return End::Stopped;
                        }
                    }
                    if beat.elapsed() >= half_a_beat {
                        beat = Instant::now();
                        let bound = self.settings.response_timeout;
                        let kept = custody::keep_alive(&mut connection, &self.keys, name);
                        let _ = tokio::time::timeout(bound, kept).await;
                    }
                }
            }
        }
    }

    /// The worker of apalis, set so that none of its ways to stop a queue is open.
    fn worker(
        &self,
        context: &WorkerContext,
        connection: Observed,
    ) -> BoxFuture<'static, Result<(), WorkerError>> {
        let config = Config::default()
            .queue(&self.settings.queue)
            .heartbeat_interval(self.settings.heartbeat_interval)
            .missed_heartbeats(self.settings.missed_heartbeats)
            // Leases are in the database.
            .lock_tasks(false)
            // Without it nothing is ever acknowledged.
            .persist_results(true)
            .emit_events(false)
            .idempotency_ttl(Some(Duration::from_secs(3600)));
        let bell = Arc::clone(&self.bell);
        let keys = self.keys.clone();
        let backend = Ahead::new(config, keys, connection, bell, Arc::clone(&self.slots))
            .with_codec(RawBytes)
            .poll_with_strategy(BellOrTick::new(
                Arc::clone(&self.bell),
                self.settings.poll_interval,
            ));
        let work = self.work.clone();
        WorkerBuilder::new(context)
            .backend(backend)
            .parallelize(tokio::spawn)
            // The text of a panic may hold anything, and the queue stores the error's text.
            .layer(CatchPanicLayer::with_panic_handler(
                |_: &Box<dyn std::any::Any + Send>| {
                    metrics::counter!("verifyd_hint_panics_total").increment(1);
                    tracing::error!("the handler of a hint panicked");
                    AbortError::new("the handler panicked")
                },
            ))
            .on_event(|_, event| tracing::trace!(?event, "worker event"))
            .build(move |payload: Vec<u8>, place: Data<Place>| {
                let work = work.clone();
                async move {
                    let _place = place.take();
                    work.handle(&payload).await
                }
            })
            .run()
            .boxed()
    }
}
