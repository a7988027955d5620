//! A decrypted credential, which is in memory only while a check runs.

use super::connection::CredentialKind;
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;

/// A decrypted credential. `Debug` never shows a secret.
#[derive(Clone, Debug)]
pub enum Credential {
    ClientSecret {
        secret: SecretString,
        /// Client id that was stored along with the secret (Laravel payloads may carry one).
        client_id: Option<String>,
    },
    Certificate {
        /// PEM, PKCS#8 or PKCS#1.
        private_key_pem: SecretString,
        /// PEM of the leaf certificate.
        certificate_pem: String,
    },
    /// The assertion is read from this file at each use.
    FederatedTokenFile { path: PathBuf },
}

impl Credential {
    /// Returns the kind of this credential.
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::ClientSecret { .. } => CredentialKind::ClientSecret,
            Self::Certificate { .. } => CredentialKind::Certificate,
            Self::FederatedTokenFile { .. } => CredentialKind::FederatedTokenFile,
        }
    }

    /// Returns the secret values that must never appear in a report or a log.
    pub fn secret_values(&self) -> Vec<SecretString> {
        match self {
            Self::ClientSecret { secret, .. } => vec![secret.clone()],
            Self::Certificate {
                private_key_pem, ..
            } => private_key_pem
                .expose_secret()
                .lines()
                .filter(|line| !line.starts_with("-----") && line.len() >= 16)
                .map(|line| SecretString::from(line.to_owned()))
                .collect(),
            Self::FederatedTokenFile { .. } => Vec::new(),
        }
    }
}
