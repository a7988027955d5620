//! A decrypted credential, which is in memory only while a check runs.

use super::connection::CredentialKind;
use super::text_decoding;
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
            } => text_decoding::lines(private_key_pem.expose_secret())
                .filter(|line| !line.starts_with("-----") && line.len() >= 16)
                .map(|line| SecretString::from(line.to_owned()))
                .collect(),
            Self::FederatedTokenFile { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_key_are_secrets_whatever_ends_them() {
        let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC";
        for end in ["\n", "\r\n", "\r"] {
            let parts = [
                "-----BEGIN PRIVATE KEY-----",
                line,
                "-----END PRIVATE KEY-----",
            ];
            let credential = Credential::Certificate {
                private_key_pem: parts.join(end).into(),
                certificate_pem: String::new(),
            };
            let values = credential.secret_values();
            let values: Vec<&str> = values.iter().map(ExposeSecret::expose_secret).collect();
            assert_eq!(values, [line], "{end:?}");
        }
    }
}
