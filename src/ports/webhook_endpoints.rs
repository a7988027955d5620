//! Endpoints: where the notifications of a workspace are sent.

use crate::domain::audit::Origin;
use crate::domain::circuit::CircuitState;
use crate::domain::webhook::{DisabledReason, WebhookBinding, shown_url};
use crate::domain::{EndpointId, WorkspaceId};
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
    /// Only completions whose report differs from the one before.
    pub changed_only: bool,
}

/// An endpoint, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub id: EndpointId,
    pub workspace_id: WorkspaceId,
    /// Shown without its query, which may contain a secret of the receiver.
    #[serde(serialize_with = "shown")]
    pub url: String,
    pub description: Option<String>,
    pub changed_only: bool,
    pub enabled: bool,
    pub disabled_reason: Option<DisabledReason>,
    /// Failed attempts since the last one that succeeded.
    pub failures: u32,
    /// State of its circuit.
    pub circuit: CircuitState,
    /// When the circuit opened; `None` while it is closed.
    pub circuit_opened_at: Option<DateTime<Utc>>,
    /// When the next probe may be sent, or the lease of the current one ends.
    pub circuit_probe_at: Option<DateTime<Utc>>,
    /// When the oldest pending delivery was recorded.
    pub oldest_pending_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// End of the time in which messages are signed with the previous secret, too.
    pub previous_secret_until: Option<DateTime<Utc>>,
}

fn shown<S: serde::Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown_url(url))
}

/// An endpoint's secrets, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecrets {
    pub current: String,
    /// `None` once it is no longer used.
    pub previous: Option<String>,
}

/// Which addresses endpoints may have. Whoever calls them knows.
pub trait AddressPolicy: Send + Sync {
    /// Returns the address as it is to be stored, or why it is not allowed.
    fn admit(&self, url: &str) -> Result<String, String>;
}

/// Seals the secret of an endpoint whose id has just become known.
pub type SealSecret<'a> = &'a (dyn Fn(&WebhookBinding) -> Result<String, VaultError> + Send + Sync);

/// Seals the next secret of an endpoint. Returns it with the previous one, which is sealed, if that can still be used.
pub type RotateSecret<'a> =
    &'a (dyn Fn(&WebhookBinding, String) -> Result<SealedSecrets, VaultError> + Send + Sync);

/// Why an endpoint's secret could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Endpoints and their sealed secrets.
#[async_trait]
pub trait EndpointStore: Send + Sync {
    /// Records an endpoint and its secret in one transaction.
    async fn add_endpoint(
        &self,
        new: &NewEndpoint,
        seal: SealSecret<'_>,
        by: &Origin,
    ) -> Result<Endpoint, EndpointError>;

    /// Lists the endpoints of one workspace or of all, oldest first.
    async fn endpoints(&self, workspace: Option<WorkspaceId>) -> Result<Vec<Endpoint>, StoreError>;

    /// Replaces the secret; a previous one that `rotate` returns stays in use for `keep_previous`. `None`: no such
    /// endpoint.
    async fn rotate_secret(
        &self,
        id: EndpointId,
        rotate: RotateSecret<'_>,
        keep_previous: Duration,
        by: &Origin,
    ) -> Result<Option<Endpoint>, EndpointError>;

    /// Enables it, with its pending deliveries due at once, or disables it. False: no such endpoint.
    async fn set_endpoint_enabled(
        &self,
        id: EndpointId,
        disabled: Option<DisabledReason>,
        by: &Origin,
    ) -> Result<bool, StoreError>;

    /// Removes it with all its deliveries. False: no such endpoint.
    async fn remove_endpoint(&self, id: EndpointId, by: &Origin) -> Result<bool, StoreError>;

    /// Lists every endpoint with the sealed secrets that it uses, for a rotation of keys and for `doctor`.
    async fn endpoint_secrets(&self) -> Result<Vec<(WebhookBinding, SealedSecrets)>, StoreError>;

    /// Replaces the sealed secrets in use if they still equal `old`, except for a previous one that is over by now.
    /// False: another process changed them.
    async fn reseal_secrets(
        &self,
        id: EndpointId,
        old: &SealedSecrets,
        new: &SealedSecrets,
        by: &Origin,
    ) -> Result<bool, StoreError>;
}
