//! Judging the credential: secret, certificate assertion, or the token of an external issuer.

use super::Fields;
use super::answer::Refusal;
use super::error;
use crate::federation::{FEDERATED_AUDIENCE, FEDERATED_SUBJECT};
use crate::state::Simulated;
use crate::tokens::verified;
use jsonwebtoken::{Algorithm, Header};
use secrecy::ExposeSecret as _;
use serde::Deserialize;

/// How far the clocks of caller and Entra may differ, in seconds.
const CLOCK_SKEW: i64 = 300;
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How a sign-in by secret and one by assertion are told apart in `appidacr`.
const BY_SECRET: &str = "1";
const BY_ASSERTION: &str = "2";

#[derive(Deserialize)]
struct AssertionClaims {
    aud: String,
    iss: String,
    sub: String,
    exp: i64,
    nbf: i64,
}

/// Returns how the credential was presented.
pub(super) fn check(
    shared: &Simulated,
    tenant: &str,
    client_id: &str,
    fields: &Fields,
) -> Result<&'static str, Refusal> {
    match (&fields.client_assertion, &fields.client_secret) {
        (Some(assertion), _) => {
            let Some(kind) = fields.client_assertion_type.as_deref() else {
                let name = "client_assertion_type";
                return Err(Refusal::with(&error::PARAMETER_ABSENT, name));
            };
            if kind != ASSERTION_TYPE {
                return Err(Refusal::with(&error::CREDENTIAL_ABSENT, kind));
            }
            assertion_is_good(shared, tenant, client_id, assertion)?;
            Ok(BY_ASSERTION)
        }
        (None, Some(secret)) if secret == shared.options.client_secret.expose_secret() => {
            Ok(BY_SECRET)
        }
        (None, Some(_)) => Err((&error::SECRET_INVALID).into()),
        (None, None) => Err((&error::CREDENTIAL_ABSENT).into()),
    }
}

fn assertion_is_good(
    shared: &Simulated,
    tenant: &str,
    client_id: &str,
    assertion: &str,
) -> Result<(), Refusal> {
    let Ok(header) = jsonwebtoken::decode_header(assertion) else {
        return Err((&error::ASSERTION_MALFORMED).into());
    };
    // What claims whom it speaks for is only trusted once the signature is.
    let Ok(claimed) = jsonwebtoken::dangerous::insecure_decode::<Issuer>(assertion) else {
        return Err((&error::ASSERTION_MALFORMED).into());
    };
    let by_certificate =
        header.x5t_s256.is_some() || header.x5t.is_some() || claimed.claims.iss == client_id;
    if by_certificate {
        certificate_assertion(shared, tenant, client_id, assertion, &header)
    } else {
        external_token(shared, assertion, &claimed.claims.iss)
    }
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

fn certificate_assertion(
    shared: &Simulated,
    tenant: &str,
    client_id: &str,
    assertion: &str,
    header: &Header,
) -> Result<(), Refusal> {
    if header.alg != Algorithm::PS256 {
        return Err(Refusal::with(&error::ASSERTION_HEADER, "alg"));
    }
    let Some(thumbprint) = header.x5t_s256.as_deref() else {
        return Err(Refusal::with(&error::ASSERTION_HEADER, "x5t#S256"));
    };
    let Some(certificate) = shared.certificates.find(thumbprint) else {
        return Err((&error::KEY_NOT_FOUND).into());
    };
    if header
        .typ
        .as_deref()
        .is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT"))
    {
        return Err(Refusal::with(&error::ASSERTION_HEADER, "typ"));
    }
    let now = shared.now();
    if now > certificate.not_after || now < certificate.not_before {
        return Err((&error::KEY_EXPIRED).into());
    }
    let Some(claims): Option<serde_json::Value> =
        verified(assertion, &certificate.key, Algorithm::PS256)
    else {
        return Err((&error::SIGNATURE_WRONG).into());
    };
    let Ok(claims) = serde_json::from_value::<AssertionClaims>(claims) else {
        return Err((&error::ASSERTION_MALFORMED).into());
    };
    if !claims.iss.eq_ignore_ascii_case(client_id) || claims.sub != claims.iss {
        return Err((&error::ASSERTION_CLIENT).into());
    }
    let token_url = format!("{}/{tenant}/oauth2/v2.0/token", shared.origin);
    if !claims.aud.eq_ignore_ascii_case(&token_url) {
        return Err((&error::ASSERTION_AUDIENCE).into());
    }
    check_times(claims.nbf, claims.exp, now)
}

fn external_token(shared: &Simulated, assertion: &str, issuer: &str) -> Result<(), Refusal> {
    if issuer != shared.federation.issuer {
        return Err((&error::FEDERATION_ISSUER).into());
    }
    let Some(claims) = shared.federation.read(assertion) else {
        return Err((&error::SIGNATURE_WRONG).into());
    };
    if claims.sub != FEDERATED_SUBJECT {
        return Err((&error::FEDERATION_SUBJECT).into());
    }
    if claims.aud != FEDERATED_AUDIENCE {
        return Err((&error::FEDERATION_AUDIENCE).into());
    }
    check_times(claims.nbf, claims.exp, shared.now())
}

fn check_times(nbf: i64, exp: i64, now: i64) -> Result<(), Refusal> {
    if nbf > now + CLOCK_SKEW || exp < now - CLOCK_SKEW || exp <= nbf {
        return Err((&error::ASSERTION_TIME).into());
    }
    Ok(())
}
