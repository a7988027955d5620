//! The audit trail: who changed what, from where, and what was there before and after.
//!
//! An entry holds names, ids, states and dates. It never holds a token, a secret, or anything of their text.

use super::access::Binding;
use super::acknowledgement::Actor;
use super::ids::{AuditEntryId, TokenId};
use super::names::text_enum;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

text_enum! {
    /// `audit_entries.action`
    pub enum AuditAction: "action" {
        TokenCreated => "token.created",
        TokenChanged => "token.changed",
        TokenRevoked => "token.revoked",
        SignedIn => "session.signed_in",
        SignInRefused => "session.sign_in_refused",
        SignedOut => "session.signed_out",
        ConnectionAdded => "connection.added",
        ConnectionEnabled => "connection.enabled",
        ConnectionDisabled => "connection.disabled",
        CredentialReplaced => "credential.replaced",
        CredentialExpirySet => "credential.expiry_set",
        CredentialResealed => "credential.resealed",
        AcknowledgementAdded => "acknowledgement.added",
        AcknowledgementWithdrawn => "acknowledgement.withdrawn",
        EndpointAdded => "webhook_endpoint.added",
        EndpointSecretRotated => "webhook_endpoint.secret_rotated",
        EndpointEnabled => "webhook_endpoint.enabled",
        EndpointDisabled => "webhook_endpoint.disabled",
        EndpointRemoved => "webhook_endpoint.removed",
        EndpointResealed => "webhook_endpoint.resealed",
    }
}

text_enum! {
    /// `audit_entries.object`: what `object_id` is the id of.
    pub enum AuditObject: "object" {
        Token => "token",
        Connection => "connection",
        Acknowledgement => "acknowledgement",
        WebhookEndpoint => "webhook_endpoint",
    }
}

impl AuditAction {
    /// Returns what the action is done with. A session is its token's, a credential its connection's.
    pub const fn object(self) -> AuditObject {
        match self {
            Self::TokenCreated
            | Self::TokenChanged
            | Self::TokenRevoked
            | Self::SignedIn
            | Self::SignInRefused
            | Self::SignedOut => AuditObject::Token,
            Self::ConnectionAdded
            | Self::ConnectionEnabled
            | Self::ConnectionDisabled
            | Self::CredentialReplaced
            | Self::CredentialExpirySet
            | Self::CredentialResealed => AuditObject::Connection,
            Self::AcknowledgementAdded | Self::AcknowledgementWithdrawn => {
                AuditObject::Acknowledgement
            }
            Self::EndpointAdded
            | Self::EndpointSecretRotated
            | Self::EndpointEnabled
            | Self::EndpointDisabled
            | Self::EndpointRemoved
            | Self::EndpointResealed => AuditObject::WebhookEndpoint,
        }
    }
}

/// Who does something, and from where, as the surface knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub actor: Actor,
    /// The peer's address: behind a proxy the proxy's.
    pub address: Option<String>,
    /// The id of the request over HTTP, as in its answer.
    pub request_id: Option<String>,
}

/// Without address and request, as on the command line.
impl From<Actor> for Origin {
    fn from(actor: Actor) -> Self {
        Self {
            actor,
            address: None,
            request_id: None,
        }
    }
}

/// What an operation has done, for an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub action: AuditAction,
    /// `None`: nothing that verifyd knows, such as a token that does not exist.
    pub object_id: Option<i64>,
    /// The workspace and tenant that the object belongs to.
    pub owner: Binding,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Change {
    /// An action with this object, of which nothing else is known.
    pub fn new(action: AuditAction, object_id: impl Into<Option<i64>>, owner: Binding) -> Self {
        Self {
            action,
            object_id: object_id.into(),
            owner,
            before: None,
            after: None,
        }
    }

    #[must_use]
    pub fn before(mut self, before: Value) -> Self {
        self.before = Some(before);
        self
    }

    #[must_use]
    pub fn after(mut self, after: Value) -> Self {
        self.after = Some(after);
        self
    }
}

/// What an entry keeps of a credential: nothing of what it signs in by.
pub fn credential_facts(kind: &str, expires_at: Option<DateTime<Utc>>) -> Value {
    json!({ "kind": kind, "expires_at": expires_at.map(second) })
}

/// Returns a time as entries write it, to the second.
pub fn second(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// One row of `audit_entries`. Its names may be those of a newer build.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    pub id: AuditEntryId,
    pub at: DateTime<Utc>,
    /// The name of an [`AuditAction`].
    pub action: String,
    /// The name of an [`AuditObject`].
    pub object: String,
    pub object_id: Option<i64>,
    pub owner: Binding,
    pub surface: String,
    pub token_id: Option<TokenId>,
    pub actor: String,
    pub address: Option<String>,
    pub request_id: Option<String>,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_begins_with_what_it_is_done_with_or_a_part_of_that() {
        for action in AuditAction::ALL {
            let (subject, _) = action.as_str().split_once('.').unwrap();
            let object = match subject {
                "session" => "token",
                "credential" => "connection",
                other => other,
            };
            assert_eq!(action.object().as_str(), object, "{action}");
        }
    }
}
