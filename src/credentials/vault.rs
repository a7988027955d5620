//! The vault: chooses the format, and validates credentials before sealing and after opening.

use super::key_ring::{KeyError, KeyRing};
use super::settings::CredentialsSettings;
use super::{envelope, laravel, pem, plaintext};
use crate::domain::client_secret;
use crate::domain::connection::{CredentialBinding, StoredCredential};
use crate::domain::credential::Credential;
use crate::domain::credential_cause::{Cause, Flaw};
use crate::domain::webhook::WebhookBinding;
use crate::ports::clock::{Clock as _, SystemClock};
use crate::ports::vault::{SealedCredential, Vault, VaultError};
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use std::path::Path;
use zeroize::Zeroizing;

/// Seals with the ring's first key, opens with all of them.
#[derive(Debug)]
pub struct KeyRingVault {
    ring: KeyRing,
}

/// Opens the vault of this installation.
///
/// Keys come from `credentials.keys` and `credentials.keys_file`. When these have none, the key file is used:
/// `credentials.key_file`, or else `embedded_key_file`, which the caller names when the store is SQLite (a
/// file beside the database). Only then is a missing file created: replicas with a key of their own could not
/// read each other's credentials.
pub fn open_vault(
    settings: &CredentialsSettings,
    embedded_key_file: Option<&Path>,
) -> Result<KeyRingVault, KeyError> {
    open(settings, embedded_key_file, true)
}

/// The same without creating anything: where the file is missing that would be created, the vault has no key.
pub fn open_existing_vault(
    settings: &CredentialsSettings,
    embedded_key_file: Option<&Path>,
) -> Result<KeyRingVault, KeyError> {
    open(settings, embedded_key_file, false)
}

fn open(
    settings: &CredentialsSettings,
    embedded_key_file: Option<&Path>,
    create: bool,
) -> Result<KeyRingVault, KeyError> {
    let mut ring = KeyRing::from_settings(settings)?;
    if ring.is_empty() {
        let is_embedded = embedded_key_file.is_some();
        let configured = Some(settings.key_file.as_path()).filter(|p| !p.as_os_str().is_empty());
        if let Some(path) = configured.or(embedded_key_file)
            && (create || !is_embedded || is_there(path))
        {
            ring.load_or_create(path, create && is_embedded)?;
        }
    }
    Ok(KeyRingVault::new(ring))
}

/// Where that cannot be found out, reading it says why.
fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

impl KeyRingVault {
    /// A vault with these keys.
    pub fn new(ring: KeyRing) -> Self {
        Self { ring }
    }

    /// Returns the number of Laravel keys.
    pub fn laravel_keys(&self) -> usize {
        self.ring.laravel().len()
    }

    fn decrypt(
        &self,
        binding: CredentialBinding,
        stored: &StoredCredential,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        if stored.connection_id != binding.connection_id {
            return Err(Cause::OtherConnection.into());
        }
        match envelope::is_envelope(&stored.payload) {
            true => envelope::open(&self.ring, &binding, &stored.payload),
            false => laravel::decrypt(self.ring.laravel(), &stored.payload),
        }
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
            // Neither date makes the other one later.
            expires_at: [expires_at, certificate_end].into_iter().flatten().min(),
        })
    }

    fn open(
        &self,
        binding: CredentialBinding,
        stored: &StoredCredential,
    ) -> Result<Credential, VaultError> {
        let plain = self.decrypt(binding, stored)?;
        let credential = match envelope::is_envelope(&stored.payload) {
            true => plaintext::read(&plain)?,
            false => laravel::interpret(&plain, stored.kind, SystemClock.now())?,
        };
        if credential.kind() != stored.kind {
            return Err(Cause::OtherKind.into());
        }
        // A certificate that was sealed here was parsed then, and parsing takes long. A secret may have
        // been sealed by an earlier version, with other rules.
        let parsed_before = envelope::is_envelope(&stored.payload)
            && matches!(credential, Credential::Certificate { .. });
        if !parsed_before {
            check(&credential)?;
        }
        Ok(credential)
    }

    fn reseal(
        &self,
        binding: CredentialBinding,
        stored: &StoredCredential,
    ) -> Result<String, VaultError> {
        let plain = match envelope::is_envelope(&stored.payload) {
            true => self.decrypt(binding, stored)?,
            false => plaintext::write(&self.open(binding, stored)?)?,
        };
        envelope::seal(&self.ring, &binding, &plain)
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
            if laravel::is_encrypted(secret) {
                return Err(Cause::EncryptedTwice.into());
            }
            client_secret::check(secret).map_err(Flaw::from)?;
            Ok(None)
        }
        Credential::Certificate {
            private_key_pem,
            certificate_pem,
        } => pem::check(private_key_pem, certificate_pem).map(|validity| Some(validity.until)),
        Credential::FederatedTokenFile { path } => {
            if path.is_absolute() {
                Ok(None)
            } else {
                Err(Cause::PathRelative.into())
            }
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod cause_tests;
