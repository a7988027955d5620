//! Requests access tokens by the client credentials grant.

mod cache;
mod federated;
mod material;

pub(super) use cache::{Obtained, TokenCache};
pub(super) use federated::FederatedClaims;
pub(super) use material::Material;

use super::aadsts::{self, Refusal, SignIn};
use super::claims::Claims;
use super::cloud::Cloud;
use super::fault::Fault;
use super::http::{Answer, Body, Caller, Payload, Request, Scope, decoding};
use crate::domain::ConnectionId;
use crate::domain::Reason;
use crate::ports::clock::Clock;
use bytes::Bytes;
use http::HeaderValue;
use memchr::memmem;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::borrow::Cow;
use std::time::Duration;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Lifetimes beyond a day are not believed.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

const SCHEME: &str = "Bearer ";

/// The purpose of a token. Two keys that differ in any member never share a token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    connection: ConnectionId,
    /// Of the credential, so that a replaced one is never answered from the cache.
    credential: [u8; 32],
    token_url: String,
    client_id: Uuid,
    scope: String,
}

impl TokenKey {
    /// The key for this connection's sign-in to this cloud.
    pub fn new(
        connection: ConnectionId,
        material: &Material,
        cloud: &Cloud,
        tenant: Uuid,
        client_id: Uuid,
    ) -> Self {
        Self {
            connection,
            credential: material.fingerprint(),
            token_url: cloud.token_url(tenant),
            client_id,
            scope: cloud.scope(),
        }
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey")
            .field("connection", &self.connection)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// An access token. `Debug` never shows it.
#[derive(Debug)]
pub(super) struct AccessToken {
    authorization: HeaderValue,
    pub claims: Claims,
    /// As the provider stated it.
    pub lifetime: Duration,
}

impl AccessToken {
    /// The `Authorization` header, marked so that no library prints it. All requests share the one
    /// text, which is overwritten when the last of them is done.
    pub fn authorization(&self) -> HeaderValue {
        self.authorization.clone()
    }

    /// A token that fits no header is none.
    fn header(token: &str) -> Option<HeaderValue> {
        let mut text = Zeroizing::new(Vec::with_capacity(SCHEME.len() + token.len()));
        text.extend_from_slice(SCHEME.as_bytes());
        text.extend_from_slice(token.as_bytes());
        let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// Asks for a token.
pub(super) async fn request_token(
    caller: &Caller,
    scope: Scope<'_>,
    clock: &dyn Clock,
    key: &TokenKey,
    material: &Material,
) -> Result<AccessToken, Fault> {
    let request = || {
        let mut fields = vec![
            ("client_id", Zeroizing::new(key.client_id.to_string())),
            ("scope", Zeroizing::new(key.scope.clone())),
            (
                "grant_type",
                Zeroizing::new("client_credentials".to_owned()),
            ),
        ];
        // Afresh for each attempt: an assertion is used once.
        fields.extend(material.fields(&key.token_url, &key.client_id.to_string(), clock.now())?);
        Ok(Request {
            uri: key
                .token_url
                .parse()
                .map_err(|_| Fault::new(Reason::RequestMalformed))?,
            payload: Payload::Form(fields),
        })
    };
    let by = material.sign_in(clock.now());
    caller
        .call(scope, request, |answer| judge(answer, by))
        .await
}

fn judge(answer: Answer, by: SignIn<'_>) -> Result<AccessToken, Fault> {
    let body = answer.body.as_ref().map(Body::bytes).unwrap_or_default();
    let refusal = Refusal {
        status: answer.status,
        body,
        retry_after: answer.retry_after,
        request_id: answer.request_id,
        intermediary: answer.intermediary(),
    };
    match answer.status {
        // Pages and gateways answer with this status, too. An answer with a token is not examined further.
        200..300 => token(&answer).map_err(|fault| {
            let stated = memmem::find(refusal.body, b"access_token").is_none();
            let stated = stated.then(|| aadsts::stated_fault(refusal, by)).flatten();
            let is_between = refusal.request_id.is_none() && is_page(refusal.body);
            let page = || Fault::new(Reason::ProxyRefused).status(answer.status);
            stated.or_else(|| is_between.then(page)).unwrap_or(fault)
        }),
        300..400 => Err(aadsts::stated_fault(refusal, by)
            .unwrap_or_else(|| Fault::new(Reason::RedirectRefused).status(answer.status))),
        _ => Err(aadsts::fault(refusal, by)),
    }
}

/// Whether it is a page for people.
fn is_page(body: &[u8]) -> bool {
    let text = decoding::decode(body);
    let start: String = text.trim_start().chars().take(14).collect();
    let start = start.to_ascii_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html")
}

/// Returns the token of an answer, whatever type and encoding it declares.
fn token(answer: &Answer) -> Result<AccessToken, Fault> {
    let invalid = || Fault::invalid(answer.status);
    let text = decoding::decode(answer.body.as_ref().ok_or_else(invalid)?.bytes());
    let body = decoding::object_within(&text);
    if let Cow::Owned(text) = text {
        // A copy that contains the token.
        drop(Zeroizing::new(text));
    }
    let mut body = body.ok_or_else(invalid)?;
    let is_bearer = body
        .get("token_type")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.eq_ignore_ascii_case("bearer"));
    let lifetime = body.get("expires_in").and_then(|value| {
        value
            .as_u64()
            .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
    });
    // Taken out of the answer, not copied from it.
    let value = match body.get_mut("access_token").map(Value::take) {
        Some(Value::String(token)) if !token.is_empty() => SecretString::from(token),
        _ => return Err(invalid()),
    };
    let (true, Some(lifetime)) = (is_bearer, lifetime) else {
        return Err(invalid());
    };
    Ok(AccessToken {
        authorization: AccessToken::header(value.expose_secret()).ok_or_else(invalid)?,
        claims: Claims::read(value.expose_secret()),
        lifetime: Duration::from_secs(lifetime).min(LONGEST_LIFETIME),
    })
}
