//! The session of a page: a token that has logged in, and what it may do.

use super::Pages;
use super::error::PageError;
use super::security::{followed_from_elsewhere, same_origin};
use crate::domain::TokenId;
use crate::domain::access::{Binding, Scope};
use crate::domain::acknowledgement::{Actor, Surface};
use crate::domain::audit::Origin;
use crate::http::reads::Reader;
use crate::http::request_id::RequestId;
use crate::http::server::Peer;
use crate::operations::may_list_workers;
use crate::ports::access::SessionRecord;
use crate::ports::store::Store;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::FromRequestParts;
use axum::http::header::COOKIE;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method};
use serde::Deserialize;
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

/// Name of the cookie.
pub const COOKIE_NAME: &str = "verifyd_session";

/// Whoever has logged in.
#[derive(Clone, Debug)]
pub struct Visitor {
    pub token: TokenId,
    /// Name of the token.
    pub name: String,
    pub binding: Binding,
    scopes: Vec<Scope>,
    /// The CSRF token that forms of this session must contain.
    pub csrf: String,
    /// SHA-256 of the cookie.
    pub session: String,
    pub sender: Sender,
    /// The replica, if this page is to be read from it.
    reader: Option<Reader>,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub struct Sender {
    pub address: Option<IpAddr>,
    request_id: Option<String>,
}

impl Sender {
    pub fn of(extensions: &Extensions) -> Self {
        let id = extensions.get::<RequestId>();
        Self {
            address: extensions.get::<Peer>().map(|peer| peer.0.ip()),
            request_id: id.map(|id| id.0.clone()),
        }
    }

    /// Returns the origin of what is done on a page, with this token and its name or without any.
    pub fn origin(&self, token: Option<(TokenId, &str)>) -> Origin {
        let name = token.map_or("unknown", |(_, name)| name);
        self.origin_of(token.map(|(id, _)| id), name)
    }

    /// Returns the same with a name that may have no token.
    pub fn origin_of(&self, token: Option<TokenId>, name: &str) -> Origin {
        Origin {
            actor: Actor {
                surface: Surface::Pages,
                token_id: token,
                name: name.to_owned(),
            },
            address: self.address.map(|address| address.to_string()),
            request_id: self.request_id.clone(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Sender {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

impl Visitor {
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Returns whether the page of workers is within reach.
    pub fn sees_workers(&self) -> bool {
        self.may(Scope::Admin) && may_list_workers(&self.binding)
    }

    /// Returns where the lists and details of this page are read.
    pub fn reads<'a>(&'a self, pages: &'a Pages) -> &'a dyn Store {
        match &self.reader {
            Some(reader) => reader.store(),
            None => pages.store.as_ref(),
        }
    }

    /// Returns how old the page may be, where it has to say so.
    pub fn mentioned_lag(&self) -> Option<Duration> {
        self.reader.as_ref().and_then(Reader::mentioned_lag)
    }

    pub fn needs(&self, scope: Scope) -> Result<(), PageError> {
        if self.may(scope) {
            Ok(())
        } else {
            Err(PageError::Scope(scope))
        }
    }

    /// Returns the origin of actions with the token.
    pub fn origin(&self) -> Origin {
        self.sender.origin(Some((self.token, &self.name[..])))
    }

    /// A form that changes something must come from a page of this session.
    pub fn form(&self, headers: &HeaderMap, csrf: &str) -> Result<(), PageError> {
        // In a time that does not depend on where the two differ.
        let equal = verify_slices_are_equal(self.csrf.as_bytes(), csrf.as_bytes());
        if same_origin(headers) && equal.is_ok() {
            Ok(())
        } else {
            Err(PageError::Forged)
        }
    }
}

/// A form that says no more than which session sends it.
#[derive(Debug, Deserialize)]
pub struct Confirmation {
    #[serde(default)]
    pub csrf: String,
}

/// The session cookie, if the browser sent one that could be ours.
pub fn cookie(headers: &HeaderMap) -> Option<&str> {
    cookie_named(headers, COOKIE_NAME, 128)
}

/// The cookie of this name, if the browser sent one of at most so many bytes.
pub fn cookie_named<'a>(headers: &'a HeaderMap, wanted: &str, longest: usize) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, value)| *name == wanted && !value.is_empty() && value.len() <= longest)
        .map(|(_, value)| value)
}

impl Visitor {
    /// Whoever has the session of this hash.
    pub fn of(found: SessionRecord, session: String, sender: Sender) -> Self {
        Self {
            sender,
            token: found.token.id,
            name: found.token.name,
            binding: found.token.binding,
            scopes: found.token.scopes,
            csrf: found.csrf,
            session,
            reader: None,
        }
    }
}

/// Whoever has logged in, as [`super::admission::admit`] has found it.
impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, PageError> {
        if let Some(visitor) = parts.extensions.get::<Self>() {
            visitor.needs(Scope::Read)?;
            return Ok(Self {
                reader: parts.extensions.get::<Reader>().cloned(),
                ..visitor.clone()
            });
        }
        let here = parts.uri.path_and_query();
        let here = here.map_or("/", |p| p.as_str()).to_owned();
        let get = parts.method == Method::GET;
        let held_back = cookie(&parts.headers).is_none() && followed_from_elsewhere(&parts.headers);
        Err(if get && held_back {
            PageError::CookieHeldBack(here)
        } else {
            PageError::LoggedOut(get.then_some(here))
        })
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
