//! Reads certificate files: PEM, DER, PKCS#12 (`.pfx`), and their base64.
//!
//! The format is detected from the bytes, not from the name. Everything is converted to one PEM text, in
//! which [`credential_from_pem`] finds the pair. Errors name the command that converts an unsupported format.

use super::pem::{self, credential_from_pem};
use crate::domain::credential::Credential;
use crate::domain::credential_cause::Cause;
use crate::domain::text_decoding::{self, TextError};
use crate::ports::vault::VaultError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p12_keystore::{Pkcs12Archive, error::Error as Pkcs12Error};
use pkcs5::EncryptionScheme;
use secrecy::{ExposeSecret, SecretString};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// A file with its name, which only messages use.
#[derive(Clone, Copy, Debug)]
pub struct NamedFile<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
}

/// Why files give no certificate with its key. Never quotes any of their content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Unusable(#[from] VaultError),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(
        "it is protected by a password; give it with --certificate-password-file FILE or \
         --certificate-password-stdin"
    )]
    PasswordNeeded,
    #[error("the password does not open it")]
    WrongPassword,
    #[error(
        "it holds a certificate and no private key; give the key with --private-key FILE, or export the \
         certificate with its private key as .pfx"
    )]
    CertificateAlone,
    #[error(
        "it is a PKCS#7 file (.p7b), which never holds a private key; export the certificate with its private key as .pfx"
    )]
    Pkcs7,
    #[error("{what} cannot be read here; convert it with: {command}")]
    Convert { what: &'static str, command: String },
    #[error("it is neither PEM, nor DER, nor PKCS#12")]
    UnknownFormat,
}

/// The credential of a file with certificate and key, or of two files with one of them each.
pub fn credential_from_files(
    certificate: NamedFile<'_>,
    private_key: Option<NamedFile<'_>>,
    password: Option<&SecretString>,
) -> Result<Credential, FileError> {
    let found = contents(certificate, password)?;
    let Contents { keys, mut rest } = match private_key {
        None => found,
        Some(file) => {
            let key = contents(file, password)?;
            let mut rest = found.rest;
            rest.push_str(&key.rest);
            // The one that was named, whatever else there is.
            let keys = if key.keys.is_empty() {
                found.keys
            } else {
                key.keys
            };
            Contents { keys, rest }
        }
    };
    if keys.len() <= 1 {
        let has_certificate = rest.contains(BEGIN_CERTIFICATE);
        if let Some(key) = keys.first() {
            rest.push_str(key);
        } else if has_certificate {
            return Err(FileError::CertificateAlone);
        }
        return Ok(credential_from_pem(&rest)?);
    }
    // Of several keys the one that a certificate belongs to.
    let mut error = None;
    for key in &keys {
        let pair = Zeroizing::new(format!("{}{}", key.as_str(), rest.as_str()));
        match credential_from_pem(&pair) {
            Ok(credential) => return Ok(credential),
            Err(why) => error = error.or(Some(why)),
        }
    }
    Err(error.unwrap_or_else(|| Cause::NoPrivateKey.into()).into())
}

const BEGIN_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// The content of a file, as PEM.
#[derive(Default)]
struct Contents {
    /// Private keys without a password.
    keys: Vec<Zeroizing<String>>,
    /// Certificates, and blocks that are neither.
    rest: Zeroizing<String>,
}

impl Contents {
    fn add(&mut self, label: &str, der: &[u8]) {
        let text = to_pem(label, der);
        if label.ends_with("PRIVATE KEY") {
            self.keys.push(text);
        } else {
            self.rest.push_str(&text);
        }
    }
}

fn contents(file: NamedFile<'_>, password: Option<&SecretString>) -> Result<Contents, FileError> {
    match file.bytes {
        [0x30, ..] if body_of(file.bytes).is_some() => from_der(file, password),
        [0xfe, 0xed, 0xfe, 0xed, ..] | [0xce, 0xce, 0xce, 0xce, ..] => Err(FileError::Convert {
            what: "a Java keystore",
            command: format!(
                "keytool -importkeystore -srckeystore {0} -destkeystore {0}.pfx -deststoretype PKCS12",
                quoted(file.name)
            ),
        }),
        _ => from_text(file, password),
    }
}

fn from_text(file: NamedFile<'_>, password: Option<&SecretString>) -> Result<Contents, FileError> {
    let text = match text_decoding::decode(file.bytes) {
        Ok(text) => text,
        // Bytes that are no text are another format, not text with a wrong byte in it.
        Err(error) if file.bytes.windows(5).any(|five| five == b"-----") => {
            return Err(error.into());
        }
        Err(_) => return Err(FileError::UnknownFormat),
    };
    if text.contains("-----BEGIN ") {
        return from_pem(file.name, &text, password);
    }
    // Key Vault gives a PKCS#12 file as base64; other tools give DER so.
    let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
    base64.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
    match STANDARD.decode(base64.as_bytes()).map(Zeroizing::new) {
        Ok(der) if der.first() == Some(&0x30) && body_of(&der).is_some() => {
            let file = NamedFile {
                name: file.name,
                bytes: &der,
            };
            from_der(file, password)
        }
        _ => Err(FileError::UnknownFormat),
    }
}

fn from_pem(
    name: &str,
    text: &str,
    password: Option<&SecretString>,
) -> Result<Contents, FileError> {
    let beside = match text.contains(BEGIN_CERTIFICATE) {
        true => Beside::Certificate,
        false => Beside::Nothing,
    };
    let blocks = pem::blocks(text).map_err(|cause| match cause {
        Cause::KeyProtected => plain_key(name, beside),
        other => VaultError::from(other).into(),
    })?;
    let mut contents = Contents::default();
    for block in blocks {
        match block.label {
            "PKCS7" | "CMS" => return Err(FileError::Pkcs7),
            "OPENSSH PRIVATE KEY" => {
                return Err(FileError::Convert {
                    what: "a private key in the format of OpenSSH",
                    command: format!("ssh-keygen -p -m PKCS8 -f {}", quoted(name)),
                });
            }
            "ENCRYPTED PRIVATE KEY" => {
                let key = decrypt_key(name, &block.der()?, password, beside)?;
                contents.add("PRIVATE KEY", &key);
            }
            label if label.ends_with("PRIVATE KEY") => contents.keys.push(block.text),
            _ => contents.rest.push_str(&block.text),
        }
    }
    Ok(contents)
}

/// The structure is detected from its beginning, so that a key that is not RSA is reported as one.
fn from_der(file: NamedFile<'_>, password: Option<&SecretString>) -> Result<Contents, FileError> {
    let mut contents = Contents::default();
    if matches!(X509Certificate::from_der(file.bytes), Ok(([], _))) {
        contents.add("CERTIFICATE", file.bytes);
        return Ok(contents);
    }
    match body_of(file.bytes).unwrap_or_default() {
        [0x02, 0x01, 0x03, ..] => return from_pkcs12(file, password),
        // A version, then an algorithm, a number, or a key.
        [0x02, 0x01, 0x00 | 0x01, 0x30, ..] => contents.add("PRIVATE KEY", file.bytes),
        [0x02, 0x01, 0x00 | 0x01, 0x02, ..] => contents.add("RSA PRIVATE KEY", file.bytes),
        [0x02, 0x01, 0x01, 0x04, ..] => contents.add("EC PRIVATE KEY", file.bytes),
        [0x06, 0x09, rest @ ..] if rest.starts_with(PKCS7) => return Err(FileError::Pkcs7),
        [0x30, ..] => {
            let key = decrypt_key(file.name, file.bytes, password, Beside::Nothing)?;
            contents.add("PRIVATE KEY", &key);
        }
        _ => return Err(FileError::UnknownFormat),
    }
    Ok(contents)
}

/// 1.2.840.113549.1.7, the beginning of every content type of PKCS#7.
const PKCS7: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];

fn from_pkcs12(
    file: NamedFile<'_>,
    password: Option<&SecretString>,
) -> Result<Contents, FileError> {
    let given = password.map_or("", |password| password.expose_secret());
    let archive = Pkcs12Archive::from_pkcs12(file.bytes, given).map_err(|error| match error {
        Pkcs12Error::MacError(_) | Pkcs12Error::UnpadError | Pkcs12Error::Pkcs5Error(_) => {
            wrong_password(password)
        }
        _ => FileError::Convert {
            what: "this PKCS#12 file",
            command: format!(
                "openssl pkcs12 -in {0} -out {0}.pem -nodes",
                quoted(file.name)
            ),
        },
    })?;
    let mut contents = Contents::default();
    for key in &archive.keys {
        contents.add("PRIVATE KEY", key.key.as_der());
    }
    for certificate in &archive.certs {
        contents.add("CERTIFICATE", certificate.cert.as_der());
    }
    Ok(contents)
}

/// The PKCS#8 key of an `EncryptedPrivateKeyInfo`: an algorithm, and what it encrypted.
fn decrypt_key(
    name: &str,
    der: &[u8],
    password: Option<&SecretString>,
    beside: Beside,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let (algorithm, encrypted) = body_of(der)
        .and_then(|body| {
            let (algorithm, rest) = split_value(body)?;
            let (octets, rest) = split_value(rest)?;
            (octets[0] == 0x04 && rest.is_empty()).then_some((algorithm, body_of(octets)?))
        })
        .ok_or(FileError::UnknownFormat)?;
    let scheme = EncryptionScheme::try_from(algorithm).map_err(|_| plain_key(name, beside))?;
    let given = password.ok_or(FileError::PasswordNeeded)?.expose_secret();
    match scheme.decrypt(given, encrypted) {
        Ok(key) => Ok(Zeroizing::new(key)),
        Err(pkcs5::Error::DecryptFailed) => Err(wrong_password(password)),
        Err(_) => Err(plain_key(name, beside)),
    }
}

fn wrong_password(password: Option<&SecretString>) -> FileError {
    match password {
        Some(_) => FileError::WrongPassword,
        None => FileError::PasswordNeeded,
    }
}

/// The content of a file without a key, and what the converted file has to contain.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Certificate,
}

/// For keys that are encrypted in a way that is not read here.
fn plain_key(name: &str, beside: Beside) -> FileError {
    let name = quoted(name);
    FileError::Convert {
        what: "a private key that is protected by a password in this form",
        command: match beside {
            Beside::Nothing => format!("openssl pkey -in {name} -out {name}.plain.pem"),
            Beside::Certificate => {
                format!("(openssl x509 -in {name}; openssl pkey -in {name}) > {name}.plain.pem")
            }
        },
    }
}

/// Splits DER into its first value with the header, and the rest.
fn split_value(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, length) = header_of(der)?;
    der.split_at_checked(header.checked_add(length)?)
}

/// Returns the content of the single value that the bytes encode.
fn body_of(der: &[u8]) -> Option<&[u8]> {
    let (header, length) = header_of(der)?;
    let body = der.get(header..)?;
    (body.len() == length).then_some(body)
}

/// Bytes of the header, and of what follows it.
fn header_of(der: &[u8]) -> Option<(usize, usize)> {
    match *der.get(1)? {
        short @ 0..=0x7f => Some((2, usize::from(short))),
        long @ 0x81..=0x84 => {
            let bytes = usize::from(long - 0x80);
            let length = der
                .get(2..2 + bytes)?
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            Some((2 + bytes, length))
        }
        _ => None,
    }
}

fn to_pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    // Never moved while it grows.
    let mut pem = Zeroizing::new(String::with_capacity(
        base64.len() + base64.len() / 64 + 2 * label.len() + 40,
    ));
    pem.push_str("-----BEGIN ");
    pem.push_str(label);
    pem.push_str("-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = behind;
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

/// The name as a shell takes it.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
