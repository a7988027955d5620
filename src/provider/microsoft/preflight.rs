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
        let mut unmet = Unmet::field(
            Reason::CloudUnknown,
            "provider_connections.cloud",
            &format!("one of: {}", clouds.keys().join(", ")),
        );
        if let Some(found) = &connection.cloud {
            unmet
                .evidence
                .push(Evidence::new(EvidenceKind::Found, found));
        }
        unmet
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

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::RSA;
    use super::super::settings::tests::settings;
    use super::*;
    use crate::domain::connection::ConnectionStatus;
    use crate::domain::{ConnectionId, TenantId, WorkspaceId};

    const CLIENT: &str = "6f0c8b5e-3f0f-4b6e-8b5e-111111111111";

    fn connection() -> ProviderConnection {
        ProviderConnection {
            id: ConnectionId(1),
            workspace_id: WorkspaceId(1),
            tenant_id: TenantId(1),
            provider: "microsoft".into(),
            display_name: None,
            status: ConnectionStatus::Enabled,
            entra_tenant_id: None,
            client_id: Some(CLIENT.into()),
            cloud: None,
            module: None,
            created_at: None,
            updated_at: None,
        }
    }

    fn secret(text: &str, client_id: Option<&str>) -> Credential {
        Credential::ClientSecret {
            secret: text.to_owned().into(),
            client_id: client_id.map(str::to_owned),
        }
    }

    fn run(connection: &ProviderConnection, credential: &Credential) -> Result<Uuid, Unmet> {
        run_at(connection, credential, "2026-01-01T00:00:00Z")
    }

    fn run_at(
        connection: &ProviderConnection,
        credential: &Credential,
        now: &str,
    ) -> Result<Uuid, Unmet> {
        let clouds = settings().validate().unwrap();
        check(&clouds, now.parse().unwrap(), connection, credential).map(|(_, id)| id)
    }

    #[test]
    fn a_sound_connection_passes() {
        assert_eq!(
            run(&connection(), &secret("s3cr3t~value", None)).unwrap(),
            CLIENT.parse::<Uuid>().unwrap()
        );
    }

    #[test]
    fn an_unknown_cloud_is_named_with_what_is_known() {
        let mut other = connection();
        other.cloud = Some("mars".into());
        let unmet = run(&other, &secret("s", None)).unwrap_err();
        assert_eq!(unmet.reason, Reason::CloudUnknown);
        let values: Vec<&str> = unmet.evidence.iter().map(|e| e.value.as_str()).collect();
        assert_eq!(
            values,
            ["provider_connections.cloud", "one of: global", "mars"]
        );
    }

    #[test]
    fn the_client_id_is_a_guid_of_the_connection_or_of_its_credential() {
        let mut none = connection();
        none.client_id = None;
        let unmet = run(&none, &secret("s", None)).unwrap_err();
        assert_eq!(unmet.reason, Reason::ClientIdMalformed);
        run(&none, &secret("s", Some(CLIENT))).unwrap();
        for bad in ["", "x", "6f0c8b5e3f0f4b6e8b5e111111111111"] {
            let mut malformed = connection();
            malformed.client_id = Some(bad.into());
            let unmet = run(&malformed, &secret("s", Some(CLIENT))).unwrap_err();
            assert_eq!(unmet.reason, Reason::ClientIdMalformed, "{bad}");
        }
        let other = secret("s", Some("6f0c8b5e-3f0f-4b6e-8b5e-222222222222"));
        let unmet = run(&connection(), &other).unwrap_err();
        assert_eq!(unmet.reason, Reason::CredentialMalformed);
    }

    #[test]
    fn credentials_that_cannot_be_used_are_refused() {
        let malformed = |credential: &Credential| {
            assert_eq!(
                run(&connection(), credential).unwrap_err().reason,
                Reason::CredentialMalformed
            );
        };
        malformed(&secret("  ", None));
        malformed(&secret("a\nb", None));
        malformed(&secret("\u{feff}ab", None));
        malformed(&secret("ab\u{a0}", None));
        malformed(&secret(&"x".repeat(5000), None));
        malformed(&Credential::FederatedTokenFile {
            path: "relative/token".into(),
        });
        malformed(&Credential::Certificate {
            private_key_pem: RSA[1].key_pem.clone(),
            certificate_pem: RSA[0].certificate_pem.clone(),
        });
    }

    #[test]
    fn a_certificate_past_its_own_date_is_expired() {
        let credential = Credential::Certificate {
            private_key_pem: RSA[0].key_pem.clone(),
            certificate_pem: RSA[0].certificate_pem.clone(),
        };
        run_at(&connection(), &credential, "2040-01-01T23:59:59Z").unwrap();
        let unmet = run_at(&connection(), &credential, "2040-01-02T00:00:00Z").unwrap_err();
        assert_eq!(unmet.reason, Reason::CredentialExpired);
        assert_eq!(unmet.evidence[0].value, "2040-01-02T00:00:00Z");
    }

    #[test]
    fn a_certificate_before_its_own_date_is_not_yet_valid() {
        let credential = Credential::Certificate {
            private_key_pem: RSA[0].key_pem.clone(),
            certificate_pem: RSA[0].certificate_pem.clone(),
        };
        let unmet = run_at(&connection(), &credential, "2019-12-25T00:00:00Z").unwrap_err();
        assert_eq!(unmet.reason, Reason::CertificateNotYetValid);
        assert_eq!(unmet.evidence[0].kind, EvidenceKind::ValidFrom);
        assert_eq!(unmet.evidence[0].value, "2020-01-01T00:00:00Z");
        // Clocks differ.
        run_at(&connection(), &credential, "2019-12-31T23:58:00Z").unwrap();
    }
}
