//! Signs client assertions with a certificate's key (RFC 7523).

use super::certificate::SigningCertificate;
use crate::outbound::jwt::install_crypto;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, Header};
use secrecy::SecretString;
use serde::Serialize;
use uuid::Uuid;

/// Validity of an assertion in seconds. Microsoft recommends 5 to 10 minutes.
const LIFETIME_SECONDS: i64 = 480;

#[derive(Serialize)]
struct AssertionClaims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: Uuid,
    nbf: i64,
    iat: i64,
    exp: i64,
}

/// A fresh assertion: PS256, `x5t#S256`, audience the token URL, valid from `now` on.
///
/// `None` only if the key cannot sign, which parsing has already ruled out.
pub(super) fn sign(
    certificate: &SigningCertificate,
    token_url: &str,
    client_id: &str,
    now: DateTime<Utc>,
) -> Option<SecretString> {
    install_crypto();
    let mut header = Header::new(Algorithm::PS256);
    header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(certificate.thumbprint));
    let now = now.timestamp();
    let claims = AssertionClaims {
        aud: token_url,
        iss: client_id,
        sub: client_id,
        jti: Uuid::new_v4(),
        nbf: now,
        iat: now,
        exp: now + LIFETIME_SECONDS,
    };
    jsonwebtoken::encode(&header, &claims, &certificate.key)
        .ok()
        .map(SecretString::from)
}
