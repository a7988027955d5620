//! Login with OpenID Connect: to the provider and back.

use super::Pages;
use super::error::{PageError, onward};
use super::input::Query;
use super::login::{
    Next, Refusal, is_secure, note_refusal, open_session, path_of_ours, refused_as,
};
use super::refused_logins::Whose;
use super::session::{Sender, cookie_named};
use crate::http::oidc::{Begun, COOKIE_BYTES, Callback, SignIn, SignInError};
use crate::ports::access::Person;
use axum::extract::State;
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use secrecy::ExposeSecret as _;
use std::sync::Arc;

/// The cookie that a browser keeps while a person is at the provider. Whoever could plant one could sign the browser in
/// as somebody else. `__Host-` keeps neighbouring hosts and plain http from that, where the browser returns over https.
#[derive(Clone, Copy, Debug)]
struct Cookie {
    over_https: bool,
    secure: bool,
}

impl Cookie {
    fn of(pages: &Pages, sign_in: &SignIn, headers: &HeaderMap) -> Self {
        let over_https = sign_in.is_over_https();
        Self {
            over_https,
            secure: over_https || is_secure(pages, headers),
        }
    }

    fn name(self) -> &'static str {
        match self.over_https {
            true => "__Host-verifyd_login",
            false => "verifyd_login",
        }
    }

    /// Sent with a navigation that begins at the provider, hence `Lax`.
    fn set(self, value: &str, max_age: u64) -> String {
        let name = self.name();
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}")
    }
}

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
    let sign_in = sign_in(&pages)?;
    match sign_in.begin(next).await {
        Ok(Begun {
            location,
            cookie,
            max_age,
        }) => {
            let kept = Cookie::of(&pages, sign_in, &headers);
            let cookie = kept.set(cookie.expose_secret(), max_age);
            let headers = [(LOCATION, location), (SET_COOKIE, cookie)];
            Ok((StatusCode::SEE_OTHER, headers).into_response())
        }
        Err(error) => Ok(failed(&pages, next, &error)),
    }
}

/// `GET /login/callback`
pub async fn finish(
    State(pages): State<Arc<Pages>>,
    sender: Sender,
    headers: HeaderMap,
    Query(callback): Query<Callback>,
) -> Result<Response, PageError> {
    let sign_in = sign_in(&pages)?;
    let kept = Cookie::of(&pages, sign_in, &headers);
    let cookie = cookie_named(&headers, kept.name(), COOKIE_BYTES);
    let finished = sign_in.finish(cookie, &callback).await;
    let is_another = matches!(finished, Err(SignInError::NotBegun));
    let slot = pages.request_limits.enter(None).await;
    let answered = match finished {
        Ok((person, next)) => admit(&pages, &headers, kept.secure, &person, &next, &sender).await,
        Err(error) => refuse(&pages, &error, &sender).await,
    };
    drop(slot);
    let answer = answered.unwrap_or_else(IntoResponse::into_response);
    // The cookie, if there is one, is that of another sign-in: of a later tab, for example.
    if is_another {
        return Ok(answer);
    }
    // Used once, however it ended.
    let cookie = kept.set("", 0);
    Ok((AppendHeaders([(SET_COOKIE, cookie)]), answer).into_response())
}

/// Opens the session of a person. The session cookie is not sent with a redirect that began at the provider, so a page
/// leads on.
async fn admit(
    pages: &Pages,
    headers: &HeaderMap,
    secure: bool,
    person: &Person,
    next: &str,
    sender: &Sender,
) -> Result<Response, PageError> {
    let by = sender.origin_of(None, &person.name);
    let lifetime = pages.settings.session_lifetime;
    let Some(token) = pages.store.admit_person(person, lifetime, &by).await? else {
        let error = SignInError::NoAccess {
            person: person.name.clone(),
            hash: person.hash.clone(),
            why: "Your access to verifyd was revoked. Ask your administrator.".to_owned(),
        };
        note(pages, &error, sender).await;
        return Ok(failed(pages, "/", &error));
    };
    let cookie = open_session(pages, headers, secure, &token, sender).await?;
    let answer = onward(path_of_ours(next));
    Ok((AppendHeaders([(SET_COOKIE, cookie)]), answer).into_response())
}

/// Says why nobody was signed in. Whoever has no access any more loses that of earlier sign-ins.
async fn refuse(
    pages: &Pages,
    error: &SignInError,
    sender: &Sender,
) -> Result<Response, PageError> {
    note(pages, error, sender).await;
    if let SignInError::NoAccess { person, hash, .. } = error {
        let by = sender.origin_of(None, person);
        pages.store.dismiss_person(hash, &by).await?;
    }
    Ok(failed(pages, "/", error))
}

/// Adds an entry about a refused sign-in, unless it is the provider that failed.
async fn note(pages: &Pages, error: &SignInError, sender: &Sender) {
    let (who, cause) = match error {
        SignInError::Unavailable(_) => return,
        SignInError::NoAccess { person, .. } => (person.as_str(), "no_access"),
        SignInError::NotBegun => ("unknown", "not_begun"),
        SignInError::Refused(_) | SignInError::WrongClient { .. } => {
            ("unknown", "refused_by_provider")
        }
        SignInError::Untrusted(_) => ("unknown", "untrusted_token"),
    };
    // Strangers, who can cause the others at will, do not hide it.
    let whose = match error {
        SignInError::NoAccess { .. } => Whose::Person,
        _ => Whose::Stranger,
    };
    let cause = Some(cause);
    note_refusal(pages, None, Refusal { who, whose, cause }, sender).await;
}

/// The login page with what is wrong: tokens remain.
fn failed(pages: &Pages, next: &str, error: &SignInError) -> Response {
    let status = match error {
        SignInError::Unavailable(cause) => {
            tracing::warn!(cause, "the provider of http.oidc cannot be used");
            StatusCode::SERVICE_UNAVAILABLE
        }
        SignInError::WrongClient { .. } => {
            tracing::warn!(cause = %error, "the provider of http.oidc cannot be used");
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
