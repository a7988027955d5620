//! The certificates that every simulated app has registered.

use super::options::SimulatorError;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

/// More certificates than this are not registered.
const CAPACITY: usize = 1_000;

/// A certificate whose private key may sign assertions.
pub(crate) struct Registered {
    pub key: DecodingKey,
    /// Unix time in seconds.
    pub not_before: i64,
    /// Unix time in seconds.
    pub not_after: i64,
}

/// Certificates by `x5t#S256`: base64url of the SHA-256 over the DER.
#[derive(Default)]
pub(crate) struct Certificates(RwLock<HashMap<String, Arc<Registered>>>);

impl Certificates {
    /// Registers the first certificate of a PEM text and returns its `x5t#S256`.
    pub(crate) fn register(&self, pem: &str) -> Result<String, SimulatorError> {
        let (thumbprint, registered) = read(pem).map_err(SimulatorError::Certificate)?;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CAPACITY && !known.contains_key(&thumbprint) {
            let why = format!("there are {CAPACITY} certificates already");
            return Err(SimulatorError::Certificate(why));
        }
        known.insert(thumbprint.clone(), Arc::new(registered));
        Ok(thumbprint)
    }

    pub(crate) fn find(&self, thumbprint: &str) -> Option<Arc<Registered>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(thumbprint.trim_end_matches('='))
            .cloned()
    }
}

fn read(pem: &str) -> Result<(String, Registered), String> {
    let block = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes())
        .filter_map(Result::ok)
        .find(|block| block.label == "CERTIFICATE")
        .ok_or("the text holds no PEM block CERTIFICATE")?;
    let (_, certificate) =
        X509Certificate::from_der(&block.contents).map_err(|error| error.to_string())?;
    let spki = certificate.public_key();
    if !matches!(spki.parsed(), Ok(PublicKey::RSA(_))) {
        return Err("its key is not an RSA key, as PS256 needs".to_owned());
    }
    let thumbprint =
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &block.contents).as_ref());
    let registered = Registered {
        // The bit string of an RSA key's SPKI is the PKCS #1 key.
        key: DecodingKey::from_rsa_der(&spki.subject_public_key.data),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    };
    Ok((thumbprint, registered))
}
