//! Reads certificates and their private keys in PEM.

use crate::domain::credential::Credential;
use crate::domain::credential_cause::{Cause, Flaw};
use crate::domain::text_decoding;
use crate::ports::vault::VaultError;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::KeyPair as _;
use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
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
    /// Headers inside of a block exist only where a password protects it.
    pub is_protected: bool,
    base64: Zeroizing<String>,
}

impl Block<'_> {
    pub(super) fn der(&self) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        if self.is_protected {
            return Err(Cause::KeyProtected.into());
        }
        let der = STANDARD.decode(self.base64.as_bytes());
        let der = der.map_err(|error| damaged(self.label, &wrong_base64(error)))?;
        Ok(Zeroizing::new(der))
    }

    /// The flaw of a block whose content is not what its label says.
    pub(super) fn damaged(&self) -> Flaw {
        damaged(self.label, "its content is not what it says")
    }
}

/// What is wrong with base64. Quotes nothing of it.
pub(super) fn wrong_base64(error: DecodeError) -> String {
    match error {
        DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => {
            format!("character {} of its base64 is wrong", at + 1)
        }
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => {
            "its base64 is cut off".to_owned()
        }
    }
}

fn damaged(label: &str, what: &str) -> Flaw {
    let is_label = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || " #".contains(c);
    let is_known = label.len() <= 40 && label.chars().all(is_label);
    Flaw {
        cause: Cause::PemDamaged,
        // What stands in place of a label may be a part of the key.
        found: Some(match is_known {
            true => format!("the block {label}: {what}"),
            false => what.to_owned(),
        }),
    }
}

/// Reads a credential from a PEM text that contains a private key and its certificate, in any order, with a
/// chain or remarks around them. The key is PKCS#8 or PKCS#1, RSA and not encrypted. Of several certificates of
/// the key it takes the one that is valid now, and of several such the one that ends last.
pub fn credential_from_pem(pem: &str, now: DateTime<Utc>) -> Result<Credential, VaultError> {
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
    let mut unreadable = None;
    let mut chosen: Option<(&Block<'_>, (bool, DateTime<Utc>))> = None;
    for certificate in certificates {
        match validity_for(certificate, &pair) {
            Ok(Some(validity)) => {
                let rank = validity.rank(now);
                if chosen.is_none_or(|(_, best)| rank > best) {
                    chosen = Some((certificate, rank));
                }
            }
            Ok(None) => {}
            Err(error) => unreadable = unreadable.or(Some(error)),
        }
    }
    match chosen {
        Some((certificate, _)) => Ok(Credential::Certificate {
            private_key_pem: SecretString::from(key.text.as_str()),
            certificate_pem: certificate.text.to_string(),
        }),
        None => Err(unreadable.unwrap_or_else(|| Cause::KeyMismatch.into())),
    }
}

/// Returns the validity of a certificate; `None` if it is another key's.
fn validity_for(block: &Block<'_>, pair: &KeyPair) -> Result<Option<Validity>, VaultError> {
    let der = block.der()?;
    let certificate = parse_certificate(&der)?;
    match certifies(&certificate, pair) {
        true => Validity::of(&certificate).map(Some),
        false => Ok(None),
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

impl Validity {
    fn of(certificate: &X509Certificate<'_>) -> Result<Self, VaultError> {
        let at = |time: ASN1Time| {
            DateTime::from_timestamp(time.timestamp(), 0).ok_or(Cause::CertificateUnreadable)
        };
        let from = at(certificate.validity().not_before)?;
        let until = at(certificate.validity().not_after)?;
        match from <= until {
            true => Ok(Self { from, until }),
            false => Err(Cause::CertificateNeverValid.into()),
        }
    }

    /// Orders certificates: the one that is valid now comes last, and of several the one that ends last.
    pub(super) fn rank(&self, now: DateTime<Utc>) -> (bool, DateTime<Utc>) {
        (self.from <= now && now < self.until, self.until)
    }
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
    validity_for(certificate, &pair)?.ok_or_else(|| Cause::KeyMismatch.into())
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

/// Splits a text into its blocks; what surrounds them is left out. A line may end with CR alone.
pub(super) fn blocks(pem: &str) -> Result<Vec<Block<'_>>, Flaw> {
    let mut found = Vec::new();
    let mut lines = text_decoding::without_byte_order_mark(pem)
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|line| !line.is_empty());
    while let Some(line) = lines.next() {
        let Some(label) = between(line, "-----BEGIN ") else {
            continue;
        };
        let no_end = || damaged(label, "its last line is missing");
        // Reserved at once, so that no freed memory keeps a part of the key.
        let mut base64 = Zeroizing::new(String::with_capacity(pem.len()));
        let mut text = Zeroizing::new(String::with_capacity(pem.len() + 2));
        text.push_str(line);
        text.push('\n');
        let mut is_protected = false;
        loop {
            let line = lines.next().ok_or_else(no_end)?;
            is_protected |= line.contains(':');
            text.push_str(line);
            text.push('\n');
            match between(line, "-----END ") {
                Some(end) if end == label => break,
                Some(_) => return Err(no_end()),
                None => base64.push_str(line),
            }
        }
        found.push(Block {
            label,
            text,
            is_protected,
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
    use crate::domain::time_input;
    use std::sync::LazyLock;

    /// An RSA key (PKCS#8) and a certificate for it that ends with the year 2031.
    pub(in crate::credentials) static PAIR: LazyLock<(String, String)> = LazyLock::new(make);

    fn make() -> (String, String) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let certificate = certificate_of(&key, 2020, 2031);
        (key.serialize_pem(), certificate)
    }

    /// A certificate of the key from the first day of one year to the last day of another.
    pub(in crate::credentials) fn certificate_of(
        key: &rcgen::KeyPair,
        from: i32,
        until: i32,
    ) -> String {
        let mut params = rcgen::CertificateParams::new(vec!["verifyd.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 12, 31);
        params.self_signed(key).unwrap().pem()
    }

    fn first_day_of(year: i32) -> DateTime<Utc> {
        time_input::since(&format!("{year}-01-01")).unwrap()
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
            (
                format!("{certificate}{}", &key[..key.len() / 2]),
                "damaged (the block PRIVATE KEY: its last line is missing)",
            ),
            (
                format!("{key}{}", certificate.replacen("\nMII", "\nM!I", 1)),
                "damaged (the block CERTIFICATE: character 2 of its base64 is wrong)",
            ),
            (
                format!(
                    "{certificate}-----BEGIN PRIVATE KEY-----\nMIIEv\n-----END PRIVATE KEY-----\n"
                ),
                "damaged (the block PRIVATE KEY: its base64 is cut off)",
            ),
            (
                format!(
                    "{certificate}{}",
                    key.replace("BEGIN PRIVATE", "BEGIN Canary PRIVATE")
                ),
                "damaged (its last line is missing)",
            ),
            (" ".repeat(MAX_PEM_BYTES + 1), "too long"),
        ] {
            let why = why(credential_from_pem(&text, first_day_of(2026)));
            assert!(why.contains(expected), "{expected}: {why}");
        }
        let broken = format!("{key}{}", certificate.replacen("MII", "AII", 1));
        let own = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let reversed = format!(
            "{}{}",
            own.serialize_pem(),
            certificate_of(&own, 2031, 2029)
        );
        for (text, expected) in [
            (broken, "cannot be parsed"),
            (reversed, "ends before it begins to be valid"),
        ] {
            let why = why(credential_from_pem(&text, first_day_of(2026)));
            assert!(why.contains(expected), "{expected}: {why}");
        }
    }

    #[test]
    fn of_several_certificates_of_the_key_the_valid_one_that_ends_last_is_taken() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let [expired, valid, longer, later] =
            [(2001, 2002), (2020, 2030), (2021, 2031), (2040, 2050)]
                .map(|(from, until)| certificate_of(&key, from, until));
        let key = key.serialize_pem();
        let (_, other) = &*PAIR;
        let broken = other.replacen("MII", "AII", 1);
        for (certificates, expected) in [
            ([&expired, &valid, other], &valid),
            ([&longer, &valid, &expired], &longer),
            ([&valid, &longer, &later], &longer),
            ([&later, &valid, &broken], &valid),
            ([&broken, other, &expired], &expired),
            ([&expired, &later, other], &later),
        ] {
            let [first, second, third] = certificates;
            let pem = format!("{first}{second}{key}{third}");
            match credential_from_pem(&pem, first_day_of(2026)) {
                Ok(Credential::Certificate {
                    certificate_pem, ..
                }) => assert_eq!(certificate_pem.trim(), expected.trim()),
                other => panic!("{other:?}"),
            }
        }
    }
}
