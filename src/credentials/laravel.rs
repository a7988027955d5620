//! What Laravel's `Crypt` wrote, read-only.
//!
//! The payload is base64 of JSON `{iv, value, mac, tag}`. AES-256-CBC with an HMAC-SHA256 over
//! `iv ‖ value`, both in base64, or AES-256-GCM. It carries no associated data: unlike verifyd's own
//! envelope it opens in whichever row it stands.
//!
//! Inside: a bare secret (`encryptString`, the `encrypted` cast), JSON (`encrypted:array`), or a
//! PHP-serialised string or array (`encrypt`).

use super::key_ring::{KEY_BYTES, decode_key};
use super::pem::credential_from_pem;
use super::php::{self, Php};
use crate::domain::connection::CredentialKind;
use crate::domain::credential::Credential;
use crate::ports::vault::VaultError;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::borrow::Cow;
use zeroize::Zeroizing;

/// Longest payload that is opened, in bytes.
const MAX_BYTES: usize = 256 * 1024;
const CBC_IV_BYTES: usize = 16;
const GCM_TAG_BYTES: usize = 16;
const MAC_BYTES: usize = 32;

const DAMAGED: VaultError =
    VaultError::Undecryptable("it is neither an envelope of verifyd nor a Laravel payload");

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

/// Decrypts with the first key that fits.
pub(super) fn decrypt(
    keys: &[LaravelKey],
    payload: &str,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    if payload.len() > MAX_BYTES {
        return Err(VaultError::Undecryptable("the Laravel payload is too long"));
    }
    let json = STANDARD.decode(payload.trim()).map_err(|_| DAMAGED)?;
    let payload: Payload<'_> = serde_json::from_slice(&json).map_err(|_| DAMAGED)?;
    if keys.is_empty() {
        return Err(VaultError::Undecryptable(
            "it is a Laravel payload, and credentials.laravel_keys holds no key",
        ));
    }
    let iv = STANDARD.decode(payload.iv.as_ref()).map_err(|_| DAMAGED)?;
    match iv.len() {
        CBC_IV_BYTES => decrypt_cbc(keys, &payload, &iv),
        NONCE_LEN => decrypt_gcm(keys, &payload, &iv),
        _ => Err(DAMAGED),
    }
}

const NO_KEY_FITS: VaultError = VaultError::Undecryptable(
    "it was changed, or none of credentials.laravel_keys is the key it was made with",
);

fn decrypt_cbc(
    keys: &[LaravelKey],
    payload: &Payload<'_>,
    iv: &[u8],
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    if !payload.tag.is_empty() {
        return Err(VaultError::Undecryptable(
            "the Laravel payload has a tag, which its cipher does not know",
        ));
    }
    let mut mac = [0; MAC_BYTES];
    let lowercase = !payload.mac.bytes().any(|b| b.is_ascii_uppercase());
    if !lowercase || hex::decode_to_slice(payload.mac.as_bytes(), &mut mac).is_err() {
        return Err(DAMAGED);
    }
    let signed = [payload.iv.as_bytes(), payload.value.as_bytes()].concat();
    // The comparison takes the same time wherever the codes differ; nothing is decrypted before.
    let key = keys
        .iter()
        .find(|key| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key.0[..]);
            hmac::verify(&key, &signed, &mac).is_ok()
        })
        .ok_or(NO_KEY_FITS)?;
    let mut in_out = Zeroizing::new(
        STANDARD
            .decode(payload.value.as_ref())
            .map_err(|_| DAMAGED)?,
    );
    let iv = FixedLength::<CBC_IV_BYTES>::try_from(iv).map_err(|_| DAMAGED)?;
    let length = UnboundCipherKey::new(&AES_256, &key.0[..])
        .and_then(PaddedBlockDecryptingKey::cbc_pkcs7)
        .and_then(|cipher| {
            cipher
                .decrypt(&mut in_out, DecryptionContext::Iv128(iv))
                .map(|plain| plain.len())
        })
        .map_err(|_| NO_KEY_FITS)?;
    in_out.truncate(length);
    Ok(in_out)
}

fn decrypt_gcm(
    keys: &[LaravelKey],
    payload: &Payload<'_>,
    iv: &[u8],
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let tag = STANDARD.decode(payload.tag.as_ref()).map_err(|_| DAMAGED)?;
    // A shorter tag would be easier to forge.
    if tag.len() != GCM_TAG_BYTES || !payload.mac.is_empty() {
        return Err(DAMAGED);
    }
    let mut sealed = STANDARD
        .decode(payload.value.as_ref())
        .map_err(|_| DAMAGED)?;
    sealed.extend_from_slice(&tag);
    for key in keys {
        let mut in_out = Zeroizing::new(sealed.clone());
        let nonce = Nonce::try_assume_unique_for_key(iv).map_err(|_| DAMAGED)?;
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
    Err(NO_KEY_FITS)
}

const UNKNOWN_CONTENT: VaultError = VaultError::Malformed(
    "the Laravel payload must hold a secret, a combined PEM text, or an array with client_secret \
     (and client_id) or with private_key and certificate",
);

/// The members that are looked at; others are the application's own business.
#[derive(Default, Deserialize)]
struct Fields {
    client_id: Option<String>,
    client_secret: Option<SecretString>,
    private_key: Option<SecretString>,
    certificate: Option<String>,
}

/// Makes a credential of this kind from what was decrypted.
pub(super) fn interpret(plain: &[u8], kind: CredentialKind) -> Result<Credential, VaultError> {
    if php::looks_serialised(plain) {
        return match php::unserialize(plain).map_err(|_| UNKNOWN_CONTENT)? {
            Php::Text(range) => interpret_text(&plain[range], kind),
            Php::Array(entries) => from_fields(php_fields(plain, &entries)?, kind),
            Php::Null | Php::Bool(_) | Php::Int(_) => Err(UNKNOWN_CONTENT),
        };
    }
    interpret_text(plain, kind)
}

fn interpret_text(plain: &[u8], kind: CredentialKind) -> Result<Credential, VaultError> {
    let json = plain.trim_ascii();
    if json.starts_with(b"{") {
        let fields = serde_json::from_slice(json).map_err(|_| UNKNOWN_CONTENT)?;
        return from_fields(fields, kind);
    }
    let text = std::str::from_utf8(plain).map_err(|_| UNKNOWN_CONTENT)?;
    match kind {
        CredentialKind::ClientSecret => {
            // The `encrypted:json` cast of a string puts it in quotes.
            let secret = if json.starts_with(b"\"") {
                serde_json::from_slice(json).map_err(|_| UNKNOWN_CONTENT)?
            } else {
                SecretString::from(text)
            };
            Ok(Credential::ClientSecret {
                secret,
                client_id: None,
            })
        }
        CredentialKind::Certificate => credential_from_pem(text),
        CredentialKind::FederatedTokenFile => Err(UNKNOWN_CONTENT),
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
        let value = std::str::from_utf8(&plain[value.clone()]).map_err(|_| UNKNOWN_CONTENT)?;
        match key {
            b"client_id" => fields.client_id = Some(value.to_owned()),
            b"client_secret" => fields.client_secret = Some(value.into()),
            b"private_key" => fields.private_key = Some(value.into()),
            _ => fields.certificate = Some(value.to_owned()),
        }
    }
    Ok(fields)
}

fn from_fields(fields: Fields, kind: CredentialKind) -> Result<Credential, VaultError> {
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
            credential_from_pem(&both)
        }
        _ => Err(UNKNOWN_CONTENT),
    }
}
