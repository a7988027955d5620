//! Identifiers of the rows that verifyd reads and writes.

use super::groups::DEFAULT_GROUP;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How people and requests write an id.
pub const ALLOWED_ID: &str = "a whole number from 1 to 9223372036854775807, without leading zeros";

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed: {}", ALLOWED_ID)]
pub struct InvalidId;

/// Reads an id as `Display` writes it. Another spelling of the number (`007`, `+7`, ` 7`) is no id.
fn read(text: &str) -> Result<i64, InvalidId> {
    match text.parse() {
        Ok(id @ 1..) if !text.starts_with(['0', '+']) => Ok(id),
        _ => Err(InvalidId),
    }
}

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
                read(s).map(Self)
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
    /// `audit_entries.object_id`: of a row of the table that `object` stands for.
    ObjectId;
    /// `tenant_onboarding_sessions.id`
    SessionId;
    /// Of an API token: `api_tokens.id`
    TokenId;
    /// Of a webhook's receiver: `webhook_endpoints.id`
    EndpointId;
    /// Of a message to one receiver: `webhook_deliveries.id`
    DeliveryId;
}

/// The name of one worker process: fresh at every start (host, process id, UUID), behind its group if that is not the
/// default one.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_worker_tells_its_group() {
        assert_eq!(WorkerId::group_of("host:1:u"), DEFAULT_GROUP);
        let worker = WorkerId::fresh("host");
        for group in [DEFAULT_GROUP, "eu"] {
            let name = worker.clone().in_group(group);
            assert_eq!(WorkerId::group_of(&name.0), group);
        }
        assert_eq!(worker.clone().in_group(DEFAULT_GROUP), worker);
    }

    #[test]
    fn an_id_has_one_spelling() {
        assert_eq!("7".parse(), Ok(RunId(7)));
        assert_eq!("9223372036854775807".parse(), Ok(RunId(i64::MAX)));
        for text in [
            "",
            "0",
            "-0",
            "-7",
            "07",
            "007",
            "+7",
            " 7",
            "7 ",
            "7\n",
            "7_0",
            "1_000",
            "7.0",
            "7e0",
            "0x7",
            "\u{667}",
            "9223372036854775808",
        ] {
            assert_eq!(text.parse::<RunId>(), Err(InvalidId), "{text:?}");
        }
        let said = InvalidId.to_string();
        assert!(said.contains(&i64::MAX.to_string()), "{said}");
    }
}
