//! Verifies ID tokens: OpenID Connect Core 1.0, 3.1.3.7.

use crate::outbound::jwt::install_crypto;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

/// Seconds by which the clocks of provider and verifyd may differ, as Microsoft Entra tolerates it.
const CLOCK_DIFFERENCE: f64 = 300.0;

/// Longest subject, in bytes, as the standard has it.
const SUBJECT_BYTES: usize = 255;

/// The claims of a token.
pub(super) type Claims = Map<String, Value>;

/// What a token has to be.
pub(super) struct Expected<'a> {
    pub issuer: &'a str,
    pub client_id: &'a str,
    pub nonce: &'a str,
    /// In seconds since 1970.
    pub now: i64,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// In words, to follow "its ID token".
    Of(&'static str),
    /// The same, where the provider may have a new key, also under the id of an older one.
    OfKey(&'static str),
}

/// Returns the claims of a token that is signed by one of these keys, for this client and this sign-in, and valid now.
pub(super) fn verify(token: &str, keys: &[Jwk], expected: &Expected<'_>) -> Result<Claims, Flaw> {
    install_crypto();
    // `none` is no algorithm here, and a token without one cannot be read.
    let header = decode_header(token).map_err(|_| Flaw::Of("cannot be read"))?;
    let algorithm = header.alg;
    if !matches!(
        algorithm,
        Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256
    ) {
        return Err(Flaw::Of("is not signed by RS256, PS256 or ES256"));
    }
    if header.crit.is_some() {
        return Err(Flaw::Of("demands an extension"));
    }
    let key = key_for(keys, header.kid.as_deref(), algorithm);
    let key = key.ok_or(Flaw::OfKey("is signed with a key that it does not list"))?;
    let key = DecodingKey::from_jwk(key).map_err(|_| Flaw::Of("names a key that is none"))?;
    // The times are compared with verifyd's own clock, and the rest with a message of its own, below.
    let mut signature_only = Validation::new(algorithm);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    let decoded = decode::<Claims>(token, &key, &signature_only);
    let claims = decoded
        .map_err(|_| Flaw::OfKey("has a wrong signature"))?
        .claims;
    check(&claims, expected).map_err(Flaw::Of)?;
    Ok(claims)
}

/// Returns the key of this id. Without an id there must be only one that fits.
fn key_for<'a>(keys: &'a [Jwk], id: Option<&str>, algorithm: Algorithm) -> Option<&'a Jwk> {
    let mut fitting = keys.iter().filter(|key| {
        let has_id = id.is_none() || key.common.key_id.as_deref() == id;
        has_id && fits(key, algorithm)
    });
    let key = fitting.next()?;
    (id.is_some() || fitting.next().is_none()).then_some(key)
}

/// Whether the key is a public one for this algorithm: never a shared secret.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let is_of_kind = match &key.algorithm {
        AlgorithmParameters::RSA(_) => algorithm != Algorithm::ES256,
        AlgorithmParameters::EllipticCurve(curve) => {
            algorithm == Algorithm::ES256 && curve.curve == EllipticCurve::P256
        }
        _ => false,
    };
    let common = &key.common;
    let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
    let algorithm = KeyAlgorithm::from(algorithm);
    is_of_kind && signs && common.key_algorithm.is_none_or(|named| named == algorithm)
}

fn check(claims: &Claims, expected: &Expected<'_>) -> Result<(), &'static str> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let time = |name: &str| claims.get(name).and_then(Value::as_f64);
    let now = expected.now as f64;
    if text("iss") != Some(expected.issuer) {
        return Err("is of another issuer");
    }
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audiences.contains(&expected.client_id) {
        return Err("is for another client");
    }
    let is_authorized = match claims.get("azp") {
        Some(party) => party == expected.client_id,
        None => audiences.len() == 1,
    };
    if !is_authorized {
        return Err("was issued to another client");
    }
    match time("exp") {
        Some(end) if now < end + CLOCK_DIFFERENCE => {}
        Some(_) => return Err("has expired"),
        None => return Err("has no expiry"),
    }
    let is_early = |name| time(name).is_some_and(|begin| begin > now + CLOCK_DIFFERENCE);
    if is_early("nbf") || is_early("iat") {
        return Err("is not valid yet: check the clocks");
    }
    let nonce = text("nonce").unwrap_or_default();
    if verify_slices_are_equal(nonce.as_bytes(), expected.nonce.as_bytes()).is_err() {
        return Err("belongs to another sign-in");
    }
    match text("sub") {
        Some(subject) if (1..=SUBJECT_BYTES).contains(&subject.len()) => Ok(()),
        Some(subject) if subject.len() > SUBJECT_BYTES => {
            Err("has a subject (sub) of more than 255 bytes, and 1 to 255 are allowed")
        }
        _ => Err("has no subject (sub): a text of 1 to 255 bytes is needed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EXPECTED: Expected<'static> = Expected {
        issuer: "https://login.example",
        client_id: "verifyd",
        nonce: "n",
        now: 1_000_000,
    };

    fn with(changes: &Value) -> Claims {
        let mut claims = json!({
            "iss": "https://login.example", "aud": "verifyd", "nonce": "n", "sub": "kim",
            "exp": 1_000_060, "iat": 999_990,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object().unwrap().clone()
    }

    #[test]
    fn claims_are_for_this_client_this_sign_in_and_now() {
        for fine in [
            json!({}),
            json!({ "aud": ["verifyd"] }),
            json!({ "aud": ["other", "verifyd"], "azp": "verifyd" }),
            json!({ "exp": 999_701 }),
            json!({ "exp": 1_000_060.5, "iat": 1_000_300, "nbf": 1_000_300 }),
        ] {
            assert_eq!(check(&with(&fine), &EXPECTED), Ok(()), "{fine}");
        }
        for (wrong, said) in [
            (json!({ "iss": "https://login.example/" }), "another issuer"),
            (json!({ "iss": null }), "another issuer"),
            (json!({ "aud": "other" }), "another client"),
            (json!({ "aud": [] }), "another client"),
            (
                json!({ "aud": ["other", "verifyd"] }),
                "issued to another client",
            ),
            (json!({ "azp": "other" }), "issued to another client"),
            (json!({ "azp": null }), "issued to another client"),
            (json!({ "exp": 999_700 }), "expired"),
            (json!({ "exp": null }), "no expiry"),
            (json!({ "exp": "never" }), "no expiry"),
            (json!({ "iat": 1_000_301 }), "not valid yet"),
            (json!({ "nbf": 1_000_301 }), "not valid yet"),
            (json!({ "nonce": "m" }), "another sign-in"),
            (json!({ "nonce": null }), "another sign-in"),
            (json!({ "sub": "" }), "no subject"),
            (json!({ "sub": 1 }), "no subject"),
            (json!({ "sub": "s".repeat(256) }), "more than 255 bytes"),
        ] {
            let error = check(&with(&wrong), &EXPECTED).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_key_is_chosen_by_id_kind_and_use() {
        let keys = [
            json!({ "kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB" }),
            json!({ "kty": "RSA", "kid": "enc", "use": "enc", "n": "AQAB", "e": "AQAB" }),
            json!({ "kty": "RSA", "kid": "ps", "alg": "PS256", "n": "AQAB", "e": "AQAB" }),
            json!({ "kty": "EC", "kid": "e", "crv": "P-256", "x": "AQAB", "y": "AQAB" }),
            json!({ "kty": "oct", "kid": "o", "k": "AQAB" }),
        ];
        let keys: Vec<Jwk> = keys
            .into_iter()
            .map(|key| serde_json::from_value(key).unwrap())
            .collect();
        let chosen = |id: Option<&str>, algorithm| {
            let key = key_for(&keys, id, algorithm);
            key.and_then(|key| key.common.key_id.clone())
        };
        for (id, algorithm, found) in [
            (Some("r"), Algorithm::RS256, Some("r")),
            (Some("r"), Algorithm::PS256, Some("r")),
            (Some("r"), Algorithm::ES256, None),
            (Some("enc"), Algorithm::RS256, None),
            (Some("ps"), Algorithm::RS256, None),
            (Some("e"), Algorithm::ES256, Some("e")),
            (Some("e"), Algorithm::RS256, None),
            (Some("o"), Algorithm::RS256, None),
            (Some("x"), Algorithm::RS256, None),
            (None, Algorithm::ES256, Some("e")),
            (None, Algorithm::PS256, None),
        ] {
            assert_eq!(
                chosen(id, algorithm).as_deref(),
                found,
                "{id:?} {algorithm:?}"
            );
        }
    }

    #[test]
    fn a_token_without_a_public_signature_is_refused_before_its_claims_count() {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let encoded = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = encoded(Value::Object(with(&json!({}))));
        let secret = json!({ "kty": "oct", "kid": "o", "k": "AQAB" });
        let keys: Vec<Jwk> = vec![serde_json::from_value(secret).unwrap()];
        for (header, flaw) in [
            (json!({ "alg": "none" }), Flaw::Of("cannot be read")),
            (
                json!({ "alg": "HS256", "kid": "o" }),
                Flaw::Of("is not signed by RS256, PS256 or ES256"),
            ),
            (
                json!({ "alg": "RS256", "kid": "o" }),
                Flaw::OfKey("is signed with a key that it does not list"),
            ),
            (
                json!({ "alg": "RS256", "crit": ["b64"] }),
                Flaw::Of("demands an extension"),
            ),
        ] {
            let token = format!("{}.{claims}.", encoded(header.clone()));
            assert_eq!(verify(&token, &keys, &EXPECTED), Err(flaw), "{header}");
        }
        assert_eq!(
            verify("x", &keys, &EXPECTED),
            Err(Flaw::Of("cannot be read"))
        );
    }
}
