//! Finds what is missing in a connection or its credential, without a request.

use super::certificate::{SigningCertificate, Unusable};
use super::cloud::{Cloud, Clouds};
use crate::domain::Reason;
use crate::domain::client_secret;
use crate::domain::connection::ProviderConnection;
use crate::domain::credential::Credential;
use crate::domain::credential_cause::Flaw;
use crate::domain::link::is_guid;
use crate::domain::report::{Evidence, EvidenceKind};
use crate::ports::provider::Unmet;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use secrecy::ExposeSecret;
use uuid::Uuid;

/// Tolerance between clocks: the provider judges a certificate that becomes valid or was valid within this
/// time, since a new one is often used at once.
const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::minutes(5);

/// The connection's cloud, and the client id to sign in with.
pub(super) fn check<'a>(
    clouds: &'a Clouds,
    now: DateTime<Utc>,
    connection: &ProviderConnection,
    credential: &Credential,
) -> Result<(&'a Cloud, Uuid), Unmet> {
    let cloud = cloud(clouds, connection)?;
    let client_id = client_id(connection, credential)?;
    usable(credential, now)?;
    Ok((cloud, client_id))
}

/// The cloud that the connection is in.
pub(super) fn cloud<'a>(
    clouds: &'a Clouds,
    connection: &ProviderConnection,
) -> Result<&'a Cloud, Unmet> {
    clouds.get(connection.cloud.as_deref()).ok_or_else(|| {
        let unmet = Unmet::field(
            Reason::CloudUnknown,
            "provider_connections.cloud",
            &format!("one of: {}", clouds.keys().join(", ")),
        );
        match &connection.cloud {
            Some(found) => unmet.with_found(found),
            None => unmet,
        }
    })
}

/// The connection's own client id; the one stored along with the secret where it has none.
pub(super) fn client_id(
    connection: &ProviderConnection,
    credential: &Credential,
) -> Result<Uuid, Unmet> {
    let parse = |text: &str| is_guid(text).then(|| Uuid::try_parse(text).ok()).flatten();
    let stored = match credential {
        Credential::ClientSecret { client_id, .. } => client_id.as_deref(),
        _ => None,
    };
    let chosen = connection.client_id.as_deref().or(stored);
    let Some(id) = chosen.and_then(parse) else {
        return Err(Unmet::field(
            Reason::ClientIdMalformed,
            "provider_connections.client_id",
            "a GUID",
        ));
    };
    // The provider can only refuse a secret of another application, so this is reported without a request.
    match stored.and_then(parse) {
        Some(other) if other != id => Err(Unmet {
            reason: Reason::CredentialMalformed,
            evidence: vec![
                Evidence::new(EvidenceKind::Field, "credential.client_id"),
                Evidence::new(EvidenceKind::Expected, id),
                Evidence::new(EvidenceKind::Found, other),
            ],
        }),
        _ => Ok(id),
    }
}

fn usable(credential: &Credential, now: DateTime<Utc>) -> Result<(), Unmet> {
    let malformed = |field, expected| Unmet::field(Reason::CredentialMalformed, field, expected);
    match credential {
        Credential::ClientSecret { secret, .. } => {
            client_secret::check(secret.expose_secret()).map_err(|error| Unmet {
                reason: Reason::CredentialMalformed,
                evidence: Flaw::from(error).evidence(),
            })?;
        }
        Credential::Certificate {
            private_key_pem,
            certificate_pem,
        } => {
            let parsed = SigningCertificate::parse(private_key_pem, certificate_pem)
                .map_err(|Unusable { field, expected }| malformed(field, expected))?;
            let at = |kind, at: DateTime<Utc>| {
                Evidence::new(kind, at.to_rfc3339_opts(SecondsFormat::Secs, true))
            };
            if parsed.not_after <= now {
                return Err(Unmet {
                    reason: Reason::CredentialExpired,
                    evidence: vec![at(EvidenceKind::ExpiresAt, parsed.not_after)],
                });
            }
            if parsed.not_before - CLOCK_DIFFERENCE > now {
                return Err(Unmet {
                    reason: Reason::CertificateNotYetValid,
                    evidence: vec![
                        at(EvidenceKind::ValidFrom, parsed.not_before),
                        at(EvidenceKind::ExpiresAt, parsed.not_after),
                    ],
                });
            }
        }
        Credential::FederatedTokenFile { path } => {
            if !path.is_absolute() {
                return Err(malformed(
                    "credential.federated_token_file",
                    "an absolute path",
                ));
            }
        }
    }
    Ok(())
}
