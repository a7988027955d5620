//! Reads certificate files: PEM, DER, PKCS#12 (`.pfx`), and their base64.
//!
//! The format is detected from the bytes, not from the name. Everything is converted to one PEM text, in
//! which [`credential_from_pem`] finds the pair. Errors name the command that converts an unsupported format.

use super::pem::{self, credential_from_pem, validity};
use crate::domain::credential::Credential;
use crate::domain::credential_cause::Cause;
use crate::domain::text_decoding::{self, TextError};
use crate::ports::vault::VaultError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
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
    #[error(
        "the password does not open it{}",
        if *.has_blank { "; the password begins or ends with a blank" } else { "" }
    )]
    WrongPassword { has_blank: bool },
    #[error(
        "it holds a certificate and no private key; give the key with --private-key FILE, or export the \
         certificate with its private key as .pfx"
    )]
    CertificateAlone,
    #[error(
        "there is a private key and no certificate; give the certificate's file with --certificate FILE and \
         the key's with --private-key FILE"
    )]
    KeyAlone,
    #[error(
        "it holds the request for a certificate, and no certificate; give the one that the authority made of it"
    )]
    RequestAlone,
    #[error("it holds no private key")]
    NoPrivateKey,
    #[error(
        "it is a PKCS#7 file (.p7b), which never holds a private key; export the certificate with its private key as \
         .pfx, or give {file} with --certificate and the key's file with --private-key, after making it with: {command}"
    )]
    Pkcs7 { file: String, command: String },
    #[error("{what} cannot be read here; convert it with: {command}")]
    Convert { what: &'static str, command: String },
    #[error(
        "a private key {form} cannot be read here; give {file} with --private-key, after making it with: \
         {command}"
    )]
    ConvertKey {
        form: &'static str,
        file: String,
        command: String,
    },
    #[error("it holds neither a certificate nor a private key, in PEM, DER or PKCS#12")]
    NothingFound,
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("the file of --private-key: {0}")]
    PrivateKeyFile(Box<Self>),
}

/// The credential of a file with certificate and key, or of two files with one of them each.
///
/// Of several pairs it takes the one that is valid now, and of several such the one that ends last.
pub fn credential_from_files(
    certificate: NamedFile<'_>,
    private_key: Option<NamedFile<'_>>,
    password: Option<&SecretString>,
    now: DateTime<Utc>,
) -> Result<Credential, FileError> {
    let with_keys = private_key.is_none();
    let mut found = Reader::new(certificate, password, with_keys).contents(certificate.bytes)?;
    if let Some(file) = private_key {
        let wrong = |error| FileError::PrivateKeyFile(Box::new(error));
        let reader = Reader::new(file, password, true);
        let key = reader.contents(file.bytes).map_err(wrong)?;
        if key.keys.is_empty() {
            return Err(wrong(FileError::NoPrivateKey));
        }
        found.keys = key.keys;
        found.rest.push_str(&key.rest);
    }
    let Contents { keys, rest } = found;
    match (keys.is_empty(), rest.contains(BEGIN_CERTIFICATE)) {
        (_, false) if rest.contains(REQUEST) => return Err(FileError::RequestAlone),
        (true, true) => return Err(FileError::CertificateAlone),
        (true, false) => return Err(FileError::NothingFound),
        (false, false) => return Err(FileError::KeyAlone),
        (false, true) => {}
    }
    let mut chosen = None;
    let mut best = None;
    let mut error = None;
    for key in &keys {
        let pair = Zeroizing::new([key.as_str(), rest.as_str()].concat());
        match credential_from_pem(&pair, now) {
            Ok(credential) => {
                let rank = validity(&credential).map(|validity| validity.rank(now));
                if chosen.is_none() || rank > best {
                    (chosen, best) = (Some(credential), rank);
                }
            }
            Err(why) => error = error.or(Some(why)),
        }
    }
    chosen.ok_or_else(|| error.unwrap_or_else(|| Cause::NoPrivateKey.into()).into())
}

const BEGIN_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Base64 of a sequence in DER that is longer than 255 bytes, as every certificate and RSA key is.
const LONG_DER_IN_BASE64: &str = "MII";

/// How the labels of PKCS#10 end.
const REQUEST: &str = "CERTIFICATE REQUEST-----";

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

/// 1.2.840.113549.1.7, the beginning of every content type of PKCS#7.
const PKCS7: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];

const PROTECTED: &str = "that is protected by a password in this form";

/// Reads one file.
struct Reader<'a> {
    /// The file's name as a shell takes it, for messages.
    name: String,
    password: Option<&'a SecretString>,
    /// Whether private keys are read; those of PEM are left out where another file has the key.
    with_keys: bool,
    /// Commands that turn the file into what OpenSSL reads; empty where it reads the file itself.
    filter: String,
}

impl<'a> Reader<'a> {
    fn new(file: NamedFile<'_>, password: Option<&'a SecretString>, with_keys: bool) -> Self {
        Self {
            name: quoted(file.name),
            password,
            with_keys,
            filter: String::new(),
        }
    }

    fn contents(mut self, bytes: &[u8]) -> Result<Contents, FileError> {
        let name = &self.name;
        match bytes {
            [0xfe, 0xed, 0xfe, 0xed, ..] | [0xce, 0xce, 0xce, 0xce, ..] => {
                Err(FileError::Convert {
                    what: "a Java keystore",
                    command: format!(
                        "keytool -importkeystore -srckeystore {name} -destkeystore {name}.pfx \
                         -deststoretype PKCS12"
                    ),
                })
            }
            [0x1e, 0xf1, 0xb5, 0xb0, ..] => Err(self.unread_key("in the format PVK")),
            _ => self
                .read_binary(bytes)
                .unwrap_or_else(|| self.read_text(bytes)),
        }
    }

    fn read_text(&mut self, bytes: &[u8]) -> Result<Contents, FileError> {
        let text = match text_decoding::decode(bytes) {
            Ok(text) => text,
            // Bytes that are no text are another format, not text with a wrong byte in it.
            Err(error) if bytes.windows(5).any(|five| five == b"-----") => {
                return Err(error.into());
            }
            Err(_) => return Err(FileError::NothingFound),
        };
        if text.contains("-----BEGIN ") {
            if bytes.contains(&0) {
                // UTF-16.
                self.filter = format!(r"tr -cd '\11-\176' < {} | ", self.name);
            }
            return self.read_pem(&text);
        }
        // Key Vault gives a PKCS#12 file as base64; other tools give DER so.
        let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
        base64.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
        let der = STANDARD.decode(base64.as_bytes()).map(Zeroizing::new);
        self.filter = format!("tr -cd 'A-Za-z0-9+/=' < {} | base64 -d | ", self.name);
        match der {
            Ok(der) => self
                .read_binary(&der)
                .unwrap_or(Err(FileError::NothingFound)),
            Err(error) if base64.starts_with(LONG_DER_IN_BASE64) => {
                Err(FileError::Damaged(pem::wrong_base64(error)))
            }
            Err(_) => Err(FileError::NothingFound),
        }
    }

    fn read_pem(&self, text: &str) -> Result<Contents, FileError> {
        let mut contents = Contents::default();
        for block in pem::blocks(text).map_err(VaultError::from)? {
            let is_key = block.label.ends_with("PRIVATE KEY");
            if is_key && !self.with_keys {
                continue;
            }
            match block.label {
                "PKCS7" | "PKCS #7 SIGNED DATA" => {
                    return Err(self.pkcs7(&self.filter, "pkcs7"));
                }
                "CMS" => return Err(self.pkcs7_labelled("CMS")),
                // Some authorities label it so.
                "CERTIFICATE" if block.der().is_ok_and(|der| is_pkcs7(&der)) => {
                    return Err(self.pkcs7_labelled("CERTIFICATE"));
                }
                "OPENSSH PRIVATE KEY" => return Err(self.openssh_key()),
                _ if is_key && block.is_protected => return Err(self.unread_key(PROTECTED)),
                "ENCRYPTED PRIVATE KEY" => {
                    let key = self
                        .decrypt_key(&block.der()?)
                        .map_err(|error| match error {
                            FileError::NothingFound => VaultError::from(block.damaged()).into(),
                            error => error,
                        })?;
                    contents.add("PRIVATE KEY", &key);
                }
                _ if is_key => {
                    block.der()?;
                    contents.keys.push(block.text);
                }
                // Older labels; what OpenSSL trusts the certificate for comes after it.
                "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
                    let der = block.der()?;
                    let (certificate, _) =
                        split_value(&der).ok_or(VaultError::from(Cause::CertificateUnreadable))?;
                    contents.add("CERTIFICATE", certificate);
                }
                _ => {
                    block.der()?;
                    contents.rest.push_str(&block.text);
                }
            }
        }
        Ok(contents)
    }

    /// Reads DER; names the command for BER with lengths that are not given. `None` if the bytes are neither.
    fn read_binary(&self, bytes: &[u8]) -> Option<Result<Contents, FileError>> {
        Some(match bytes {
            [0x30, 0x80, 0x02, 0x01, 0x03, ..] => Err(self.unread_pkcs12()),
            _ if is_pkcs7(bytes) => Err(self.pkcs7(&self.filter, "pkcs7 -inform DER")),
            // No text begins so.
            [0x30, 0x82, ..] if body_of(bytes).is_none() => Err(wrong_length(bytes)),
            [0x30, ..] => self.read_der(bytes, body_of(bytes)?),
            _ => return None,
        })
    }

    /// The structure is detected from its beginning, so that a key that is not RSA is reported as one.
    fn read_der(&self, der: &[u8], body: &[u8]) -> Result<Contents, FileError> {
        let mut contents = Contents::default();
        if matches!(X509Certificate::from_der(der), Ok(([], _))) {
            contents.add("CERTIFICATE", der);
            return Ok(contents);
        }
        match body {
            [0x02, 0x01, 0x03, ..] => return self.read_pkcs12(der),
            // A version, then an algorithm, a number, or a key.
            [0x02, 0x01, 0x00 | 0x01, 0x30, ..] => contents.add("PRIVATE KEY", der),
            [0x02, 0x01, 0x00 | 0x01, 0x02, ..] => contents.add("RSA PRIVATE KEY", der),
            [0x02, 0x01, 0x01, 0x04, ..] => contents.add("EC PRIVATE KEY", der),
            [0x30, ..] => contents.add("PRIVATE KEY", &self.decrypt_key(der)?),
            _ => return Err(FileError::NothingFound),
        }
        Ok(contents)
    }

    fn read_pkcs12(&self, der: &[u8]) -> Result<Contents, FileError> {
        let given = self.password.map_or("", |given| given.expose_secret());
        let archive = Pkcs12Archive::from_pkcs12(der, given).map_err(|error| match error {
            Pkcs12Error::MacError(_) | Pkcs12Error::UnpadError | Pkcs12Error::Pkcs5Error(_) => {
                self.wrong_password()
            }
            _ => self.unread_pkcs12(),
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
    fn decrypt_key(&self, der: &[u8]) -> Result<Zeroizing<Vec<u8>>, FileError> {
        let (algorithm, encrypted) = body_of(der)
            .and_then(|body| {
                let (algorithm, rest) = split_value(body)?;
                let (octets, rest) = split_value(rest)?;
                (octets[0] == 0x04 && rest.is_empty()).then_some((algorithm, body_of(octets)?))
            })
            .ok_or(FileError::NothingFound)?;
        let scheme =
            EncryptionScheme::try_from(algorithm).map_err(|_| self.unread_key(PROTECTED))?;
        let given = self.password.ok_or(FileError::PasswordNeeded)?;
        match scheme.decrypt(given.expose_secret(), encrypted) {
            Ok(key) => Ok(Zeroizing::new(key)),
            Err(pkcs5::Error::DecryptFailed) => Err(self.wrong_password()),
            Err(_) => Err(self.unread_key(PROTECTED)),
        }
    }

    fn wrong_password(&self) -> FileError {
        match self.password {
            Some(password) => FileError::WrongPassword {
                has_blank: text_decoding::has_blank_around(password.expose_secret()),
            },
            None => FileError::PasswordNeeded,
        }
    }

    fn unread_pkcs12(&self) -> FileError {
        FileError::Convert {
            what: "this PKCS#12 file",
            command: self.openssl("pkcs12 -legacy -nodes", "pem"),
        }
    }

    fn pkcs7(&self, filter: &str, command: &str) -> FileError {
        FileError::Pkcs7 {
            file: format!("{}.pem", self.name),
            command: self.openssl_behind(filter, &format!("{command} -print_certs"), "pem"),
        }
    }

    /// The same for a label of PEM under which OpenSSL looks for something else.
    fn pkcs7_labelled(&self, label: &str) -> FileError {
        let sed = format!("sed 's/ {label}-----/ PKCS7-----/'");
        let filter = match self.filter.as_str() {
            "" => format!("{sed} < {} | ", self.name),
            filter => format!("{filter}{sed} | "),
        };
        self.pkcs7(&filter, "pkcs7")
    }

    fn unread_key(&self, form: &'static str) -> FileError {
        FileError::ConvertKey {
            form,
            file: format!("{}.key", self.name),
            command: self.openssl("pkey -provider legacy -provider default", "key"),
        }
    }

    fn openssh_key(&self) -> FileError {
        let name = &self.name;
        FileError::ConvertKey {
            form: "in the format of OpenSSH",
            file: format!("{name}.key"),
            command: format!(
                "(umask 077; sed -n '/BEGIN OPENSSH/,/END OPENSSH/p' {name} > {name}.key) && \
                 ssh-keygen -p -m PKCS8 -N '' -f {name}.key"
            ),
        }
    }

    /// The command of OpenSSL 3 that makes a file beside this one, which only its owner reads.
    fn openssl(&self, command: &str, extension: &str) -> String {
        self.openssl_behind(&self.filter, command, extension)
    }

    fn openssl_behind(&self, filter: &str, command: &str, extension: &str) -> String {
        let name = &self.name;
        match filter {
            "" => format!("openssl {command} -in {name} -out {name}.{extension}"),
            filter => format!("{filter}openssl {command} -out {name}.{extension}"),
        }
    }
}

/// The error of DER whose length is not that of the file.
fn wrong_length(der: &[u8]) -> FileError {
    let announced = header_of(der).map_or(0, |(header, length)| header + length);
    let found = der.len();
    FileError::Damaged(format!(
        "it has {found} bytes and begins like one of {announced}"
    ))
}

/// Whether the bytes are PKCS#7, in DER or in BER with a length that is not given.
fn is_pkcs7(bytes: &[u8]) -> bool {
    let body = match bytes {
        [0x30, 0x80, body @ ..] => Some(body),
        [0x30, ..] => body_of(bytes),
        _ => None,
    };
    matches!(body, Some([0x06, 0x09, rest @ ..]) if rest.starts_with(PKCS7))
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
