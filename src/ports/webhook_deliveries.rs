//! Deliveries of notifications: the outbox that the sender works off.

use crate::domain::circuit::{AfterFailure, CircuitPolicy};
use crate::domain::webhook::{AttemptResult, DeliveryState, GiveUpReason, Verdict, WebhookBinding};
use crate::domain::{DeliveryId, EndpointId, RunId};
use crate::ports::store_error::StoreError;
use crate::ports::webhook_endpoints::SealedSecrets;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;

/// A message that this process sends now. The lease is the number of the attempt: beginning a later
/// attempt ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedDelivery {
    pub id: DeliveryId,
    pub message_id: String,
    pub payload: String,
    /// All attempts, this one included.
    pub attempt: u32,
    /// Attempts since it was recorded or replayed, this one included.
    pub tries: u32,
    pub endpoint: WebhookBinding,
    pub secrets: SealedSecrets,
    /// Whether the endpoint's last attempt failed.
    pub failing: bool,
    /// Whether it is the one delivery that an open circuit lets through.
    pub is_probe: bool,
}

/// Which deliveries to lease.
#[derive(Clone, Debug)]
pub struct LeasePolicy {
    /// At most this many deliveries, and one of each endpoint.
    pub limit: u32,
    /// After this time the sender is regarded as lost, and the delivery is due again.
    pub lease: Duration,
    /// Endpoints to leave out.
    pub busy: Vec<EndpointId>,
    /// Leave out endpoints whose last attempt failed.
    pub healthy_only: bool,
}

/// The transition of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Delivered,
    /// Due again after this time.
    Retry(Duration),
    GiveUp,
}

impl Next {
    /// Returns the state of the delivery, and the time until it is due.
    pub fn state_and_wait(self) -> (&'static str, Duration) {
        match self {
            Self::Delivered => ("delivered", Duration::ZERO),
            Self::Retry(wait) => ("pending", wait),
            Self::GiveUp => ("failed", Duration::ZERO),
        }
    }
}

/// The result of sending a message once, as its channel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendResult {
    pub result: AttemptResult,
    /// Why no answer came and, where TLS failed, what to do: for people, and free of secrets.
    pub cause: Option<String>,
    /// The code that the receiver answered with, of HTTP for a webhook; it is only recorded.
    pub status_code: Option<u16>,
    /// How long the receiver asks to wait before the next attempt.
    pub retry_after: Option<Duration>,
}

impl SendResult {
    /// Creates the result of an attempt that got no answer.
    pub fn without_answer(result: AttemptResult) -> Self {
        Self {
            result,
            cause: None,
            status_code: None,
            retry_after: None,
        }
    }
}

/// An attempt that has ended, with what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptOutcome {
    pub sent: SendResult,
    pub duration: Duration,
    pub next: Next,
    pub circuit: CircuitPolicy,
}

impl AttemptOutcome {
    /// Returns why the delivery is given up, if it is.
    pub fn give_up_reason(&self) -> Option<GiveUpReason> {
        (self.next == Next::GiveUp).then_some(match self.sent.result.verdict() {
            Verdict::GiveUp => GiveUpReason::Gone,
            Verdict::Delivered | Verdict::TryAgain => GiveUpReason::Attempts,
        })
    }
}

/// The effect of recording an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptRecorded {
    /// False: a later attempt had begun, so only this attempt's own row was written.
    pub is_current: bool,
    pub circuit: CircuitChange,
}

/// The effect of an attempt on the circuit of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitChange {
    Unchanged,
    Opened(Duration),
    /// The probe failed; the next one is sent after this time.
    StaysOpen(Duration),
    Closed,
}

impl From<AfterFailure> for CircuitChange {
    fn from(after: AfterFailure) -> Self {
        match after {
            AfterFailure::Unchanged | AfterFailure::Waits(_) => Self::Unchanged,
            AfterFailure::Opens(pause) => Self::Opened(pause),
            AfterFailure::StaysOpen(pause) => Self::StaysOpen(pause),
        }
    }
}

/// A message to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delivery {
    pub id: DeliveryId,
    pub endpoint_id: EndpointId,
    pub message_id: String,
    pub operation_run_id: RunId,
    pub state: DeliveryState,
    pub attempts: u32,
    /// When it is due, or its lease ends, and not before its endpoint's next probe; `None` when it has ended.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it was given up; `None` when it was not, or by a version that did not record why.
    pub give_up_reason: Option<GiveUpReason>,
    /// Result of the last attempt; `None` before the first, and while one is under way.
    pub last_result: Option<AttemptResult>,
    pub last_http_status: Option<u16>,
    /// Why the last attempt got no answer; `None` also where a version recorded it that did not say why.
    pub last_cause: Option<String>,
}

/// One attempt. It has no result while it is under way, or when its sender ended first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeliveryAttempt {
    pub attempt: u32,
    pub started_at: DateTime<Utc>,
    pub duration_ms: Option<u32>,
    pub result: Option<AttemptResult>,
    pub http_status: Option<u16>,
    /// Why no answer came.
    pub cause: Option<String>,
}

/// Which deliveries to list. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    pub endpoint: Option<EndpointId>,
    pub state: Option<DeliveryState>,
    /// Only ids below this one (paging).
    pub before: Option<DeliveryId>,
    pub limit: u32,
}

/// Which deliveries to send again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// This one, whether it was delivered or given up.
    One(DeliveryId),
    /// Those of an endpoint recorded since then that were given up, or all that have ended.
    Since {
        endpoint: EndpointId,
        since: DateTime<Utc>,
        delivered_too: bool,
    },
}

/// Numbers of deliveries, and the age of the oldest one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DeliveryCounts {
    pub pending: u64,
    pub failed: u64,
    /// Those that were given up because of their age.
    pub failed_by_age: u64,
    /// Age of the oldest pending one of an enabled endpoint; `None` when none is pending.
    pub oldest_pending_seconds: Option<f64>,
    /// Endpoints whose circuit is not closed.
    pub open_circuits: u64,
}

/// Deliveries. [`CompletionStore`](crate::ports::claims::CompletionStore) records them with the completion.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// Waits until this process has recorded a delivery.
    async fn delivery_recorded(&self);

    /// Leases due deliveries of enabled endpoints, healthy ones first, and begins an attempt of each.
    /// An endpoint whose circuit is open gets none; after its pause it gets one, the probe, over all
    /// replicas.
    async fn lease_deliveries(
        &self,
        policy: &LeasePolicy,
    ) -> Result<Vec<LeasedDelivery>, StoreError>;

    /// Ends an attempt, and opens or closes the circuit of its endpoint.
    async fn record_attempt(
        &self,
        delivery: &LeasedDelivery,
        outcome: &AttemptOutcome,
    ) -> Result<AttemptRecorded, StoreError>;

    /// Gives up deliveries that have been pending for `after`, at most `batch`. Returns how many.
    async fn give_up_deliveries(&self, after: Duration, batch: u32) -> Result<u64, StoreError>;

    /// Lists deliveries, newest first.
    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>, StoreError>;

    /// Lists the attempts of a delivery, oldest first.
    async fn delivery_attempts(&self, id: DeliveryId) -> Result<Vec<DeliveryAttempt>, StoreError>;

    /// Returns the last attempt that failed, of the newest deliveries to this endpoint.
    async fn last_failure(
        &self,
        endpoint: EndpointId,
    ) -> Result<Option<DeliveryAttempt>, StoreError>;

    /// Makes ended deliveries pending again, under their old message ids. Returns how many.
    async fn replay(&self, replay: Replay) -> Result<u64, StoreError>;

    /// Deletes deliveries that ended longer ago, at most `batch` of each kind, and those of removed
    /// endpoints. Returns how many; fewer than `batch` means that none is left.
    async fn prune_deliveries(
        &self,
        keep_delivered: Duration,
        keep_failed: Duration,
        batch: u32,
    ) -> Result<u64, StoreError>;

    /// Counts deliveries, for metrics and `doctor`.
    async fn delivery_counts(&self) -> Result<DeliveryCounts, StoreError>;
}
