//! Adds a connection, enables or disables it, and stores its credential.

use super::OperationError;
use super::start_check::is_known;
use super::text::name;
use crate::domain::access::Binding;
use crate::domain::audit::Origin;
use crate::domain::connection::{ConnectionStatus, NewConnection};
use crate::domain::credential::Credential;
use crate::domain::link::is_guid;
use crate::domain::overview::ConnectionState;
use crate::domain::{ConnectionId, TenantId, WorkspaceId};
use crate::ports::provider::Providers;
use crate::ports::store::Store;
use crate::ports::vault::{SealedCredential, Vault};
use chrono::{DateTime, Utc};

/// A request to add a connection.
#[derive(Clone, Debug)]
pub struct ConnectionRequest {
    pub workspace_id: WorkspaceId,
    pub tenant_id: TenantId,
    pub provider: String,
    pub display_name: Option<String>,
    pub entra_tenant_id: String,
    pub client_id: String,
    /// `None`: the provider's default.
    pub cloud: Option<String>,
    pub module: Option<String>,
    /// `None`: its runs end blocked until one is stored.
    pub credential: Option<Credential>,
    /// When the credential expires. `None`: as the credential itself says.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Adds a connection, with its credential where there is one.
pub async fn add_connection(
    store: &dyn Store,
    vault: &dyn Vault,
    providers: &Providers,
    request: &ConnectionRequest,
    by: &Origin,
) -> Result<ConnectionId, OperationError> {
    for (field, value) in [
        ("entra_tenant_id", &request.entra_tenant_id),
        ("client_id", &request.client_id),
    ] {
        if !is_guid(value) {
            let problem = format!("{value:?} is not allowed");
            return Err(OperationError::not_allowed(field, problem, "a GUID"));
        }
    }
    let display_name = match &request.display_name {
        Some(given) => Some(name("display_name", given)?),
        None => None,
    };
    let provider = providers.get(&request.provider).ok_or_else(|| {
        OperationError::unknown_name("provider", &request.provider, &providers.keys())
    })?;
    let cloud = request.cloud.clone();
    let cloud = cloud.unwrap_or_else(|| provider.default_cloud());
    let clouds = provider.clouds();
    if !clouds.contains(&cloud) {
        let known: Vec<&str> = clouds.iter().map(String::as_str).collect();
        return Err(OperationError::unknown_name("cloud", &cloud, &known));
    }
    if let Some(module) = &request.module {
        is_known(module, &provider.modules())?;
    }
    if request.expires_at.is_some() && request.credential.is_none() {
        let problem = "there is no credential that it could belong to";
        return Err(OperationError::invalid("expires_at", problem));
    }
    let new = NewConnection {
        workspace_id: request.workspace_id,
        tenant_id: request.tenant_id,
        provider: request.provider.clone(),
        display_name,
        entra_tenant_id: request.entra_tenant_id.to_ascii_lowercase(),
        client_id: request.client_id.to_ascii_lowercase(),
        cloud,
        module: request.module.clone(),
    };
    Ok(match &request.credential {
        None => store.add_connection(&new, None, by).await?,
        Some(credential) => {
            let seal = |binding| vault.seal(binding, credential, request.expires_at);
            store.add_connection(&new, Some(&seal), by).await?
        }
    })
}

/// Reads a connection and its latest state, if it is within reach.
pub async fn find_connection(
    store: &dyn Store,
    reach: &Binding,
    id: ConnectionId,
) -> Result<ConnectionState, OperationError> {
    let found = store.connection_state(id, reach).await?;
    found.ok_or_else(|| OperationError::not_found("connection", id))
}

/// Enables or disables a connection.
pub async fn set_status(
    store: &dyn Store,
    id: ConnectionId,
    status: ConnectionStatus,
    by: &Origin,
) -> Result<(), OperationError> {
    if store.set_connection_status(id, status, by).await? {
        return Ok(());
    }
    Err(OperationError::not_found("connection", id))
}

/// Replaces the credential of a connection. What else is wrong with its row may be corrected later.
pub async fn set_credential(
    store: &dyn Store,
    vault: &dyn Vault,
    id: ConnectionId,
    credential: &Credential,
    expires_at: Option<DateTime<Utc>>,
    by: &Origin,
) -> Result<SealedCredential, OperationError> {
    // The stored credential, which may be what is wrong, is not read.
    let state = find_connection(store, &Binding::EVERYTHING, id).await?;
    let binding = state.connection.binding();
    if let Some(problem) = state.problem.filter(|_| !binding.is_complete()) {
        return Err(OperationError::invalid("connection", problem));
    }
    let sealed = vault.seal(binding, credential, expires_at)?;
    store.set_credential(id, &sealed, by).await?;
    Ok(sealed)
}

/// Records when the stored credential of a connection expires.
pub async fn set_credential_expiry(
    store: &dyn Store,
    id: ConnectionId,
    expires_at: DateTime<Utc>,
    by: &Origin,
) -> Result<(), OperationError> {
    if store.set_credential_expiry(id, expires_at, by).await? {
        return Ok(());
    }
    find_connection(store, &Binding::EVERYTHING, id).await?;
    let problem = format!("connection {id} has no credential that could expire");
    Err(OperationError::invalid("expires_at", problem))
}
