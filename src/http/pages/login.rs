//! Login with an API token, and logout.

use super::error::{PageError, onward, render};
use super::format::safe_link;
use super::input::{Form, Query};
use super::refused_logins::Whose;
use super::security::{forwarded_https, same_origin};
use super::session::{COOKIE_NAME, Confirmation, Sender, Visitor, cookie};
use super::{Pages, SecureCookie, assets};
use crate::domain::access::{PERSON_PREFIX, Scope};
use crate::domain::audit::{AuditAction, Change};
use crate::domain::token;
use crate::http::query::QueryText;
use crate::ports::access::TokenRecord;
use askama::Template;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

#[derive(Debug, Default, Deserialize)]
pub struct Next {
    #[serde(default)]
    pub next: String,
}

#[derive(Debug, Deserialize)]
pub struct Login {
    token: SecretString,
    #[serde(default)]
    next: String,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    next: &'a str,
    /// Where a sign-in with OpenID Connect begins, if there is one.
    organization: Option<String>,
    problem: Option<&'a str>,
    style: &'static str,
    script: &'static str,
}

fn page(pages: &Pages, next: &str, problem: Option<&str>) -> Response {
    let begin = || {
        let next = Some(next).filter(|next| *next != "/");
        format!("/login/oidc{}", QueryText::default().with("next", next))
    };
    render(&LoginPage {
        next,
        organization: pages.sign_in.is_some().then(begin),
        problem,
        style: assets::style(),
        script: assets::script(),
    })
}

/// Returns a path of this host, so that a login never leads to another one.
pub fn path_of_ours(next: &str) -> &str {
    match safe_link(next) {
        Some(path) if path.starts_with('/') => path,
        _ => "/",
    }
}

/// `GET /login`
pub async fn form(
    State(pages): State<Arc<Pages>>,
    visitor: Result<Visitor, PageError>,
    Query(next): Query<Next>,
) -> Response {
    match visitor {
        Ok(_) => Redirect::to(path_of_ours(&next.next)).into_response(),
        Err(_) => page(&pages, path_of_ours(&next.next), None),
    }
}

/// `POST /login`
pub async fn log_in(
    State(pages): State<Arc<Pages>>,
    sender: Sender,
    headers: HeaderMap,
    Form(login): Form<Login>,
) -> Result<Response, PageError> {
    if !same_origin(&headers) {
        return Err(PageError::Forged);
    }
    let next = path_of_ours(&login.next);
    let Some(hash) = token::hash(login.token.expose_secret().trim()) else {
        let problem =
            "This is no token of verifyd. A token begins with vfd_ and has 51 characters.";
        note_refusal(&pages, None, Refusal::of_token(), &sender).await;
        return Ok(refused(&pages, next, problem));
    };
    let ask = pages.store.token_by_hash(&hash);
    let Some(record) = pages
        .request_limits
        .look_up(&hash, sender.address, ask, |token| token.id)
        .await?
    else {
        let problem =
            "This token is not valid: it was never made here, was revoked, or has expired.";
        note_refusal(&pages, None, Refusal::of_token(), &sender).await;
        return Ok(refused(&pages, next, problem));
    };
    if !record.scopes.contains(&Scope::Read) {
        let problem = "This token may not read. Make one with the scope read.";
        note_refusal(&pages, Some(&record), Refusal::of_token(), &sender).await;
        return Ok(refused(&pages, next, problem));
    }
    let secure = is_secure(&pages, &headers);
    let cookie = open_session(&pages, &headers, secure, &record, &sender).await?;
    Ok(([(SET_COOKIE, cookie)], Redirect::to(next)).into_response())
}

/// Opens a session with this token, in place of the browser's earlier one. Returns its cookie.
pub async fn open_session(
    pages: &Pages,
    headers: &HeaderMap,
    secure: bool,
    token: &TokenRecord,
    sender: &Sender,
) -> Result<String, PageError> {
    let replaced = cookie(headers).map(token::sha256_hex);
    let (Ok(secret), Ok(csrf)) = (token::random_text(), token::random_text()) else {
        tracing::error!("the system provides no random bytes");
        return Err(PageError::Defect);
    };
    let lifetime = pages.settings.session_lifetime;
    pages
        .store
        .open_session(
            token.id,
            &token::sha256_hex(secret.expose_secret()),
            csrf.expose_secret(),
            lifetime,
            replaced.as_deref(),
            &sender.origin(Some((token.id, &token.name[..]))),
        )
        .await?;
    Ok(set_cookie(
        secret.expose_secret(),
        lifetime.as_secs(),
        secure,
    ))
}

/// Whether cookies are marked as `Secure`.
pub fn is_secure(pages: &Pages, headers: &HeaderMap) -> bool {
    pages.settings.secure_cookie == SecureCookie::Always || forwarded_https(headers)
}

/// `POST /logout`: ends the session, and leads whom the provider has signed in on to its own logout.
pub async fn log_out(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    headers: HeaderMap,
    Form(form): Form<Confirmation>,
) -> Result<Response, PageError> {
    visitor.form(&headers, &form.csrf)?;
    let (store, by) = (&pages.store, visitor.origin());
    let slot = pages.request_limits.enter(Some(visitor.token)).await;
    store.close_session(&visitor.session, &by).await?;
    drop(slot);
    let cookie = set_cookie("", 0, is_secure(&pages, &headers));
    let elsewhere = match &pages.sign_in {
        Some(sign_in) if visitor.name.starts_with(PERSON_PREFIX) => sign_in.sign_out().await,
        _ => None,
    };
    let answer = match elsewhere {
        // Not by a redirect: the policy of the pages keeps forms on this host.
        Some(address) => onward(&address),
        None => Redirect::to("/login").into_response(),
    };
    Ok(([(SET_COOKIE, cookie)], answer).into_response())
}

/// The form again, with what is wrong.
fn refused(pages: &Pages, next: &str, problem: &str) -> Response {
    refused_as(StatusCode::UNAUTHORIZED, pages, next, problem)
}

/// The same with another status.
pub fn refused_as(status: StatusCode, pages: &Pages, next: &str, problem: &str) -> Response {
    (status, page(pages, next, Some(problem))).into_response()
}

/// What an entry says of a refused sign-in whose token is not known.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    pub who: &'a str,
    pub whose: Whose,
    /// Why, where it was with OpenID Connect.
    pub cause: Option<&'a str>,
}

impl Refusal<'_> {
    /// With what is no token nobody is known.
    fn of_token() -> Self {
        Self {
            who: "unknown",
            whose: Whose::Stranger,
            cause: None,
        }
    }
}

/// Adds an entry about a refused sign-in to the audit trail, with the number of those before it of the same
/// [`Whose`] that have none.
pub async fn note_refusal(
    pages: &Pages,
    token: Option<&TokenRecord>,
    refusal: Refusal<'_>,
    sender: &Sender,
) {
    let bound = token.map(|token| token.binding);
    let whose = bound.map_or(refusal.whose, Whose::Token);
    let Some(entry) = pages.limits.refused_logins.entry(whose) else {
        return;
    };
    let id = token.map(|token| token.id);
    let change = Change::new(
        AuditAction::SignInRefused,
        id.map(|id| id.0),
        bound.unwrap_or_default(),
    );
    let mut after = json!({ "others_without_an_entry": entry.left_out });
    if let Some(cause) = refusal.cause {
        after["cause"] = cause.into();
    }
    let change = change.after(after);
    let name = token.map_or(refusal.who, |token| token.name.as_str());
    let by = sender.origin_of(id, name);
    match pages.store.add_audit_entry(&change, &by).await {
        Ok(()) => entry.written(),
        Err(error) => tracing::warn!(
            %error,
            "a refused sign-in has no entry in the audit trail; the next entry counts it"
        ),
    }
}

fn set_cookie(value: &str, max_age: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE_NAME}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_logging_in_one_stays_here() {
        assert_eq!(path_of_ours("/runs?status=queued"), "/runs?status=queued");
        for elsewhere in [
            "",
            "https://evil.example",
            "//evil.example",
            "/\\evil",
            "runs",
        ] {
            assert_eq!(path_of_ours(elsewhere), "/");
        }
    }

    #[test]
    fn the_cookie_is_for_this_host_and_no_script() {
        assert_eq!(
            set_cookie("x", 60, true),
            "verifyd_session=x; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure"
        );
        assert!(!set_cookie("x", 60, false).contains("Secure"));
    }
}
