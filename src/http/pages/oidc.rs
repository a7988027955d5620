//! Login with OpenID Connect: to the provider and back.

use super::Pages;
use super::error::{PageError, onward};
use super::input::Query;
use super::login::{Next, Refusal, is_secure, note_refusal, open_session, path_of_ours, refused_as};
use super::session::{cookie_named, origin_of};
use crate::http::oidc::{Begun, COOKIE_BYTES, Callback, SignIn, SignInError};
use crate::http::server::Peer;
use crate::ports::access::Person;
use axum::Extension;
use axum::extract::State;
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use secrecy::ExposeSecret as _;
use std::net::IpAddr;
use std::sync::Arc;

/// Name of the cookie that a browser keeps while a person is at the provider.
const COOKIE_NAME: &str = "verifyd_login";

fn sign_in(pages: &Pages) -> Result<&SignIn, PageError> {
    pages.sign_in.as_ref().ok_or(PageError::NotFound)
}

/// `GET /login/oidc`
pub async fn begin(
    State(pages): State<Arc<Pages>>,
    headers: HeaderMap,
    Query(next): Query<Next>,
) -> Result<Response, PageError> {
    let next = path_of_ours(&next.next);
    match sign_in(&pages)?.begin(next).await {
        Ok(Begun {
            location,
            cookie,
            max_age,
        }) => {
            let secure = is_secure(&pages, &headers);
            let cookie = set_cookie(cookie.expose_secret(), max_age, secure);
            let headers = [(LOCATION, location), (SET_COOKIE, cookie)];
            Ok((StatusCode::SEE_OTHER, headers).into_response())
        }
        Err(error) => Ok(failed(&pages, next, &error)),
    }
}

/// `GET /login/callback`
pub async fn finish(
    State(pages): State<Arc<Pages>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    Query(callback): Query<Callback>,
) -> Result<Response, PageError> {
    let address = peer.map(|peer| peer.0.0.ip());
    let cookie = cookie_named(&headers, COOKIE_NAME, COOKIE_BYTES);
    let finished = sign_in(&pages)?.finish(cookie, &callback).await;
    let slot = pages.request_limits.enter(None).await;
    let answered = match finished {
        Ok((person, next)) => admit(&pages, &headers, &person, &next, address).await,
        Err(error) => {
            note(&pages, &error, address).await;
            Ok(failed(&pages, "/", &error))
        }
    };
    drop(slot);
    // Used once, however it ended.
    let cookie = set_cookie("", 0, is_secure(&pages, &headers));
    let answer = answered.unwrap_or_else(IntoResponse::into_response);
    Ok((AppendHeaders([(SET_COOKIE, cookie)]), answer).into_response())
}

/// Opens the session of a person. The session cookie is not sent with a redirect that began at the provider, so a page
/// leads on.
async fn admit(
    pages: &Pages,
    headers: &HeaderMap,
    person: &Person,
    next: &str,
    address: Option<IpAddr>,
) -> Result<Response, PageError> {
    let by = origin_of(None, &person.name, address);
    let lifetime = pages.settings.session_lifetime;
    let Some(token) = pages.store.admit_person(person, lifetime, &by).await? else {
        let error = SignInError::NoAccess {
            person: person.name.clone(),
            why: "Your access to verifyd was revoked. Ask your administrator.".to_owned(),
        };
        note(pages, &error, address).await;
        return Ok(failed(pages, next, &error));
    };
    let cookie = open_session(pages, headers, &token, address).await?;
    let answer = onward(path_of_ours(next));
    Ok((AppendHeaders([(SET_COOKIE, cookie)]), answer).into_response())
}

/// Adds an entry about a refused sign-in, unless it is the provider that failed.
async fn note(pages: &Pages, error: &SignInError, address: Option<IpAddr>) {
    let (who, cause) = match error {
        SignInError::Unavailable(_) => return,
        SignInError::NoAccess { person, .. } => (person.as_str(), "no_access"),
        SignInError::NotBegun => ("unknown", "not_begun"),
        SignInError::Refused(_) => ("unknown", "refused_by_provider"),
        SignInError::Untrusted(_) => ("unknown", "untrusted_token"),
    };
    let cause = Some(cause);
    note_refusal(pages, None, Refusal { who, cause }, address).await;
}

/// The login page with what is wrong: tokens remain.
fn failed(pages: &Pages, next: &str, error: &SignInError) -> Response {
    let status = match error {
        SignInError::Unavailable(cause) => {
            tracing::warn!(cause, "the provider of http.oidc cannot be used");
            StatusCode::SERVICE_UNAVAILABLE
        }
        SignInError::NoAccess { .. } => StatusCode::FORBIDDEN,
        SignInError::NotBegun => StatusCode::UNAUTHORIZED,
        SignInError::Refused(_) | SignInError::Untrusted(_) => {
            tracing::warn!(%error, "a sign-in with OpenID Connect failed");
            StatusCode::UNAUTHORIZED
        }
    };
    refused_as(status, pages, next, &error.words())
}

/// Sent with a navigation that begins at the provider, hence `Lax`.
fn set_cookie(value: &str, max_age: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={value}; Path=/login; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}")
}
