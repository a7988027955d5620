//! Seals and opens credentials.

use crate::domain::connection::{CredentialBinding, CredentialKind, StoredCredential};
use crate::domain::credential::Credential;
use crate::domain::credential_cause::{Cause, Flaw};
use crate::domain::webhook::WebhookBinding;
use chrono::{DateTime, Utc};
use zeroize::Zeroizing;

/// Why a stored credential cannot be used. Never quotes any of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// No key opens it, it was changed, or it is bound to another connection.
    #[error("the credential cannot be decrypted: {0}")]
    Undecryptable(Flaw),
    /// It is not what its kind promises: after decryption, or already before it was sealed.
    #[error("the credential is not usable: {0}")]
    Malformed(Flaw),
    /// This installation has no key to write with.
    #[error("no key is configured to encrypt credentials with")]
    NoKey,
}

impl VaultError {
    /// Returns the cause for the log and the report; `None` where a key to encrypt with is missing.
    pub fn flaw(&self) -> Option<&Flaw> {
        match self {
            Self::Undecryptable(flaw) | Self::Malformed(flaw) => Some(flaw),
            Self::NoKey => None,
        }
    }
}

impl From<Cause> for VaultError {
    fn from(cause: Cause) -> Self {
        Flaw::from(cause).into()
    }
}

impl From<Flaw> for VaultError {
    fn from(flaw: Flaw) -> Self {
        if flaw.cause.before_decryption() {
            Self::Undecryptable(flaw)
        } else {
            Self::Malformed(flaw)
        }
    }
}

/// A credential ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedCredential {
    pub kind: CredentialKind,
    pub payload: String,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Seals and opens credentials. A credential sealed for one binding opens for no other.
pub trait Vault: Send + Sync {
    /// Encrypts with the writing key. The expiry is read from the certificate when `expires_at` is `None`.
    fn seal(
        &self,
        binding: CredentialBinding,
        credential: &Credential,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<SealedCredential, VaultError>;

    /// Decrypts with whichever key fits.
    fn open(
        &self,
        binding: CredentialBinding,
        stored: &StoredCredential,
    ) -> Result<Credential, VaultError>;

    /// Encrypts again with the writing key what decrypts, also where it is malformed by the rules of today. Of a payload
    /// of Laravel it has to be a usable credential.
    fn reseal(
        &self,
        binding: CredentialBinding,
        stored: &StoredCredential,
    ) -> Result<String, VaultError>;

    /// Encrypts the secret of a webhook's endpoint.
    fn seal_webhook_secret(
        &self,
        binding: &WebhookBinding,
        secret: &[u8],
    ) -> Result<String, VaultError>;

    /// Decrypts the secret of a webhook's endpoint.
    fn open_webhook_secret(
        &self,
        binding: &WebhookBinding,
        payload: &str,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError>;

    /// Whether the payload is sealed with another key than the one that writes, so that a rotation
    /// has to seal it again.
    fn needs_rotation(&self, payload: &str) -> bool;

    /// Ids of the keys, the one that writes first. Never the keys.
    fn key_ids(&self) -> Vec<String>;
}
