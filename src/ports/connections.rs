//! Stores provider connections.

use crate::domain::audit::Origin;
use crate::domain::connection::{
    ConnectionStatus, CredentialBinding, NewConnection, ProviderConnection, StoredCredential,
};
use crate::domain::{ConnectionId, TenantId};
use crate::ports::store_error::StoreError;
use crate::ports::vault::{SealedCredential, VaultError};
use async_trait::async_trait;

/// Seals the credential of a connection whose id has just become known.
pub type Seal<'a> =
    &'a (dyn Fn(CredentialBinding) -> Result<SealedCredential, VaultError> + Send + Sync);

/// Why a connection could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddConnectionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Keeps connections.
#[async_trait]
pub trait ConnectionStore: Send + Sync {
    /// The connection and its credential, if there are any.
    async fn connection(
        &self,
        id: ConnectionId,
    ) -> Result<Option<(ProviderConnection, Option<StoredCredential>)>, StoreError>;

    /// Connections in the order of their ids, after `after`.
    async fn connections(
        &self,
        tenant: Option<TenantId>,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<ProviderConnection>, StoreError>;

    /// Adds a connection and its credential in one transaction; a minimal tenant, too, where
    /// `tenants` is verifyd's own.
    async fn add_connection(
        &self,
        new: &NewConnection,
        seal: Option<Seal<'_>>,
        by: &Origin,
    ) -> Result<ConnectionId, AddConnectionError>;

    /// Enables or disables. False: no such connection.
    async fn set_connection_status(
        &self,
        id: ConnectionId,
        status: ConnectionStatus,
        by: &Origin,
    ) -> Result<bool, StoreError>;
}
