//! Signs client assertions with a certificate's key (RFC 7523).

use super::certificate::SigningCertificate;
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

/// `jsonwebtoken` takes its cryptography from a process-wide default and panics when the crate
/// features of the whole build leave it undecided. Naming it here makes that impossible; when
/// another part of the process has named one already, that one stays.
fn install_crypto() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::RSA;
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};
    use secrecy::ExposeSecret;
    use serde_json::Value;

    #[test]
    fn the_assertion_is_what_entra_asks_for() {
        let certificate =
            SigningCertificate::parse(&RSA[0].key_pem, &RSA[0].certificate_pem).unwrap();
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let url = "https://login.example.com/t/oauth2/v2.0/token";
        let jwt = sign(&certificate, url, "client", now).unwrap();
        let header = jsonwebtoken::decode_header(jwt.expose_secret()).unwrap();
        assert_eq!(header.alg, Algorithm::PS256);
        assert_eq!(header.typ.as_deref(), Some("JWT"));
        let pem = x509_parser::pem::Pem::iter_from_buffer(RSA[0].certificate_pem.as_bytes())
            .next()
            .unwrap()
            .unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pem.contents);
        assert_eq!(header.x5t_s256.unwrap(), URL_SAFE_NO_PAD.encode(digest));
        let x509 = pem.parse_x509().unwrap();
        let key = DecodingKey::from_rsa_der(&x509.public_key().subject_public_key.data);
        let mut rules = Validation::new(Algorithm::PS256);
        rules.set_audience(&[url]);
        rules.validate_exp = false;
        let claims = jsonwebtoken::decode::<Value>(jwt.expose_secret(), &key, &rules)
            .unwrap()
            .claims;
        assert_eq!(claims["iss"], "client");
        assert_eq!(claims["sub"], "client");
        assert_eq!(claims["nbf"], 1_800_000_000);
        assert_eq!(claims["exp"], 1_800_000_480);
        let again = sign(&certificate, url, "client", now).unwrap();
        assert_ne!(jwt.expose_secret(), again.expose_secret(), "jti is fresh");
    }
}
