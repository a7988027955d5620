//! Identifiers of the rows that verifyd reads and writes.

use super::groups::DEFAULT_GROUP;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed: a whole number from 1 to {}", i64::MAX)]
pub struct InvalidId;

macro_rules! row_ids {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                match s.parse() {
                    Ok(id @ 1..) => Ok(Self(id)),
                    _ => Err(InvalidId),
                }
            }
        }
    )+};
}

row_ids! {
    /// `operation_runs.id`
    RunId;
    /// `operation_runs.workspace_id`
    WorkspaceId;
    /// `tenants.id`: the application's own tenant, not the Entra directory.
    TenantId;
    /// `provider_connections.id`
    ConnectionId;
    /// `verification_check_acknowledgements.id`
    AcknowledgementId;
    /// `audit_entries.id`
    AuditEntryId;
    /// `tenant_onboarding_sessions.id`
    SessionId;
    /// Of an API token: `api_tokens.id`
    TokenId;
    /// Of a webhook's receiver: `webhook_endpoints.id`
    EndpointId;
    /// Of a message to one receiver: `webhook_deliveries.id`
    DeliveryId;
}

/// The name of one worker process: fresh at every start (group, host, process id, UUID).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(pub String);

impl WorkerId {
    /// A name that no process before this one has used.
    pub fn fresh(host: &str) -> Self {
        Self(format!(
            "{host}:{}:{}",
            std::process::id(),
            uuid::Uuid::new_v4().simple()
        ))
    }

    /// The name with the group in front, which no host's name can contain. The default group leaves it as it is.
    #[must_use]
    pub fn in_group(self, group: &str) -> Self {
        match group {
            DEFAULT_GROUP => self,
            _ => Self(format!("{group}/{self}")),
        }
    }

    /// Returns the group that such a name tells.
    pub fn group_of(name: &str) -> &str {
        let group = name.split_once('/');
        group.map_or(DEFAULT_GROUP, |(group, _)| group)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
