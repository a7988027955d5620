//! The plain text of a credential: JSON by kind.

use crate::domain::credential::Credential;
use crate::domain::credential_cause::Cause;
use crate::ports::vault::VaultError;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Externally tagged, because serde reads every other form of an enum through a buffer that is not wiped.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Plain<'a> {
    ClientSecret {
        client_secret: Cow<'a, str>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_id: Option<Cow<'a, str>>,
    },
    Certificate {
        private_key: Cow<'a, str>,
        certificate: Cow<'a, str>,
    },
    FederatedTokenFile {
        path: Cow<'a, str>,
    },
}

/// The JSON of a credential, wiped when dropped.
pub(super) fn write(credential: &Credential) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let (plain, length) = match credential {
        Credential::ClientSecret { secret, client_id } => (
            Plain::ClientSecret {
                client_secret: secret.expose_secret().into(),
                client_id: client_id.as_deref().map(Cow::from),
            },
            secret.expose_secret().len() + client_id.as_ref().map_or(0, String::len),
        ),
        Credential::Certificate {
            private_key_pem,
            certificate_pem,
        } => (
            Plain::Certificate {
                private_key: private_key_pem.expose_secret().into(),
                certificate: certificate_pem.as_str().into(),
            },
            private_key_pem.expose_secret().len() + certificate_pem.len(),
        ),
        Credential::FederatedTokenFile { path } => {
            let path = path.to_str().ok_or(Cause::PathNotText)?;
            (Plain::FederatedTokenFile { path: path.into() }, path.len())
        }
    };
    // JSON's escapes take at most six bytes for one: the buffer never grows, so no freed memory contains a
    // part of the secret.
    let mut json = Zeroizing::new(Vec::with_capacity(6 * length + 128));
    serde_json::to_writer(&mut *json, &plain).map_err(|_| Cause::NotWritable)?;
    Ok(json)
}

/// The credential of a JSON that [`write`] made.
pub(super) fn read(json: &[u8]) -> Result<Credential, VaultError> {
    let plain: Plain<'_> = serde_json::from_slice(json).map_err(|_| Cause::UnknownContent)?;
    Ok(match plain {
        Plain::ClientSecret {
            client_secret,
            client_id,
        } => Credential::ClientSecret {
            secret: SecretString::from(client_secret.into_owned()),
            client_id: client_id.map(Cow::into_owned),
        },
        Plain::Certificate {
            private_key,
            certificate,
        } => Credential::Certificate {
            private_key_pem: SecretString::from(private_key.into_owned()),
            certificate_pem: certificate.into_owned(),
        },
        Plain::FederatedTokenFile { path } => Credential::FederatedTokenFile {
            path: PathBuf::from(path.into_owned()),
        },
    })
}
