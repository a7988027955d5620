//! Provider connections, and what is stored of their credentials.

use super::connection_facts::RecordedExpiry;
use super::ids::{ConnectionId, TenantId, WorkspaceId};
use super::names::text_enum;
use chrono::{DateTime, Utc};
use serde::Serialize;

text_enum! {
    /// `provider_connections.status`
    pub enum ConnectionStatus: "status" {
        Enabled => "enabled",
        Disabled => "disabled",
        /// Only in lists: the row contains an invalid value, so its runs end blocked.
        Unusable => "unusable",
    }
}

impl ConnectionStatus {
    /// The values that a row may have.
    pub const STORED: &str = "enabled, disabled";

    /// Parses the status of a row.
    pub fn stored(text: &str) -> Option<Self> {
        text.parse().ok().filter(|status| *status != Self::Unusable)
    }
}

/// One row of `provider_connections`: a tenant's registration with a provider.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProviderConnection {
    pub id: ConnectionId,
    pub workspace_id: WorkspaceId,
    pub tenant_id: TenantId,
    /// Key of a registered provider, e.g. `microsoft`.
    pub provider: String,
    pub display_name: Option<String>,
    pub status: ConnectionStatus,
    /// The directory to check.
    pub entra_tenant_id: Option<String>,
    /// The application (client) id of the app registration.
    pub client_id: Option<String>,
    /// Key of a configured cloud; `None` means the provider's default.
    pub cloud: Option<String>,
    /// The module that `verifyd enqueue` records when none is given.
    pub module: Option<String>,
    pub created_at: Option<DateTime<Utc>>,
    pub updated_at: Option<DateTime<Utc>>,
}

/// The values of a new connection.
#[derive(Clone, Debug)]
pub struct NewConnection {
    pub workspace_id: WorkspaceId,
    pub tenant_id: TenantId,
    pub provider: String,
    pub display_name: Option<String>,
    pub entra_tenant_id: String,
    pub client_id: String,
    pub cloud: String,
    pub module: Option<String>,
}

text_enum! {
    /// `provider_credentials.kind`
    pub enum CredentialKind: "kind" {
        ClientSecret => "client_secret",
        Certificate => "certificate",
        FederatedTokenFile => "federated_token_file",
    }
}

/// One row of `provider_credentials`, still encrypted.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCredential {
    pub connection_id: ConnectionId,
    pub kind: CredentialKind,
    /// An envelope of `credentials`, or a Laravel `Crypt` payload. Never plain text.
    pub payload: String,
    pub expiry: RecordedExpiry,
    pub updated_at: Option<DateTime<Utc>>,
}

/// What the ciphertext of a credential is bound to: it cannot be opened for any other connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CredentialBinding {
    pub workspace_id: WorkspaceId,
    pub tenant_id: TenantId,
    pub connection_id: ConnectionId,
}

impl CredentialBinding {
    /// Whether its row names all of it. In lists an id that is not there is 0.
    pub const fn is_complete(&self) -> bool {
        self.workspace_id.0 != 0 && self.tenant_id.0 != 0 && self.connection_id.0 > 0
    }
}

impl ProviderConnection {
    /// Returns what this connection's credential is bound to.
    pub fn binding(&self) -> CredentialBinding {
        CredentialBinding {
            workspace_id: self.workspace_id,
            tenant_id: self.tenant_id,
            connection_id: self.id,
        }
    }
}

/// Returns whether the text may be the key of a cloud: `^[a-z0-9][a-z0-9_]{0,63}$`, as in reports.
pub fn is_cloud_key(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
