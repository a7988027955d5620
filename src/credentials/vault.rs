//! The vault: chooses the form, checks what goes in and comes out.

use super::key_ring::{KeyError, KeyRing};
use super::settings::CredentialsSettings;
use super::{envelope, laravel, pem, plaintext};
use crate::domain::connection::{CredentialBinding, StoredCredential};
use crate::domain::credential::Credential;
use crate::domain::webhook::WebhookBinding;
use crate::ports::vault::{SealedCredential, Vault, VaultError};
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use std::path::Path;
use zeroize::Zeroizing;

/// Longest client secret, in bytes. Entra's have 40.
const MAX_SECRET_BYTES: usize = 4096;

/// Seals with the ring's first key, opens with all of them.
#[derive(Debug)]
pub struct KeyRingVault {
    ring: KeyRing,
}

/// The vault of this installation.
///
/// Keys come from `credentials.keys` and `credentials.keys_file`. When these give none, from the
/// key file: `credentials.key_file`, or else `embedded_key_file`, which the caller names when the
/// store is SQLite (a file beside the database). Only then is a missing file created: replicas that
/// each made a key of their own could not read each other's credentials.
pub fn open_vault(
    settings: &CredentialsSettings,
    embedded_key_file: Option<&Path>,
) -> Result<KeyRingVault, KeyError> {
    let mut ring = KeyRing::from_settings(settings)?;
    if ring.is_empty() {
        let create = embedded_key_file.is_some();
        let configured = Some(settings.key_file.as_path()).filter(|p| !p.as_os_str().is_empty());
        if let Some(path) = configured.or(embedded_key_file) {
            ring.load_or_create(path, create)?;
        }
    }
    Ok(KeyRingVault::new(ring))
}

impl KeyRingVault {
    /// A vault with these keys.
    pub fn new(ring: KeyRing) -> Self {
        Self { ring }
    }

    /// How many keys of a Laravel application there are to read with.
    pub fn laravel_keys(&self) -> usize {
        self.ring.laravel().len()
    }
}

impl Vault for KeyRingVault {
    fn seal(
        &self,
        binding: CredentialBinding,
        credential: &Credential,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<SealedCredential, VaultError> {
        let certificate_end = check(credential)?;
        Ok(SealedCredential {
            kind: credential.kind(),
            payload: envelope::seal(&self.ring, &binding, &plaintext::write(credential)?)?,
            expires_at: expires_at.or(certificate_end),
        })
    }

    fn open(
        &self,
        binding: CredentialBinding,
        stored: &StoredCredential,
    ) -> Result<Credential, VaultError> {
        if stored.connection_id != binding.connection_id {
            return Err(VaultError::Undecryptable(
                "it belongs to another connection",
            ));
        }
        let credential = if envelope::is_envelope(&stored.payload) {
            // Checked when it was sealed; nobody can have changed it since.
            plaintext::read(&envelope::open(&self.ring, &binding, &stored.payload)?)?
        } else {
            let plain = laravel::decrypt(self.ring.laravel(), &stored.payload)?;
            let credential = laravel::interpret(&plain, stored.kind)?;
            check(&credential)?;
            credential
        };
        if credential.kind() != stored.kind {
            return Err(VaultError::Malformed(
                "it is of another kind than its row says",
            ));
        }
        Ok(credential)
    }

    fn seal_webhook_secret(
        &self,
        binding: &WebhookBinding,
        secret: &[u8],
    ) -> Result<String, VaultError> {
        envelope::seal(&self.ring, binding, secret)
    }

    fn open_webhook_secret(
        &self,
        binding: &WebhookBinding,
        payload: &str,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        envelope::open(&self.ring, binding, payload)
    }

    fn needs_rotation(&self, payload: &str) -> bool {
        match (envelope::key_id(payload), self.ring.writer()) {
            (Some(id), Some(writer)) => id != writer.id,
            _ => true,
        }
    }

    fn key_ids(&self) -> Vec<String> {
        self.ring.ids().into_iter().map(str::to_owned).collect()
    }
}

/// Refuses what cannot work with any provider; returns when a certificate expires.
fn check(credential: &Credential) -> Result<Option<DateTime<Utc>>, VaultError> {
    match credential {
        Credential::ClientSecret { secret, .. } => {
            let secret = secret.expose_secret();
            if secret.is_empty() {
                return Err(VaultError::Malformed("the client secret is empty"));
            }
            if secret.len() > MAX_SECRET_BYTES {
                return Err(VaultError::Malformed(
                    "the client secret is longer than 4096 bytes",
                ));
            }
            if secret.trim() != secret || secret.chars().any(char::is_control) {
                return Err(VaultError::Malformed(
                    "the client secret has a space or line end around it, or a control character \
                     inside",
                ));
            }
            Ok(None)
        }
        Credential::Certificate {
            private_key_pem,
            certificate_pem,
        } => pem::check(private_key_pem, certificate_pem).map(Some),
        Credential::FederatedTokenFile { path } => {
            if path.is_absolute() {
                Ok(None)
            } else {
                Err(VaultError::Malformed(
                    "the path of the federated token file must be absolute",
                ))
            }
        }
    }
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;
