//! Tokens, sessions of the pages, idempotency keys.

use super::{SqliteStore, earlier, later, now, now_moved_by};
use crate::domain::TokenId;
use crate::domain::access::join_scopes;
use crate::ports::access::{AccessStore, NewToken, Reserved, SessionRecord, TokenRecord};
use crate::ports::store_error::StoreError;
use crate::store::access_rows::{KeyRow, SessionRow, TokenRow, UsedTokenRow, token_columns};
use crate::store::rows;
use crate::store::sql::sql;
use async_trait::async_trait;
use sqlx::SqliteConnection;
use std::time::Duration;

/// Times that come from outside are brought into the form in which they are compared.
const ADD: &str = "
    INSERT INTO verifyd_api_tokens
        (name, token_hash, scopes, workspace_id, tenant_id, expires_at)
    VALUES ($1, $2, $3, $4, $5, strftime('%Y-%m-%dT%H:%M:%fZ', $6)) RETURNING id, name, scopes,
        workspace_id, tenant_id, created_at, expires_at, revoked_at, last_used_at";

const TOKENS: &str = sql!("SELECT " token_columns!() " FROM verifyd_api_tokens t ORDER BY t.id");

const REVOKE: &str = sql!(
    "UPDATE verifyd_api_tokens SET revoked_at = " now!() " WHERE id = $1 AND revoked_at IS NULL"
);

const END_SESSIONS: &str = "DELETE FROM verifyd_page_sessions WHERE token_id = $1";

macro_rules! valid {
    () => {
        $crate::store::sql::sql!(
            "t.revoked_at IS NULL AND (t.expires_at IS NULL OR " now!() " < t.expires_at)"
        )
    };
}

macro_rules! use_is_old {
    () => {
        $crate::store::sql::sql!(
            "(last_used_at IS NULL OR last_used_at < " now_moved_by!("'-60 seconds'") ")"
        )
    };
}

const BY_HASH: &str = sql!(
    "SELECT " token_columns!() ", " use_is_old!()
    " AS to_be_noted FROM verifyd_api_tokens t WHERE t.token_hash = $1 AND " valid!()
);

const NOTE_USE: &str = sql!(
    "UPDATE verifyd_api_tokens SET last_used_at = " now!() " WHERE id = $1 AND " use_is_old!()
);

/// A few at a time: each new session removes more than it adds.
const FORGET_SESSIONS: &str = sql!(
    "DELETE FROM verifyd_page_sessions WHERE session_hash IN (
        SELECT session_hash FROM verifyd_page_sessions WHERE expires_at <= " now!()
    " ORDER BY expires_at LIMIT 100)"
);

const OPEN_SESSION: &str = sql!(
    "INSERT INTO verifyd_page_sessions (session_hash, token_id, csrf, expires_at)
     VALUES ($1, $2, $3, " now_moved_by!("$4") ")"
);

const SESSION: &str = sql!(
    "SELECT " token_columns!() ", s.csrf, s.expires_at AS session_expires_at
     FROM verifyd_page_sessions s JOIN verifyd_api_tokens t ON t.id = s.token_id
     WHERE s.session_hash = $1 AND " now!() " < s.expires_at AND " valid!()
);

const CLOSE_SESSION: &str = "DELETE FROM verifyd_page_sessions WHERE session_hash = $1";

const FORGET_KEYS: &str = sql!(
    "DELETE FROM verifyd_idempotency_keys WHERE (token_id, idempotency_key) IN (
        SELECT token_id, idempotency_key FROM verifyd_idempotency_keys WHERE reserved_at <= "
    now_moved_by!("$1") " ORDER BY reserved_at LIMIT 100)"
);

/// `$4`: age after which a reservation without an answer may be taken over, `$5`: how long keys are kept.
const RESERVE: &str = sql!(
    "INSERT INTO verifyd_idempotency_keys AS k (token_id, idempotency_key, request_hash)
     VALUES ($1, $2, $3)
     ON CONFLICT (token_id, idempotency_key) DO UPDATE
     SET request_hash = excluded.request_hash, reserved_at = " now!()
    ", response_status = NULL, response_body = NULL WHERE k.reserved_at <= " now_moved_by!("$5")
    " OR (k.request_hash = excluded.request_hash AND k.response_status IS NULL
          AND k.reserved_at <= " now_moved_by!("$4") ")"
);

const KEY: &str = "
    SELECT request_hash, response_status, response_body FROM verifyd_idempotency_keys
    WHERE token_id = $1 AND idempotency_key = $2";

const ANSWER: &str = "
    UPDATE verifyd_idempotency_keys SET response_status = $3, response_body = $4
    WHERE token_id = $1 AND idempotency_key = $2 AND response_status IS NULL";

const RELEASE: &str = "
    DELETE FROM verifyd_idempotency_keys
    WHERE token_id = $1 AND idempotency_key = $2 AND response_status IS NULL";

#[async_trait]
impl AccessStore for SqliteStore {
    async fn add_token(&self, new: &NewToken) -> Result<TokenRecord, StoreError> {
        self.transaction(async |tx| {
            let row: TokenRow = sqlx::query_as(ADD)
                .bind(&new.name)
                .bind(&new.hash)
                .bind(join_scopes(&new.scopes))
                .bind(new.binding.workspace_id.map(|id| id.0))
                .bind(new.binding.tenant_id.map(|id| id.0))
                .bind(new.expires_at)
                .fetch_one(&mut *tx)
                .await?;
            row.try_into()
        })
        .await
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let found: Vec<TokenRow> = sqlx::query_as(TOKENS)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows::all(found)
    }

    async fn revoke_token(&self, id: TokenId) -> Result<bool, StoreError> {
        self.transaction(async |tx| {
            let revoked = change(tx, REVOKE, id.0).await?;
            change(tx, END_SESSIONS, id.0).await?;
            Ok(revoked == 1)
        })
        .await
    }

    async fn token_by_hash(&self, hash: &str) -> Result<Option<TokenRecord>, StoreError> {
        let found: Option<UsedTokenRow> = sqlx::query_as(BY_HASH)
            .bind(hash)
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        if let Some(found) = found.as_ref().filter(|found| found.to_be_noted) {
            let mut tx = self.begin().await?;
            change(&mut tx, NOTE_USE, found.token.id).await?;
            tx.commit().await?;
        }
        found.map(|found| found.token.try_into()).transpose()
    }

    async fn open_session(
        &self,
        token: TokenId,
        session_hash: &str,
        csrf: &str,
        lifetime: Duration,
    ) -> Result<(), StoreError> {
        self.transaction(async |tx| {
            sqlx::query(FORGET_SESSIONS).execute(&mut *tx).await?;
            sqlx::query(OPEN_SESSION)
                .bind(session_hash)
                .bind(token.0)
                .bind(csrf)
                .bind(later(lifetime))
                .execute(&mut *tx)
                .await?;
            Ok(())
        })
        .await
    }

    async fn session_by_hash(
        &self,
        session_hash: &str,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let found: Option<SessionRow> = sqlx::query_as(SESSION)
            .bind(session_hash)
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        found.map(TryInto::try_into).transpose()
    }

    async fn close_session(&self, session_hash: &str) -> Result<(), StoreError> {
        self.execute(sqlx::query(CLOSE_SESSION).bind(session_hash))
            .await?;
        Ok(())
    }

    async fn reserve_key(
        &self,
        token: TokenId,
        key: &str,
        request_hash: &str,
        abandoned_after: Duration,
        kept_for: Duration,
    ) -> Result<Reserved, StoreError> {
        self.transaction(async |tx| {
            let reserved = sqlx::query(RESERVE)
                .bind(token.0)
                .bind(key)
                .bind(request_hash)
                .bind(earlier(abandoned_after))
                .bind(earlier(kept_for))
                .execute(&mut *tx)
                .await?;
            let answer = if reserved.rows_affected() == 1 {
                sqlx::query(FORGET_KEYS)
                    .bind(earlier(kept_for))
                    .execute(&mut *tx)
                    .await?;
                Reserved::First
            } else {
                let found: KeyRow = sqlx::query_as(KEY)
                    .bind(token.0)
                    .bind(key)
                    .fetch_one(&mut *tx)
                    .await?;
                found.reserved(request_hash)
            };
            Ok(answer)
        })
        .await
    }

    async fn answer_key(
        &self,
        token: TokenId,
        key: &str,
        status: u16,
        body: &str,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(ANSWER)
            .bind(token.0)
            .bind(key)
            .bind(status)
            .bind(body);
        self.execute(query).await?;
        Ok(())
    }

    async fn release_key(&self, token: TokenId, key: &str) -> Result<(), StoreError> {
        self.execute(sqlx::query(RELEASE).bind(token.0).bind(key))
            .await?;
        Ok(())
    }
}

/// A statement about one row; returns how many it changed.
async fn change(
    tx: &mut SqliteConnection,
    statement: &'static str,
    id: i64,
) -> Result<u64, StoreError> {
    let done = sqlx::query(statement).bind(id).execute(&mut *tx).await;
    Ok(done?.rows_affected())
}
