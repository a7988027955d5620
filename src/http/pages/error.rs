//! Errors as pages: what is wrong, and what to do.

use super::Pages;
use super::assets;
use super::input::Path;
use crate::domain::access::Scope;
use crate::domain::report::redact;
use crate::domain::{InvalidId, ObjectId};
use crate::http::query::QueryText;
use crate::http::rate_limit::whole_seconds;
use crate::http::reads::is_of_replica;
use crate::operations::OperationError;
use crate::ports::store::StoreError;
use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Why there is no page.
#[derive(Debug)]
pub enum PageError {
    /// Nobody has logged in; where to go on after that.
    LoggedOut(Option<String>),
    /// A link of another site was followed; the same request from here brings the cookie.
    CookieHeldBack(String),
    /// There is none, or it is out of reach: both look the same.
    NotFound,
    /// The token lacks this scope.
    Scope(Scope),
    /// The form does not come from a page of this session.
    Forged,
    /// The request cannot be understood or done.
    Refused(String),
    /// Too many live pages.
    TooManyStreams,
    /// Too many requests; when to try again.
    TooMany(Duration),
    /// The form did not arrive in time.
    TooSlow,
    /// The form ended too early, or what was sent is no HTTP.
    Broken,
    TooLarge,
    /// It took longer than a request may.
    TooLate,
    /// Too many answers wait to be read.
    Unread,
    /// A handler panicked.
    Defect,
    Store(StoreError),
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<OperationError> for PageError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Store(error) => Self::Store(error),
            OperationError::Vault(_) | OperationError::NoRandomness(_) => {
                tracing::error!(%error, "a page could not be made");
                Self::Defect
            }
            OperationError::NotFound { .. } => Self::NotFound,
            OperationError::Unusable { .. }
            | OperationError::NotAcknowledgeable { .. }
            | OperationError::Invalid { .. } => Self::Refused(format!("{error}.")),
        }
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    title: &'a str,
    text: &'a str,
    style: &'static str,
    script: &'static str,
    /// Try again: leads to the same page.
    retry: bool,
}

#[derive(Template)]
#[template(path = "onward.html")]
struct Onward<'a> {
    to: &'a str,
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let (status, title, text) = match &self {
            Self::LoggedOut(next) => {
                let query = QueryText::default()
                    .with("next", next.as_deref().filter(|n| *n != "/"));
                return Redirect::to(&format!("/login{query}")).into_response();
            }
            Self::CookieHeldBack(here) => return onward(here),
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "There is nothing here",
                "The address is wrong, what it led to was deleted, or your token does not reach it."
                    .to_owned(),
            ),
            Self::Scope(scope) => (
                StatusCode::FORBIDDEN,
                "Your token does not allow this",
                format!("It needs the scope \u{201c}{scope}\u{201d}. Log in with a token that has it."),
            ),
            Self::Forged => (
                StatusCode::FORBIDDEN,
                "This form is not valid any more",
                "It was opened in another session, or sent from another site. Nothing was changed. \
                 Go back, load the page again and repeat what you did."
                    .to_owned(),
            ),
            Self::Refused(why) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "This cannot be done",
                why.clone(),
            ),
            Self::TooManyStreams => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many live pages",
                "Pages stay usable; load them again to see what is new.".to_owned(),
            ),
            Self::TooMany(wait) => (
                StatusCode::TOO_MANY_REQUESTS,
                "Too many requests",
                format!("Try again in {} s.", whole_seconds(*wait)),
            ),
            Self::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "This form did not arrive in time",
                "Nothing was changed. Send it again.".to_owned(),
            ),
            Self::Broken => (
                StatusCode::BAD_REQUEST,
                "This form did not arrive whole",
                "Nothing was changed. Send it again.".to_owned(),
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "This form is too large",
                "Nothing was changed.".to_owned(),
            ),
            Self::TooLate => (
                StatusCode::SERVICE_UNAVAILABLE,
                "This takes too long",
                "Others are being served, or the database is slow. Try again in a moment."
                    .to_owned(),
            ),
            Self::Unread => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many pages are being sent",
                "Their browsers have not read them yet. Try again in a moment.".to_owned(),
            ),
            Self::Defect => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "This page could not be made",
                "This is a defect of verifyd. Its log says where.".to_owned(),
            ),
            Self::Store(error) if error.is_transient() && error.lacks().is_none() => {
                if !is_of_replica(error) {
                    tracing::warn!(%error, "a page could not be read");
                }
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The database does not answer",
                    "Checks go on by themselves as soon as it does. Try again in a moment."
                        .to_owned(),
                )
            }
            Self::Store(error) => {
                if !is_of_replica(error) {
                    tracing::error!(%error, "a page could not be read");
                }
                let (status, title) = match error.lacks() {
                    Some(lacks) => (StatusCode::SERVICE_UNAVAILABLE, lacks),
                    None => (
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "This page could not be read",
                    ),
                };
                let text =
                    "The log of verifyd says why, and \u{201c}verifyd doctor\u{201d} what to do.";
                (status, title, text.to_owned())
            }
        };
        let retry_after = match &self {
            Self::TooMany(wait) => Some(whole_seconds(*wait)),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Some(5),
            _ => None,
        };
        let page = ErrorPage {
            title,
            text: &text,
            style: assets::style(),
            script: assets::script(),
            retry: status.is_server_error() || retry_after.is_some(),
        };
        let mut response = (status, render(&page)).into_response();
        if let Some(wait) = retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, header::HeaderValue::from(wait));
        }
        response
    }
}

/// A page that leads on at once. The browser regards that as a step within this host, and sends the session cookie.
pub fn onward(to: &str) -> Response {
    render(&Onward { to })
}

/// A template as an answer. Whatever others wrote, no character of it hides or turns what a person reads.
pub fn render(template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => Html(redact::clean_document(&html)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Reads an id of the path; what is none leads nowhere.
pub fn id<T: FromStr<Err = InvalidId>>(path: &Path<String>) -> Result<T, PageError> {
    path.0.parse().map_err(|_| PageError::NotFound)
}

/// Links in reports may lead to paths of the surrounding application. Asked for one of them, verifyd
/// shows its own page of the same thing.
pub async fn not_here(State(pages): State<Arc<Pages>>, uri: Uri) -> Response {
    let own = |pattern: &str, to: &str| -> Option<String> {
        let (before, after) = pattern.split_once("{id}").unwrap_or((pattern, ""));
        let rest = uri.path().strip_prefix(before)?.strip_suffix(after)?;
        if !pattern.contains("{id}") {
            return rest.is_empty().then(|| to.to_owned());
        }
        rest.parse().ok().map(|ObjectId(id)| format!("{to}/{id}"))
    };
    let links = &pages.links;
    let found = own(&links.connection, "/connections")
        .or_else(|| own(&links.run, "/runs"))
        .or_else(|| own(&links.connections, "/connections"));
    match found {
        Some(to) if to != uri.path() => Redirect::to(&to).into_response(),
        _ => PageError::NotFound.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::Unread;
    use crate::ports::store_error::{Detail, Origin};

    #[test]
    fn a_form_that_does_not_arrive_is_no_wrong_form() {
        for (unread, status) in [
            (Unread::Broken, 400),
            (Unread::TooSlow, 408),
            (Unread::TooLarge, 413),
        ] {
            let page = PageError::from(unread).into_response();
            assert_eq!(page.status().as_u16(), status, "{unread:?}");
        }
    }

    #[test]
    fn what_the_database_lacks_is_no_defect() {
        let page = |error: StoreError| PageError::from(error).into_response().status().as_u16();
        let denied = "permission denied for table operation_runs (SQLSTATE 42501)";
        assert_eq!(page(StoreError::Refused(Detail::said(denied))), 503);
        assert_eq!(page(StoreError::Schema("column x is missing".into())), 503);
        let refused = "a value does not fit (SQLSTATE 22001)";
        assert_eq!(page(StoreError::Refused(Detail::said(refused))), 500);
    }

    #[tokio::test]
    async fn a_rule_that_raises_the_code_of_a_lock_is_no_database_that_does_not_answer() {
        let raised = Detail {
            origin: Some(Origin::Function),
            ..Detail::said("not today (SQLSTATE 55P03)")
        };
        let page = PageError::from(StoreError::Contended(raised)).into_response();
        let page = axum::body::to_bytes(page.into_body(), usize::MAX).await;
        let page = String::from_utf8(page.unwrap().to_vec()).unwrap();
        assert!(
            page.contains("The database refuses this to verifyd"),
            "{page}"
        );
    }
}
