//! The credential of a connection, prepared for token requests.

use super::federated::FederatedClaims;
use crate::domain::Reason;
use crate::domain::connection::CredentialKind;
use crate::domain::credential::Credential;
use crate::domain::report::{Evidence, EvidenceKind};
use crate::domain::text_decoding;
use crate::provider::microsoft::aadsts::SignIn;
use crate::provider::microsoft::assertion;
use crate::provider::microsoft::certificate::SigningCertificate;
use crate::provider::microsoft::fault::Fault;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// More than this is no federated token.
const MAX_TOKEN_FILE_BYTES: u64 = 64 * 1024;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A credential in the form that a token request needs. `Debug` shows no secret.
#[derive(Debug)]
pub(in super::super) enum Material {
    Secret(SecretString),
    Certificate {
        private_key_pem: SecretString,
        certificate_pem: String,
    },
    /// The token that the file contained, and its claims.
    Federated {
        token: SecretString,
        claims: FederatedClaims,
    },
}

impl Material {
    /// Takes it from the credential; a federated token is read from its file, every time. One that has
    /// expired is refused here.
    pub async fn load(
        credential: &Credential,
        deadline: Instant,
        now: DateTime<Utc>,
    ) -> Result<Self, Fault> {
        Ok(match credential {
            Credential::ClientSecret { secret, .. } => Self::Secret(secret.clone()),
            Credential::Certificate {
                private_key_pem,
                certificate_pem,
            } => Self::Certificate {
                private_key_pem: private_key_pem.clone(),
                certificate_pem: certificate_pem.clone(),
            },
            Credential::FederatedTokenFile { path } => {
                // A file system that hangs must not delay the run beyond its deadline.
                let read = tokio::time::timeout_at(deadline, read_token(path)).await;
                let token = read.unwrap_or(Err("the file cannot be read in time".into()));
                let token = token.map_err(|cause| {
                    Fault::new(Reason::FederatedTokenUnreadable).with(EvidenceKind::Cause, cause)
                })?;
                let claims = FederatedClaims::read(token.expose_secret());
                if let Some(expired) = claims.expired(now) {
                    return Err(expired);
                }
                Self::Federated { token, claims }
            }
        })
    }

    /// Who signs in with it.
    pub fn sign_in(&self, now: DateTime<Utc>) -> SignIn<'_> {
        let (kind, federated) = match self {
            Self::Secret(_) => (CredentialKind::ClientSecret, None),
            Self::Certificate { .. } => (CredentialKind::Certificate, None),
            Self::Federated { claims, .. } => (CredentialKind::FederatedTokenFile, Some(claims)),
        };
        SignIn {
            kind,
            federated,
            now,
        }
    }

    /// Returns the evidence that a report may contain.
    pub fn evidence(&self) -> Vec<Evidence> {
        let Self::Federated { claims, .. } = self else {
            return Vec::new();
        };
        let evidence = claims.evidence().into_iter();
        evidence
            .map(|(kind, value)| Evidence::new(kind, value))
            .collect()
    }

    /// Returns a SHA-256 that identifies the credential. It never leaves the process.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let mut part = |bytes: &[u8]| {
            // With its length, so that no two lists of parts look alike.
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        match self {
            Self::Secret(secret) => {
                part(b"secret");
                part(secret.expose_secret().as_bytes());
            }
            Self::Certificate {
                private_key_pem,
                certificate_pem,
            } => {
                part(b"certificate");
                part(private_key_pem.expose_secret().as_bytes());
                part(certificate_pem.as_bytes());
            }
            Self::Federated { token, .. } => {
                part(b"federated");
                part(token.expose_secret().as_bytes());
            }
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        fingerprint
    }

    /// Returns the form fields that authenticate the client.
    pub fn fields(
        &self,
        token_url: &str,
        client_id: &str,
        now: DateTime<Utc>,
    ) -> Result<Vec<(&'static str, Zeroizing<String>)>, Fault> {
        let assertion = |jwt: &SecretString| {
            vec![
                (
                    "client_assertion_type",
                    Zeroizing::new(ASSERTION_TYPE.to_owned()),
                ),
                (
                    "client_assertion",
                    Zeroizing::new(jwt.expose_secret().to_owned()),
                ),
            ]
        };
        match self {
            Self::Secret(secret) => Ok(vec![(
                "client_secret",
                Zeroizing::new(secret.expose_secret().to_owned()),
            )]),
            Self::Certificate {
                private_key_pem,
                certificate_pem,
            } => {
                let certificate = SigningCertificate::parse(private_key_pem, certificate_pem)
                    .map_err(|unusable| {
                        Fault::new(Reason::CredentialMalformed)
                            .with(EvidenceKind::Field, unusable.field)
                            .with(EvidenceKind::Expected, unusable.expected)
                    })?;
                let jwt = assertion::sign(&certificate, token_url, client_id, now)
                    .ok_or_else(|| Fault::new(Reason::CredentialMalformed))?;
                Ok(assertion(&jwt))
            }
            Self::Federated { token, .. } => Ok(assertion(token)),
        }
    }
}

/// The token in the file, or why there is none that could be sent.
async fn read_token(path: &Path) -> Result<SecretString, Cow<'static, str>> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "there is no such file",
        ErrorKind::PermissionDenied => "the worker may not read the file",
        _ => "the file cannot be read",
    };
    // Opening a pipe would wait for a writer.
    let metadata = tokio::fs::metadata(path).await.map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("it is no file".into());
    }
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_TOKEN_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_TOKEN_FILE_BYTES {
        return Err("the file is longer than 64 KiB".into());
    }
    let text = text_decoding::decode(&bytes)
        .map_err(|error| format!("the file holds no text: {error}"))?;
    match text.trim() {
        "" => Err("the file is empty".into()),
        token if is_jwt(token) => Ok(SecretString::from(token.to_owned())),
        _ => Err("the file holds something else than one token".into()),
    }
}

/// Returns whether the text has three parts of base64url. The provider judges their content.
fn is_jwt(token: &str) -> bool {
    let parts: Vec<&str> = token.split('.').collect();
    parts.len() == 3
        && parts.iter().all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_credentials_apart() {
        let secret = |text: &str| Material::Secret(text.to_owned().into()).fingerprint();
        let federated = Material::Federated {
            token: "a".to_owned().into(),
            claims: FederatedClaims::default(),
        }
        .fingerprint();
        assert_eq!(secret("a"), secret("a"));
        assert_ne!(secret("a"), secret("b"));
        assert_ne!(secret("a"), federated);
    }
}
