//! Rows of tokens, sessions and idempotency keys, as they come from either database.

use super::from_row::from_row;
use super::rows::name;
use crate::domain::access::{Binding, Scope};
use crate::domain::{TenantId, TokenId, WorkspaceId};
use crate::ports::access::{Reserved, SessionRecord, TokenRecord};
use crate::ports::store_error::StoreError;
use chrono::{DateTime, Utc};

/// The columns of a [`TokenRow`], of `api_tokens t`.
macro_rules! token_columns {
    () => {
        "t.id, t.name, t.scopes, t.workspace_id, t.tenant_id, t.created_at, t.expires_at, \
         t.revoked_at, t.last_used_at"
    };
}
pub(super) use token_columns;

from_row! {
    /// `api_tokens`, without the hash.
    #[derive(Debug)]
    pub(super) struct TokenRow {
        pub id: i64,
        name: String,
        scopes: String,
        workspace_id: Option<i64>,
        tenant_id: Option<i64>,
        created_at: DateTime<Utc>,
        expires_at: Option<DateTime<Utc>>,
        revoked_at: Option<DateTime<Utc>>,
        last_used_at: Option<DateTime<Utc>>,
    }
}

impl TryFrom<TokenRow> for TokenRecord {
    type Error = StoreError;
    fn try_from(row: TokenRow) -> Result<Self, StoreError> {
        let scopes = row.scopes.split(',').filter(|text| !text.is_empty());
        Ok(Self {
            id: TokenId(row.id),
            scopes: scopes
                .map(|text| name::<Scope>("api_tokens", "scopes", row.id, text))
                .collect::<Result<_, _>>()?,
            name: row.name,
            binding: Binding {
                workspace_id: row.workspace_id.map(WorkspaceId),
                tenant_id: row.tenant_id.map(TenantId),
            },
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
        })
    }
}

from_row! {
    /// A valid token, and whether its use has to be recorded.
    #[derive(Debug)]
    pub(super) struct UsedTokenRow {
        pub to_be_noted: bool;
        pub token: TokenRow
    }
}

from_row! {
    /// `page_sessions` with its token.
    #[derive(Debug)]
    pub(super) struct SessionRow {
        csrf: String,
        session_expires_at: DateTime<Utc>;
        token: TokenRow
    }
}

impl TryFrom<SessionRow> for SessionRecord {
    type Error = StoreError;
    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        Ok(Self {
            token: row.token.try_into()?,
            csrf: row.csrf,
            expires_at: row.session_expires_at,
        })
    }
}

from_row! {
    /// `idempotency_keys`
    #[derive(Debug)]
    pub(super) struct KeyRow {
        request_hash: String,
        response_status: Option<i32>,
        response_body: Option<String>,
    }
}

impl KeyRow {
    /// Returns what this key means for a request with this hash.
    pub(super) fn reserved(self, request_hash: &str) -> Reserved {
        if self.request_hash != request_hash {
            return Reserved::Mismatch;
        }
        match (self.response_status, self.response_body) {
            (Some(status), Some(body)) => match u16::try_from(status) {
                Ok(status) => Reserved::Answered { status, body },
                Err(_) => Reserved::InProgress,
            },
            _ => Reserved::InProgress,
        }
    }
}
