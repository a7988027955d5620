//! Creates and revokes tokens of the API and of the pages.

use super::OperationError;
use super::acknowledge::future;
use crate::domain::TokenId;
use crate::domain::access::{Binding, Scope};
use crate::domain::token;
use crate::ports::access::{NewToken, TokenRecord};
use crate::ports::store::Store;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};

/// Characters of a token's name, at most.
const NAME_CHARS: usize = 200;

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
    now: DateTime<Utc>,
) -> Result<(TokenRecord, SecretString), OperationError> {
    let name = request.name.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARS {
        let problem = format!("1 to {NAME_CHARS} characters are allowed");
        return Err(OperationError::invalid("name", problem));
    }
    if let Some(at) = request.expires_at {
        future(at, now)?;
    }
    let text = token::fresh()?;
    let record = store
        .add_token(&NewToken {
            name: name.to_owned(),
            hash: token::sha256_hex(text.expose_secret()),
            scopes: request.scopes,
            binding: request.binding,
            expires_at: request.expires_at,
        })
        .await?;
    Ok((record, text))
}

/// Revokes a token and ends its sessions. Returns whether it was valid until now.
pub async fn revoke_token(store: &dyn Store, id: TokenId) -> Result<bool, OperationError> {
    let revoked = store.revoke_token(id).await?;
    if !revoked && !store.tokens().await?.iter().any(|token| token.id == id) {
        return Err(OperationError::not_found("token", id));
    }
    Ok(revoked)
}
