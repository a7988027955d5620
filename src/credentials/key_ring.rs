//! The keys for credentials: one of them encrypts, all of them decrypt.

use super::key_file;
use super::laravel::LaravelKey;
use super::settings::{CredentialsSettings, KeyEntry};
use crate::domain::text_decoding;
use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Length of a key, in bytes.
pub(super) const KEY_BYTES: usize = 32;
/// Longest key id, in characters.
const KEY_ID_CHARS: usize = 40;

const KEY_FORM: &str = "an id of 1 to 40 letters, digits, '-' or '_', a colon, and 32 random bytes \
                        in base64 (make one with: openssl rand -base64 32)";

/// Why the configured keys cannot be used. Names the setting or the file, never a value.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key in the configuration.
    #[error("{setting}: {problem}")]
    Setting { setting: String, problem: String },
    /// A key file.
    #[error("{setting}: {}: {problem}", path.display())]
    File {
        setting: &'static str,
        path: PathBuf,
        problem: String,
    },
}

/// A key and its name.
pub(super) struct Key {
    pub(super) id: String,
    pub(super) cipher: RandomizedNonceKey,
}

/// The keys of this installation. `Debug` shows their ids only.
pub struct KeyRing {
    /// The first one writes.
    keys: Vec<Key>,
    laravel: Vec<LaravelKey>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("keys", &self.ids())
            .field("laravel", &self.laravel.len())
            .finish()
    }
}

impl KeyRing {
    /// Reads the keys of `keys` and `keys_file`, in this order, and the Laravel keys. Without any key nothing
    /// can be sealed.
    pub fn from_settings(settings: &CredentialsSettings) -> Result<Self, KeyError> {
        let mut ring = Self {
            keys: Vec::new(),
            laravel: Vec::new(),
        };
        for (index, entry) in settings.keys.iter().enumerate() {
            ring.add(entry).map_err(|problem| KeyError::Setting {
                setting: format!("credentials.keys[{index}]"),
                problem,
            })?;
        }
        if !settings.keys_file.as_os_str().is_empty() {
            ring.add_file("credentials.keys_file", &settings.keys_file)?;
        }
        for (index, key) in settings.laravel_keys.iter().enumerate() {
            let key = LaravelKey::parse(key).map_err(|problem| KeyError::Setting {
                setting: format!("credentials.laravel_keys[{index}]"),
                problem: problem.to_owned(),
            })?;
            ring.laravel.push(key);
        }
        Ok(ring)
    }

    fn add_file(&mut self, setting: &'static str, path: &Path) -> Result<(), KeyError> {
        let text = key_file::read_text(path).map_err(|error| KeyError::File {
            setting,
            path: path.to_owned(),
            problem: format!("cannot be read: {error}"),
        })?;
        self.add_lines(setting, path, &text)
    }

    /// Adds the keys of a file's text: one `id:base64` per line; empty lines and lines that begin with `#`
    /// are ignored.
    pub(super) fn add_lines(
        &mut self,
        setting: &'static str,
        path: &Path,
        text: &str,
    ) -> Result<(), KeyError> {
        let file = |problem: String| KeyError::File {
            setting,
            path: path.to_owned(),
            problem,
        };
        let before = self.keys.len();
        for (index, line) in text_decoding::lines(text).enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            self.add(&KeyEntry::parse(line))
                .map_err(|problem| file(format!("line {}: {problem}", index + 1)))?;
        }
        if self.keys.len() == before {
            return Err(file(format!("holds no key; a line must be {KEY_FORM}")));
        }
        Ok(())
    }

    fn add(&mut self, entry: &KeyEntry) -> Result<(), String> {
        if entry.id == "base64" {
            return Err(
                "looks like a Laravel key, which belongs into credentials.laravel_keys; here must \
                 be an id of your choice, a colon, and 32 random bytes in base64"
                    .to_owned(),
            );
        }
        if !is_key_id(&entry.id) {
            return Err(format!("must be {KEY_FORM}"));
        }
        if self.keys.iter().any(|key| key.id == entry.id) {
            return Err(format!(
                "the key id {:?} is used twice; every key needs an id of its own",
                entry.id
            ));
        }
        let bytes = decode_key(&entry.key)
            .ok_or_else(|| format!("key {:?} must be {KEY_FORM}", entry.id))?;
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &bytes[..])
            .map_err(|_| "the key was refused by the cipher".to_owned())?;
        self.keys.push(Key {
            id: entry.id.clone(),
            cipher,
        });
        Ok(())
    }

    /// The key that writes.
    pub(super) fn writer(&self) -> Option<&Key> {
        self.keys.first()
    }

    /// The key with this id.
    pub(super) fn key(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    pub(super) fn laravel(&self) -> &[LaravelKey] {
        &self.laravel
    }

    /// Whether there is no key to write with.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Ids, the key that writes first.
    pub fn ids(&self) -> Vec<&str> {
        self.keys.iter().map(|key| key.id.as_str()).collect()
    }
}

/// Returns whether the text may be the id of a key. The id is between dots in the envelope and between bars
/// in the associated data, so it may contain neither.
pub(super) fn is_key_id(text: &str) -> bool {
    (1..=KEY_ID_CHARS).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// 32 bytes from base64, or nothing.
pub(super) fn decode_key(text: &SecretString) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let bytes = Zeroizing::new(STANDARD.decode(text.expose_secret().trim()).ok()?);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if bytes.len() != KEY_BYTES {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(key)
}
