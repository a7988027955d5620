//! Admission of every request to a page: authentication, rate limits, and a request slot.

use super::Pages;
use super::error::PageError;
use super::login::is_secure;
use super::refused_logins::RefusedLogins;
use super::session::{Sender, Visitor, cookie, cookie_named};
use crate::domain::TokenId;
use crate::domain::token::sha256_hex;
use crate::http::HttpSettings;
use crate::http::body::{self, Arrival, Unread};
use crate::http::connection_slots::network;
use crate::http::rate_limit::RateLimiter;
use crate::http::reads::SETTLED_AFTER;
use crate::http::request_id::RequestId;
use crate::http::request_limits::LookUpRefused;
use axum::extract::{Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// Name of the cookie.
const CHANGED: &str = "verifyd_changed";

/// How many requests sessions and addresses may make.
#[derive(Debug)]
pub struct Limits {
    by_token: RateLimiter<TokenId>,
    by_address: RateLimiter<Option<IpAddr>>,
    logins: RateLimiter<(Login, Option<IpAddr>)>,
    pub refused_logins: RefusedLogins,
}

impl Limits {
    /// Each counts for itself, apart from the API's.
    pub fn new(settings: &HttpSettings) -> Self {
        let requests = settings.api.requests_per_minute;
        Self {
            by_token: RateLimiter::per_minute(requests),
            by_address: RateLimiter::per_minute(requests),
            logins: RateLimiter::per_minute(settings.logins_per_minute()),
            refused_logins: RefusedLogins::default(),
        }
    }
}

/// What counts as an attempt to log in. Each is counted apart, and apart from all other requests without a login: whoever
/// floods one keeps nobody of the same address from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Login {
    /// The form with a token.
    Token,
    /// The start of a sign-in with OpenID Connect.
    Begin,
    /// The return from the provider.
    Finish,
}

impl Login {
    fn of(request: &Request) -> Option<Self> {
        match request.uri().path() {
            "/login" if request.method() == Method::POST => Some(Self::Token),
            "/login/oidc" => Some(Self::Begin),
            "/login/callback" => Some(Self::Finish),
            _ => None,
        }
    }
}

/// Around every page but the files that belong to all of them.
pub async fn admit(State(pages): State<Arc<Pages>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    let limit = pages.request_limits.request_timeout;
    let answered = tokio::time::timeout(limit, admitted(&pages, request, next)).await;
    let mut answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => error.into_response(),
        Err(_) => PageError::TooLate.into_response(),
    };
    id.add_to(&mut answer);
    answer
}

async fn admitted(pages: &Pages, request: Request, next: Next) -> Result<Response, PageError> {
    let sender = Sender::of(request.extensions());
    let network = sender.address.map(network);
    let limits = &pages.limits;
    let is_form = request.method() == Method::POST;
    let login = Login::of(&request);
    let session = cookie(request.headers()).map(sha256_hex);
    let known = match &session {
        Some(session) => pages.request_limits.known(session).await,
        None => None,
    };
    if let Some(token) = known {
        limits.by_token.take(token).map_err(PageError::TooMany)?;
    }
    let visitor = match session {
        Some(session) => look_up(pages, session, sender).await?,
        None => None,
    };
    match (&visitor, known) {
        (Some(visitor), None) => limits.by_token.take(visitor.token),
        (None, _) if login.is_none() => limits.by_address.take(network),
        _ => Ok(()),
    }
    .map_err(PageError::TooMany)?;
    if let Some(login) = login {
        let counted = limits.logins.take((login, network));
        counted.map_err(PageError::TooMany)?;
    }
    // A form to log in needs the database, too; the page with that form does not. What asks the provider takes a slot by
    // itself, and not while it asks: whoever is signed in already must not wait for a second one with the first.
    let asks_the_provider =
        matches!(login, Some(Login::Begin | Login::Finish)) || request.uri().path() == "/logout";
    let (mut request, arrival) = body::whole(request, body::MAX_BODY_BYTES).await?;
    let visitor = match visitor {
        Some(before) if arrival == Arrival::Later => {
            look_up(pages, before.session, before.sender).await?
        }
        found => found,
    };
    let slot = if !asks_the_provider && (is_form || visitor.is_some()) {
        let owner = visitor.as_ref().map(|visitor| visitor.token);
        pages.request_limits.enter(owner).await
    } else {
        None
    };
    let is_secure = is_secure(pages, request.headers());
    let has_changed = cookie_named(request.headers(), CHANGED, 1).is_some();
    let may_be_behind = visitor.is_some() && !asks_the_provider && !has_changed;
    if let Some(visitor) = visitor {
        request.extensions_mut().insert(visitor);
    }
    let answer = match may_be_behind {
        true => pages.reads.answer(request, next).await,
        false => next.run(request).await,
    };
    let mut answer = match slot {
        Some(slot) => slot.send(answer).await.ok_or(PageError::Unread)?,
        None => answer,
    };
    if is_form
        && pages.reads.has_replica()
        && let Ok(cookie) = HeaderValue::from_str(&changed(is_secure))
    {
        answer.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(answer)
}

/// The cookie of a browser that has changed something: until a replica has that, whatever process answers, its pages
/// are read from the primary.
fn changed(is_secure: bool) -> String {
    let max_age = SETTLED_AFTER.as_secs() + 1;
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{CHANGED}=1; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}")
}

/// Whoever has logged in, if this is the hash of a session's cookie.
async fn look_up(
    pages: &Pages,
    session: String,
    sender: Sender,
) -> Result<Option<Visitor>, PageError> {
    let ask = pages.store.session_by_hash(&session);
    let found = pages
        .request_limits
        .look_up(&session, sender.address, ask, |found| found.token.id)
        .await?;
    Ok(found.map(|found| Visitor::of(found, session, sender)))
}

impl From<LookUpRefused> for PageError {
    fn from(error: LookUpRefused) -> Self {
        match error {
            LookUpRefused::TooMany(wait) => Self::TooMany(wait),
            LookUpRefused::Store(error) => Self::Store(error),
        }
    }
}

impl From<Unread> for PageError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooSlow => Self::TooSlow,
            Unread::TooLarge => Self::TooLarge,
            Unread::Broken => Self::Broken,
        }
    }
}
