//! Login with an API token, and logout.

use super::error::{PageError, render};
use super::format::safe_link;
use super::input::{Form, Query};
use super::security::{forwarded_https, same_origin};
use super::session::{COOKIE_NAME, Confirmation, Sender, Visitor, cookie};
use super::{Pages, SecureCookie, assets};
use crate::domain::access::Scope;
use crate::domain::audit::{AuditAction, Change};
use crate::domain::token;
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
    next: String,
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
    problem: Option<&'a str>,
    style: &'static str,
    script: &'static str,
}

fn page(next: &str, problem: Option<&str>) -> Response {
    render(&LoginPage {
        next,
        problem,
        style: assets::style(),
        script: assets::script(),
    })
}

/// Returns a path of this host, so that a login never leads to another one.
fn path_of_ours(next: &str) -> &str {
    match safe_link(next) {
        Some(path) if path.starts_with('/') => path,
        _ => "/",
    }
}

/// `GET /login`
pub async fn form(visitor: Result<Visitor, PageError>, Query(next): Query<Next>) -> Response {
    match visitor {
        Ok(_) => Redirect::to(path_of_ours(&next.next)).into_response(),
        Err(_) => page(path_of_ours(&next.next), None),
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
        note_refusal(&pages, None, &sender).await;
        return Ok(refused(next, problem));
    };
    let ask = pages.store.token_by_hash(&hash);
    let Some(record) = pages
        .request_limits
        .look_up(&hash, sender.address, ask, |token| token.id)
        .await?
    else {
        let problem =
            "This token is not valid: it was never made here, was revoked, or has expired.";
        note_refusal(&pages, None, &sender).await;
        return Ok(refused(next, problem));
    };
    if !record.scopes.contains(&Scope::Read) {
        let problem = "This token may not read. Make one with the scope read.";
        note_refusal(&pages, Some(&record), &sender).await;
        return Ok(refused(next, problem));
    }
    // The session of an earlier login is closed.
    let replaced = cookie(&headers).map(token::sha256_hex);
    let secret = token::random_text();
    let csrf = token::random_text();
    let (Ok(secret), Ok(csrf)) = (secret, csrf) else {
        tracing::error!("the system provides no random bytes");
        return Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response());
    };
    let lifetime = pages.settings.session_lifetime;
    pages
        .store
        .open_session(
            record.id,
            &token::sha256_hex(secret.expose_secret()),
            csrf.expose_secret(),
            lifetime,
            replaced.as_deref(),
            &sender.origin(Some((record.id, &record.name[..]))),
        )
        .await?;
    let secure = pages.settings.secure_cookie == SecureCookie::Always || forwarded_https(&headers);
    let cookie = set_cookie(secret.expose_secret(), lifetime.as_secs(), secure);
    Ok(([(SET_COOKIE, cookie)], Redirect::to(next)).into_response())
}

/// `POST /logout`
pub async fn log_out(
    State(pages): State<Arc<Pages>>,
    visitor: Visitor,
    headers: HeaderMap,
    Form(form): Form<Confirmation>,
) -> Result<Response, PageError> {
    visitor.form(&headers, &form.csrf)?;
    let (store, by) = (&pages.store, visitor.origin());
    store.close_session(&visitor.session, &by).await?;
    let secure = pages.settings.secure_cookie == SecureCookie::Always || forwarded_https(&headers);
    let cookie = set_cookie("", 0, secure);
    Ok(([(SET_COOKIE, cookie)], Redirect::to("/login")).into_response())
}

/// The form again, with what is wrong.
fn refused(next: &str, problem: &str) -> Response {
    (StatusCode::UNAUTHORIZED, page(next, Some(problem))).into_response()
}

/// Adds an entry about a refused sign-in to the audit trail, with the number of those before it of the same
/// binding that have none.
async fn note_refusal(pages: &Pages, token: Option<&TokenRecord>, sender: &Sender) {
    let bound = token.map(|token| token.binding);
    let Some(entry) = pages.limits.refused_logins.entry(bound) else {
        return;
    };
    let id = token.map(|token| token.id.0);
    let change = Change::new(AuditAction::SignInRefused, id, bound.unwrap_or_default());
    let change = change.after(json!({ "others_without_an_entry": entry.left_out }));
    // With what is no token nobody is known.
    let known = token.map(|token| (token.id, token.name.as_str()));
    let by = sender.origin(known);
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
