//! Sends due deliveries through a channel, gives up old ones and deletes ended ones.

use super::channel::Channel;
use super::settings::{JITTER, MAX_ATTEMPTS, WebhookSettings};
use crate::domain::EndpointId;
use crate::domain::pause::with_jitter;
use crate::domain::webhook::Verdict;
use crate::ports::store::{Store, StoreError};
use crate::ports::webhook_deliveries::{
    AttemptOutcome, CircuitChange, LeasePolicy, LeasedDelivery, Next, SendResult,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pause between two reads of what other processes have recorded, and of what is due again. What this process records
/// it sends at once.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Shortest pause between two reads of due deliveries, however many are recorded meanwhile.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Longest time between two rounds that give up and delete old deliveries.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(60);
/// Rows that one transaction gives up or deletes.
const HOUSEKEEPING_BATCH: u32 = 500;
/// How often recording a result is tried while the database is unavailable.
const RECORD_TRIES: u32 = 5;
/// Pause before the second try; twice as long before each further one.
const RECORD_PAUSE: Duration = Duration::from_millis(200);

/// Sends deliveries.
#[derive(Debug)]
pub struct Sender {
    attempts: Arc<Attempts>,
    /// Endpoints that messages are being sent to.
    busy: HashMap<EndpointId, Busy>,
    tasks: JoinSet<()>,
    endpoints: HashMap<Id, EndpointId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    sending: usize,
    /// Whether its last attempt failed.
    failing: bool,
}

/// Makes single attempts and records them.
#[derive(Debug)]
struct Attempts {
    store: Arc<dyn Store>,
    channel: Arc<dyn Channel>,
    settings: WebhookSettings,
}

impl Sender {
    /// Creates a sender that delivers through `channel`.
    pub fn new(
        store: Arc<dyn Store>,
        channel: Arc<dyn Channel>,
        settings: WebhookSettings,
    ) -> Self {
        Self {
            attempts: Arc::new(Attempts {
                store,
                channel,
                settings,
            }),
            busy: HashMap::new(),
            tasks: JoinSet::new(),
            endpoints: HashMap::new(),
        }
    }

    /// Sends until `stop`, then waits for the attempts that are under way.
    pub async fn run(mut self, stop: CancellationToken) {
        let attempts = Arc::clone(&self.attempts);
        // Nothing stays pending for much longer than `give_up_after`.
        let every = HOUSEKEEPING_INTERVAL.min(attempts.settings.give_up_after / 10);
        let mut housekeeping = tokio::time::interval(every.max(MIN_POLL_INTERVAL));
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        while !stop.is_cancelled() {
            let polled_at = Instant::now();
            match self.send_due(&stop).await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "cannot lease webhook deliveries; trying again");
                    }
                    failing = true;
                }
            }
            // Jitter, so that replicas do not poll at the same moment.
            let pause = POLL_INTERVAL.mul_f64(0.8 + 0.4 * rand::random::<f64>());
            let recorded = async {
                attempts.store.delivery_recorded().await;
                tokio::time::sleep_until(polled_at + MIN_POLL_INTERVAL).await;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = recorded => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                _ = housekeeping.tick() => attempts.run_housekeeping().await,
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Starts an attempt of each due delivery while slots are free. Healthy endpoints come first; failing
    /// ones get at most half of the slots, and endpoints whose circuit is open none but the probe.
    async fn send_due(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        let slots = self.attempts.settings.concurrency;
        while !stop.is_cancelled() {
            while let Some(ended) = self.tasks.try_join_next_with_id() {
                self.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            let healthy = self.lease(slots - self.tasks.len(), true).await?;
            let to_failing: usize = self
                .busy
                .values()
                .filter(|busy| busy.failing)
                .map(|busy| busy.sending)
                .sum();
            let free = slots - self.tasks.len();
            let limit = free.min(slots.div_ceil(2).saturating_sub(to_failing));
            let others = self.lease(limit, false).await?;
            if healthy + others == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Starts attempts of due deliveries, at most one of each endpoint. Returns how many.
    async fn lease(&mut self, limit: usize, healthy_only: bool) -> Result<usize, StoreError> {
        if limit == 0 {
            return Ok(0);
        }
        let settings = &self.attempts.settings;
        let full = |busy: &Busy| busy.failing || busy.sending >= settings.per_endpoint();
        let policy = LeasePolicy {
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            lease: settings.lease(),
            busy: self
                .busy
                .iter()
                .filter(|(_, busy)| full(busy))
                .map(|(id, _)| *id)
                .collect(),
            healthy_only,
        };
        let leased = self.attempts.store.lease_deliveries(&policy).await?;
        let count = leased.len();
        for delivery in leased {
            let endpoint = delivery.endpoint.endpoint_id;
            let busy = self.busy.entry(endpoint).or_default();
            busy.sending += 1;
            busy.failing = delivery.failing || delivery.is_probe;
            let attempts = Arc::clone(&self.attempts);
            let task = self
                .tasks
                .spawn(async move { attempts.attempt(delivery).await });
            self.endpoints.insert(task.id(), endpoint);
        }
        Ok(count)
    }

    fn ended(&mut self, task: Id) {
        let Some(endpoint) = self.endpoints.remove(&task) else {
            return;
        };
        if let Some(busy) = self.busy.get_mut(&endpoint) {
            busy.sending -= 1;
            if busy.sending == 0 {
                self.busy.remove(&endpoint);
            }
        }
    }
}

impl Attempts {
    async fn attempt(&self, delivery: LeasedDelivery) {
        let began = Instant::now();
        let sent = self.channel.send(&delivery).await;
        let outcome = AttemptOutcome {
            duration: began.elapsed(),
            next: self.next(&delivery, &sent),
            circuit: self.settings.circuit(),
            sent,
        };
        let sent = &outcome.sent;
        metrics::counter!("verifyd_webhook_attempts_total", "result" => sent.result.as_str())
            .increment(1);
        metrics::histogram!("verifyd_webhook_attempt_duration_seconds")
            .record(outcome.duration.as_secs_f64());
        let endpoint = delivery.endpoint.endpoint_id.0;
        let result = sent.result;
        if let Some(reason) = outcome.give_up_reason() {
            count_given_up(reason.as_str(), 1);
            let disabled = result.verdict() == Verdict::GiveUp;
            tracing::warn!(
                endpoint,
                endpoint_disabled = disabled,
                delivery = delivery.id.0,
                %result,
                cause = sent.cause,
                "webhook delivery given up; {}",
                how_to_replay(&delivery, disabled)
            );
        } else {
            tracing::debug!(
                endpoint,
                delivery = delivery.id.0,
                attempt = delivery.attempt,
                %result,
                status_code = sent.status_code,
                cause = sent.cause,
                "webhook delivery attempted"
            );
        }
        self.record(&delivery, &outcome).await;
    }

    /// Returns what becomes of a delivery: exponential backoff with jitter until its attempts are spent.
    fn next(&self, delivery: &LeasedDelivery, sent: &SendResult) -> Next {
        match sent.result.verdict() {
            Verdict::Delivered => Next::Delivered,
            Verdict::GiveUp => Next::GiveUp,
            Verdict::TryAgain if delivery.tries >= MAX_ATTEMPTS => Next::GiveUp,
            Verdict::TryAgain => {
                let pause = self.settings.pause_after(delivery.tries);
                let asked = sent.retry_after.unwrap_or_default();
                let bound = self.settings.max_retry_delay();
                Next::Retry(with_jitter(pause.max(asked), JITTER, bound))
            }
        }
    }

    /// Records an attempt. When that fails, the message is sent again after its lease.
    async fn record(&self, delivery: &LeasedDelivery, outcome: &AttemptOutcome) {
        let mut pause = RECORD_PAUSE;
        for _ in 0..RECORD_TRIES {
            match self.store.record_attempt(delivery, outcome).await {
                Ok(recorded) => {
                    log_circuit(delivery, &outcome.sent, recorded.circuit);
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot record a webhook attempt; trying again")
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        tracing::warn!(
            delivery = delivery.id.0,
            "cannot record a webhook attempt; the message will be sent again"
        );
    }

    /// Gives up deliveries that have been pending for too long, and deletes old ones.
    async fn run_housekeeping(&self) {
        let settings = &self.settings;
        let mut old = 0;
        loop {
            match self
                .store
                .give_up_deliveries(settings.give_up_after, HOUSEKEEPING_BATCH)
                .await
            {
                Ok(done) => {
                    old += done;
                    if done < u64::from(HOUSEKEEPING_BATCH) {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot give up old webhook deliveries; trying again later");
                    break;
                }
            }
        }
        if old > 0 {
            count_given_up("age", old);
            tracing::warn!(
                deliveries = old,
                pending_for = ?settings.give_up_after,
                "webhook deliveries given up because of their age; `verifyd webhooks deliveries --state failed` \
                 lists them, `verifyd webhooks replay DELIVERY` sends one again"
            );
        }
        loop {
            let pruned = self
                .store
                .prune_deliveries(
                    settings.keep_delivered,
                    settings.keep_failed,
                    HOUSEKEEPING_BATCH,
                )
                .await;
            match pruned {
                Ok(deleted) if deleted >= u64::from(HOUSEKEEPING_BATCH) => {
                    tokio::task::yield_now().await
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(%error, "cannot delete old webhook deliveries; trying again later");
                    break;
                }
            }
        }
    }
}

/// Names the commands that send a delivery again.
fn how_to_replay(delivery: &LeasedDelivery, endpoint_disabled: bool) -> String {
    let id = delivery.id;
    let replay = format!("`verifyd webhooks replay {id}` sends it again");
    if endpoint_disabled {
        let endpoint = delivery.endpoint.endpoint_id;
        format!("after `verifyd webhooks enable {endpoint}`, {replay}")
    } else {
        replay
    }
}

fn count_given_up(reason: &'static str, deliveries: u64) {
    metrics::counter!("verifyd_webhook_deliveries_given_up_total", "reason" => reason)
        .increment(deliveries);
}

/// Logs the effect of an attempt on the circuit of its endpoint.
fn log_circuit(delivery: &LeasedDelivery, sent: &SendResult, change: CircuitChange) {
    let endpoint = delivery.endpoint.endpoint_id.0;
    match change {
        CircuitChange::Unchanged => {}
        CircuitChange::Opened(pause) => {
            metrics::counter!("verifyd_webhook_circuits_opened_total").increment(1);
            tracing::warn!(
                endpoint,
                result = %sent.result,
                status_code = sent.status_code,
                cause = sent.cause,
                probe_in = ?pause,
                "circuit of a webhook endpoint opened; its deliveries wait for a probe"
            );
        }
        CircuitChange::StaysOpen(pause) => {
            tracing::debug!(endpoint, probe_in = ?pause, "probe of a webhook endpoint failed; its circuit stays open");
        }
        CircuitChange::Closed => {
            tracing::info!(endpoint, "circuit of a webhook endpoint closed");
        }
    }
}
