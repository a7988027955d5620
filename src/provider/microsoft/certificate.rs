//! The certificate that signs assertions, with its private key.

use chrono::{DateTime, Utc};
use jsonwebtoken::EncodingKey;
use secrecy::{ExposeSecret, SecretString};
use x509_parser::pem::Pem;
use x509_parser::public_key::PublicKey;

/// Why a certificate cannot be used. Never quotes any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    /// Path of the member.
    pub field: &'static str,
    /// What is allowed.
    pub expected: &'static str,
}

const CERTIFICATE: Unusable = Unusable {
    field: "credential.certificate",
    expected: "an X.509 certificate with an RSA key, in PEM",
};
const NEVER_VALID: Unusable = Unusable {
    field: "credential.certificate",
    expected: "a certificate that begins to be valid before it ends",
};
const PRIVATE_KEY: Unusable = Unusable {
    field: "credential.private_key",
    expected: "an unencrypted RSA private key of at least 2048 bits, PKCS#8 or PKCS#1, in PEM",
};
const PAIR: Unusable = Unusable {
    field: "credential.private_key",
    expected: "the private key that belongs to the certificate",
};

/// An RSA certificate with the private key that belongs to it.
pub(super) struct SigningCertificate {
    pub key: EncodingKey,
    /// SHA-256 over the certificate's DER.
    pub thumbprint: [u8; 32],
    /// The certificate's own start and end.
    pub not_before: DateTime<Utc>,
    pub not_after: DateTime<Utc>,
}

impl std::fmt::Debug for SigningCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningCertificate")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl SigningCertificate {
    /// Parses both and checks that they belong together.
    pub fn parse(private_key_pem: &SecretString, certificate_pem: &str) -> Result<Self, Unusable> {
        let der = leaf_der(certificate_pem)?;
        let (rest, certificate) =
            x509_parser::parse_x509_certificate(&der).map_err(|_| CERTIFICATE)?;
        if !rest.is_empty() {
            return Err(CERTIFICATE);
        }
        let spki = certificate.public_key();
        let Ok(PublicKey::RSA(_)) = spki.parsed() else {
            return Err(CERTIFICATE);
        };
        let key = EncodingKey::from_rsa_pem(private_key_pem.expose_secret().as_bytes())
            .map_err(|_| PRIVATE_KEY)?;
        let pair = aws_lc_rs::rsa::KeyPair::from_der(key.as_bytes()).map_err(|_| PRIVATE_KEY)?;
        // Both are DER of an RSAPublicKey (RFC 8017, A.1.1), of which there is one form only.
        let public = aws_lc_rs::signature::KeyPair::public_key(&pair);
        if public.as_ref() != spki.subject_public_key.data.as_ref() {
            return Err(PAIR);
        }
        let validity = certificate.validity();
        let [not_before, not_after] = [validity.not_before, validity.not_after]
            .map(|at| DateTime::from_timestamp(at.timestamp(), 0));
        let not_before = not_before.ok_or(CERTIFICATE)?;
        let not_after = not_after.ok_or(CERTIFICATE)?;
        if not_before > not_after {
            return Err(NEVER_VALID);
        }
        let mut thumbprint = [0; 32];
        thumbprint
            .copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der).as_ref());
        Ok(Self {
            key,
            thumbprint,
            not_before,
            not_after,
        })
    }
}

/// DER of the first certificate in the text.
fn leaf_der(pem: &str) -> Result<Vec<u8>, Unusable> {
    Pem::iter_from_buffer(pem.as_bytes())
        .take(16)
        .filter_map(Result::ok)
        .find(|block| block.label == "CERTIFICATE")
        .map(|block| block.contents)
        .ok_or(CERTIFICATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_before_it_begins_is_never_valid() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let pem = SecretString::from(key.serialize_pem());
        let parse = |from, until| {
            let mut params = rcgen::CertificateParams::default();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            SigningCertificate::parse(&pem, &params.self_signed(&key).unwrap().pem())
        };
        assert!(parse(2100, 2101).is_ok());
        assert_eq!(parse(2101, 2100).unwrap_err(), NEVER_VALID);
    }
}
