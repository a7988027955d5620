//! Endpoints of webhooks, and what is on its way to them.

use crate::domain::circuit::{AfterFailure, CircuitPolicy, CircuitState};
use crate::domain::webhook::{
    AttemptResult, DeliveryState, DisabledReason, GiveUpReason, WebhookBinding, shown_url,
};
use crate::domain::{DeliveryId, EndpointId, RunId, WorkspaceId};
use crate::ports::store_error::StoreError;
use crate::ports::vault::VaultError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;

/// An endpoint to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEndpoint {
    pub workspace_id: WorkspaceId,
    pub url: String,
    pub description: Option<String>,
    /// Only completions that changed something.
    pub changed_only: bool,
}

/// An endpoint, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub id: EndpointId,
    pub workspace_id: WorkspaceId,
    /// Shown without its query, which may hold a secret of the receiver's.
    #[serde(serialize_with = "shown")]
    pub url: String,
    pub description: Option<String>,
    pub changed_only: bool,
    pub enabled: bool,
    pub disabled_reason: Option<DisabledReason>,
    /// Attempts that failed since the last one that did not.
    pub failures: u32,
    /// What is let through after failures in a row.
    pub circuit: CircuitState,
    /// Since when the circuit is not closed.
    pub circuit_opened_at: Option<DateTime<Utc>>,
    /// When the next probe may go, or the one that is under way counts as lost.
    pub circuit_probe_at: Option<DateTime<Utc>>,
    /// Since when the oldest delivery is pending.
    pub oldest_pending_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// Until then messages are signed with the previous secret, too.
    pub previous_secret_until: Option<DateTime<Utc>>,
}

fn shown<S: serde::Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown_url(url))
}

/// An endpoint's secrets, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecrets {
    pub current: String,
    /// Only as long as it is to be used.
    pub previous: Option<String>,
}

/// A message that this process is to send now. The lease is the number of the attempt: recording a
/// later one is what ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedDelivery {
    pub id: DeliveryId,
    pub message_id: String,
    pub payload: String,
    /// All attempts, this one included.
    pub attempt: u32,
    /// Those since it was last put to the beginning, this one included.
    pub tries: u32,
    pub endpoint: WebhookBinding,
    pub secrets: SealedSecrets,
    /// Whether the endpoint's last attempt failed.
    pub failing: bool,
    /// Whether it is the one delivery that an open circuit lets through.
    pub is_probe: bool,
}

/// What to lease.
#[derive(Clone, Debug)]
pub struct LeasePolicy {
    /// Most deliveries, and at most one of each endpoint.
    pub limit: u32,
    /// After this the sender counts as lost, and the delivery is due again.
    pub lease: Duration,
    /// Endpoints that are not asked for.
    pub busy: Vec<EndpointId>,
    /// Leave out endpoints whose last attempt failed.
    pub healthy_only: bool,
}

/// What is to become of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Delivered,
    /// Due again so much later.
    Retry(Duration),
    GiveUp,
}

impl Next {
    /// The state of the delivery, and how much later it is due.
    pub fn state_and_wait(self) -> (&'static str, Duration) {
        match self {
            Self::Delivered => ("delivered", Duration::ZERO),
            Self::Retry(wait) => ("pending", wait),
            Self::GiveUp => ("failed", Duration::ZERO),
        }
    }
}

/// How an attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptOutcome {
    pub result: AttemptResult,
    pub http_status: Option<u16>,
    pub duration: Duration,
    pub next: Next,
    /// How long the receiver asks to wait.
    pub retry_after: Duration,
    pub circuit: CircuitPolicy,
}

impl AttemptOutcome {
    /// Why the delivery is given up, if it is.
    pub fn give_up_reason(&self) -> Option<GiveUpReason> {
        (self.next == Next::GiveUp).then_some(match self.result {
            AttemptResult::Gone => GiveUpReason::Gone,
            _ => GiveUpReason::Attempts,
        })
    }
}

/// What recording an attempt has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptRecorded {
    /// False: the lease had passed on, only the attempt itself was recorded.
    pub is_current: bool,
    pub circuit: CircuitChange,
}

/// What an attempt has done to the circuit of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitChange {
    Unchanged,
    Opened(Duration),
    /// The probe failed; the next one comes after so long.
    StaysOpen(Duration),
    Closed,
}

impl From<AfterFailure> for CircuitChange {
    fn from(after: AfterFailure) -> Self {
        match after {
            AfterFailure::Unchanged => Self::Unchanged,
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
    /// When it is due, or counts as lost; null when it has ended.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it was given up; null when it was not, or by a version that did not say.
    pub give_up_reason: Option<GiveUpReason>,
    /// Of the last attempt; null before the first, and while it is being made.
    pub last_result: Option<AttemptResult>,
    pub last_http_status: Option<u16>,
}

/// One attempt. No result: it is being made, or its sender ended before it knew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeliveryAttempt {
    pub attempt: u32,
    pub started_at: DateTime<Utc>,
    pub duration_ms: Option<u32>,
    pub result: Option<AttemptResult>,
    pub http_status: Option<u16>,
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

/// Which deliveries to begin anew.
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

/// How many messages there are, and how long they wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DeliveryCounts {
    pub pending: u64,
    pub failed: u64,
    /// Of those that were given up by their age.
    pub failed_by_age: u64,
    /// How long the oldest pending one waits; null when none is pending.
    pub oldest_pending_seconds: Option<f64>,
    /// Endpoints whose circuit is not closed.
    pub open_circuits: u64,
}

/// Makes the sealed secret for an endpoint whose id has just become known.
pub type SealSecret<'a> = &'a (dyn Fn(&WebhookBinding) -> Result<String, VaultError> + Send + Sync);

/// What kept an endpoint's secret from being stored.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Keeps endpoints.
#[async_trait]
pub trait EndpointStore: Send + Sync {
    /// Records an endpoint and its secret in one transaction.
    async fn add_endpoint(
        &self,
        new: &NewEndpoint,
        seal: SealSecret<'_>,
    ) -> Result<Endpoint, EndpointError>;

    /// All endpoints, of one workspace or of all, oldest first.
    async fn endpoints(&self, workspace: Option<WorkspaceId>) -> Result<Vec<Endpoint>, StoreError>;

    /// Replaces the secret; the one before stays in use for `keep_previous`. Null: no such endpoint.
    async fn rotate_secret(
        &self,
        id: EndpointId,
        seal: SealSecret<'_>,
        keep_previous: Duration,
    ) -> Result<Option<Endpoint>, EndpointError>;

    /// Enables it, with what is pending due at once, or disables it. False: no such endpoint.
    async fn set_endpoint_enabled(
        &self,
        id: EndpointId,
        disabled: Option<DisabledReason>,
    ) -> Result<bool, StoreError>;

    /// Removes it with all its deliveries. False: no such endpoint.
    async fn remove_endpoint(&self, id: EndpointId) -> Result<bool, StoreError>;

    /// Every endpoint with its sealed secrets, for a rotation of keys.
    async fn endpoint_secrets(&self) -> Result<Vec<(WebhookBinding, SealedSecrets)>, StoreError>;

    /// Replaces sealed secrets that are still the old ones. False: somebody else changed them.
    async fn reseal_secrets(
        &self,
        id: EndpointId,
        old: &SealedSecrets,
        new: &SealedSecrets,
    ) -> Result<bool, StoreError>;
}

/// Keeps deliveries. [`CompletionStore`](crate::ports::claims::CompletionStore) records them.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// Waits until this process has recorded a delivery.
    async fn delivery_recorded(&self);

    /// Takes what is due of enabled endpoints, healthy ones first, and begins an attempt of each.
    /// Of an endpoint whose circuit is open nothing; after its pause one delivery, the probe, over
    /// all replicas.
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

    /// Gives up what is pending for so long, at most `batch`. Returns how many.
    async fn give_up_deliveries(&self, after: Duration, batch: u32) -> Result<u64, StoreError>;

    /// By filter, newest first.
    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>, StoreError>;

    /// The attempts of a delivery, oldest first.
    async fn delivery_attempts(&self, id: DeliveryId) -> Result<Vec<DeliveryAttempt>, StoreError>;

    /// Begins ended deliveries anew, under their old message ids. Returns how many.
    async fn replay(&self, replay: Replay) -> Result<u64, StoreError>;

    /// Deletes what ended longer ago, at most `batch` of each kind, and what belongs to endpoints
    /// that are gone. Returns how many; less than `batch` means that there is nothing left.
    async fn prune_deliveries(
        &self,
        keep_delivered: Duration,
        keep_failed: Duration,
        batch: u32,
    ) -> Result<u64, StoreError>;

    /// For metrics and `doctor`.
    async fn delivery_counts(&self) -> Result<DeliveryCounts, StoreError>;
}
