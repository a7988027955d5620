//! Facts that checks find out about a connection and that are kept between them.

use super::connection::ProviderConnection;
use super::ids::{ConnectionId, TenantId};
use super::names::text_enum;
use super::report::redact;
use chrono::{DateTime, Utc};
use serde::Serialize;

/// Longest name of a directory that is kept, in characters.
const NAME_CHARS: usize = 256;

/// Returns a directory's name as it may be shown: shortened and without characters that hide or reorder text.
/// `None` when nothing is left.
pub fn tenant_name(text: &str) -> Option<String> {
    // The cleaning cuts, too: first what may be kept at most with what is taken out.
    let clean = redact::clean(text, 4 * NAME_CHARS);
    let words: Vec<&str> = clean
        .split(|c: char| c.is_whitespace() || c == char::REPLACEMENT_CHARACTER)
        .filter(|word| !word.is_empty())
        .collect();
    let name: String = words.join(" ").chars().take(NAME_CHARS).collect();
    let name = name.trim_end();
    (!name.is_empty() && !redact::holds_jwt(name)).then(|| name.to_owned())
}

text_enum! {
    /// Where the expiry of a credential was found.
    pub enum ExpirySource: "expiry_source" {
        /// The certificate itself.
        Certificate => "certificate",
        /// `expires_at`, recorded with the credential.
        Recorded => "recorded",
        /// `passwordCredentials` of the application's registration.
        Registration => "registration",
        /// A federated token is read from its file at each sign-in.
        FederatedToken => "federated_token",
    }
}

/// When a connection's credential expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CredentialExpiry {
    /// `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    pub source: ExpirySource,
}

/// What is recorded with a credential about when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedExpiry {
    Absent,
    At(DateTime<Utc>),
    Never,
    /// No time, or one before the year 1. It counts as absent.
    Invalid,
}

impl RecordedExpiry {
    /// Returns the time, if one is recorded.
    pub const fn at(self) -> Option<DateTime<Utc>> {
        match self {
            Self::At(at) => Some(at),
            Self::Absent | Self::Never | Self::Invalid => None,
        }
    }

    /// Returns the expiry, if it is known.
    pub const fn known(self) -> Option<CredentialExpiry> {
        match self {
            Self::At(_) | Self::Never => Some(CredentialExpiry {
                expires_at: self.at(),
                source: ExpirySource::Recorded,
            }),
            Self::Absent | Self::Invalid => None,
        }
    }
}

/// What one check found out; `None` where it could not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// The directory that owns the application (`appOwnerOrganizationId`).
    pub owner_tenant_id: Option<String>,
    /// Object id of the application's service principal in the customer's directory.
    pub service_principal_id: Option<String>,
    /// `displayName` of the customer's directory.
    pub entra_tenant_name: Option<String>,
    pub expiry: Option<CredentialExpiry>,
    /// The known expiry was refuted, and no other one was found.
    pub is_expiry_unknown: bool,
}

/// Stored facts, with the connection and credential that they were found for. After a change of either they
/// no longer apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFacts {
    pub connection_id: ConnectionId,
    pub tenant_id: TenantId,
    pub entra_tenant_id: String,
    pub client_id: String,
    /// `updated_at` of the credential that the expiry belongs to.
    pub credential_changed_at: Option<DateTime<Utc>>,
    /// When this expiry was first found; written by the database.
    pub expiry_found_at: Option<DateTime<Utc>>,
    pub facts: ConnectionFacts,
}

impl KeptFacts {
    /// Creates the facts to keep for this connection and credential.
    pub fn of(
        connection: &ProviderConnection,
        credential_changed_at: Option<DateTime<Utc>>,
        facts: ConnectionFacts,
    ) -> Self {
        Self {
            connection_id: connection.id,
            tenant_id: connection.tenant_id,
            entra_tenant_id: named(&connection.entra_tenant_id),
            client_id: named(&connection.client_id),
            credential_changed_at,
            expiry_found_at: None,
            facts,
        }
    }

    /// Returns the facts that still apply to this connection and credential.
    pub fn still_true(
        self,
        connection: &ProviderConnection,
        credential_changed_at: Option<DateTime<Utc>>,
    ) -> ConnectionFacts {
        let is_same = self.connection_id == connection.id
            && self.tenant_id == connection.tenant_id
            && self.entra_tenant_id == named(&connection.entra_tenant_id)
            && self.client_id == named(&connection.client_id);
        if !is_same {
            return ConnectionFacts::default();
        }
        let mut facts = self.facts;
        let millis = |at: Option<DateTime<Utc>>| at.map(|at| at.timestamp_millis());
        if millis(self.credential_changed_at) != millis(credential_changed_at) {
            facts.expiry = None;
        }
        facts
    }
}

fn named(id: &Option<String>) -> String {
    id.as_deref().unwrap_or_default().to_ascii_lowercase()
}

impl ConnectionFacts {
    /// Returns these facts, with the known ones where nothing was found out.
    pub fn or(self, known: &Self) -> Self {
        Self {
            owner_tenant_id: self
                .owner_tenant_id
                .or_else(|| known.owner_tenant_id.clone()),
            service_principal_id: self
                .service_principal_id
                .or_else(|| known.service_principal_id.clone()),
            entra_tenant_name: self
                .entra_tenant_name
                .or_else(|| known.entra_tenant_name.clone()),
            expiry: match self.is_expiry_unknown {
                true => None,
                false => self.expiry.or(known.expiry),
            },
            is_expiry_unknown: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::WorkspaceId;
    use crate::domain::connection::ConnectionStatus;

    fn connection() -> ProviderConnection {
        ProviderConnection {
            id: ConnectionId(1),
            workspace_id: WorkspaceId(1),
            tenant_id: TenantId(2),
            provider: "microsoft".into(),
            display_name: None,
            status: ConnectionStatus::Enabled,
            entra_tenant_id: Some("A".into()),
            client_id: Some("B".into()),
            cloud: None,
            module: None,
            created_at: None,
            updated_at: None,
        }
    }

    fn facts() -> ConnectionFacts {
        ConnectionFacts {
            owner_tenant_id: Some("o".into()),
            expiry: Some(CredentialExpiry {
                expires_at: None,
                source: ExpirySource::Recorded,
            }),
            ..ConnectionFacts::default()
        }
    }

    #[test]
    fn facts_count_only_for_what_they_are_true_of() {
        let changed = DateTime::from_timestamp(5, 0);
        let kept = || KeptFacts::of(&connection(), changed, facts());
        assert_eq!(kept().still_true(&connection(), changed), facts());
        let other_case = ProviderConnection {
            client_id: Some("b".into()),
            ..connection()
        };
        assert_eq!(kept().still_true(&other_case, changed), facts());
        let replaced = kept().still_true(&connection(), DateTime::from_timestamp(6, 0));
        assert_eq!(
            (replaced.expiry, replaced.owner_tenant_id.is_some()),
            (None, true)
        );
        for other in [
            ProviderConnection {
                tenant_id: TenantId(3),
                ..connection()
            },
            ProviderConnection {
                client_id: None,
                ..connection()
            },
            ProviderConnection {
                entra_tenant_id: Some("C".into()),
                ..connection()
            },
        ] {
            assert_eq!(
                kept().still_true(&other, changed),
                ConnectionFacts::default()
            );
        }
    }

    #[test]
    fn a_name_is_clean_and_bounded() {
        assert_eq!(tenant_name("Contoso GmbH").as_deref(), Some("Contoso GmbH"));
        assert_eq!(
            tenant_name(" a\u{202E}b\0\n c\u{200B} ").as_deref(),
            Some("a b c")
        );
        for none in ["", "  ", "\u{202E}", "\0\n", "eyJhbGciOi.eyJzdWIi.c2ln"] {
            assert_eq!(tenant_name(none), None, "{none:?}");
        }
        let long = tenant_name(&"ä".repeat(5_000)).unwrap();
        assert_eq!(long.chars().count(), NAME_CHARS);
    }

    #[test]
    fn what_is_not_learnt_again_stays() {
        let refuted = ConnectionFacts {
            is_expiry_unknown: true,
            ..facts()
        };
        let kept = refuted.or(&facts());
        assert!(kept.expiry.is_none() && !kept.is_expiry_unknown);
        let found = ConnectionFacts {
            entra_tenant_name: Some("n".into()),
            ..ConnectionFacts::default()
        };
        let all = found.or(&facts());
        assert_eq!(all.entra_tenant_name.as_deref(), Some("n"));
        assert_eq!(all.owner_tenant_id.as_deref(), Some("o"));
    }
}
