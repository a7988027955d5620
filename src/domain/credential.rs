//! A credential in the clear, as it lives in memory for the length of one check.

use super::connection::CredentialKind;
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;

/// An opened credential. `Debug` never shows a secret.
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
    /// Which kind this is.
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::ClientSecret { .. } => CredentialKind::ClientSecret,
            Self::Certificate { .. } => CredentialKind::Certificate,
            Self::FederatedTokenFile { .. } => CredentialKind::FederatedTokenFile,
        }
    }

    /// The secret values that must never appear in anything that is written.
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
