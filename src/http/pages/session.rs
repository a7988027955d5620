//! Who looks at the page: a token that has logged in, and what it may do.

use super::Pages;
use super::error::PageError;
use super::security::{equal, followed_from_elsewhere, same_origin};
use crate::domain::access::{Binding, Scope};
use crate::domain::run::OperationRun;
use crate::domain::token::sha256_hex;
use axum::extract::FromRequestParts;
use axum::http::header::COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use std::sync::Arc;

/// Name of the cookie.
pub const COOKIE_NAME: &str = "verifyd_session";

/// Whoever has logged in.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Name of the token.
    pub name: String,
    pub binding: Binding,
    scopes: Vec<Scope>,
    /// What forms of this session must carry.
    pub csrf: String,
    /// SHA-256 of the cookie.
    pub session: String,
}

impl Visitor {
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Workers are shared by all: only a token that reaches everything sees them.
    pub fn sees_workers(&self) -> bool {
        self.may(Scope::Admin) && self.binding == Binding::EVERYTHING
    }

    pub fn needs(&self, scope: Scope) -> Result<(), PageError> {
        if self.may(scope) {
            Ok(())
        } else {
            Err(PageError::Scope(scope))
        }
    }

    /// The run, if it is within reach. Another tenant's is not there.
    pub fn admits(&self, run: &OperationRun) -> bool {
        self.binding.admits(run.workspace_id, run.tenant_id)
    }

    /// A form that changes something must come from a page of this session.
    pub fn form(&self, headers: &HeaderMap, csrf: &str) -> Result<(), PageError> {
        if same_origin(headers) && equal(&self.csrf, csrf) {
            Ok(())
        } else {
            Err(PageError::Forged)
        }
    }
}

/// The session cookie, if the browser sent one that could be ours.
pub fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, value)| *name == COOKIE_NAME && !value.is_empty() && value.len() <= 128)
        .map(|(_, value)| value)
}

impl FromRequestParts<Arc<Pages>> for Visitor {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, pages: &Arc<Pages>) -> Result<Self, PageError> {
        let here = parts.uri.path_and_query();
        let here = here.map_or("/", |p| p.as_str()).to_owned();
        let Some(cookie) = cookie(&parts.headers) else {
            let get = parts.method == Method::GET;
            return Err(if get && followed_from_elsewhere(&parts.headers) {
                PageError::CookieHeldBack(here)
            } else {
                PageError::LoggedOut(get.then_some(here))
            });
        };
        let session = sha256_hex(cookie);
        let Some(found) = pages.store.session_by_hash(&session).await? else {
            let get = parts.method == Method::GET;
            return Err(PageError::LoggedOut(get.then_some(here)));
        };
        let visitor = Self {
            name: found.token.name,
            binding: found.token.binding,
            scopes: found.token.scopes,
            csrf: found.csrf,
            session,
        };
        visitor.needs(Scope::Read)?;
        Ok(visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_cookie_is_found_among_others() {
        let with =
            |text: &'static str| HeaderMap::from_iter([(COOKIE, HeaderValue::from_static(text))]);
        assert_eq!(cookie(&with("a=b; verifyd_session=xyz; c=d")), Some("xyz"));
        assert_eq!(cookie(&with("verifyd_session=")), None);
        assert_eq!(cookie(&with("not_verifyd_session=xyz")), None);
        assert_eq!(cookie(&with("verifyd_session")), None);
        assert_eq!(cookie(&HeaderMap::new()), None);
    }
}
