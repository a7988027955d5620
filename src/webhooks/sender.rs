//! The loop that sends what is due, and forgets what is old.

use super::settings::WebhookSettings;
use super::signature;
use super::transport::{Answer, Request, Transport};
use crate::domain::EndpointId;
use crate::domain::webhook::AttemptResult;
use crate::outbound::Outbound;
use crate::ports::clock::Clock;
use crate::ports::store::{Store, StoreError};
use crate::ports::vault::{Vault, VaultError};
use crate::ports::webhooks::{AttemptOutcome, CircuitChange, LeasePolicy, LeasedDelivery, Next};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often to look for what other processes have recorded, and for what is due again. What this process records it
/// sends at once.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks for what is due, however much is recorded meanwhile.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// At most between two rounds that give up and forget what is old, and how many rows go in one
/// transaction.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
const CHUNK: u32 = 500;
/// What was sent is recorded although the database is away for a moment.
const RECORD_TRIES: u32 = 5;
const RECORD_PAUSE: Duration = Duration::from_millis(200);

/// Sends webhooks.
#[derive(Debug)]
pub struct Sender {
    work: Arc<Work>,
    /// By endpoint: messages being sent, and whether its last attempt failed.
    busy: HashMap<EndpointId, Busy>,
    tasks: JoinSet<()>,
    endpoints: HashMap<Id, EndpointId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    sending: usize,
    failing: bool,
}

/// What sending one message needs.
struct Work {
    store: Arc<dyn Store>,
    vault: Arc<dyn Vault>,
    clock: Arc<dyn Clock>,
    transport: Transport,
    settings: WebhookSettings,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("transport", &self.transport)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Sender {
    /// A sender whose calls leave as `outbound` says.
    pub fn new(
        store: Arc<dyn Store>,
        vault: Arc<dyn Vault>,
        clock: Arc<dyn Clock>,
        settings: WebhookSettings,
        outbound: &Outbound,
    ) -> Self {
        let transport = Transport::new(&settings, outbound);
        Self {
            work: Arc::new(Work {
                store,
                vault,
                clock,
                transport,
                settings,
            }),
            busy: HashMap::new(),
            tasks: JoinSet::new(),
            endpoints: HashMap::new(),
        }
    }

    /// Sends until `stop`, then waits for what is being sent.
    pub async fn run(mut self, stop: CancellationToken) {
        let work = Arc::clone(&self.work);
        // So that nothing is pending for much longer than it may be.
        let every = HOUSEKEEPING.min(work.settings.give_up_after / 10);
        let mut housekeeping = tokio::time::interval(every.max(BETWEEN_LOOKS));
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        while !stop.is_cancelled() {
            let looked_at = Instant::now();
            match self.send_what_is_due().await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "it cannot be looked for webhooks");
                    }
                    failing = true;
                }
            }
            // Replicas drift apart, so that they do not all ask at the same moment.
            let pause = POLL_INTERVAL.mul_f64(0.8 + 0.4 * rand::random::<f64>());
            let recorded = async {
                work.store.delivery_recorded().await;
                tokio::time::sleep_until(looked_at + BETWEEN_LOOKS).await;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = recorded => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                _ = housekeeping.tick() => work.keep_house().await,
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Healthy endpoints first; those that do not answer may hold half of the slots, and none more
    /// than half. What waits for an endpoint whose circuit is open is not asked for.
    async fn send_what_is_due(&mut self) -> Result<(), StoreError> {
        let slots = self.work.settings.concurrency;
        loop {
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
            let room = free.min(slots.div_ceil(2).saturating_sub(to_failing));
            let others = self.lease(room, false).await?;
            if healthy + others == 0 {
                return Ok(());
            }
        }
    }

    /// Begins to send what is due, at most one message of each endpoint. Returns how many.
    async fn lease(&mut self, limit: usize, healthy_only: bool) -> Result<usize, StoreError> {
        if limit == 0 {
            return Ok(0);
        }
        let settings = &self.work.settings;
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
        let leased = self.work.store.lease_deliveries(&policy).await?;
        let count = leased.len();
        for delivery in leased {
            let endpoint = delivery.endpoint.endpoint_id;
            let busy = self.busy.entry(endpoint).or_default();
            busy.sending += 1;
            busy.failing = delivery.failing || delivery.is_probe;
            let work = Arc::clone(&self.work);
            let task = self
                .tasks
                .spawn(async move { work.attempt(delivery).await });
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

impl Work {
    async fn attempt(&self, delivery: LeasedDelivery) {
        let began = Instant::now();
        let answer = self.send(&delivery).await;
        let outcome = AttemptOutcome {
            result: answer.result,
            http_status: answer.http_status,
            duration: began.elapsed(),
            next: self.next(&delivery, answer),
            retry_after: answer.retry_after.unwrap_or_default(),
            circuit: self.settings.circuit(),
        };
        metrics::counter!("verifyd_webhook_attempts_total", "result" => outcome.result.as_str())
            .increment(1);
        metrics::histogram!("verifyd_webhook_attempt_duration_seconds")
            .record(outcome.duration.as_secs_f64());
        let endpoint = delivery.endpoint.endpoint_id.0;
        match (outcome.next, outcome.result) {
            (_, AttemptResult::Gone) => {
                given_up("gone", 1);
                tracing::warn!(
                    endpoint,
                    "the receiver is gone (410), the endpoint is disabled"
                );
            }
            (Next::GiveUp, result) => {
                given_up("attempts", 1);
                tracing::warn!(
                    endpoint,
                    delivery = delivery.id.0,
                    %result,
                    "a webhook is given up; `verifyd webhooks replay` sends it again"
                );
            }
            (_, result) => tracing::debug!(
                endpoint,
                delivery = delivery.id.0,
                attempt = delivery.attempt,
                %result,
                http_status = outcome.http_status,
                "webhook"
            ),
        }
        self.record(&delivery, &outcome).await;
    }

    async fn send(&self, delivery: &LeasedDelivery) -> Answer {
        let secrets = match self.secrets(delivery) {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::warn!(
                    endpoint = delivery.endpoint.endpoint_id.0,
                    %error,
                    "the webhook's secret cannot be used"
                );
                return Answer::failed(AttemptResult::SecretUnusable);
            }
        };
        let timestamp = self.clock.now().timestamp();
        let signature = signature::sign(
            secrets.iter().map(|secret| &secret[..]),
            &delivery.message_id,
            timestamp,
            &delivery.payload,
        );
        self.transport
            .send(
                Request {
                    url: &delivery.endpoint.url,
                    id: &delivery.message_id,
                    timestamp,
                    signature,
                    body: delivery.payload.clone(),
                },
                &*self.clock,
            )
            .await
    }

    /// The current secret, and the one before as long as it is in use.
    fn secrets(
        &self,
        delivery: &LeasedDelivery,
    ) -> Result<Vec<zeroize::Zeroizing<Vec<u8>>>, VaultError> {
        let sealed = &delivery.secrets;
        std::iter::once(&sealed.current)
            .chain(&sealed.previous)
            .map(|payload| self.vault.open_webhook_secret(&delivery.endpoint, payload))
            .collect()
    }

    fn next(&self, delivery: &LeasedDelivery, answer: Answer) -> Next {
        match answer.result {
            AttemptResult::Delivered => Next::Delivered,
            AttemptResult::Gone => Next::GiveUp,
            _ if delivery.tries >= self.settings.max_attempts => Next::GiveUp,
            _ => {
                let pause = self.settings.pause_after(delivery.tries);
                let asked = answer.retry_after.unwrap_or_default();
                let wait = pause.max(asked.min(self.settings.max_retry_delay()));
                Next::Retry(wait.mul_f64(1.0 + 0.2 * rand::random::<f64>()))
            }
        }
    }

    /// A record that is lost means that the message goes out again.
    async fn record(&self, delivery: &LeasedDelivery, outcome: &AttemptOutcome) {
        let mut pause = RECORD_PAUSE;
        for _ in 0..RECORD_TRIES {
            match self.store.record_attempt(delivery, outcome).await {
                Ok(recorded) => {
                    note(delivery, recorded.circuit);
                    return;
                }
                Err(error) => tracing::debug!(%error, "the attempt cannot be recorded"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        tracing::warn!(
            delivery = delivery.id.0,
            "how a webhook went could not be recorded; it will be sent again"
        );
    }

    async fn keep_house(&self) {
        let settings = &self.settings;
        let mut old = 0;
        loop {
            match self
                .store
                .give_up_deliveries(settings.give_up_after, CHUNK)
                .await
            {
                Ok(done) => {
                    old += done;
                    if done < u64::from(CHUNK) {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    tracing::debug!(%error, "old webhooks stay pending for now");
                    break;
                }
            }
        }
        if old > 0 {
            given_up("age", old);
            tracing::warn!(
                deliveries = old,
                pending_for = ?settings.give_up_after,
                "webhooks are given up because of their age; `verifyd webhooks replay` sends them again"
            );
        }
        loop {
            let pruned = self
                .store
                .prune_deliveries(settings.keep_delivered, settings.keep_failed, CHUNK)
                .await;
            match pruned {
                Ok(deleted) if deleted >= u64::from(CHUNK) => tokio::task::yield_now().await,
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(%error, "old webhooks stay for now");
                    return;
                }
            }
        }
        if let Ok(counts) = self.store.delivery_counts().await {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            {
                metrics::gauge!("verifyd_webhooks_pending").set(counts.pending as f64);
                metrics::gauge!("verifyd_webhooks_given_up").set(counts.failed as f64);
                metrics::gauge!("verifyd_webhook_circuits_open").set(counts.open_circuits as f64);
            }
            metrics::gauge!("verifyd_webhook_oldest_pending_seconds")
                .set(counts.oldest_pending_seconds.unwrap_or(0.0));
        }
    }
}

fn given_up(reason: &'static str, deliveries: u64) {
    metrics::counter!("verifyd_webhooks_given_up_total", "reason" => reason).increment(deliveries);
}

/// Says what an attempt has done to the circuit of its endpoint.
fn note(delivery: &LeasedDelivery, change: CircuitChange) {
    let endpoint = delivery.endpoint.endpoint_id.0;
    match change {
        CircuitChange::Unchanged => {}
        CircuitChange::Opened(pause) => {
            metrics::counter!("verifyd_webhook_circuits_opened_total").increment(1);
            tracing::warn!(
                endpoint,
                probe_in = ?pause,
                "the circuit of a webhook endpoint opens: deliveries are recorded, and one is tried after the pause"
            );
        }
        CircuitChange::StaysOpen(pause) => {
            tracing::debug!(endpoint, probe_in = ?pause, "the probe of a webhook endpoint failed");
        }
        CircuitChange::Closed => {
            tracing::info!(
                endpoint,
                "the circuit of a webhook endpoint is closed again"
            );
        }
    }
}
