//! Reads certificates and their private keys in PEM.

use crate::domain::credential::Credential;
use crate::domain::credential_cause::Cause;
use crate::domain::text_decoding;
use crate::ports::vault::VaultError;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};
use zeroize::Zeroizing;

/// Far more than a key and a chain of certificates need.
const MAX_PEM_BYTES: usize = 64 * 1024;

/// One block between `-----BEGIN …-----` and `-----END …-----`.
pub(super) struct Block<'a> {
    pub label: &'a str,
    /// The block without surrounding text.
    pub text: Zeroizing<String>,
    base64: Zeroizing<String>,
}

impl Block<'_> {
    pub(super) fn der(&self) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let der = STANDARD.decode(self.base64.as_bytes());
        Ok(Zeroizing::new(der.map_err(|_| Cause::PemDamaged)?))
    }
}

/// Reads a credential from a PEM text that contains a private key and its certificate, in any order, with a
/// chain or remarks around them. The key is PKCS#8 or PKCS#1, RSA and not encrypted.
pub fn credential_from_pem(pem: &str) -> Result<Credential, VaultError> {
    let blocks = short_blocks(pem)?;
    for block in &blocks {
        block.der()?;
    }
    let mut keys = blocks
        .iter()
        .filter(|block| block.label.ends_with("PRIVATE KEY"));
    let key = keys.next().ok_or(Cause::NoPrivateKey)?;
    if keys.next().is_some() {
        return Err(Cause::SeveralKeys.into());
    }
    let pair = rsa_key(key)?;
    let mut certificates = blocks
        .iter()
        .filter(|b| b.label == "CERTIFICATE")
        .peekable();
    certificates.peek().ok_or(Cause::NoCertificate)?;
    for certificate in certificates {
        if certifies(&parse_certificate(&certificate.der()?)?, &pair) {
            return Ok(Credential::Certificate {
                private_key_pem: SecretString::from(key.text.as_str()),
                certificate_pem: certificate.text.to_string(),
            });
        }
    }
    Err(Cause::KeyMismatch.into())
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// Returns the validity of the credential's certificate; `None` for other kinds, and for an invalid
/// certificate.
pub fn validity(credential: &Credential) -> Option<Validity> {
    let Credential::Certificate {
        private_key_pem,
        certificate_pem,
    } = credential
    else {
        return None;
    };
    check(private_key_pem, certificate_pem).ok()
}

/// Checks that key and certificate can be parsed and belong together; returns the certificate's validity.
pub(super) fn check(
    private_key_pem: &SecretString,
    certificate_pem: &str,
) -> Result<Validity, VaultError> {
    let keys = short_blocks(private_key_pem.expose_secret())?;
    let pair = rsa_key(keys.first().ok_or(Cause::NoPrivateKey)?)?;
    let certificates = short_blocks(certificate_pem)?;
    let certificate = certificates.first().ok_or(Cause::NoCertificate)?;
    if certificate.label != "CERTIFICATE" {
        return Err(Cause::NoCertificate.into());
    }
    let der = certificate.der()?;
    let certificate = parse_certificate(&der)?;
    if !certifies(&certificate, &pair) {
        return Err(Cause::KeyMismatch.into());
    }
    let at = |time: ASN1Time| {
        DateTime::from_timestamp(time.timestamp(), 0).ok_or(Cause::CertificateUnreadable)
    };
    Ok(Validity {
        from: at(certificate.validity().not_before)?,
        until: at(certificate.validity().not_after)?,
    })
}

fn rsa_key(block: &Block<'_>) -> Result<KeyPair, VaultError> {
    let pair = match block.label {
        "PRIVATE KEY" => KeyPair::from_pkcs8(&block.der()?),
        "RSA PRIVATE KEY" => KeyPair::from_der(&block.der()?),
        "ENCRYPTED PRIVATE KEY" => {
            return Err(Cause::KeyProtected.into());
        }
        label if label.ends_with("PRIVATE KEY") => return Err(Cause::KeyNotRsa.into()),
        _ => return Err(Cause::NoPrivateKey.into()),
    };
    pair.map_err(|_| Cause::KeyNotRsa.into())
}

fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, VaultError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Cause::CertificateUnreadable.into()),
    }
}

fn certifies(certificate: &X509Certificate<'_>, pair: &KeyPair) -> bool {
    // Both are the RSAPublicKey of PKCS#1, in DER.
    certificate.public_key().subject_public_key.data.as_ref() == pair.public_key().as_ref()
}

fn short_blocks(pem: &str) -> Result<Vec<Block<'_>>, VaultError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(Cause::PemTooLong.into());
    }
    Ok(blocks(pem)?)
}

/// Splits a text into its blocks; what surrounds them is left out. A block with headers is
/// [`Cause::KeyProtected`].
pub(super) fn blocks(pem: &str) -> Result<Vec<Block<'_>>, Cause> {
    let mut found = Vec::new();
    let mut lines = text_decoding::without_byte_order_mark(pem)
        .lines()
        .map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = between(line, "-----BEGIN ") else {
            continue;
        };
        // Reserved at once, so that no freed memory keeps a part of the key.
        let mut base64 = Zeroizing::new(String::with_capacity(pem.len()));
        let mut text = Zeroizing::new(String::with_capacity(pem.len() + 2));
        text.push_str(line);
        text.push('\n');
        loop {
            let line = lines.next().ok_or(Cause::PemDamaged)?;
            if line.contains(':') {
                // Headers inside of a block exist only where a password protects it.
                return Err(Cause::KeyProtected);
            }
            text.push_str(line);
            text.push('\n');
            match between(line, "-----END ") {
                Some(end) if end == label => break,
                Some(_) => return Err(Cause::PemDamaged),
                None => base64.push_str(line),
            }
        }
        found.push(Block {
            label,
            text,
            base64,
        });
    }
    Ok(found)
}

fn between<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    line.strip_prefix(begin)?.strip_suffix("-----")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::LazyLock;

    /// An RSA key (PKCS#8) and a certificate for it that ends with the year 2031.
    pub(in crate::credentials) static PAIR: LazyLock<(String, String)> = LazyLock::new(make);

    fn make() -> (String, String) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["verifyd.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2031, 12, 31);
        let certificate = params.self_signed(&key).unwrap();
        (key.serialize_pem(), certificate.pem())
    }

    fn why(result: Result<Credential, VaultError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let (key, certificate) = &*PAIR;
        let (_, other) = make();
        let ec = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let legacy = key.replacen(
            "KEY-----\n",
            "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
            1,
        );
        for (text, expected) in [
            (String::new(), "no private key"),
            (certificate.clone(), "no private key"),
            (key.clone(), "no certificate"),
            (format!("{key}{other}"), "differ"),
            (format!("{key}{key}{certificate}"), "more than one"),
            (format!("{ec}{certificate}"), "RSA"),
            (format!("{encrypted}{certificate}"), "password"),
            (format!("{legacy}{certificate}"), "password"),
            (format!("{certificate}{}", &key[..key.len() / 2]), "damaged"),
            (
                format!("{key}{}", certificate.replacen('M', "!", 1)),
                "damaged",
            ),
            (" ".repeat(MAX_PEM_BYTES + 1), "too long"),
        ] {
            let why = why(credential_from_pem(&text));
            assert!(why.contains(expected), "{expected}: {why}");
        }
        let broken = certificate.replacen("MII", "AII", 1);
        assert!(why(credential_from_pem(&format!("{key}{broken}"))).contains("cannot be parsed"));
    }
}
