//! Stores sealed credentials.

use crate::domain::ConnectionId;
use crate::domain::audit::Origin;
use crate::domain::connection::{CredentialBinding, ProviderConnection, StoredCredential};
use crate::ports::store_error::StoreError;
use crate::ports::vault::SealedCredential;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// A stored credential with what it is bound to, or why it cannot be read.
#[derive(Debug)]
pub struct FoundCredential {
    /// As lists have it: as much of it as can be read.
    pub connection: ProviderConnection,
    pub credential: Result<(CredentialBinding, StoredCredential), StoreError>,
}

/// Keeps credentials.
#[async_trait]
pub trait CredentialStore: Send + Sync {
    /// Replaces the credential.
    async fn set_credential(
        &self,
        id: ConnectionId,
        sealed: &SealedCredential,
        by: &Origin,
    ) -> Result<(), StoreError>;

    /// Records when the credential expires, and leaves it as it is. False: the connection has none, or is gone; nothing
    /// was written.
    async fn set_credential_expiry(
        &self,
        id: ConnectionId,
        expires_at: DateTime<Utc>,
        by: &Origin,
    ) -> Result<bool, StoreError>;

    /// Credentials in the order of the connections' ids, after `after`; those that cannot be read, too.
    async fn credentials(
        &self,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<FoundCredential>, StoreError>;

    /// Replaces the payload if it still equals the old one. False: another process changed it.
    async fn reseal_credential(
        &self,
        id: ConnectionId,
        old_payload: &str,
        new_payload: &str,
        by: &Origin,
    ) -> Result<bool, StoreError>;
}
