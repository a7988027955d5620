//! Decrypts payloads of Laravel's `Crypt`. They are never written.
//!
//! The payload is base64 of JSON `{iv, value, mac, tag}`. AES-256-CBC with an HMAC-SHA256 over `iv ‖ value`,
//! both in base64, or AES-256-GCM. It has no associated data: unlike verifyd's own envelope it can be opened
//! in any row.
//!
//! The plain text is a bare secret (`encryptString`, the `encrypted` cast), JSON (`encrypted:array`), or a
//! PHP-serialised string or array (`encrypt`).

use super::envelope;
use super::key_ring::{KEY_BYTES, decode_key};
use super::pem::credential_from_pem;
use super::php::{self, Php};
use crate::domain::connection::CredentialKind;
use crate::domain::credential::Credential;
use crate::domain::credential_cause::{Cause, Flaw};
use crate::domain::text_decoding;
use crate::ports::vault::VaultError;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use zeroize::Zeroizing;

/// Longest payload that is opened, in bytes.
const MAX_BYTES: usize = 256 * 1024;
const CBC_IV_BYTES: usize = 16;
const GCM_TAG_BYTES: usize = 16;
const MAC_BYTES: usize = 32;

/// A Laravel application's key.
pub(super) struct LaravelKey(Zeroizing<[u8; KEY_BYTES]>);

impl LaravelKey {
    /// From `base64:` and 32 bytes in base64, as in `APP_KEY`.
    pub(super) fn parse(text: &SecretString) -> Result<Self, &'static str> {
        const FORM: &str =
            "must be \"base64:\" and 32 bytes in base64, as in the Laravel application's APP_KEY";
        let encoded = text
            .expose_secret()
            .trim()
            .strip_prefix("base64:")
            .ok_or(FORM)?;
        decode_key(&encoded.to_owned().into()).map(Self).ok_or(FORM)
    }
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    iv: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
    #[serde(borrow)]
    mac: Cow<'a, str>,
    /// Older versions of the framework write none.
    #[serde(borrow, default)]
    tag: Cow<'a, str>,
}

/// Whether the text begins as every payload does: with base64 of `{"iv":`, in whatever letters.
fn begins_like_one(text: &str) -> bool {
    let begin = text.get(..8).unwrap_or_default();
    begin.eq_ignore_ascii_case("eyJpdiI6")
}

/// Whether a text that was decrypted is itself encrypted, by the framework or by verifyd.
pub(super) fn is_encrypted(text: &str) -> bool {
    let text = text.trim();
    begins_like_one(text) || envelope::key_id(text).is_some()
}

/// Decrypts with the first key that fits.
pub(super) fn decrypt(
    keys: &[LaravelKey],
    payload: &str,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    if payload.len() > MAX_BYTES {
        return Err(Cause::TooLong.into());
    }
    let payload = text_decoding::without_byte_order_mark(payload).trim();
    if payload.is_empty() {
        return Err(Cause::Empty.into());
    }
    // PHP ignores white space in base64, wherever it is.
    let joined: Option<String> =
        begins_like_one(payload).then(|| payload.split_whitespace().collect());
    let payload = joined.as_deref().unwrap_or(payload);
    let json = STANDARD.decode(payload).map_err(|_| {
        let unwrapped = envelope::unwrapped(payload);
        match begins_like_one(unwrapped) {
            true if unwrapped != payload => Cause::Surrounded,
            true => Cause::LaravelDamaged,
            false => Cause::PlainText,
        }
    })?;
    let is_one = begins_like_one(payload) || json.starts_with(b"{");
    let payload: Payload<'_> = serde_json::from_slice(&json).map_err(|_| match is_one {
        true => Cause::LaravelDamaged,
        false => Cause::NeitherForm,
    })?;
    if keys.is_empty() {
        return Err(Cause::LaravelNoKey.into());
    }
    let iv = decode(&payload.iv)?;
    match iv.len() {
        CBC_IV_BYTES => decrypt_cbc(keys, &payload, &iv),
        NONCE_LEN => decrypt_gcm(keys, &payload, &iv),
        _ => Err(Cause::LaravelDamaged.into()),
    }
}

/// A member of the payload.
fn decode(base64: &str) -> Result<Vec<u8>, Cause> {
    STANDARD.decode(base64).map_err(|_| Cause::LaravelDamaged)
}

fn decrypt_cbc(
    keys: &[LaravelKey],
    payload: &Payload<'_>,
    iv: &[u8],
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    if !payload.tag.is_empty() {
        return Err(Cause::LaravelTag.into());
    }
    let mut mac = [0; MAC_BYTES];
    let lowercase = !payload.mac.bytes().any(|b| b.is_ascii_uppercase());
    if !lowercase || hex::decode_to_slice(payload.mac.as_bytes(), &mut mac).is_err() {
        return Err(Cause::LaravelDamaged.into());
    }
    let signed = [payload.iv.as_bytes(), payload.value.as_bytes()].concat();
    // The comparison takes the same time wherever the codes differ; nothing is decrypted before.
    let key = keys
        .iter()
        .find(|key| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key.0[..]);
            hmac::verify(&key, &signed, &mac).is_ok()
        })
        .ok_or(Cause::LaravelOtherKey)?;
    let mut in_out = Zeroizing::new(decode(&payload.value)?);
    let iv = FixedLength::<CBC_IV_BYTES>::try_from(iv).map_err(|_| Cause::LaravelDamaged)?;
    let length = UnboundCipherKey::new(&AES_256, &key.0[..])
        .and_then(PaddedBlockDecryptingKey::cbc_pkcs7)
        .and_then(|cipher| {
            cipher
                .decrypt(&mut in_out, DecryptionContext::Iv128(iv))
                .map(|plain| plain.len())
        })
        .map_err(|_| Cause::LaravelOtherKey)?;
    in_out.truncate(length);
    Ok(in_out)
}

fn decrypt_gcm(
    keys: &[LaravelKey],
    payload: &Payload<'_>,
    iv: &[u8],
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let tag = decode(&payload.tag)?;
    // A shorter tag would be easier to forge.
    if tag.len() != GCM_TAG_BYTES || !payload.mac.is_empty() {
        return Err(Cause::LaravelDamaged.into());
    }
    let mut sealed = decode(&payload.value)?;
    sealed.extend_from_slice(&tag);
    for key in keys {
        let mut in_out = Zeroizing::new(sealed.clone());
        let nonce = Nonce::try_assume_unique_for_key(iv).map_err(|_| Cause::LaravelDamaged)?;
        let opened = UnboundKey::new(&AES_256_GCM, &key.0[..])
            .map(LessSafeKey::new)
            .and_then(|key| {
                key.open_in_place(nonce, Aad::empty(), &mut in_out)
                    .map(|plain| plain.len())
            });
        if let Ok(length) = opened {
            in_out.truncate(length);
            return Ok(in_out);
        }
    }
    Err(Cause::LaravelOtherKey.into())
}

/// The members that are looked at; others are the application's own business.
#[derive(Default, Deserialize)]
struct Fields {
    client_id: Option<String>,
    client_secret: Option<SecretString>,
    private_key: Option<SecretString>,
    certificate: Option<String>,
}

/// Makes a credential of this kind from what was decrypted.
pub(super) fn interpret(
    plain: &[u8],
    kind: CredentialKind,
    now: DateTime<Utc>,
) -> Result<Credential, VaultError> {
    if php::looks_serialised(plain) {
        return match php::unserialize(plain).map_err(|_| Cause::LaravelContent)? {
            Php::Text(range) => interpret_text(&plain[range], kind, now),
            Php::Array(entries) => from_fields(php_fields(plain, &entries)?, kind, now),
            Php::Null => Err(other_content("null of PHP")),
            Php::Bool(_) => Err(other_content("a boolean of PHP")),
            Php::Int(_) => Err(other_content("a number of PHP")),
        };
    }
    interpret_text(plain, kind, now)
}

/// What the payload holds in place of a credential.
fn other_content(found: &str) -> VaultError {
    let found = Some(found.to_owned());
    let cause = Cause::LaravelContent;
    Flaw { cause, found }.into()
}

/// Names JSON that is neither an object nor a text.
fn other_json(text: &[u8]) -> Option<&'static str> {
    let name = match text.first()? {
        b'n' => "null in JSON",
        b't' | b'f' => "a boolean in JSON",
        b'[' => "an array without names in JSON",
        b'-' | b'0'..=b'9' => "a number in JSON",
        _ => return None,
    };
    let is_json = serde_json::from_slice::<IgnoredAny>(text).is_ok();
    is_json.then_some(name)
}

fn interpret_text(
    plain: &[u8],
    kind: CredentialKind,
    now: DateTime<Utc>,
) -> Result<Credential, VaultError> {
    let json = plain.trim_ascii();
    if json.starts_with(b"{") {
        let fields = serde_json::from_slice(json).map_err(|_| Cause::LaravelContent)?;
        return from_fields(fields, kind, now);
    }
    if let Some(found) = other_json(json) {
        return Err(other_content(found));
    }
    let text = std::str::from_utf8(plain).map_err(|_| Cause::LaravelContent)?;
    match kind {
        CredentialKind::ClientSecret if text.trim_start().starts_with("-----BEGIN ") => {
            Err(Cause::OtherKind.into())
        }
        CredentialKind::ClientSecret => {
            // The `encrypted:json` cast of a string puts it in quotes.
            let secret = if json.starts_with(b"\"") {
                serde_json::from_slice(json).map_err(|_| Cause::LaravelContent)?
            } else {
                SecretString::from(text)
            };
            Ok(Credential::ClientSecret {
                secret,
                client_id: None,
            })
        }
        CredentialKind::Certificate if is_encrypted(text) => Err(Cause::EncryptedTwice.into()),
        CredentialKind::Certificate => credential_from_pem(text, now),
        CredentialKind::FederatedTokenFile => Err(Cause::LaravelContent.into()),
    }
}

fn php_fields(plain: &[u8], entries: &[(Php, Php)]) -> Result<Fields, VaultError> {
    let mut fields = Fields::default();
    for (key, value) in entries {
        let (Php::Text(key), Php::Text(value)) = (key, value) else {
            continue;
        };
        let key = &plain[key.clone()];
        if !matches!(
            key,
            b"client_id" | b"client_secret" | b"private_key" | b"certificate"
        ) {
            continue;
        }
        let value =
            std::str::from_utf8(&plain[value.clone()]).map_err(|_| Cause::LaravelContent)?;
        match key {
            b"client_id" => fields.client_id = Some(value.to_owned()),
            b"client_secret" => fields.client_secret = Some(value.into()),
            b"private_key" => fields.private_key = Some(value.into()),
            _ => fields.certificate = Some(value.to_owned()),
        }
    }
    Ok(fields)
}

fn from_fields(
    fields: Fields,
    kind: CredentialKind,
    now: DateTime<Utc>,
) -> Result<Credential, VaultError> {
    match (kind, fields) {
        (
            CredentialKind::ClientSecret,
            Fields {
                client_secret: Some(secret),
                client_id,
                ..
            },
        ) => Ok(Credential::ClientSecret {
            secret,
            client_id: client_id.filter(|id| !id.is_empty()),
        }),
        (
            CredentialKind::Certificate,
            Fields {
                private_key: Some(key),
                certificate: Some(certificate),
                ..
            },
        ) => {
            let both = Zeroizing::new(format!("{}\n{certificate}", key.expose_secret()));
            credential_from_pem(&both, now)
        }
        // The members of another kind of credential.
        (CredentialKind::ClientSecret, fields) if fields.private_key.is_some() => {
            Err(Cause::OtherKind.into())
        }
        (CredentialKind::Certificate, fields) if fields.client_secret.is_some() => {
            Err(Cause::OtherKind.into())
        }
        (CredentialKind::FederatedTokenFile, _) => Err(Cause::LaravelContent.into()),
        _ => Err(other_content("an array or object without them")),
    }
}
