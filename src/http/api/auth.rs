//! Who calls, and whether it may.

use super::Api;
use super::problem::{Kind, Problem};
use super::routes::Access;
use crate::domain::access::{Binding, Scope};
use crate::domain::acknowledgement::{Actor, Surface};
use crate::domain::audit::Origin;
use crate::domain::{TokenId, token};
use crate::http::body::{self, Arrival, Unread};
use crate::http::connection_slots::network;
use crate::http::reads::Reader;
use crate::http::request_id::RequestId;
use crate::http::request_limits::LookUpRefused;
use crate::http::server::Peer;
use crate::ports::access::TokenRecord;
use crate::ports::store::Store;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The token of a request that was let in.
#[derive(Clone, Debug)]
pub struct Caller {
    pub token: TokenRecord,
    address: Option<IpAddr>,
    request_id: Option<String>,
    /// The replica, if the answer is to be read from it.
    reader: Option<Reader>,
}

impl Caller {
    pub fn id(&self) -> TokenId {
        self.token.id
    }

    pub fn binding(&self) -> Binding {
        self.token.binding
    }

    /// Returns where lists and details are read.
    pub fn reads<'a>(&'a self, api: &'a Api) -> &'a dyn Store {
        match &self.reader {
            Some(reader) => reader.store(),
            None => api.store.as_ref(),
        }
    }

    /// Who did it and from where, whatever the request says.
    pub fn origin(&self) -> Origin {
        Origin {
            actor: Actor {
                surface: Surface::Api,
                token_id: Some(self.token.id),
                name: self.token.name.clone(),
            },
            address: self.address.map(|address| address.to_string()),
            request_id: self.request_id.clone(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        // Only a public route gets here without one, and those ask for none.
        let none = || Problem::new(Kind::Defect, "The route names no caller.");
        Ok(Self {
            reader: parts.extensions.get::<Reader>().cloned(),
            ..caller.ok_or_else(none)?
        })
    }
}

/// Lets a request in, or answers it. Around every route: see [`super::routes::Routes`]. What a request
/// takes from others is taken after all of it is here. The response to a valid token has its [`TokenId`] as an
/// extension.
pub async fn admit(access: Access, request: Request, next: Next) -> Result<Response, Problem> {
    let api = request.extensions().get::<Arc<Api>>().cloned();
    let api = api.ok_or_else(|| Problem::new(Kind::Defect, "The API is not set up."))?;
    let address = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
    let (authorization, is_repeated) = (given.next().cloned(), given.next().is_some());
    let Access::Scope(scope) = access else {
        anonymous(&api, address)?;
        return Ok(next.run(request).await);
    };
    if is_repeated {
        anonymous(&api, address)?;
        let problem = "is given more than once";
        return Err(Problem::field(
            Kind::InvalidHeader,
            "Authorization",
            problem,
            "once",
        ));
    }
    let hash = hash_of(authorization.as_ref());
    let token = authenticate(&api, authorization.is_some(), hash.as_deref(), address).await?;
    let request_id = request.extensions().get::<RequestId>();
    let caller = Caller {
        token,
        address,
        request_id: request_id.map(|id| id.0.clone()),
        reader: None,
    };
    let token = caller.id();
    tracing::Span::current().record("token", token.0);
    let hash = hash.unwrap_or_default();
    let answered = answer(&api, caller, &hash, scope, request, next).await;
    let mut response = answered.into_response();
    response.extensions_mut().insert(token);
    Ok(response)
}

/// Answers the request of a valid token.
async fn answer(
    api: &Api,
    mut caller: Caller,
    hash: &str,
    scope: Scope,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    authorize(&caller, scope)?;
    let (mut request, arrival) = body::whole(request, body::MAX_BODY_BYTES).await?;
    if arrival == Arrival::Later {
        let found = look_up(api, hash, caller.address).await?;
        caller.token = found.ok_or_else(invalid_token)?;
        authorize(&caller, scope)?;
    }
    let owner = caller.id();
    request.extensions_mut().insert(caller);
    let slot = api.request_limits.enter(Some(owner)).await;
    let slot = slot.ok_or_else(|| Problem::of_status(StatusCode::SERVICE_UNAVAILABLE))?;
    let response = api.reads.answer(request, next).await;
    slot.send(response).await.ok_or_else(unread)
}

impl From<Unread> for Problem {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooSlow => Self::of_status(StatusCode::REQUEST_TIMEOUT),
            Unread::TooLarge => Self::of_status(StatusCode::PAYLOAD_TOO_LARGE),
            Unread::Broken => Self::new(Kind::BadRequest, "The body did not arrive whole."),
        }
    }
}

/// The hash of the token. `None`: there is none, or one with a typing error, which costs no look into the database.
fn hash_of(authorization: Option<&HeaderValue>) -> Option<String> {
    let header = authorization?.to_str().ok()?;
    token::hash(bearer(header)?)
}

async fn authenticate(
    api: &Api,
    is_given: bool,
    hash: Option<&str>,
    address: Option<IpAddr>,
) -> Result<TokenRecord, Problem> {
    if !is_given {
        anonymous(api, address)?;
        return Err(unauthorized(
            "No token is given.",
            "Bearer realm=\"verifyd\"",
        ));
    }
    let found = match hash {
        Some(hash) => {
            let known = api.request_limits.known(hash).await;
            if let Some(id) = known {
                api.by_token.take(id).map_err(too_many)?;
            }
            let found = look_up(api, hash, address).await?;
            if let (Some(token), None) = (&found, known) {
                api.by_token.take(token.id).map_err(too_many)?;
            }
            found
        }
        None => None,
    };
    match found {
        Some(token) => Ok(token),
        None => {
            anonymous(api, address)?;
            Err(invalid_token())
        }
    }
}

async fn look_up(
    api: &Api,
    hash: &str,
    address: Option<IpAddr>,
) -> Result<Option<TokenRecord>, Problem> {
    let ask = api.store.token_by_hash(hash);
    let found = api
        .request_limits
        .look_up(hash, address, ask, |token| token.id)
        .await;
    found.map_err(|error| match error {
        LookUpRefused::TooMany(wait) => too_many(wait),
        LookUpRefused::Store(error) => error.into(),
    })
}

fn authorize(caller: &Caller, scope: Scope) -> Result<(), Problem> {
    if caller.token.scopes.contains(&scope) {
        return Ok(());
    }
    let mut problem = Problem::new(
        Kind::Forbidden,
        format!("The scope {scope} is needed, which this token does not have."),
    );
    problem.authenticate = Some(format!(
        "Bearer realm=\"verifyd\", error=\"insufficient_scope\", scope=\"{scope}\""
    ));
    Err(problem)
}

/// Answers what no route serves. No token of it is looked up, so it counts as one without.
pub fn unrouted(api: &Api, request: &Request, problem: Problem) -> Problem {
    let address = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    anonymous(api, address).err().unwrap_or(problem)
}

/// Counts a request that comes without a valid token, by the address it comes from.
fn anonymous(api: &Api, address: Option<IpAddr>) -> Result<(), Problem> {
    api.by_address.take(address.map(network)).map_err(too_many)
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(detail: &str, authenticate: &str) -> Problem {
    let mut problem = Problem::new(Kind::Unauthorized, detail);
    problem.authenticate = Some(authenticate.to_owned());
    problem
}

fn invalid_token() -> Problem {
    unauthorized(
        "The token is not known, has expired or was revoked.",
        "Bearer realm=\"verifyd\", error=\"invalid_token\"",
    )
}

fn unread() -> Problem {
    Problem::new(
        Kind::Unavailable,
        "Too many answers are not read yet. Read them, then try again.",
    )
    .retry_after(Duration::from_secs(5))
}

fn too_many(wait: Duration) -> Problem {
    Problem::new(
        Kind::RateLimited,
        "More requests than allowed. Wait, then try again.",
    )
    .retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
    }
}
