//! verifyd's own form of a sealed credential: `vfd1.<key id>.<nonce>.<ciphertext>`.
//!
//! - AES-256-GCM with a random 96-bit nonce; nonce and ciphertext (with its 16-byte tag at the end)
//!   in unpadded base64url. Random nonces are safe for 2³² messages per key; an installation seals
//!   thousands.
//! - The key is found by its id, never by trying.
//! - Associated data: purpose, table, column, version, key id, workspace, tenant and connection,
//!   separated by bars, none of which can occur inside. So an envelope that is copied to another
//!   row, tenant or workspace, or renamed to another key, does not open. The secret of a webhook is
//!   bound to workspace, endpoint and (by its SHA-256) the address that it is for.

use super::key_ring::{KeyRing, is_key_id};
use crate::domain::connection::CredentialBinding;
use crate::domain::credential_cause::{Cause, Flaw};
use crate::domain::text_decoding;
use crate::domain::webhook::WebhookBinding;
use crate::ports::vault::VaultError;
use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

const VERSION: &str = "vfd1";
/// Prefix of every version of the envelope; no Laravel payload begins with it.
const FAMILY: &str = "vfd";
/// Longest envelope that is opened, in bytes. A certificate with its key needs about 8 KiB.
const MAX_BYTES: usize = 128 * 1024;
const TAG_BYTES: usize = 16;

/// Whether the payload claims to be an envelope of this program: of any version, or of this one in other letters.
pub fn is_envelope(payload: &str) -> bool {
    let version = unwrapped(payload).split_once('.').map(|(first, _)| first);
    version
        .is_some_and(|version| version.starts_with(FAMILY) || version.eq_ignore_ascii_case(VERSION))
}

/// The payload without what tools leave around a text; no payload begins or ends so.
pub(super) fn unwrapped(payload: &str) -> &str {
    payload.trim_matches(|c: char| c.is_whitespace() || text_decoding::is_left_by_copying(c))
}

/// Returns the id of the key that sealed this envelope; `None` if it is not of this version.
pub fn key_id(payload: &str) -> Option<&str> {
    let mut parts = payload.split('.');
    (parts.next() == Some(VERSION))
        .then(|| parts.next())
        .flatten()
        .filter(|id| is_key_id(id))
}

/// What an envelope is bound to.
pub(super) trait Place {
    /// Table and column, and the row in words.
    fn words(&self) -> (&'static str, String);
}

impl Place for CredentialBinding {
    fn words(&self) -> (&'static str, String) {
        let row = format!(
            "workspace={}|tenant={}|connection={}",
            self.workspace_id, self.tenant_id, self.connection_id
        );
        ("provider_credentials|payload", row)
    }
}

impl Place for WebhookBinding {
    fn words(&self) -> (&'static str, String) {
        let url = digest::digest(&digest::SHA256, self.url.as_bytes());
        let row = format!(
            "workspace={}|endpoint={}|url={}",
            self.workspace_id,
            self.endpoint_id,
            hex::encode(url)
        );
        ("webhook_endpoints|secret", row)
    }
}

fn associated_data(key_id: &str, place: &dyn Place) -> String {
    let (column, row) = place.words();
    format!("verifyd|{column}|{VERSION}|{key_id}|{row}")
}

/// Encrypts with the key that writes.
pub(super) fn seal(
    ring: &KeyRing,
    place: &dyn Place,
    plaintext: &[u8],
) -> Result<String, VaultError> {
    let key = ring.writer().ok_or(VaultError::NoKey)?;
    // Encrypted in place, with space for the tag, so that no copy of the plain text is left in memory.
    let mut in_out = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG_BYTES));
    in_out.extend_from_slice(plaintext);
    let nonce = key
        .cipher
        .seal_in_place_append_tag(Aad::from(associated_data(&key.id, place)), &mut *in_out)
        .map_err(|_| Cause::NotWritable)?;
    Ok(format!(
        "{VERSION}.{}.{}.{}",
        key.id,
        URL_SAFE_NO_PAD.encode(nonce.as_ref()),
        URL_SAFE_NO_PAD.encode(&in_out[..])
    ))
}

/// Decrypts with the key that the envelope names.
pub(super) fn open(
    ring: &KeyRing,
    place: &dyn Place,
    payload: &str,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    if payload.len() > MAX_BYTES {
        return Err(Cause::TooLong.into());
    }
    if unwrapped(payload) != payload {
        return Err(Cause::Surrounded.into());
    }
    let parts: Vec<&str> = payload.split('.').collect();
    match parts[0] {
        VERSION => {}
        other if other.eq_ignore_ascii_case(VERSION) => return Err(Cause::EnvelopeCase.into()),
        _ => return Err(Cause::EnvelopeVersion.into()),
    }
    let [_, id, nonce, ciphertext] = parts[..] else {
        return Err(Cause::EnvelopeDamaged.into());
    };
    let key = ring.key(id).ok_or_else(|| Flaw {
        cause: Cause::KeyNotConfigured,
        // An id is no secret. A text that does not have its form may be one.
        found: is_key_id(id).then(|| format!("the key {id}")),
    })?;
    let damaged = |_| Cause::EnvelopeDamaged;
    let nonce: [u8; NONCE_LEN] = URL_SAFE_NO_PAD
        .decode(nonce)
        .map_err(damaged)?
        .try_into()
        .map_err(|_| Cause::EnvelopeDamaged)?;
    let mut in_out = Zeroizing::new(URL_SAFE_NO_PAD.decode(ciphertext).map_err(damaged)?);
    if in_out.len() < TAG_BYTES {
        return Err(Cause::EnvelopeDamaged.into());
    }
    let length = key
        .cipher
        .open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(associated_data(id, place)),
            &mut in_out,
        )
        .map_err(|_| Cause::NotAuthentic)?
        .len();
    in_out.truncate(length);
    Ok(in_out)
}
