//! The section `[credentials]`.

use secrecy::SecretString;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::PathBuf;

/// Where the keys come from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialsSettings {
    /// Keys that encrypt credentials. The first writes, all read.
    pub keys: Vec<KeyEntry>,
    /// File with more keys, one `id:base64` per line, read after `keys`. Empty: none.
    pub keys_file: PathBuf,
    /// The key file of the embedded default, used when neither `keys` nor `keys_file` has a key. Empty:
    /// beside the SQLite database.
    pub key_file: PathBuf,
    /// Keys of a Laravel application (`APP_KEY`, then `APP_PREVIOUS_KEYS`), which only read.
    pub laravel_keys: Vec<SecretString>,
}

/// One key: `"id:base64"`, or `{ id = "…", key = "base64" }`. Not yet decoded.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// As written; empty when the text had no colon.
    pub id: String,
    /// 32 bytes in base64.
    pub key: SecretString,
}

impl KeyEntry {
    /// Splits `id:base64`. Without a colon the id stays empty, which the key ring refuses with the
    /// name of the setting.
    pub fn parse(text: &str) -> Self {
        match text.trim().split_once(':') {
            Some((id, key)) => Self {
                id: id.trim().to_owned(),
                key: key.trim().to_owned().into(),
            },
            // The text may be a bare key: it must not become an id, ids are shown.
            None => Self {
                id: String::new(),
                key: text.trim().to_owned().into(),
            },
        }
    }
}

const EXPECTED: &str = "a key as \"id:base64\" or as { id = \"…\", key = \"base64\" }";

impl<'de> Deserialize<'de> for KeyEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = KeyEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyEntry, E> {
                Ok(KeyEntry::parse(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeyEntry, A::Error> {
                let (mut id, mut key) = (None, None);
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "id" if id.is_none() => id = Some(map.next_value::<String>()?),
                        "key" if key.is_none() => key = Some(map.next_value::<SecretString>()?),
                        _ => return Err(de::Error::custom(format!("must be {EXPECTED}"))),
                    }
                }
                match (id, key) {
                    (Some(id), Some(key)) => Ok(KeyEntry { id, key }),
                    _ => Err(de::Error::custom(format!("must be {EXPECTED}"))),
                }
            }
        }
        deserializer.deserialize_any(Entry)
    }
}
