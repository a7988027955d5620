//! Signing and reading the tokens that the simulator issues.

use super::options::SimulatorError;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A key of the simulator's own. ES256, since signing with it costs next to nothing beside what is
/// measured or demonstrated; the real services sign with RSA.
pub(crate) struct Signer {
    encoding: EncodingKey,
    decoding: DecodingKey,
    key_id: String,
    /// Access tokens whose signature was found good: to verify one takes longer than to answer.
    known: Mutex<HashMap<String, AccessClaims>>,
}

/// Most tokens that are known at a time; then it begins anew.
const KNOWN: usize = 10_000;

impl Signer {
    /// A key that nobody else has.
    pub(crate) fn fresh() -> Result<Self, SimulatorError> {
        let pair = rcgen::KeyPair::generate()
            .map_err(|error| SimulatorError::Signing(error.to_string()))?;
        Ok(Self {
            encoding: EncodingKey::from_ec_der(&pair.serialize_der()),
            decoding: DecodingKey::from_ec_der(pair.public_key_raw()),
            key_id: uuid::Uuid::new_v4().simple().to_string(),
            known: Mutex::default(),
        })
    }

    pub(crate) fn sign(&self, claims: &impl Serialize) -> Result<String, SimulatorError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding)
            .map_err(|error| SimulatorError::Signing(error.to_string()))
    }

    /// The claims, when this key has signed them. Times and audience are for the caller to judge.
    pub(crate) fn read<T: DeserializeOwned>(&self, token: &str) -> Option<T> {
        verified(token, &self.decoding, Algorithm::ES256)
    }

    /// The same of an access token, which comes with many calls.
    pub(crate) fn read_access(&self, token: &str) -> Option<AccessClaims> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = known().get(token) {
            return Some(claims.clone());
        }
        let claims: AccessClaims = self.read(token)?;
        let mut known = known();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(token.to_owned(), claims.clone());
        Some(claims)
    }
}

/// The claims of a token whose signature is good; nothing else is checked.
pub(crate) fn verified<T: DeserializeOwned>(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Option<T> {
    let mut validation = Validation::new(algorithm);
    // Judged by the simulator's clock and with its own errors instead.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode(token, key, &validation)
        .ok()
        .map(|data| data.claims)
}

/// The claims of an access token for Graph, as far as the simulator gives and needs them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AccessClaims {
    pub aud: String,
    pub iss: String,
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    pub appid: String,
    /// "1" for a secret, "2" for an assertion.
    pub appidacr: String,
    pub idtyp: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    pub tid: String,
    pub uti: String,
    pub ver: String,
}
