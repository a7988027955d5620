//! Creates and revokes tokens of the API and of the pages.

use super::OperationError;
use super::acknowledge::future;
use super::text;
use crate::domain::TokenId;
use crate::domain::access::{Binding, PERSON_PREFIX, Scope};
use crate::domain::audit::Origin;
use crate::domain::token;
use crate::ports::access::{NewToken, TokenRecord};
use crate::ports::store::Store;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};

/// A request to create a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    pub name: String,
    pub scopes: Vec<Scope>,
    pub binding: Binding,
    /// `None`: it never expires.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Creates a token and returns its text, which is kept nowhere.
pub async fn create_token(
    store: &dyn Store,
    request: TokenRequest,
    by: &Origin,
    now: DateTime<Utc>,
) -> Result<(TokenRecord, SecretString), OperationError> {
    let name = text::name("name", &request.name)?;
    if name.starts_with(PERSON_PREFIX.trim_end()) {
        let problem = "names of people who sign in with OpenID Connect begin with oidc:";
        return Err(OperationError::not_allowed("name", problem, "another name"));
    }
    if request.scopes.contains(&Scope::Admin) && request.binding != Binding::EVERYTHING {
        let problem = "admin belongs to no workspace, and the token is bound to one";
        return Err(OperationError::not_allowed(
            "scopes",
            problem,
            "read, run, audit",
        ));
    }
    if let Some(at) = request.expires_at {
        future(at, now)?;
    }
    let secret = token::fresh()?;
    let new = NewToken {
        name,
        hash: token::sha256_hex(secret.expose_secret()),
        scopes: request.scopes,
        binding: request.binding,
        expires_at: request.expires_at,
    };
    Ok((store.add_token(&new, by).await?, secret))
}

/// Revokes a token and ends its sessions. Returns whether it was valid until now.
pub async fn revoke_token(
    store: &dyn Store,
    id: TokenId,
    by: &Origin,
) -> Result<bool, OperationError> {
    let revoked = store.revoke_token(id, by).await?;
    if !revoked && !store.tokens().await?.iter().any(|token| token.id == id) {
        return Err(OperationError::not_found("token", id));
    }
    Ok(revoked)
}
