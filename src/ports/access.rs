//! Tokens of the API, sessions of the pages, and answers stored for idempotency keys.
//!
//! Tokens and session cookies are random and long; only their SHA-256 is stored.

use crate::domain::access::{Binding, Scope};
use crate::domain::audit::Origin;
use crate::domain::{AcknowledgementId, RunId, TokenId};
use crate::ports::store_error::StoreError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;

/// A token to be recorded. The token itself never gets here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    pub name: String,
    /// Lowercase hex of the token's SHA-256.
    pub hash: String,
    pub scopes: Vec<Scope>,
    pub binding: Binding,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A person whom a provider of OpenID Connect has signed in. In everything but the sign-in a person is a token, whose
/// text nobody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    /// Lowercase hex of a SHA-256, of which no text of a token is the input: the same for each sign-in of the person.
    pub hash: String,
    pub scopes: Vec<Scope>,
    pub binding: Binding,
}

/// A token, without anything of its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenRecord {
    pub id: TokenId,
    pub name: String,
    pub scopes: Vec<Scope>,
    #[serde(flatten)]
    pub binding: Binding,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// Written at most once a minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A session of the pages: a token that has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    pub token: TokenRecord,
    /// The CSRF token that forms of this session must contain.
    pub csrf: String,
    pub expires_at: DateTime<Utc>,
}

/// The first request under an idempotency key, or what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// The caller answers it, and stores the answer.
    First,
    /// Another request under this key is being answered.
    InProgress,
    /// The key was used for another request.
    Mismatch,
    /// The stored answer: HTTP status and body.
    Answered { status: u16, body: String },
}

/// The row that an answer is about. The answer counts while the row is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerSubject {
    Run(RunId),
    Acknowledgement(AcknowledgementId),
}

/// Who may call, and what was answered.
#[async_trait]
pub trait AccessStore: Send + Sync {
    /// Records a token.
    async fn add_token(&self, new: &NewToken, by: &Origin) -> Result<TokenRecord, StoreError>;

    /// All tokens, oldest first, revoked and expired ones included.
    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError>;

    /// Revokes it, and ends its sessions. False: no such token, or revoked before.
    async fn revoke_token(&self, id: TokenId, by: &Origin) -> Result<bool, StoreError>;

    /// Records a person, or what has changed since the last sign-in, as a token that expires after `lifetime` by the
    /// database's clock. `None`: it was revoked.
    async fn admit_person(
        &self,
        person: &Person,
        lifetime: Duration,
        by: &Origin,
    ) -> Result<Option<TokenRecord>, StoreError>;

    /// Ends what earlier sign-ins gave to the person of this hash: the token expires, and its sessions end. False:
    /// there was nothing.
    async fn dismiss_person(&self, hash: &str, by: &Origin) -> Result<bool, StoreError>;

    /// Returns the token of this hash that is neither revoked nor expired by the database's clock. Records
    /// its use, at most once a minute, where the database can be written.
    async fn token_by_hash(&self, hash: &str) -> Result<Option<TokenRecord>, StoreError>;

    /// Opens a session in place of the one with the hash `replaced`, and forgets those that have expired.
    async fn open_session(
        &self,
        token: TokenId,
        session_hash: &str,
        csrf: &str,
        lifetime: Duration,
        replaced: Option<&str>,
        by: &Origin,
    ) -> Result<(), StoreError>;

    /// The session of this hash, if it and its token are valid.
    async fn session_by_hash(
        &self,
        session_hash: &str,
    ) -> Result<Option<SessionRecord>, StoreError>;

    /// Ends a session.
    async fn close_session(&self, session_hash: &str, by: &Origin) -> Result<(), StoreError>;

    /// Reserves an idempotency key of a token. A reservation that was never answered may be taken
    /// over after `abandoned_after`; keys are forgotten after `kept_for`. An answer about a row that
    /// is gone, or that is another one of the same id, is none: the same request is the first again.
    async fn reserve_key(
        &self,
        token: TokenId,
        key: &str,
        request_hash: &str,
        abandoned_after: Duration,
        kept_for: Duration,
    ) -> Result<Reserved, StoreError>;

    /// Keeps the answer, and which row it is about.
    async fn answer_key(
        &self,
        token: TokenId,
        key: &str,
        status: u16,
        body: &str,
        subject: AnswerSubject,
    ) -> Result<(), StoreError>;

    /// Gives a reservation up: nothing was done.
    async fn release_key(&self, token: TokenId, key: &str) -> Result<(), StoreError>;
}
